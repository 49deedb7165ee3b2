"""Disks, network and sockets of a whole Debian, its way to the login, and what its monitor weighs:
on cleave's engines and on QEMU TCG, with the same image and the same devices, in one run.

All machines of a round run at once and idle but for the one whose turn it is; each row is measured on
one after the other, and which of them is first changes from round to round.
"""
import base64
import json
import os
import pathlib
import re
import shutil
import socket
import statistics
import subprocess
import sys
import tempfile
import threading
import time
import tty

import vmm

IMAGE = "bench-io"
PACKAGES = ("fio", "iperf3", "socat")
MEMORY_MIB = 1024
DISK_MIB = 512
SECONDS = 4
LOGIN_LIMIT = 600
PORTS = {"out": 5000, "in": 5001}    # of vsock


def tool(*args, **more):
    """Run a program of the host to its end; what it printed."""
    return subprocess.run([str(a) for a in args], stdin=subprocess.DEVNULL, stdout=subprocess.PIPE,
                          text=True, check=True, **more).stdout


def free_port():
    with socket.create_server(("127.0.0.1", 0)) as s:
        return s.getsockname()[1]


class Host:
    """What all machines share: the image with its kernel, a key, full disks, an iperf3 server."""

    def __init__(self, cleave, folder):
        self.cleave, self.folder = cleave, folder
        store = vmm.guests("cloud") / "store"
        store.mkdir(exist_ok=True)
        os.environ["XDG_DATA_HOME"] = str(store)
        if not any(i["name"] == IMAGE for i in self.images()):
            more = [word for p in PACKAGES for word in ("--package", p)]
            tool(cleave, "image", "build", "debian:12", "--name", IMAGE, *more)
        self.disk = store / "cleave/images" / IMAGE / "disk.qcow2"
        self.extract_kernel()
        self.key = folder / "key"
        tool("ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", self.key)
        with open(folder / "full", "wb") as f:
            for _ in range(DISK_MIB):
                f.write(os.urandom(1 << 20))
        self.port = free_port()
        self.iperf = subprocess.Popen(["iperf3", "-s", "-B", "127.0.0.1", "-p", str(self.port)],
                                      stdout=subprocess.DEVNULL)

    def images(self):
        return json.loads(tool(self.cleave, "image", "list", "--json"))["images"]

    def extract_kernel(self):
        """QEMU has nothing that reads the guest's file system: its kernel is got before the clock
        runs, cleave's at each start."""
        raw = self.folder / "raw"
        tool(self.cleave, "disk", "convert", "--format", "qcow2", "--to", "raw", self.disk, raw)
        debugfs = shutil.which("debugfs", path=os.environ["PATH"] + ":/usr/sbin:/sbin")
        names = tool(debugfs, "-R", "ls -p /boot", raw, stderr=subprocess.DEVNULL)
        for kind in "vmlinuz", "initrd.img":
            name = re.search(rf"/({re.escape(kind)}-[^/]*)/", names)[1]
            tool(debugfs, "-R", f"dump /boot/{name} {self.folder / kind}", raw,
                 stderr=subprocess.DEVNULL)
        raw.unlink()

    def disks(self, name):
        """Of one machine: raw and qcow2, full of data, and a qcow2 with nothing in it yet."""
        full, paths = self.folder / "full", [self.folder / f"{name}.{k}" for k in ("raw", "qcow2", "new")]
        shutil.copyfile(full, paths[0])
        tool("qemu-img", "convert", "-S", "0", "-f", "raw", "-O", "qcow2", full, paths[1])
        tool("qemu-img", "create", "-q", "-f", "qcow2", paths[2], "16G")
        return paths

    def end(self):
        self.iperf.kill()
        self.iperf.wait()


def cleave_command(host, engine, cpus, port, disks, vsock):
    args = [host.cleave, "run", IMAGE, "--engine", engine, "--cpus", cpus, "--memory", f"{MEMORY_MIB}M",
            "--name", f"bench-{engine}-{os.getpid()}", "--ssh-key", f"{host.key}.pub", "--console", "none",
            "--virtio-console", "none", "--virtio-console", "pty,name=bench",
            "--vsock", f"cid=7,path={vsock}", "--net", f"user,forward=127.0.0.1:{port}:22"]
    for d in disks:
        args += ["--disk", f"{d},format={'raw' if d.suffix == '.raw' else 'qcow2'}"]
    return args


