#!/usr/bin/env python3
"""Kills a program that writes to an image, at random moments, and fills up what the image is on:
after each time qemu-img check must find nothing but leaks, and nothing may be lost that a flush
had confirmed.

usage: crash_test.py CLEAVE BLK_LOAD [SEED [ROUNDS [raw|qcow2]]]
Exit status: 0 passed, 1 failed, 77 no qemu-img here.
"""
import pathlib
import random
import resource
import shutil
import signal
import subprocess
import sys
import tempfile
import time

cleave, load = sys.argv[1:3]
seed = int(sys.argv[3]) if len(sys.argv) > 3 else 20261123
rounds = int(sys.argv[4]) if len(sys.argv) > 4 else 12
only = sys.argv[5] if len(sys.argv) > 5 else None


def run(*args, ok=(0,)):
    p = subprocess.run([str(a) for a in args], stdin=subprocess.DEVNULL, capture_output=True, text=True,
                       timeout=300)
    if p.returncode not in ok:
        fail(f"{' '.join(map(str, args))}: {p.returncode}\n{p.stdout[-2000:]}{p.stderr[-2000:]}")
    return p.stdout


def fail(why):
    print(f"FAILED (seed {seed}): {why}")
    sys.exit(1)


def make(rng, d):
    image = d / "disk"
    size = rng.choice([8, 40, 300]) << 20
    if (only or rng.choice(["raw", *["qcow2"] * 4])) == "raw":
        run(cleave, "disk", "create", "--format", "raw", image, size)
        return image, "raw"
    cluster = rng.choice(["4K", "16K", "64K", "64K", "2M"])
    compat = rng.choice(["2", "3", "3"])
    bits = "16" if compat == "2" else rng.choice(["1", "2", "8", "16", "64"])
    # Version 2 has no zero clusters: writing zeros writes them.
    run(cleave, "disk", "create", "--cluster-size", cluster, "--compat", compat, "--refcount-bits", bits,
        image, size)
    if bits != "1" and rng.randrange(3) == 0:
        run("qemu-img", "snapshot", "-c", "before", image)
    return image, "qcow2"


def check(image, fmt, log, what):
    if fmt == "qcow2":
        # First ours, which waits until the kernel has ended what was killed. 3: leaks, nothing else.
        run(cleave, "disk", "check", "--json", image)
        run("qemu-img", "check", "-q", "-f", "qcow2", image, ok=(0, 3))
    return int(run(load, "verify", image, fmt, log).split()[0])


def killed(rng, image, fmt, log, modes):
    with subprocess.Popen([load, "crash", image, fmt, log, str(rng.randrange(1 << 30)), *modes],
                          stdout=subprocess.PIPE, text=True) as p:
        p.stdout.readline()
        time.sleep(rng.choice([rng.random() * 0.02, rng.random() * 0.4]))
        p.send_signal(signal.SIGKILL)
        if p.wait(60) != -signal.SIGKILL:
            fail(f"the load ended by itself: {p.returncode}")


def full(rng, image, fmt, log):
    """The file may not grow beyond some point: writes fail with EFBIG as they would with ENOSPC."""
    limit = max(image.stat().st_size, log.stat().st_size) + rng.randrange(1 << 21)
    with subprocess.Popen([load, "crash", image, fmt, log, str(rng.randrange(1 << 30))], text=True,
                          stdout=subprocess.DEVNULL, stderr=subprocess.PIPE,
                          preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_FSIZE, (limit, limit))) as p:
        try:
            status = p.wait(2)
        except subprocess.TimeoutExpired:
            # All of the disk fits below the limit.
            p.kill()
            return
        if status not in (2, 3):
            fail(f"with a limit on the file the load ended with {status} {p.stderr.read()}")


if not shutil.which("qemu-img"):
    print("skipped: qemu-img is missing (Debian package qemu-utils)")
    sys.exit(77)
confirmed = kills = 0
for n in range(rounds):
    rng = random.Random(f"{seed}/{n}")
    with tempfile.TemporaryDirectory(prefix="cleave-disk-") as d:
        d = pathlib.Path(d)
        image, fmt = make(rng, d)
        log = d / "log"
        for _ in range(4):
            modes = [m for m in ("direct", "threads") if rng.randrange(4) == 0]
            killed(rng, image, fmt, log, modes)
            kills += 1
            confirmed = check(image, fmt, log, "killed")
        if fmt == "qcow2":
            full(rng, image, fmt, log)
            check(image, fmt, log, "full")
            # A repaired image has no leaks, and goes on.
            run(cleave, "disk", "check", "--repair", image)
            run("qemu-img", "check", "-q", "-f", "qcow2", image)
            killed(rng, image, fmt, log, [])
            kills += 1
            confirmed = check(image, fmt, log, "repaired")
        print(f"round {n}: {fmt}, {confirmed} versions confirmed, {kills} kills so far", flush=True)
