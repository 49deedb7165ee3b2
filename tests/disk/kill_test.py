#!/usr/bin/env python3
"""Kills a whole machine, at random moments, whose guest writes to a qcow2 overlay and flushes: after each
time qemu-img check must find nothing but leaks, and all that the guest knew to be flushed is there.

usage: kill_test.py CLEAVE GUESTS [SEED [KILLS]]
TEST_SLOW in the environment multiplies the times. Exit status: 0 passed, 1 failed, 77 skipped.
"""
import os
import pathlib
import random
import shutil
import struct
import subprocess
import sys
import tempfile
import threading
import time

cleave, guests = sys.argv[1], pathlib.Path(sys.argv[2])
seed = int(sys.argv[3]) if len(sys.argv) > 3 else 20261123
kills = int(sys.argv[4]) if len(sys.argv) > 4 else 20
SLOW = int(os.environ.get("TEST_SLOW", 1))

# As in guests/programs/diskload.c
BLOCK, SECTOR, MAX_BLOCKS = 4096, 512, 32
DISK_BYTES = 48 << 20
MASK = (1 << 64) - 1


def fail(why, out=""):
    print(f"{out[-3000:]}\nFAILED (seed {seed}): {why}")
    sys.exit(1)


def run(*args, ok=(0,)):
    p = subprocess.run([str(a) for a in args], stdin=subprocess.DEVNULL, capture_output=True, text=True,
                       timeout=120 * SLOW, check=False)
    if p.returncode not in ok:
        fail(f"{' '.join(map(str, args))}: {p.returncode}", p.stdout + p.stderr)


def mix(x):
    x = (x + 0x9e3779b97f4a7c15) & MASK
    x = ((x ^ x >> 30) * 0xbf58476d1ce4e5b9) & MASK
    x = ((x ^ x >> 27) * 0x94d049bb133111eb) & MASK
    return x ^ x >> 31


def blocks_of(step):
    r = mix((seed + step) & MASK)
    first = r % (DISK_BYTES // BLOCK - MAX_BLOCKS)
    return range(first, first + 1 + (r >> 40) % MAX_BLOCKS)


def sector(step, at):
    return struct.pack("<QQ", step, at) + bytes([step * 37 & 255]) * (SECTOR - 16)


class Guest:
    """A machine under load. .flushed is the last step that its guest knew to be flushed."""

    def __init__(self, image, first, rng):
        self.flushed, self.out = None, ""
        mode = rng.choice(["", "", ",direct"])
        args = [cleave, "run", "--engine", "auto", "--cpus", rng.choice(["1", "2"]), "--memory", "256M",
                "--kernel", guests / "vmlinuz-cloud", "--initrd", guests / "initramfs.gz",
                "--initrd", guests / "modules-cloud.gz", "--disk", f"{image},format=qcow2,backing{mode}",
                "--append", "console=ttyS0 quiet panic=-1 cleave.test=diskload "
                f"cleave.modules=virtio_blk,virtio_pci seed={seed} first={first}"]
        self.p = subprocess.Popen(args, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE,
                                  stderr=subprocess.STDOUT)
        self.works = threading.Event()
        self.reader = threading.Thread(target=self.read)
        self.reader.start()

    def read(self):
        for line in self.p.stdout:
            if not line.endswith(b"\n"):
                break    # the kill has cut it, and the number in it
            line = line.decode(errors="replace").strip()
            if line.startswith("flushed "):
                self.flushed = int(line[8:])
                self.works.set()
            else:
                self.out += line + "\n"
        self.works.set()

    def kill(self, after):
        self.works.wait(60 * SLOW)
        time.sleep(after)
        ended = self.p.poll()
        self.p.kill()
        self.p.wait()
        self.reader.join()
        if ended is not None or self.flushed is None:
            fail(f"the guest did not work to the end ({ended})", self.out)


def look(image, raw, must, begun, written):
    """Compare the disk with what it must and may have. must: step of each block's last flushed write;
    begun: the first step of this machine. What is found is what the next machine begins with.
    """
    # First ours, which waits until the kernel has ended what was killed. 3: leaks, nothing else.
    run(cleave, "disk", "check", "--json", image)
    run("qemu-img", "check", "-q", "-f", "qcow2", image, ok=(0, 3))
    run(cleave, "disk", "convert", "--force", "--format", "qcow2", "--backing", "--to", "raw", image, raw)
    data = raw.read_bytes()
    last = begun
    for at in range(DISK_BYTES // SECTOR):
        got = data[at * SECTOR:(at + 1) * SECTOR]
        step, block = int.from_bytes(got[:8], "little"), at * SECTOR // BLOCK
        want = must.get(block, 0)
        if got != sector(step, at):
            fail(f"sector {at} is torn or another's: {got[:24].hex()}")
        if step != want and step != written[at] and (step < begun or block not in blocks_of(step)):
            fail(f"sector {at} has what step {step} never wrote there")
        if step < want:
            fail(f"sector {at} has step {step}, but {want} was flushed")
        written[at] = step
        last = max(last, step)
    return last


def main():
    if not sys.argv[2] or not (guests / "modules-cloud.gz").exists():
        print("skipped: no test guests (guests/build makes them)")
        sys.exit(77)
    if not shutil.which("qemu-img"):
        print("skipped: qemu-img is missing (Debian package qemu-utils)")
        sys.exit(77)
    rng = random.Random(seed)
    n, total = 0, 0
    while n < kills:
        with tempfile.TemporaryDirectory(prefix="cleave-kill-") as d:
            d = pathlib.Path(d)
            # Step 0 is what the backing file has.
            (d / "base").write_bytes(b"".join(sector(0, at) for at in range(DISK_BYTES // SECTOR)))
            cluster = rng.choice(["4K", "64K", "64K", "2M"])
            run(cleave, "disk", "create", "--cluster-size", cluster, "--backing", "base", "--backing-format",
                "raw", d / "over.qcow2")
            must, written, first = {}, [0] * (DISK_BYTES // SECTOR), 1
            for _ in range(min(5, kills - n)):
                g = Guest(d / "over.qcow2", first, rng)
                g.kill(rng.choice([rng.random() * 0.05, rng.random() * 2]))
                for step in range(first, g.flushed + 1):
                    must.update(dict.fromkeys(blocks_of(step), step))
                last = look(d / "over.qcow2", d / "raw", must, first, written)
                n += 1
                total += g.flushed + 1 - first
                print(f"kill {n}: clusters of {cluster}, {g.flushed + 1 - first} steps flushed, "
                      f"{max(0, last - g.flushed)} beyond", flush=True)
                # Numbers that the killed guest may have used are not used again.
                first = max(last, g.flushed) + 10000
    print(f"{n} kills, {total} flushed steps, none lost")


main()