def qemu_command(host, cpus, port, disks):
    """The board and the disks as QEMU has them by default, without what nobody uses here. Disks with
    io_uring and a thread of their own are slower with TCG, above all in writing."""
    overlay = host.folder / "qemu-root"
    overlay.unlink(missing_ok=True)
    tool("qemu-img", "create", "-q", "-f", "qcow2", "-b", host.disk, "-F", "qcow2", overlay)
    key = base64.b64encode(host.key.with_suffix(".pub").read_bytes())
    (host.folder / "smbios").write_bytes(
        b"io.systemd.credential.binary:ssh.authorized_keys.root=" + key)
    args = ["qemu-system-x86_64", "-nodefaults", "-display", "none", "-no-reboot", "-m", MEMORY_MIB,
            "-smp", cpus, "-accel", "tcg,thread=multi", "-cpu", "max", "-kernel", host.folder / "vmlinuz",
            "-initrd", host.folder / "initrd.img", "-append", "root=/dev/vda ro console=ttyS0 quiet",
            "-serial", "null", "-smbios", f"type=11,path={host.folder / 'smbios'}",
            "-netdev", f"user,id=net,hostfwd=tcp:127.0.0.1:{port}-:22", "-device", "virtio-net-pci,netdev=net",
            "-device", "virtio-rng-pci", "-device", "virtio-serial-pci", "-chardev", "pty,id=pty",
            "-device", "virtserialport,chardev=pty,name=bench"]
    for i, d in enumerate([overlay, *disks]):
        args += ["-drive", f"file={d},if=none,id=d{i},format={'raw' if d.suffix == '.raw' else 'qcow2'}",
                 "-device", f"virtio-blk-pci,drive=d{i}"]
    return args



class Machine:
    """A running guest. end() it."""

    def __init__(self, host, engine, cpus):
        self.host, self.engine, self.port = host, engine, free_port()
        self.disks = host.disks(engine)
        self.vsock = host.folder / f"{engine}.vsock"
        self.vsock.unlink(missing_ok=True)
        if engine == "tcg":
            args = qemu_command(host, cpus, self.port, self.disks)
        else:
            args = cleave_command(host, engine, cpus, self.port, self.disks, self.vsock)
        self.log = host.folder / f"{engine}.log"
        with open(self.log, "wb") as log:
            self.start = time.monotonic()
            self.process = subprocess.Popen([str(a) for a in args], stdin=subprocess.DEVNULL, stdout=log,
                                            stderr=log, start_new_session=True)
        self.login_seconds = self.wait_for_login()

    def ssh_command(self, command):
        return ["ssh", "-i", self.host.key, "-p", str(self.port), "-o", "StrictHostKeyChecking=no",
                "-o", "UserKnownHostsFile=/dev/null", "-o", "LogLevel=ERROR", "-o", "BatchMode=yes",
                "root@127.0.0.1", command]

    def ssh(self, command, seconds=60):
        p = subprocess.run(self.ssh_command(command), stdin=subprocess.DEVNULL, capture_output=True,
                           text=True, timeout=seconds, check=False)
        if p.returncode:
            raise RuntimeError(f"{self.engine}: {command}: {p.returncode}: {p.stdout} {p.stderr}")
        return p.stdout

    def says_hello(self):
        """Whether the guest's sshd answers a connection, within half a second."""
        try:
            with socket.create_connection(("127.0.0.1", self.port), 0.5) as s:
                return s.recv(4) == b"SSH-"
        except OSError:
            return False

    def wait_for_login(self):
        while time.monotonic() < self.start + LOGIN_LIMIT:
            if self.process.poll() is not None:
                break
            if not self.says_hello():
                time.sleep(0.05)
            elif subprocess.run(self.ssh_command("true"), stdin=subprocess.DEVNULL, check=False,
                                capture_output=True, timeout=60).returncode == 0:
                return time.monotonic() - self.start
            else:
                time.sleep(0.2)
        raise RuntimeError(f"{self.engine}: no login; {self.log.read_text()}")

    def settle(self):
        """Wait until the guest has started what it starts."""
        self.ssh("systemctl is-system-running --wait || true", LOGIN_LIMIT)

    def pss_mib(self):
        """Of the monitor and its helpers, without the guest's RAM."""
        children = pathlib.Path(f"/proc/{self.process.pid}/task").glob("*/children")
        pids = [self.process.pid] + [int(p) for c in children for p in c.read_text().split()]
        return sum(vmm.extra_kib(p, MEMORY_MIB, "Pss") for p in pids) / 1024

    def pty(self):
        """The host's side of the port "bench"."""
        return re.search(r"/dev/pts/\d+", self.log.read_text())[0]

    def end(self):
        self.process.kill()
        self.process.wait()
        for path in self.disks:
            path.unlink(missing_ok=True)


