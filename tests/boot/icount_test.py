#!/usr/bin/env python3
"""Boots a stock kernel twice in deterministic mode: hashes and console must be the same.

usage: icount_test.py CLEAVE GUESTS ENGINE
Exit status: 0 passed, 1 failed, 77 skipped.
"""
import pathlib
import subprocess
import sys
import tempfile

EVERY = 1000000


def run(cleave, guests, engine, console):
    args = [cleave, "run", "--icount", "--icount-hash", str(EVERY), "--engine", engine,
            "--kernel", guests / "vmlinuz-cloud", "--initrd", guests / "initramfs.gz",
            "--append", "console=ttyS0 panic=-1 cleave.test=none", "--memory", "256M",
            "--console", f"file={console}"]
    p = subprocess.run(args, stdin=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True)
    said = console.read_text(errors="replace")
    if p.returncode or "Run /init" not in said:
        print(f"status {p.returncode}\n{p.stderr[-2000:]}{said[-2000:]}")
        sys.exit(1)
    return p.stderr, said


def main():
    cleave, guests, engine = sys.argv[1], pathlib.Path(sys.argv[2]), sys.argv[3]
    if not sys.argv[2] or not (guests / "vmlinuz-cloud").exists():
        print("skipped: no test guests (guests/build makes them)")
        sys.exit(77)
    with tempfile.TemporaryDirectory() as tmp:
        first = run(cleave, guests, engine, pathlib.Path(tmp, "1"))
        again = run(cleave, guests, engine, pathlib.Path(tmp, "2"))
    for what, a, b in zip(("hashes", "console"), first, again):
        for x, y in zip(a.splitlines(), b.splitlines()):
            if x != y:
                print(f"FAILED: {what} differ first here:\n{x}\n{y}")
                sys.exit(1)
    if first != again:
        print("FAILED: one run was longer than the other")
        sys.exit(1)
    print(f"{len(first[0].splitlines())} hashes are the same")


if __name__ == "__main__":
    main()
