#!/usr/bin/env python3
"""A stock kernel with disks: ext4 on raw and on qcow2 (over a backing file), verified reads and
writes in the guest, then e2fsck and qemu-img check on the host; and a full disk that stops the
machine until there is room.

usage: boot_test.py CLEAVE GUESTS ENGINE
TEST_SLOW in the environment multiplies the times. Exit status: 0 passed, 1 failed, 77 skipped.
"""
import hashlib
import os
import pathlib
import random
import re
import resource
import shutil
import signal
import subprocess
import sys
import tempfile
import threading

cleave, guests, engine = sys.argv[1], pathlib.Path(sys.argv[2]), sys.argv[3]
SLOW = int(os.environ.get("TEST_SLOW", 1))

def fail(why, out=""):
    print(f"{out[-5000:]}\nFAILED: {why}")
    sys.exit(1)

def run(*args):
    p = subprocess.run([str(a) for a in args], stdin=subprocess.DEVNULL, capture_output=True, text=True,
                       timeout=120 * SLOW)
    if p.returncode:
        fail(f"{' '.join(map(str, args))}: {p.returncode}", p.stdout + p.stderr)
    return p.stdout

def boot(disks, more=(), limit=None):
    """limit: how large files may grow until the machine has stopped for that."""
    args = [cleave, "run", "--kernel", guests / "vmlinuz-cloud", "--initrd", guests / "initramfs.gz",
            "--initrd", guests / "modules-cloud.gz", "--engine", engine, "--cpus", "2", "--memory", "512M",
            "--append", "console=ttyS0 panic=-1 cleave.test=disk cleave.modules=virtio_blk,virtio_pci", *more]
    unlimited = resource.RLIM_INFINITY
    if limit:
        args += ["--on-io-error", "stop"]
    for d in disks:
        args += ["--disk", d]
    with subprocess.Popen(args, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.PIPE,
                          text=True, errors="replace") as p:
        said = []

        def listen():
            for line in p.stderr:
                said.append(line)
                if "the machine is stopped" in line:
                    resource.prlimit(p.pid, resource.RLIMIT_FSIZE, (unlimited, unlimited))
                    p.send_signal(signal.SIGCONT)

        listener = threading.Thread(target=listen)
        listener.start()
        alarm = threading.Timer(200 * SLOW, p.kill)
        alarm.start()
        out = p.stdout.readline()
        if limit:
            # Not from the start: the guest's memory is a file too.
            resource.prlimit(p.pid, resource.RLIMIT_FSIZE, (limit, unlimited))
        out = (out + p.stdout.read()).replace("\r", "")
        p.wait()
        alarm.cancel()
        listener.join()
    out += "".join(said)
    if p.returncode:
        fail(f"exit status {p.returncode}", out)
    if limit and "the machine is stopped" not in out:
        fail("a full disk did not stop the machine", out)
    return dict(re.findall(r"^report (\w+): (.*)$", out, re.M)), out

if not sys.argv[2] or not (guests / "modules-cloud.gz").exists():
    print("skipped: no test guests (guests/build makes them)")
    sys.exit(77)
for tool in "mke2fs", "e2fsck", "qemu-img":
    if not shutil.which(tool, path=os.environ["PATH"] + ":/sbin:/usr/sbin"):
        print(f"skipped: {tool} is missing")
        sys.exit(77)
os.environ["PATH"] += ":/sbin:/usr/sbin"

with tempfile.TemporaryDirectory(prefix="cleave-disk-") as d:
    d = pathlib.Path(d)
    rng = random.Random(7)
    (d / "tree").mkdir()
    with open(d / "tree" / "sums", "w") as sums:
        for n in range(12):
            data = rng.randbytes(rng.randrange(1, 200000))
            (d / "tree" / f"f{n}").write_bytes(data)
            sums.write(f"{hashlib.sha256(data).hexdigest()}  f{n}\n")
    with open(d / "raw", "wb") as f:
        f.truncate(48 << 20)
    run("mke2fs", "-q", "-t", "ext4", "-d", d / "tree", d / "raw")
    shutil.copy(d / "raw", d / "base")
    run(cleave, "disk", "create", "--backing", "base", "--backing-format", "raw", d / "over.qcow2")
    (d / "ro").write_bytes(rng.randbytes(1 << 20))

    for limit in (None, 3 << 20) if engine == "dbt" else (None,):
        if limit:
            run(cleave, "disk", "create", "--force", "--backing", "base", "--backing-format", "raw",
                d / "over.qcow2")
            run(cleave, "disk", "convert", "--force", "--to", "raw", d / "base", d / "raw")
            run("e2fsck", "-fn", d / "raw")
        got, out = boot([f"{d}/raw", f"{d}/over.qcow2,format=qcow2,backing,iops=20K",
                         f"{d}/ro,readonly,serial=read-me,queues=1"], limit=limit)
        want = {"serial": "read-me", "readonly": "1", "complaints": "0",
                "sum_vdc": hashlib.sha256((d / "ro").read_bytes()).hexdigest()}
        for dev in "vda", "vdb":
            want |= {f"sums_{dev}": "12", f"same_{dev}": "4", f"trim_{dev}": "0", f"direct_{dev}": "same"}
        for name, value in want.items():
            if got.get(name) != value:
                fail(f"{name}: {got.get(name)}, wanted {value}", out)
        run("qemu-img", "check", d / "over.qcow2")
        run(cleave, "disk", "check", d / "over.qcow2")
        run(cleave, "disk", "convert", "--format", "qcow2", "--backing", "--to", "raw", "--force", d / "over.qcow2",
            d / "flat")
        for image in "raw", "flat":
            run("e2fsck", "-fn", d / image)
