#!/usr/bin/env python3
"""Debian's stock installer, as it is handed out for booting over a network, on the serial line: its first
dialog comes, and in its own shell there are the disk and the network.

usage: installer_test.py CLEAVE GUESTS BUILD
BUILD: guests/build, which fetches the installer. TEST_SLOW in the environment multiplies the times.
Exit status: 0 passed, 1 failed, 77 skipped.
"""
import os
import pathlib
import re
import select
import subprocess
import sys
import tempfile
import time

SLOW = int(os.environ.get("TEST_SLOW", 1))
DISK_MIB = 100
SHELL = b"\x012"    # Ctrl-A 2: the installer runs in screen, whose second window is a shell


def skip(why):
    print(f"skipped: {why}")
    sys.exit(77)


class Installer:
    """Input by a pipe: on a terminal Ctrl-A would be ours."""

    def __init__(self, cleave, guests, disk):
        self.seen = b""
        self.p = subprocess.Popen(
            [cleave, "run", "--engine", "dbt", "--memory", "1G", "--kernel", guests / "vmlinuz-installer",
             "--initrd", guests / "initrd-installer.gz", "--initrd", guests / "disk-installer.gz",
             "--append", "console=ttyS0", "--disk", f"{disk},format=raw", "--net", "user"],
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.STDOUT)

    def expect(self, pattern, seconds):
        """Wait for text; what comes behind it is looked at next."""
        end = time.monotonic() + seconds * SLOW
        while not (m := re.search(pattern, self.seen)):
            if not select.select([self.p.stdout], [], [], max(0, end - time.monotonic()))[0]:
                self.fail(f"no {pattern!r} within {seconds} s")
            piece = os.read(self.p.stdout.fileno(), 65536)
            if not piece:
                self.fail(f"the machine ended; waiting for {pattern!r}")
            self.seen += piece
        self.seen = self.seen[m.end():]
        print(f"passed: {pattern.decode()}")

    def type(self, data):
        self.p.stdin.write(data)
        self.p.stdin.flush()

    def fail(self, why):
        self.end()
        text = re.sub(rb"\x1b[\[(][0-9;?]*.|[^\n -~]| {20,}", b"", self.seen[-20000:])
        print(f"{text[-3000:].decode()}\nFAILED: {why}")
        sys.exit(1)

    def end(self):
        self.p.kill()
        self.p.wait()


def main():
    cleave, guests, build = sys.argv[1:4]
    if not guests or not pathlib.Path(guests).is_dir():
        skip("no folder for guests")
    p = subprocess.run([build, "-q", "installer"], capture_output=True, text=True, check=False,
                       env=os.environ | {"CLEAVE_GUESTS": guests})
    if p.returncode:
        skip(f"the installer's package cannot be fetched: {(p.stderr.strip() or '?').splitlines()[-1]}")
    with tempfile.NamedTemporaryFile(prefix="cleave-installer-") as disk:
        disk.truncate(DISK_MIB << 20)
        i = Installer(cleave, pathlib.Path(guests), disk.name)
        i.expect(rb"Select a language", 60)
        i.expect(rb"English", 20)
        i.type(SHELL)
        i.expect(rb"built-in shell", 20)
        i.expect(rb"~ #", 20)
        # Its echo has no numbers in it: what is waited for is the answer.
        i.type(b"insmod /lib/modules/*/kernel/drivers/block/virtio_blk.ko; cat /proc/partitions\r")
        i.expect(rb"%d +vda" % (DISK_MIB << 10), 20)
        i.type(b"cd /sys/class/net; for n in e*; do ip link set $n up; udhcpc -i $n -n -q; done; ip a\r")
        i.expect(rb"lease of 10\.0\.2\.15 obtained from 10\.0\.2\.2", 30)
        i.end()


main()
