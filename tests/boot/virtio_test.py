#!/usr/bin/env python3
"""A stock kernel's drivers use the virtio devices: entropy, console and port both ways, vsock both ways,
a balloon with statistics and free page reporting.

usage: virtio_test.py CLEAVE GUESTS ENGINE
TEST_SLOW in the environment multiplies the times it waits. Exit status: 0 passed, 1 failed, 77 skipped.
"""
import os
import pathlib
import pty
import re
import socket
import subprocess
import sys
import tempfile
import threading
import time

SLOW = int(os.environ.get("TEST_SLOW", 1))
SECONDS = 150 * SLOW
DATA = bytes(range(256)) * 4096
problems = []


def need(ok, what):
    if not ok:
        problems.append(what)


def echo_server(path):
    """The host's port 1024: echoes one connection."""
    server = socket.socket(socket.AF_UNIX)
    server.bind(path)
    server.listen(1)

    def serve():
        client = server.accept()[0]
        while data := client.recv(65536):
            client.sendall(data)
        client.close()

    threading.Thread(target=serve, daemon=True).start()


def dial_guest(path):
    """Speak to the guest's port 5000, which echoes; it may take a while to listen."""
    end = time.monotonic() + SECONDS
    while time.monotonic() < end:
        s = socket.socket(socket.AF_UNIX)
        s.settimeout(20 * SLOW)
        try:
            s.connect(path)
            s.sendall(b"CONNECT 5000\n")
            answer = s.recv(64)
        except OSError:
            answer = b""
        if answer:
            break
        s.close()
        time.sleep(0.3)
    need(re.fullmatch(rb"OK \d+\n", answer), f"greeting: {answer!r}")
    sender = threading.Thread(target=lambda: (s.sendall(DATA), s.shutdown(socket.SHUT_WR)))
    sender.start()
    got = b""
    while piece := s.recv(65536):
        got += piece
    sender.join()
    need(got == DATA, f"{len(got)} of {len(DATA)} bytes came back from the guest")


def talk(name, want, answer):
    """Wait for the guest's line on a pseudo-terminal and answer it."""
    fd = os.open(name, os.O_RDWR | os.O_NOCTTY)
    seen = b""
    while want not in seen:
        seen += os.read(fd, 1024)
    os.write(fd, answer + b"\n")
    os.close(fd)


def watch_memory(pid, sizes):
    """The guest's memory that the host has in use, in KiB, as time goes by."""
    try:
        while True:
            status = pathlib.Path(f"/proc/{pid}/status").read_text()
            size = int(re.search(r"^RssShmem:\s+(\d+)", status, re.M)[1])
            if size:  # else there is no memory yet, or no more
                sizes.append(size)
            time.sleep(0.2)
    except (OSError, TypeError):
        pass  # the process is at its end


def guarded(fn, *args):
    def run():
        try:
            fn(*args)
        except Exception as e:  # a thread's failure is the test's
            problems.append(f"{fn.__name__}: {e!r}")
    t = threading.Thread(target=run, daemon=True)
    t.start()
    return t