# Each of the following measures one row on a machine: a number where more is better, None where the
# machine has no such thing.

def fio(disk, rw, depth):
    engine = "psync" if depth == 1 else "libaio"

    def measure(m):
        out = m.ssh(f"fio --name=b --filename=/dev/vd{disk} --rw={rw} --bs=4k --direct=1 --thread "
                    f"--ioengine={engine} --iodepth={depth} --time_based --runtime={SECONDS} "
                    f"--ramp_time=0.5 --gtod_reduce=1 --output-format=json", 120)
        job = json.loads(out[out.index("{"):])["jobs"][0]
        return job["read" if "read" in rw else "write"]["iops"]
    return measure


def iperf(*more):
    def measure(m):
        out = json.loads(m.ssh(f"iperf3 -c 10.0.2.2 -p {m.host.port} -t {SECONDS} -J {' '.join(more)}", 60))
        return out["end"]["sum_received"]["bits_per_second"] / 1e6
    return measure


def count(read, seconds=SECONDS):
    """Mbit/s that come by read() for so long, from its first bytes on; "" is the end."""
    total, n = 0, read()
    start = now = time.monotonic()
    while n and now < start + seconds:
        n = read()
        total += n
        now = time.monotonic()
    return total * 8 / (now - start) / 1e6


def guest_runs(m, command):
    return subprocess.Popen(m.ssh_command(command), stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL,
                            stderr=subprocess.DEVNULL)


def vsock(way):
    """QEMU has vsock by vhost only, in the host's kernel: no work of QEMU's."""
    def measure(m):
        if m.engine == "tcg":
            return None
        path = pathlib.Path(f"{m.vsock}_{PORTS[way]}")
        path.unlink(missing_ok=True)
        ends = (f"OPEN:/dev/zero VSOCK-CONNECT:2:{PORTS[way]}" if way == "out" else
                f"VSOCK-CONNECT:2:{PORTS[way]} OPEN:/dev/null")
        with socket.socket(socket.AF_UNIX) as s:
            s.bind(str(path))
            s.listen()
            s.settimeout(30)
            guest = guest_runs(m, f"timeout {SECONDS + 5} socat -u -b 262144 {ends}")
            with s.accept()[0] as c:
                buf = memoryview(bytearray(262144))
                rate = count(lambda: c.recv_into(buf) if way == "out" else c.send(buf))
            guest.wait(60)
        return rate
    return measure


def port(way):
    def measure(m):
        path = "/dev/virtio-ports/bench"
        fd = os.open(m.pty(), os.O_RDWR | os.O_NOCTTY)
        try:
            tty.setraw(fd)
            guest = guest_runs(m, f"timeout {SECONDS + 2} dd bs=64k " + (
                f"if=/dev/zero of={path}" if way == "out" else f"if={path} of=/dev/null"))
            buf = bytes(65536)
            if way == "in":
                time.sleep(1)    # until dd reads; the guest throws away what comes before
            rate = count(lambda: len(os.read(fd, 65536)) if way == "out" else os.write(fd, buf))
            # What is under way is read, or the next row gets it.
            stop = threading.Event()
            if way == "out":
                threading.Thread(target=drain, args=(fd, guest, stop), daemon=True).start()
            guest.wait(60)
            stop.set()
        finally:
            os.close(fd)
        return rate
    return measure


def drain(fd, guest, stop):
    os.set_blocking(fd, False)
    while not stop.is_set() and guest.poll() is None:
        try:
            os.read(fd, 65536)
        except BlockingIOError:
            time.sleep(0.01)
        except OSError:
            return


