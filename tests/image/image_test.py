#!/usr/bin/env python3
"""A stock Debian 12 from its packages to its end: built, run by its name, logged into over ssh,
switched off, its file system checked, and taken up again.

usage: image_test.py CLEAVE CACHE ENGINE CPUS SOURCE...
CACHE: the folder of the test guests; the image is built there once, and anew when a SOURCE changes.
TEST_SLOW in the environment multiplies the times; with IMAGE_TEST_LONG the interpreter does all of it, too. Exit status: 0 passed, 1 failed, 77 skipped.
"""
import hashlib
import json
import os
import pathlib
import re
import shutil
import socket
import subprocess
import sys
import tempfile
import threading
import time

cleave, cache, engine, cpus, *sources = sys.argv[1:]
SLOW = int(os.environ.get("TEST_SLOW", 1)) * (20 if engine == "interp" else 1)
LONG = "IMAGE_TEST_LONG" in os.environ
PATH = os.environ["PATH"] + ":/usr/sbin:/sbin"


def skip(why):
    print(f"skipped: {why}")
    sys.exit(77)


def fail(why, out=""):
    print(f"{out[-5000:]}\nFAILED: {why}")
    sys.exit(1)


def run(*args, ok=(0,), seconds=60):
    p = subprocess.run([str(a) for a in args], stdin=subprocess.DEVNULL, capture_output=True, text=True,
                       timeout=seconds * SLOW, errors="replace")
    if p.returncode not in ok:
        fail(f"{' '.join(map(str, args))}: status {p.returncode}", p.stdout + p.stderr)
    return p.stdout


def build(store):
    """Build the image where it is not there as these sources make it."""
    stamp = hashlib.sha256(b"".join(pathlib.Path(s).read_bytes() for s in sources)).hexdigest()
    mark = store / "test-stamp"
    images = json.loads(run(cleave, "image", "list", "--json"))["images"]
    if mark.exists() and mark.read_text() == stamp and any(i["name"] == "debian:12" for i in images):
        return
    for program in "mmdebstrap", "mke2fs", *([] if os.geteuid() == 0 else ["newuidmap"]):
        if not shutil.which(program, path=PATH):
            skip(f"no {program}")
    for instance in json.loads(run(cleave, "image", "list", "--json"))["instances"]:
        run(cleave, "image", "rm", "--instance", instance["name"], ok=(0, 1))
    p = subprocess.run([cleave, "image", "build", "debian:12", "--force"], stdin=subprocess.DEVNULL,
                       capture_output=True, text=True, timeout=600, errors="replace")
    if p.returncode:
        try:
            socket.create_connection(("deb.debian.org", 80), 10).close()
        except OSError:
            skip("the image cannot be built: no network")
        if "needs namespaces" in p.stderr:
            skip(p.stderr.strip())
        fail("image build", p.stderr)
    mark.write_text(stamp)


class Machine:
    """A running instance; its console's output gathers in .seen."""

    def __init__(self, name, *more):
        self.name = name
        self.seen = ""
        args = [cleave, "run", "debian:12", "--name", name, "--engine", engine, "--cpus", cpus, *more]
        self.p = subprocess.Popen(args, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE,
                                  stderr=subprocess.STDOUT, text=True, errors="replace")
        self.reader = threading.Thread(target=self.read, daemon=True)
        self.reader.start()

    def read(self):
        for line in iter(lambda: self.p.stdout.read(1), ""):
            self.seen += line

    def ssh(self, command, ok=(0,), seconds=60):
        return run(cleave, "ssh", self.name, command, ok=ok, seconds=seconds)

    def wait_for_login(self):
        deadline = time.monotonic() + 90 * SLOW
        while time.monotonic() < deadline:
            if self.p.poll() is not None:
                fail(f"the machine ended with {self.p.returncode}", self.seen)
            p = subprocess.run([cleave, "ssh", self.name, "true"], stdin=subprocess.DEVNULL,
                               capture_output=True, timeout=60 * SLOW, check=False)
            if p.returncode == 0:
                return
            time.sleep(0.5)
        fail("no login by ssh in time", self.seen)

    def wait_for_end(self):
        try:
            status = self.p.wait(60 * SLOW)
        except subprocess.TimeoutExpired:
            self.p.kill()
            fail("it does not end", self.seen)
        self.reader.join(10)
        if status != 0:
            fail(f"poweroff ended with {status}", self.seen)