def main():
    cleave, guests, engine = sys.argv[1], pathlib.Path(sys.argv[2]), sys.argv[3]
    if not sys.argv[2] or not (guests / "modules-cloud.gz").exists():
        print("skipped: no test guests (guests/build makes them)")
        sys.exit(77)
    try:
        for fd in pty.openpty():
            os.close(fd)
    except OSError as e:
        print(f"skipped: no pseudo-terminals here ({e})")
        sys.exit(77)
    with tempfile.TemporaryDirectory() as tmp:
        path = f"{tmp}/vsock"
        echo_server(f"{path}_1024")
        log = open(f"{tmp}/serial", "w+")
        p = subprocess.Popen(
            [cleave, "run", "--engine", engine, "--kernel", guests / "vmlinuz-cloud", "--initrd",
             guests / "initramfs.gz", "--initrd", guests / "modules-cloud.gz", "--memory", "512M",
             "--cpus", "2", "--append", "console=ttyS0 panic=-1 page_reporting.page_reporting_order=0 "
             "cleave.test=virtio cleave.modules="
             "virtio_pci,virtio_rng,virtio_console,virtio_balloon,vmw_vsock_virtio_transport free_mb=230 seconds=9",
             "--virtio-console", "pty", "--virtio-console", "pty,name=org.cleave.test",
             "--balloon", "256M,stats=1", "--vsock", f"cid=7,path={path}", "--stats"],
            stdin=subprocess.DEVNULL, stdout=log, stderr=subprocess.PIPE, text=True)
        threads, sizes = [], []
        said = ""
        for _ in range(2):
            line = p.stderr.readline()
            said += line
            m = re.search(r"virtio console port (\d) is (\S+)", line)
            if not m:
                continue
            want = b"this is the port" if m[1] == "1" else b"this is hvc0"
            threads.append(guarded(talk, m[2], want, b"typed at " + m[1].encode()))
        threads.append(guarded(dial_guest, path))
        threads.append(guarded(watch_memory, p.pid, sizes))
        try:
            said += p.communicate(timeout=SECONDS)[1]
        except subprocess.TimeoutExpired:
            p.kill()
            problems.append(f"no end after {SECONDS} s")
        for t in threads:
            t.join(10)
        need(not os.path.exists(path), "the socket is left behind")
        log.seek(0)
        out = log.read().replace("\r", "")
    got = dict(re.findall(r"^report (\w+): (.*)$", out, re.M))
    need(p.returncode == 0, f"exit status {p.returncode}")
    need(got.get("rng", "").startswith("virtio_rng"), f"rng: {got.get('rng')}")
    need(got.get("random") == "256", f"random bytes: {got.get('random')}")
    need(got.get("hvc0") == "typed at 0", f"hvc0: {got.get('hvc0')}")
    need(got.get("port") == "typed at 1", f"port: {got.get('port')}")
    need(got.get("vsock") == "4000000 bytes came back", f"vsock: {got.get('vsock')}")
    need(int(got.get("interrupts", 0)) >= 8, f"message interrupts: {got.get('interrupts')}")
    need(int(got.get("free_kb", 1 << 30)) < 240 << 10, f"free memory: {got.get('free_kb')} KiB")
    for device in "0x0003", "0x0004", "0x0005", "0x0013":
        # Event index, version 1, packed ring, ring reset; and indirect, which the balloon refuses.
        want = (29, 32, 34, 40) if device == "0x0005" else (28, 29, 32, 34, 40)
        bits = got.get("features_" + device, "0" * 64)
        need(all(bits[i] == "1" for i in want), f"features of {device}: {bits}")
    # The last ones are of the time in which the guest sleeps, after it has freed 120 MiB: Linux
    # reports some of it every 2 s.
    need(max(sizes) - min(sizes[-5:]) > 80 << 10, f"memory in use: {sizes[-60:]}")
    m = re.search(r"balloon: target (\d+) KiB, actual (\d+) KiB, inflated (\d+) KiB, reported (\d+) KiB"
                  r".*guest free (\d+) KiB", said)
    need(m, "no figures of the balloon")
    if m:
        target, actual, inflated, reported, free = map(int, m.groups())
        # Linux resets its devices when it powers off, so actual is 0 again.
        need(target == 262144 and actual == 0 and inflated >= target, f"balloon: {m[0]}")
        need(reported > 0, f"free page reporting: {m[0]}")
        need(free < 240 << 10, f"the guest's figures: {m[0]}")
    for line in re.findall(r"^report dmesg (.*virtio.*)$", out, re.M):
        need(not re.search(r"error|fail|invalid|broken|WARN|BUG", line), f"the kernel complains: {line}")
    if problems:
        print(out[-3000:], said[-2000:], *(f"FAILED: {x}" for x in problems), sep="\n")
        sys.exit(1)
    print(m[0], f"in use at most {max(sizes)} KiB, at the end {min(sizes[-5:])} KiB", sep="\n")


if __name__ == "__main__":
    main()
