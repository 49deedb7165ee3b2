#!/usr/bin/env python3
"""Random requests against qcow2 and raw images of many shapes, compared with a flat model, with
qemu-img compare and with qemu-img check, in both directions.

usage: random_test.py CLEAVE BLK_LOAD [SEED [ROUNDS]]
Exit status: 0 passed, 1 failed, 77 no qemu-img here.
"""
import json
import pathlib
import random
import shutil
import subprocess
import sys
import tempfile

cleave, load = sys.argv[1:3]
seed = int(sys.argv[3]) if len(sys.argv) > 3 else 20261123
rounds = int(sys.argv[4]) if len(sys.argv) > 4 else 40
KINDS = ["512", "4096", "65536", "2097152", "16384"]


def run(*args, ok=(0,)):
    p = subprocess.run([str(a) for a in args], stdin=subprocess.DEVNULL, capture_output=True, text=True,
                       timeout=300)
    if p.returncode not in ok:
        print(f"FAILED (seed {seed}): {' '.join(map(str, args))}: {p.returncode}\n{p.stdout[-2000:]}{p.stderr[-2000:]}")
        sys.exit(1)
    return p.stdout


def junk(rng, path, size):
    """A flat file with runs of text, zeros and noise."""
    with open(path, "wb") as f:
        f.truncate(size)
        for _ in range(rng.randrange(1, 20)):
            off = rng.randrange(size // 512) * 512
            n = min(rng.randrange(1, 600) * 512, size - off)
            f.seek(off)
            f.write(rng.choice([rng.randbytes(n), (b"%d " % rng.randrange(10**9)) * (n // 8 + 1)])[:n])


def make(rng, d):
    """An image as QEMU makes it. Returns its path, format and options that describe it."""
    size = rng.randrange(1, 6000) * 512 + rng.choice([0, 1 << 20])
    if rng.randrange(6) == 0:
        junk(rng, d / "disk", size)
        return d / "disk", "raw", "raw"
    cluster = rng.choice(KINDS)
    version = rng.choice(["1.1", "1.1", "0.10"])
    options = f"cluster_size={cluster},compat={version}"
    if version == "1.1":
        options += f",refcount_bits={rng.choice([1, 2, 4, 8, 16, 32, 64])}"
        # QEMU takes zstd only for images that need not be read by older ones.
        options += rng.choice(["", ",lazy_refcounts=on", ",compression_type=zstd"])
    shape = rng.choice(["empty", "full", "compressed", "backing", "backing"])
    image = d / "disk"
    if shape == "empty":
        run("qemu-img", "create", "-q", "-f", "qcow2", "-o", options, image, size)
    elif shape == "backing":
        base_size = rng.choice([size, max(512, size // 1024 * 512), size + 700 * 512])
        junk(rng, d / "flat", base_size)
        kind = rng.choice(["raw", "qcow2"])
        run("qemu-img", "convert", "-q", "-f", "raw", "-O", kind, *(["-c"] if kind == "qcow2" else []),
            d / "flat", d / "base")
        run("qemu-img", "create", "-q", "-f", "qcow2", "-o", options, "-b", "base", "-F", kind, image, size)
    else:
        junk(rng, d / "flat", size)
        run("qemu-img", "convert", "-q", "-f", "raw", "-O", "qcow2", "-o", options,
            *(["-c"] if shape == "compressed" else []), d / "flat", image)
    return image, "qcow2", f"{options} {shape} {size}"


def check(image, fmt, what):
    if fmt != "qcow2":
        return
    run("qemu-img", "check", "-q", "-f", "qcow2", image)
    report = json.loads(run(cleave, "disk", "check", "--json", image))
    if report["errors"] or report["damage"] or report["leaks"]:
        print(f"FAILED (seed {seed}): {what}: {report}")
        sys.exit(1)


def one(rng, d):
    image, fmt, what = make(rng, d)
    model = d / "model"
    run("qemu-img", "convert", "-q", "-f", fmt, "-O", "raw", image, model)
    snapshot = None
    wide = "refcount_bits=1," not in what + "," and "refcount_bits=1 " not in what
    if fmt == "qcow2" and wide and rng.randrange(3) == 0:
        run("qemu-img", "snapshot", "-q", "-c", "before", image)
        snapshot = d / "before"
        shutil.copy(model, snapshot)
    print(what, "snapshot" if snapshot else "", flush=True)
    # Version 2 and one snapshot: one size for both.
    modes = ["resize"] if not snapshot and rng.randrange(2) else []
    if fmt == "qcow2" or model.stat().st_size % 4096 == 0 and not modes:
        modes += ["direct"] if rng.randrange(4) == 0 else []
    modes += ["threads"] if rng.randrange(4) == 0 else []
    for _ in range(2):
        run(load, "random", image, fmt, model, rng.randrange(1 << 30), rng.randrange(200, 2500), *modes)
        run("qemu-img", "compare", "-q", "-f", "raw", "-F", fmt, model, image)
        check(image, fmt, what)
        back = d / "back"
        run(cleave, "disk", "convert", "--format", fmt, "--backing", "--to", "raw", "--force", image, back)
        run("cmp", model, back)
        if fmt == "qcow2" and rng.randrange(2):
            # QEMU writes to what Cleave has written, and the other way round.
            run("qemu-io", "-f", "qcow2", "-c", f"write -P {rng.randrange(256)} 0 512", "-c",
                "discard 0 64k", image, ok=(0, 1))
            run("qemu-img", "convert", "-q", "-f", fmt, "-O", "raw", image, model)
    if snapshot:
        run(cleave, "disk", "convert", "--format", "qcow2", "--backing", "--snapshot", "before", "--to", "raw",
            "--force", image, d / "back")
        run("cmp", snapshot, d / "back")
        run("qemu-img", "snapshot", "-q", "-a", "before", image)
        run("qemu-img", "compare", "-q", "-f", "raw", "-F", fmt, snapshot, image)
        run("qemu-img", "check", "-q", image)


if not shutil.which("qemu-img"):
    print("skipped: qemu-img is missing (Debian package qemu-utils)")
    sys.exit(77)
for n in range(rounds):
    rng = random.Random(f"{seed}/{n}")
    with tempfile.TemporaryDirectory(prefix="cleave-disk-") as d:
        one(rng, pathlib.Path(d))
