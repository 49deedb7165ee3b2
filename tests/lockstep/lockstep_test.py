#!/usr/bin/env python3
"""Runs lockstep over the beginning of a stock kernel's boot.

usage: lockstep_test.py LOCKSTEP GUESTS same|lazy|flip ENGINE LIMIT
same: both must be equal for LIMIT instructions; lazy: with lockstep --lazy; flip: a flag that is
changed on purpose must be found. Exit status: 0 passed, 1 failed, 77 skipped.
"""
import pathlib
import subprocess
import sys


def main():
    lockstep, guests, what, engine, limit = sys.argv[1:]
    kernel, initrd = pathlib.Path(guests, "vmlinuz-cloud"), pathlib.Path(guests, "initramfs.gz")
    if not guests or not kernel.exists():
        print("skipped: no test guests (guests/build makes them)")
        sys.exit(77)
    args = [lockstep, "--leader", engine, "--kernel", kernel, "--initrd", initrd, "--append",
            "console=ttyS0 panic=-1 cleave.test=none", "--limit", limit]
    if what == "lazy":
        args.append("--lazy")
    if what == "flip":
        args += ["--flip", str(int(limit) // 2)]
    p = subprocess.run(args, stdin=subprocess.DEVNULL, capture_output=True, text=True)
    found = "difference: rflags" in p.stdout
    if p.returncode != (1 if what == "flip" else 0) or (what == "flip" and not found):
        print(f"status {p.returncode}\n{p.stdout[-6000:]}{p.stderr[-2000:]}")
        sys.exit(1)
    print(p.stdout.splitlines()[-1])


if __name__ == "__main__":
    main()
