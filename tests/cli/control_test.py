#!/usr/bin/env python3
"""A running machine and those who talk to it: ps, stop, console, ssh, and clients that misbehave.

usage: control_test.py CLEAVE
"""
import json
import os
import pathlib
import signal
import socket
import struct
import subprocess
import sys
import tempfile
import time

cleave = sys.argv[1]
SLOW = int(os.environ.get("TEST_SLOW", 1))
bad = 0


def check(what, ok, got=""):
    global bad
    if not ok:
        print(f"FAILED: {what}: {got}")
        bad = 1


def run(*args, timeout=30):
    return subprocess.run([cleave, *map(str, args)], stdin=subprocess.DEVNULL, capture_output=True,
                          text=True, timeout=timeout * SLOW, env=ENV, check=False)


def kernel(path):
    """A multiboot 1 kernel: prints 'A', then sends back what comes on the serial line plus one."""
    flags, base = 0x10000, 0x100000
    code = bytes.fromhex("66bafd03"      # mov dx, 0x3fd
                         "ec" "a801" "74fb"    # in al, dx; test al, 1; jz
                         "66baf803" "ec"       # mov dx, 0x3f8; in al, dx
                         "fec0" "ee"           # inc al; out dx, al
                         "ebed")               # again
    code = bytes.fromhex("66baf803" "b041" "ee") + code
    header = struct.pack("<IIIIIIII", 0x1BADB002, flags, (-0x1BADB002 - flags) & 0xFFFFFFFF, base, base, 0,
                         0, base + 32)
    path.write_bytes(header + code)


class Machine:
    def __init__(self, *args):
        self.p = subprocess.Popen([cleave, "run", "--kernel", KERNEL, "--memory", "16M", "--console", "none",
                                   *args], env=ENV, stderr=subprocess.PIPE, text=True)

    def wait_for(self, path):
        end = time.monotonic() + 20 * SLOW
        while not path.exists():
            if self.p.poll() is not None or time.monotonic() > end:
                print(f"FAILED: no {path}: {self.p.stderr.read()}")
                sys.exit(1)
            time.sleep(0.02)


def connect(path):
    s = socket.socket(socket.AF_UNIX)
    s.connect(str(path))
    s.settimeout(10 * SLOW)
    return s


def ask(s, line):
    s.sendall(line if isinstance(line, bytes) else json.dumps(line).encode() + b"\n")
    out = b""
    while not out.endswith(b"\n"):
        piece = s.recv(1)    # what follows the line may be the console
        if not piece:
            break
        out += piece
    return json.loads(out) if out else None


