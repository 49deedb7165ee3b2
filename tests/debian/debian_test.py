#!/usr/bin/env python3
"""Boots a whole Debian userspace to its login prompt, logs in on the serial line, and tries programs.

usage: debian_test.py CLEAVE GUESTS [--engine NAME] [--cpus N] [--seconds N] [ITEM ...]
ENGINE: one of cleave's, or tcg (QEMU). --seconds is how long each stressor runs (default 5). Without
ITEM all are tried. Prints a line for each: PASS or FAIL, its name, the seconds it took.
Exit status: 0 all passed, 1 some failed, 77 skipped.
"""
import argparse
import base64
import os
import pathlib
import pty
import re
import select
import signal
import subprocess
import sys
import tempfile
import time

HERE = pathlib.Path(__file__).resolve().parent
sys.path.insert(0, str(HERE.parent.parent / "bench"))
import vmm  # noqa: E402 (found by the line above)

MEMORY_MIB = 2048
# Each alone, two workers (some start more), results checked by stress-ng itself.
STRESSORS = {
    "cpu": "--cpu 2", "cpu-all": "--cpu 1 --cpu-method all", "vm": "--vm 2 --vm-bytes 64m",
    "fork": "--fork 2", "vfork": "--vfork 2", "exec": "--exec 2", "clone": "--clone 1", "switch": "--switch 2",
    "pipe": "--pipe 2", "futex": "--futex 2", "mutex": "--mutex 2", "atomic": "--atomic 2",
    "lockbus": "--lockbus 1", "mmap": "--mmap 2 --mmap-bytes 32m", "mprotect": "--mprotect 2",
    "munmap": "--munmap 1", "fault": "--fault 2", "madvise": "--madvise 1", "mremap": "--mremap 1",
    "signal": "--signal 2", "sigsegv": "--sigsegv 1", "sigfpe": "--sigfpe 1", "timer": "--timer 1",
    "nanosleep": "--nanosleep 1", "memcpy": "--memcpy 2", "matrix": "--matrix 2", "fp": "--fp 1",
    "vecmath": "--vecmath 2", "longjmp": "--longjmp 2", "qsort": "--qsort 1", "tree": "--tree 1",
    "str": "--str 1", "crypt": "--crypt 1", "hash": "--hash 1", "zlib": "--zlib 1", "sem": "--sem 2",
    "mq": "--mq 1", "bsearch": "--bsearch 1", "branch": "--branch 1", "goto": "--goto 1",
    "opcode": "--opcode 1", "far-branch": "--far-branch 1", "stackmmap": "--stackmmap 1", "context": "--context 1",
}
OOPS = (r"BUG:|Oops|WARNING:|Call Trace|soft lockup|hard LOCKUP|detected stall|general protection|"
        r"segfault|trap invalid opcode|double fault|unstable|Kernel panic|Out of memory")


# What checks.js prints: by hand and by node 20 on a real CPU.
NODE_OUTPUT = ["8999994 2000 14.392725723 95000000 21474508800 28231406 "
               "8320987112741390144276341183223364380754172606361245952449277696409600000000000000 "
               "the CAT SAT on the MAT 5003 3904020 99998 49999! 16666 25009 cdc76e5c9914fb92 1783293664 "
               "999912 999912"]