def rows():
    """name: (group, unit, function)"""
    out = {}
    for disk, name in ("b", "raw"), ("c", "qcow2"):
        for rw in "read", "write", "randread", "randwrite":
            for depth in 1, 32:
                out[f"{name}.{rw}-{depth}"] = "disk", "IOPS", fio(disk, rw, depth)
    for rw in "write", "randwrite":
        out[f"qcow2-new.{rw}-32"] = "disk, new clusters", "IOPS", fio("d", rw, 32)
    out["net.to-host"] = "network", "Mbit/s", iperf()
    out["net.to-guest"] = "network", "Mbit/s", iperf("-R")
    out["vsock.to-host"] = "vsock", "Mbit/s", vsock("out")
    out["vsock.to-guest"] = "vsock", "Mbit/s", vsock("in")
    out["port.to-host"] = "virtio-serial", "Mbit/s", port("out")
    out["port.to-guest"] = "virtio-serial", "Mbit/s", port("in")
    return out


def measure_round(host, engines, wanted, cpus, got):
    machines = []
    try:
        for e in engines:
            machines.append(Machine(host, e, cpus))
            got.setdefault("boot.ssh-login", {}).setdefault(e, []).append(machines[-1].login_seconds)
            print(f"  {e}: login after {machines[-1].login_seconds:.1f} s", file=sys.stderr, flush=True)
            machines[-1].settle()
        for m in machines:
            got.setdefault("rss.idle", {}).setdefault(m.engine, []).append(m.pss_mib())
        for name, (_, _, measure) in wanted.items():
            for m in machines:
                value = measure(m)
                if value is not None:
                    got.setdefault(name, {}).setdefault(m.engine, []).append(value)
            print(f"  {name}: " + ", ".join(
                f"{e} {v[-1]:.0f}" for e, v in got.get(name, {}).items()), file=sys.stderr, flush=True)
        for m in machines:
            got.setdefault("rss.after", {}).setdefault(m.engine, []).append(m.pss_mib())
    finally:
        for m in machines:
            m.end()


def show(got, engines):
    """Medians, and how many times better than TCG each engine is."""
    units = {name: (g, u) for name, (g, u, _) in rows().items()}
    units["boot.ssh-login"] = "boot", "s"
    units["rss.idle"] = units["rss.after"] = "memory", "MiB"
    peers = [e for e in engines if e != "tcg"]
    print(f"{'':24}{'':>8}{'tcg':>10}" + "".join(f"{e:>10}{'gain':>8}" for e in peers))
    gains = {}
    for name, (group, unit) in units.items():
        if name not in got:
            continue
        value = {e: statistics.median(v) for e, v in got[name].items()}
        line = f"{name:24}{unit:>8}" + cell(value.get("tcg"), unit)
        below = False
        for e in peers:
            gain = None
            if e in value and "tcg" in value:
                gain = value[e] / value["tcg"] if unit not in ("s", "MiB") else value["tcg"] / value[e]
                gains.setdefault(group, {}).setdefault(e, []).append(gain)
                below = below or gain < 1
            line += cell(value.get(e), unit) + (f"{gain:8.2f}" if gain else "       -")
        print(line + ("  BELOW TCG" if below else ""))
    print("\nGeometric means")
    for group, of in gains.items():
        print(f"{group:42}" + "".join(f"{'':10}{statistics.geometric_mean(of[e]):8.2f}" for e in of))


def cell(value, unit):
    return f"{'-':>10}" if value is None else f"{value:10.{1 if unit in ('s', 'MiB') else 0}f}"


def main(cleave, engines, only, rounds, cpus, json_file):
    wanted = {name: row for name, row in rows().items()
              if not only or any(name == o or name.split(".")[0] == o for o in only)}
    got = {}
    with tempfile.TemporaryDirectory(prefix="cleave-bench-", dir=vmm.guests("cloud")) as d:
        host = Host(cleave, pathlib.Path(d))
        try:
            for i in range(rounds):
                print(f"  round {i + 1} of {rounds}", file=sys.stderr, flush=True)
                measure_round(host, engines[::-1] if i % 2 else engines, wanted, cpus, got)
                if json_file:
                    pathlib.Path(json_file).write_text(json.dumps(got, indent=1))
        finally:
            host.end()
    show(got, engines)
