#!/usr/bin/env python3
"""A guest on user networking: DHCP, ping, downloads, uploads, a port forward, a helper that is killed.

usage: net_test.py CLEAVE GUESTS ENGINE
All servers are on the host's loopback. Exit status: 0 passed, 1 failed, 77 skipped.
"""
import hashlib
import os
import pathlib
import random
import re
import signal
import socket
import subprocess
import sys
import threading
import time

SLOW = int(os.environ.get("TEST_SLOW", 1))
BLOCKS = 160
BIG = random.Random(5).randbytes(BLOCKS * 65536)


def fail(why, out=""):
    sys.stdout.write(out[-6000:])
    print(f"\nFAILED: {why}")
    sys.exit(1)


def listen(serve):
    """A server that calls serve(connection) for each; its port."""
    s = socket.create_server(("127.0.0.1", 0))

    def loop():
        while True:
            c, _ = s.accept()
            threading.Thread(target=serve, args=(c,), daemon=True).start()
    threading.Thread(target=loop, daemon=True).start()
    return s.getsockname()[1]


def web(c):
    with c:
        ask = b""
        while b"\r\n\r\n" not in ask:
            piece = c.recv(4096)
            if not piece:
                return
            ask += piece
        body = BIG if b" /big " in ask else b"hello from the host"
        c.sendall(b"HTTP/1.0 200 OK\r\nContent-Length: %d\r\n\r\n" % len(body) + body)


class Sink:
    """Takes uploads and keeps their checksums."""

    def __init__(self):
        self.sums = []
        self.port = listen(self.take)

    def take(self, c):
        with c:
            h = hashlib.sha256()
            while piece := c.recv(1 << 16):
                h.update(piece)
        self.sums.append(h.hexdigest())


def free_port():
    with socket.create_server(("127.0.0.1", 0)) as s:
        return s.getsockname()[1]


def start(args, guests, engine, test, net, cpus):
    kernel, initrd, modules = (guests / x for x in ("vmlinuz-cloud", "initramfs.gz", "modules-cloud.gz"))
    for f in kernel, initrd, modules:
        if not f.exists():
            print(f"skipped: {f} is missing (guests/build makes it)")
            sys.exit(77)
    append = f"console=ttyS0 panic=-1 cleave.modules=virtio_pci,virtio_net cleave.test={test} {args}"
    return subprocess.Popen(
        [CLEAVE, "run", "--kernel", kernel, "--initrd", initrd, "--initrd", modules, "--append", append,
         "--memory", "512M", "--cpus", str(cpus), "--engine", engine, "--no-reboot", "--log", "info",
         *[x for n in net for x in ("--net", n)]],
        stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT)


class Output:
    """What the machine prints, as it comes."""

    def __init__(self, p):
        self.p, self.text = p, ""
        self.thread = threading.Thread(target=self.read, daemon=True)
        self.thread.start()

    def read(self):
        while piece := self.p.stdout.read1(4096):
            self.text += piece.decode(errors="replace").replace("\r", "")

    def wait(self, word, seconds):
        end = time.monotonic() + seconds
        while word not in self.text:
            if time.monotonic() > end or (self.p.poll() is not None and not self.thread.is_alive()):
                self.p.kill()
                fail(f"no {word!r}", self.text)
            time.sleep(0.02)

    def end(self, seconds):
        try:
            status = self.p.wait(seconds)
        except subprocess.TimeoutExpired:
            self.p.kill()
            fail("no end", self.text)
        self.thread.join(10)
        if status:
            fail(f"exit status {status}", self.text)
        return dict(re.findall(r"^report (\w+): (.*)$", self.text, re.M))


def traffic(guests, engine, mtu):
    sink, port = Sink(), free_port()
    args = f"web={listen(web)} sink={sink.port} blocks={BLOCKS}"
    p = start(args, guests, engine, "net", [f"user,forward=127.0.0.1:{port}:7777,hostname=box,mtu={mtu}"], 2)
    out = Output(p)
    out.wait("report listening", 150 * SLOW)
    deadline = time.monotonic() + 20 * SLOW
    back = b""
    while back != b"ABC XYZ\n" and time.monotonic() < deadline:
        with socket.create_connection(("127.0.0.1", port), 10) as c:
            c.settimeout(10 * SLOW)
            try:
                c.sendall(b"abc xyz\n")
                c.shutdown(socket.SHUT_WR)
                back = b"".join(iter(lambda: c.recv(100), b""))
            except OSError:
                pass
        time.sleep(0.1)
    got = out.end(150 * SLOW)
    big = f"{hashlib.sha256(BIG).hexdigest()}  -"
    want = {"offer": "10.0.2.15/24 via 10.0.2.2 dns 10.0.2.3 name box", "mtu": str(mtu), "queues": "2",
            "carrier": "1", "ping": "3 packets", "hello": "hello from the host", "down": big,
            "small": big, "done": "0"}
    for key, val in want.items():
        if got.get(key) != val:
            fail(f"{key}: {got.get(key)!r}, wanted {val!r}", out.text)
    if back != b"ABC XYZ\n":
        fail(f"through the forward came {back!r}", out.text)
    up = got["up"].split()[0]
    if sink.sums != [up, up]:
        fail(f"uploads: {sink.sums}, wanted twice {up}", out.text)


def lost_helper(guests, engine):
    """The machine goes on when its helper dies, and the guest sees the carrier go."""
    p = start("", guests, engine, "net-helper", ["user"], 1)
    out = Output(p)
    out.wait("report carrier_before: 1", 100 * SLOW)
    helper = int(re.search(r"the network helper is process (\d+)", out.text)[1])
    os.kill(helper, signal.SIGKILL)
    got = out.end(60 * SLOW)
    if got.get("carrier_after") != "0":
        fail(f"carrier after the helper's end: {got.get('carrier_after')}", out.text)
    if "the link is down, the machine goes on" not in out.text:
        fail("nothing was said", out.text)


if not sys.argv[2]:
    print("skipped: no test guests (guests/build makes them)")
    sys.exit(77)
CLEAVE = sys.argv[1]
for size in (1500, 65520) if sys.argv[3] == "dbt" else (1500,):
    traffic(pathlib.Path(sys.argv[2]), sys.argv[3], size)
lost_helper(pathlib.Path(sys.argv[2]), sys.argv[3])