def reach_host(m):
    """A TCP connection from the guest, by NAT, to a server of ours."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        server.settimeout(60 * SLOW)
        port = server.getsockname()[1]

        def serve():
            with server.accept()[0] as c:
                c.sendall(b"hello from the host\n")

        t = threading.Thread(target=serve, daemon=True)
        t.start()
        return m.ssh(f"bash -c 'cat </dev/tcp/10.0.2.2/{port}'")


def check(what, got, pattern):
    if not re.search(pattern, got):
        fail(f"{what}: {pattern!r} is not in {got!r}")
    print(f"passed: {what}")


def check_apt(m):
    out = m.ssh("apt-get -q update && apt-get -qy install hello && hello", ok=(0, 100), seconds=120)
    if "Temporary failure resolving" in out or "Could not connect" in out:
        print("left out: apt, since this host has no network")
    else:
        check("apt", out, "Hello, world!")


def check_disk(store, name):
    with tempfile.TemporaryDirectory(dir=store) as d:
        raw = pathlib.Path(d) / "raw"
        run(cleave, "disk", "check", store / "cleave/instances" / name / "disk.qcow2")
        run(cleave, "disk", "convert", "--format", "qcow2", "--backing", "--to", "raw",
            store / "cleave/instances" / name / "disk.qcow2", raw, seconds=120)
        print("passed:", run("env", f"PATH={PATH}", "e2fsck", "-fn", raw).splitlines()[-1])


def main():
    if not cache:
        skip("no folder for guests")
    if not shutil.which("ssh") or not shutil.which("ssh-keygen"):
        skip("no ssh")
    store = pathlib.Path(cache) / "store"
    store.mkdir(exist_ok=True)
    os.environ["XDG_DATA_HOME"] = str(store)
    build(store)

    name = f"test-{engine}-{cpus}"
    run(cleave, "image", "rm", "--instance", name, ok=(0, 1))
    start = time.monotonic()
    m = Machine(name, "--hostname", "guest7")
    m.wait_for_login()
    print(f"login after {time.monotonic() - start:.1f} s")
    check("the state", m.ssh("systemctl is-system-running --wait", ok=(0, 1)), r"^running$")
    check("failed units", "<" + m.ssh("systemctl --failed --no-legend --plain") + ">", r"^<>$")
    check("the name", m.ssh("hostname"), r"^guest7$")
    check("the CPUs", m.ssh("nproc"), f"^{cpus}$")
    check("the address", m.ssh("ip -4 -br address"), r"10\.0\.2\.15/24")
    check("the network", reach_host(m), "^hello from the host$")
    check("the name server", m.ssh("resolvectl status"), r"10\.0\.2\.3")
    if engine != "interp" or LONG:
        check_apt(m)
    key = m.ssh("cat /etc/ssh/ssh_host_ed25519_key.pub; date >/root/mark; cat /etc/machine-id")
    check("the console", m.seen, "guest7 login:")
    run(cleave, "ctl", name, "resize", "vda", "+1G")
    size = m.ssh("resize2fs /dev/vda >/dev/null 2>&1; df -BM --output=size / | tail -1", seconds=120)
    if int(size.strip().rstrip("M")) < 4500:
        fail(f"a disk that grows in use: {size}")
    m.ssh("systemctl poweroff", ok=(0, 255))
    m.wait_for_end()
    check_disk(store, name)

    if cpus == "4" and (engine != "interp" or LONG):
        m = Machine(name)
        m.wait_for_login()
        check("the disk, once more", m.ssh("ls /root/mark; systemctl is-system-running --wait", ok=(0, 1)),
              r"^/root/mark\nrunning$")
        check("the keys, once more", m.ssh("cat /etc/ssh/ssh_host_ed25519_key.pub /etc/machine-id"),
              "^" + re.escape(key.strip()))
        run(cleave, "stop", name, seconds=90)
        m.wait_for_end()
    run(cleave, "image", "rm", "--instance", name)
    check("the lists", run(cleave, "image", "list"), r"(?m)^debian:12 +debian:12")


main()
