#!/usr/bin/env python3
"""A guest that never halts is told what was stolen from it (steal.c).

usage: steal_test.py CLEAVE FOLDER ENGINE
"""
import os
import re
import subprocess
import sys
import time

cleave, folder, engine = sys.argv[1:]
cpu = {min(os.sched_getaffinity(0))}


def on_one_cpu(*args):
    return subprocess.Popen([*map(str, args)], stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, text=True,
                            preexec_fn=lambda: os.sched_setaffinity(0, cpu))


# Nothing else of this machine matters: whoever runs there takes more.
with on_one_cpu(sys.executable, "-c", "while True: pass") as rival:
    try:
        begin = time.monotonic()
        with on_one_cpu(cleave, "run", "--kernel", f"{folder}/steal", "--engine", engine, "--memory", "32M",
                        "--debug-exit", "--no-reboot") as guest:
            out = guest.communicate(timeout=60)[0]
        lived_ns = (time.monotonic() - begin) * 1e9
    finally:
        rival.kill()
m = re.search(r"stolen (\w+) of (\w+)", out)
stolen = int(m[1], 16) if m else -1
if not 0.15 * lived_ns < stolen < lived_ns:
    print(f"FAILED: {stolen / 1e6:.0f} ms were stolen of {lived_ns / 1e6:.0f}: {out}")
    sys.exit(1)
