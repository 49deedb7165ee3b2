#!/usr/bin/env python3
"""The guest's serial line on a terminal: typing reaches the shell, Ctrl-A x ends the machine, and the
terminal comes back as it was, also when a signal ends the program.

usage: console_test.py CLEAVE GUESTS
TEST_SLOW in the environment multiplies the times it waits.
"""
import os
import pathlib
import pty
import select
import signal
import sys
import termios
import time

SLOW = int(os.environ.get("TEST_SLOW", 1))


class Guest:
    def __init__(self, cleave, guests):
        self.master, slave = pty.openpty()
        self.slave = slave
        self.before = termios.tcgetattr(slave)
        self.pid = os.fork()
        if self.pid == 0:
            os.setsid()
            for fd in (0, 1, 2):
                os.dup2(slave, fd)
            os.execv(cleave, [cleave, "run", "--kernel", f"{guests}/vmlinuz-cloud", "--initrd",
                              f"{guests}/initramfs.gz", "--append", "console=ttyS0 quiet"])
        self.seen = b""

    def expect(self, text, seconds):
        end = time.monotonic() + seconds * SLOW
        while text not in self.seen:
            left = end - time.monotonic()
            if left <= 0 or not select.select([self.master], [], [], left)[0]:
                os.kill(self.pid, signal.SIGKILL)
                sys.exit(f"FAILED: no {text!r} within {seconds} s; seen: {self.seen[-2000:]!r}")
            self.seen += os.read(self.master, 4096)
        self.seen = self.seen[self.seen.index(text) + len(text):]

    def type(self, data):
        os.write(self.master, data)

    def end(self, status, seconds=20):
        deadline = time.monotonic() + seconds * SLOW
        while time.monotonic() < deadline:
            # Somebody must read, or the program waits for the terminal.
            if select.select([self.master], [], [], 0.05)[0]:
                self.seen += os.read(self.master, 4096)
            pid, got = os.waitpid(self.pid, os.WNOHANG)
            if pid:
                got = os.waitstatus_to_exitcode(got)
                if got != status:
                    sys.exit(f"FAILED: exit status {got}, wanted {status}; {self.seen[-500:]!r}")
                if termios.tcgetattr(self.slave) != self.before:
                    sys.exit("FAILED: the terminal was not put back")
                return
        os.kill(self.pid, signal.SIGKILL)
        sys.exit(f"FAILED: no end within {seconds} s")


def main():
    cleave, guests = sys.argv[1], sys.argv[2]
    if not guests or not pathlib.Path(guests, "vmlinuz-cloud").exists():
        print("skipped: no test guests (guests/build makes them)")
        sys.exit(77)
    try:
        for fd in pty.openpty():
            os.close(fd)
    except OSError as e:
        print(f"skipped: no pseudo-terminals here ({e})")
        sys.exit(77)
    g = Guest(cleave, guests)
    g.expect(b"/ # ", 60)
    g.type(b"echo sum $((40 + 2))\r")
    g.expect(b"sum 42\r", 10)
    g.type(b"\x01h")
    g.expect(b"Ctrl-A x", 10)
    g.type(b"\x01x")
    g.end(0)
    g = Guest(cleave, guests)
    g.expect(b"/ # ", 60)
    g.type(b"poweroff -f\r")
    g.end(0)
    g = Guest(cleave, guests)
    time.sleep(1)
    os.kill(g.pid, signal.SIGTERM)
    g.end(128 + signal.SIGTERM)


if __name__ == "__main__":
    main()
