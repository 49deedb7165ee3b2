#!/usr/bin/env python3
"""`make run` at a terminal, from nothing to the end: the image is built where it is missing, the login
comes, root logs in with the password that was told, nothing has failed, apt installs a package, `cleave
ssh` gets in, and after `systemctl poweroff` make ends with 0.

usage: make_run_test.py SOURCE [PREFIX...]
SOURCE: the project's folder, its build folder in it. Whoever runs this needs no rights, /dev/kvm or
/dev/net/tun. PREFIX: what leads to where all this is to happen, such as a fresh Debian.
TEST_SLOW in the environment multiplies the times.
Exit status: 0 passed, 1 failed, 77 skipped.
"""
import json
import os
import pty
import re
import select
import signal
import subprocess
import sys
import time

source, *prefix = sys.argv[1:]
SLOW = int(os.environ.get("TEST_SLOW", 1))
PACKAGE = "hello"


class Terminal:
    """A command on a terminal of its own."""

    def __init__(self, *args):
        self.seen = ""
        self.pid, self.fd = pty.fork()
        if self.pid == 0:
            os.execvp(args[0], args)

    def read(self, seconds):
        """False at the end of the output."""
        if not select.select([self.fd], [], [], seconds)[0]:
            return True
        try:
            piece = os.read(self.fd, 65536)
        except OSError:    # the other side is closed
            return False
        self.seen += piece.decode(errors="replace")
        return bool(piece)

    def expect(self, pattern, seconds):
        end = time.monotonic() + seconds * SLOW
        while not (m := re.search(pattern, self.seen)):
            if time.monotonic() > end or not self.read(0.5):
                self.fail(f"no {pattern!r} within {seconds} s")
        self.seen = self.seen[m.end():]
        return m

    def type(self, text):
        os.write(self.fd, text.encode())

    def fail(self, why):
        os.killpg(self.pid, signal.SIGKILL)
        print(f"{self.seen[-5000:]}\nFAILED: {why}")
        sys.exit(1)

    def end(self, seconds):
        """The exit status, once the command ends by itself."""
        end = time.monotonic() + seconds * SLOW
        while self.read(0.5):
            if time.monotonic() > end:
                self.fail(f"no end within {seconds} s")
        return os.waitstatus_to_exitcode(os.waitpid(self.pid, 0)[1])


def cleave(*args, seconds=60):
    p = subprocess.run([*prefix, f"{source}/build/cleave", *args], stdin=subprocess.DEVNULL, capture_output=True,
                       text=True, timeout=seconds * SLOW, check=False)
    return p.stdout if p.returncode == 0 else f"status {p.returncode}: {p.stdout} {p.stderr}"


def running():
    return {m["name"] for m in json.loads(cleave("ps", "--json"))}


def check(t, what, got, pattern):
    if not re.search(pattern, got):
        t.fail(f"{what}: {pattern!r} is not in {got!r}")
    print(f"passed: {what}", flush=True)


def main():
    start = time.monotonic()
    before = running() if os.path.exists(f"{source}/build/cleave") and not prefix else set()
    t = Terminal(*prefix, "make", "-C", source, "run")
    t.expect(r"login: ", 900)
    print(f"login after {time.monotonic() - start:.1f} s", flush=True)
    t.type("root\r")
    t.expect(r"Password: ", 30)
    t.type(json.loads(cleave("image", "info", "debian:12", "--json"))["console_password"] + "\r")
    t.expect(r":~# ", 30)
    t.type("systemctl is-system-running --wait; systemctl --failed --no-legend | wc -l\r")
    m = t.expect(r"(\w+)\r+\n(\d+)\r+\n", 120)
    check(t, "the state", f"{m[1]} {m[2]}", "^running 0$")
    # A terminal's size asks for nothing here: it is the serial line's.
    name = (running() - before).pop()
    check(t, "the network", cleave("ssh", name, "ip -4 -br address"), r"10\.0\.2\.15/24")
    out = cleave("ssh", name, f"apt-get -q update && apt-get -qy install {PACKAGE} && {PACKAGE}", seconds=240)
    if "Temporary failure resolving" in out or "Could not connect" in out:
        print("left out: apt, since this host has no network")
    else:
        check(t, "apt", out, "Hello, world!")
    t.type("systemctl poweroff\r")
    status = t.end(90)
    if status:
        t.fail(f"make ended with {status}")
    print("passed: the end")


main()