def items(seconds):
    """Yield name, limit in seconds, the guest's command, what its output must match (or an exact text
    in a list).
    """
    yield "booted", 120, "systemctl is-system-running --wait; systemctl --failed --no-legend", r"^running\s*$"
    yield ("hello", 120, r"""printf '#include <stdio.h>\nint main(void){puts("hello 42");}\n' >h.c && """
           "gcc -O2 -o h h.c && ./h", r"^hello 42\s*$")
    yield ("gcc", 120, "gcc -O2 -Wall -pthread -o threads threads.c -lm && ./threads",
           [host_output("cc -O2 -pthread -o '{tmp}/t' threads.c -lm && '{tmp}/t'")])
    yield "python", 120, "python3 checks.py", [host_output("python3 checks.py")]
    yield "perl", 120, "perl checks.pl", [host_output("perl checks.pl")]
    yield "node", 240, "node checks.js", NODE_OUTPUT
    yield "node-noopt", 240, "node --no-opt checks.js", NODE_OUTPUT
    yield "node-stress", 240, "node --stress-compaction --interrupt-budget=500 checks.js", NODE_OUTPUT
    yield ("openssl", 240, "openssl speed -seconds 1 -bytes 8192 -evp aes-128-gcm 2>&1 | tail -1; "
           "openssl speed -seconds 1 -bytes 8192 sha256 rsa2048 ecdsap256 >/dev/null 2>&1; echo status $?",
           r"AES-128-GCM +[\d.]+k\s+status 0")
    yield ("openssl-enc", 120, "for c in aes-256-cbc aes-128-ctr chacha20 camellia-128-cbc; do "
           "openssl enc -$c -pbkdf2 -k x -in /bin/bash | openssl enc -d -$c -pbkdf2 -k x | cmp - /bin/bash "
           "&& echo same; done", r"^(same\s*){4}$")
    yield ("sqlite", 120, "sqlite3 t.db 'create table t(a,b); with recursive n(i) as (select 1 union all "
           "select i+1 from n where i<50000) insert into t select i, i*7919%1009 from n; create index x on "
           "t(b); select count(*), sum(b), max(a) from t where b>500; pragma integrity_check;'",
           r"^25\d{3}\|\d+\|\d+\s+ok\s*$")
    yield ("zstd", 120, "tar c /usr/lib/python3 /usr/bin 2>/dev/null | tee >(sha256sum >a) | zstd -T2 -q -3 | "
           "zstd -dq | sha256sum >b; sleep 1; cmp a b && echo same", r"^same\s*$")
    for name, options in STRESSORS.items():
        yield (f"stress-{name}", seconds * 4 + 60,
               ("setpriv --reuid=65534 --clear-groups env -C /tmp " if name == "exec" else "") +
               f"stress-ng {options} --verify --timeout {seconds}s >/tmp/out 2>&1; s=$?; tail -5 /tmp/out; "
               "echo status $s", r"\bsuccessful run completed(?s:.*)status 0$")
    yield "dmesg", 60, f"dmesg | grep -E '{OOPS}' | grep -v -E 'stress-ng.*segfault'; echo looked", r"^looked\s*$"


class Console:
    """The machine with its serial line on a pseudo-terminal of ours."""

    def __init__(self, args):
        self.pid, self.fd = pty.fork()
        if self.pid == 0:
            os.execvp(args[0], [str(a) for a in args])
        self.seen = ""
        self.log = open("/tmp/debian-test.log", "w", encoding="utf-8") if "DEBIAN_LOG" in os.environ else None

    def expect(self, pattern, seconds):
        """What came before pattern, or None if it does not come in time or the machine ends."""
        deadline = time.monotonic() + seconds
        while not (m := re.search(pattern, self.seen)):
            left = deadline - time.monotonic()
            if left <= 0 or not select.select([self.fd], [], [], left)[0]:
                return None
            try:
                piece = os.read(self.fd, 65536)
            except OSError:
                return None
            if not piece:
                return None
            text = piece.decode(errors="replace").replace("\r", "")
            if self.log:
                self.log.write(text)
                self.log.flush()
            self.seen += text
        before, self.seen = self.seen[:m.start()], self.seen[m.end():]
        return before

    def type(self, text):
        data = text.encode()
        while data:
            # A UART has 16 bytes and a terminal 4095 in a line; the guest reads as it can.
            data = data[os.write(self.fd, data[:256]):]
            time.sleep(0.02)

    def run(self, command, limit):
        """Output of a command, or None."""
        self.seen = ""
        self.type(f"{{ {command}; }}; echo; echo 'en''d of command'\n")
        return self.expect(r"\nend of command\n", limit)

    def end(self):
        try:
            os.kill(self.pid, signal.SIGKILL)
        except ProcessLookupError:
            pass
        os.waitpid(self.pid, 0)