with tempfile.TemporaryDirectory() as d:
    d = pathlib.Path(d)
    ENV = os.environ | {"XDG_RUNTIME_DIR": str(d), "XDG_DATA_HOME": str(d)}
    KERNEL = d / "kernel"
    kernel(KERNEL)
    sock = d / "cleave/web.sock"

    check("nobody runs", json.loads(run("ps", "--json").stdout) == [])
    p = run("stop", "web")
    check("stop nobody", p.returncode == 1 and "no machine named web" in p.stderr, p.stderr)
    p = run("run", "--kernel", KERNEL, "--name", "../x")
    check("a bad name", p.returncode == 1 and "--name" in p.stderr, p.stderr)

    for name, size in ("raw", 2), ("ro", 1):
        with open(d / name, "wb") as f:
            f.truncate(size << 20)
    check("create", run("disk", "create", d / "q", "32M").returncode == 0)
    m = Machine("--name", "web", "--disk", d / "raw", "--disk", f"{d}/q,format=qcow2", "--disk", f"{d}/ro,readonly",
                "--balloon", "0")
    m.wait_for(sock)
    check("the folder is private", (d / "cleave").stat().st_mode & 0o777 == 0o700)
    p = run("run", "--kernel", KERNEL, "--name", "web", "--console", "none")
    check("a name is taken once", p.returncode == 1 and "running already" in p.stderr, p.stderr)
    (status,) = json.loads(run("ps", "--json").stdout)
    check("status", status["name"] == "web" and status["pid"] == m.p.pid and status["cpus"] == 1 and
          status["memory_bytes"] == 16 << 20 and status["state"] == "running", status)
    check("ps", "web" in run("ps").stdout)
    p = run("ssh", "web", "true")
    check("ssh without a forward", p.returncode == 1 and "port 22" in p.stderr, p.stderr)

    # Clients that misbehave get an error, and the machine lives.
    s = connect(sock)
    for line in (b"\n", b"nonsense\n", b"[1]\n", b"{\"command\": 3}\n", b"{\"command\":\"fly\"}\n",
                 b"{\"a\":1,\"a\":2}\n", b"\xff\xfe\n", b"[" * 3000 + b"\n",
                 b"{\"command\":\"stop\",\"timeout_s\":-1}\n",
                 b"{\"command\":\"stop\",\"timeout_s\":\"x\"}\n",
                 b"{\"command\":\"stop\",\"force\":1}\n"):
        got = ask(s, line)
        check(f"{line[:30]!r}", got and got["ok"] is False and got["error"]["message"], got)
    got = ask(s, {"command": "status", "id": [7]})
    check("the id comes back", got["ok"] and got["id"] == [7], got)
    s.sendall(b"x" * 5000)
    check("a long line is told", b"too-long" in s.recv(4096))
    try:
        check("and ends the connection", s.recv(1) == b"")
    except ConnectionResetError:
        pass
    many = [connect(sock) for _ in range(40)]
    for c in many:
        c.close()
    s = connect(sock)
    check("after a crowd", ask(s, {"command": "status"})["ok"])
    s.close()
    # One that asks and never reads.
    s = connect(sock)
    try:
        for _ in range(20000):
            s.send(b"{\"command\":\"status\"}\n", socket.MSG_DONTWAIT)
    except OSError:
        pass
    check("beside one that does not read", len(json.loads(run("ps", "--json").stdout)) == 1)
    s.close()

    # Engines, pauses. The guest, which answers what is typed, does not notice.
    for engine in "interp", "interp", "auto", "interp":
        p = run("ctl", "web", "engine", engine)
        check(f"move to {engine}", p.returncode == 0 and "stopped for" in p.stdout, p)
    (status,) = json.loads(run("ps", "--json").stdout)
    check("the engine is told", status["engine"] == "interp", status)
    p = run("ctl", "web", "engine", "steam")
    check("no such engine", p.returncode == 1 and "no engine 'steam'" in p.stderr, p)
    check("pause", run("ctl", "web", "pause").returncode == 0)
    deadline = time.monotonic() + 10 * SLOW
    while time.monotonic() < deadline and json.loads(run("ctl", "web", "status").stdout)["state"] != "paused":
        time.sleep(0.02)
    p = run("ctl", "web", "engine", "auto", "--json")
    check("a paused machine moves", p.returncode == 0 and json.loads(p.stdout)["from"] == "interp", p)
    status = json.loads(run("ctl", "web", "status").stdout)
    check("and stays paused", status["state"] == "paused", status)
    check("continue", run("ctl", "web", "continue").returncode == 0)
    for words, say in ((["web"], "missing"), (["web", "fly"], "no command 'fly'"), (["web", "pause", "x"], "nothing"),
                       (["web", "engine"], "one word"), (["nobody", "status"], "no machine named nobody")):
        p = run("ctl", *words)
        check(f"ctl {words}", p.returncode == 1 and say in p.stderr and p.stderr.count("\n") == 1, p)

    # Disks and the balloon. The guest has no driver, and need not have.
    p = run("ctl", "web", "resize", "vda", "+1M")
    check("a disk grows", p.returncode == 0 and (d / "raw").stat().st_size == 3 << 20, p)
    p = run("ctl", "web", "resize", "vdb", "64M")
    check("a qcow2 disk grows", p.returncode == 0, p)
    check("balloon", run("ctl", "web", "balloon", "4M").returncode == 0)
    status = json.loads(run("ctl", "web", "status").stdout)
    check("disks in the status", [(x["name"], x["format"], x["bytes"], x["readonly"]) for x in status["disks"]] ==
          [("vda", "raw", 3 << 20, False), ("vdb", "qcow2", 64 << 20, False), ("vdc", "raw", 1 << 20, True)], status)
    check("the balloon in the status", status["balloon"]["target_bytes"] == 4 << 20, status)
    for words, say in ((["resize", "vda", "1M"], "only grows"), (["resize", "vda", "+1"], "multiple of 512"),
                       (["resize", "vdc", "4M"], "read-only"), (["resize", "vdz", "1G"], "no such disk"),
                       (["resize", "vdz", "+1G"], "no disk 'vdz'"), (["resize", "vda"], "two words"),
                       (["resize", "vda", "big"], "no size"), (["resize", "vda", "9999999T"], "too large"),
                       (["resize", "vda", "1M", "x"], "one too many"), (["balloon", "17M"], "memory"),
                       (["balloon", "-1"], "one too many")):
        p = run("ctl", "web", *words)
        check(f"ctl {words}", p.returncode == 1 and say in p.stderr and p.stderr.count("\n") == 1, p)
    s = connect(sock)
    for line in (b"{\"command\":\"resize\"}\n", b"{\"command\":\"resize\",\"disk\":\"vda\",\"bytes\":-512}\n",
                 b"{\"command\":\"resize\",\"disk\":1,\"bytes\":512}\n",
                 b"{\"command\":\"resize\",\"disk\":\"vda\",\"bytes\":9223372036854775807}\n",
                 b"{\"command\":\"balloon\",\"bytes\":-1}\n", b"{\"command\":\"balloon\",\"bytes\":1e3}\n"):
        got = ask(s, line)
        check(f"{line!r}", got and got["ok"] is False, got)
    s.close()

    # The console.
    s = connect(sock)
    check("console", ask(s, b"{\"command\":\"console\"}\n")["ok"])
    check("what was printed before", s.recv(1) == b"A")
    s.sendall(b"ab")
    check("what is typed arrives", s.recv(1) + s.recv(1) == b"bc")
    other = connect(sock)
    got = ask(other, {"command": "console"})
    check("one at a time", got["error"]["code"] == "busy", got)
    other.close()
    s.close()
    deadline = time.monotonic() + 10 * SLOW
    while time.monotonic() < deadline:
        p = subprocess.run([cleave, "console", "web"], input="x\x1d", capture_output=True, text=True, env=ENV,
                           timeout=20 * SLOW, check=False)
        if p.returncode == 0:
            break
        time.sleep(0.05)
    check("cleave console", p.returncode == 0 and p.stdout.startswith("Abc"), p)

    s = connect(sock)
    check("reset", ask(s, {"command": "reset"})["ok"])
    # This guest hears no power button: the time-out ends it.
    started = time.monotonic()
    p = run("stop", "web", "--timeout", "1")
    check("stop", p.returncode == 0 and time.monotonic() - started > 0.9, p.stderr)
    check("its end", m.p.wait(10 * SLOW) == 0, m.p.returncode)
    p = run("disk", "info", "--json", d / "q")
    check("the image has its new size", p.returncode == 0 and str(64 << 20) in p.stdout, p)
    check("and is good", run("disk", "check", d / "q").returncode == 0)
    p = run("ctl", "web", "resize", "vda", "1G")
    check("ctl nobody", p.returncode == 1 and "no machine named web" in p.stderr, p)
    m = Machine("--name", "web")
    m.wait_for(sock)
    p = run("ctl", "web", "balloon", "0")
    check("no balloon", p.returncode == 1 and "--balloon" in p.stderr, p)
    run("stop", "--force", "web")
    m.p.wait(10 * SLOW)
    check("the socket is gone", not sock.exists())

    m = Machine("--name", "web")
    m.wait_for(sock)
    p = run("stop", "--force", "web")
    check("stop --force", p.returncode == 0 and m.p.wait(10 * SLOW) == 0, p.stderr)

    # A crash leaves a socket, which is nobody's.
    m = Machine("--name", "web")
    m.wait_for(sock)
    m.p.send_signal(signal.SIGKILL)
    m.p.wait()
    check("left over", sock.exists() and json.loads(run("ps", "--json").stdout) == [] and not sock.exists())
    # Without a name there is one.
    m = Machine()
    m.wait_for(d / f"cleave/vm-{m.p.pid}.sock")
    check("a made-up name", run("stop", "--force", f"vm-{m.p.pid}").returncode == 0)
    m.p.wait(10 * SLOW)
    check("nothing is left", sorted(os.listdir(d / "cleave")) in ([], ["web.lock"]), os.listdir(d / "cleave"))
    # A folder that others can enter is refused.
    (d / "cleave").chmod(0o755)
    p = run("ps")
    check("an open folder", p.returncode == 1 and "only you" in p.stderr, p.stderr)

sys.exit(bad)
