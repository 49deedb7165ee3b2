#!/usr/bin/env python3
"""fio writes and verifies in a stock Debian 12: on raw disks, with and without O_DIRECT, on a new qcow2
and on one that stands on another; and the images are good afterwards.

usage: fio_test.py CLEAVE CACHE ENGINE MEBIBYTES
CACHE: the folder of the test guests; an image with fio is built there once. TEST_SLOW in the
environment multiplies the times. Exit status: 0 passed, 1 failed, 77 skipped.
"""
import json
import os
import pathlib
import subprocess
import sys
import tempfile
import time

cleave, cache, engine, size = sys.argv[1], sys.argv[2], sys.argv[3], int(sys.argv[4])
SLOW = int(os.environ.get("TEST_SLOW", 1)) * (20 if engine == "interp" else 1)
IMAGE = "test-fio"

# Every block has a checksum and its place in it; each job reads back all that it wrote.
COMMON = "--verify=crc32c --verify_fatal=1 --do_verify=1 --group_reporting --minimal"
JOBS = {
    "random, 32 at once": "--rw=randwrite --bs=4k --ioengine=libaio --iodepth=32 --direct=1",
    "of all sizes": "--rw=randwrite --bsrange=4k-256k --ioengine=libaio --iodepth=8 --direct=1",
    "by 4, read meanwhile": "--rw=randrw --bs=8k --ioengine=libaio --iodepth=8 --direct=1 --numjobs=4 "
                            "--verify_backlog=64",
    "through the cache": "--rw=write --bs=64k --ioengine=psync --fsync=16",
}


def run(*args, seconds=60):
    p = subprocess.run([str(a) for a in args], stdin=subprocess.DEVNULL, capture_output=True, text=True,
                       timeout=seconds * SLOW, errors="replace", check=False)
    if p.returncode:
        print(f"{p.stdout[-3000:]}{p.stderr[-3000:]}\nFAILED: {' '.join(map(str, args))}: status {p.returncode}")
        sys.exit(1)
    return p.stdout


def build():
    images = json.loads(run(cleave, "image", "list", "--json"))["images"]
    if any(i["name"] == IMAGE for i in images):
        return
    p = subprocess.run([cleave, "image", "build", "debian:12", "--name", IMAGE, "--package", "fio"],
                       stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=900, check=False)
    if p.returncode:
        print(f"skipped: no image with fio: {p.stderr[-500:]}")
        sys.exit(77)


def wait_for_login(name, machine):
    deadline = time.monotonic() + 90 * SLOW
    while time.monotonic() < deadline and machine.poll() is None:
        if subprocess.run([cleave, "ssh", name, "true"], stdin=subprocess.DEVNULL, capture_output=True,
                          check=False).returncode == 0:
            return
        time.sleep(0.5)
    print("FAILED: no login by ssh")
    sys.exit(1)


def main():
    if not cache:
        print("skipped: no folder for guests")
        sys.exit(77)
    store = pathlib.Path(cache) / "store"
    store.mkdir(exist_ok=True)
    os.environ["XDG_DATA_HOME"] = str(store)
    build()
    with tempfile.TemporaryDirectory(dir=cache, prefix="fio-") as d:
        d = pathlib.Path(d)
        for name in "raw", "direct", "base":
            with open(d / name, "wb") as f:
                f.truncate(size << 20)
        run(cleave, "disk", "create", d / "new", f"{size}M")
        run(cleave, "disk", "create", "--cluster-size", "4K", "--backing", "base", "--backing-format", "raw",
            d / "over")
        disks = {"raw": "raw", "direct": "direct,direct", "new": "new,format=qcow2",
                 "over": "over,format=qcow2,backing,queues=4"}
        args = [cleave, "run", IMAGE, "--name", f"fio-{os.getpid()}", "--engine", engine, "--cpus", "2",
                "--on-io-error", "report"]
        for spec in disks.values():
            args += ["--disk", f"{d}/{spec}"]
        with subprocess.Popen(args, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL) as m:
            try:
                name = args[args.index("--name") + 1]
                wait_for_login(name, m)
                for letter, disk in zip("bcde", disks):
                    for what, job in JOBS.items():
                        run(cleave, "ssh", name, f"fio --name=v --filename=/dev/vd{letter} "
                            f"--size={size // (4 if 'numjobs' in job else 1)}M "
                            + ("--offset_increment=25% " if "numjobs" in job else "") + f"{COMMON} {job}", seconds=180)
                        print(f"passed: {disk}: {what}", flush=True)
                run(cleave, "ssh", name, "! dmesg | grep -i 'i/o error'")
                subprocess.run([cleave, "ssh", name, "systemctl poweroff"], stdin=subprocess.DEVNULL,
                               capture_output=True, check=False)
                status = m.wait(90 * SLOW)
            finally:
                m.kill()
        run(cleave, "image", "rm", "--instance", name)
        if status:
            print(f"FAILED: the machine ended with {status}")
            sys.exit(1)
        for image in "new", "over":
            run(cleave, "disk", "check", d / image)


main()