def log_in(c):
    if c.expect(r"cleave login: ", 400) is None:
        return "no login prompt"
    c.type("root\n")
    if c.expect(r"Password: ", 60) is None:
        return "no question for the password"
    c.type("cleave\n")
    if c.expect(r"root@cleave\S* ", 60) is None:
        return "no shell"
    # No echo and no line editing from here on; messages of the kernel stay away.
    c.type("exec bash --noediting --norc\n")
    c.expect(r"bash-5\S* ", 30)
    c.type("stty -echo; PS1=; dmesg -n 1; cd /root; echo re''ady\n")
    return None if c.expect(r"ready\n", 30) is not None else "no ready shell"


def send_scripts(c):
    for path in sorted((HERE / "scripts").iterdir()):
        text = base64.encodebytes(path.read_bytes()).decode()
        c.type(f"base64 -d >{path.name} <<'E'\n{text}E\n")
    return c.run("cat checks.* threads.c | sha256sum", 60)


def host_output(command):
    """What a command prints on the host in the folder of scripts; None if it does not run here."""
    with tempfile.TemporaryDirectory() as tmp:
        p = subprocess.run(["sh", "-c", command.replace("{tmp}", tmp)], cwd=HERE / "scripts",
                           capture_output=True, text=True, check=False)
    return p.stdout if p.returncode == 0 else None


def is_right(got, want):
    if got is None:
        return False
    if isinstance(want, list):
        return want[0] is None or got.strip() == want[0].strip()
    return re.search(want, got.strip(), re.M) is not None


def main():
    p = argparse.ArgumentParser()
    p.add_argument("cleave")
    p.add_argument("guests")
    p.add_argument("--engine", default="dbt")
    p.add_argument("--cpus", type=int, default=2)
    p.add_argument("--seconds", type=int, default=5)
    p.add_argument("items", nargs="*")
    a = p.parse_intermixed_args()
    guests = pathlib.Path(a.guests)
    if not a.guests or not (guests / "debian.cpio").exists():
        print("skipped: no Debian guest (guests/build cloud debian makes it)")
        sys.exit(77)
    start = time.monotonic()
    c = Console(vmm.command(a.engine, a.cleave, guests / "vmlinuz-cloud", guests / "debian.cpio",
                            "console=ttyS0 quiet panic=-1", MEMORY_MIB, a.cpus))
    failed = 0

    def tell(ok, name, since, note=""):
        nonlocal failed
        failed += not ok
        print(f"{'PASS' if ok else 'FAIL'} {name} {time.monotonic() - since:.1f} s", flush=True)
        if not ok:
            print("    " + note.strip().replace("\n", "\n    ")[-1500:], flush=True)

    try:
        why = log_in(c)
        tell(not why, "login", start, f"{why}: {c.seen}")
        if why:
            sys.exit(1)
        send_scripts(c)
        for name, limit, command, want in items(a.seconds):
            if a.items and not any(name == i or name.startswith(i + "-") for i in a.items):
                continue
            since = time.monotonic()
            got = c.run(command, limit)
            ok = is_right(got, want)
            tell(ok, name, since, got if got is not None else f"no end in {limit} s: {c.seen}")
            if got is None:
                c.type("\x03\n")
                if c.run("true", 30) is None:
                    print("FAIL the console does not answer any more")
                    sys.exit(1)
        since = time.monotonic()
        c.type("systemctl poweroff\n")
        # The last message, or the end of the process.
        ended = c.expect(r"Power down|Powering off", 120) is not None or not select.select([c.fd], [], [], 0)[0]
        tell(ended, "poweroff", since, c.seen)
    finally:
        c.end()
    sys.exit(failed > 0)


if __name__ == "__main__":
    main()
