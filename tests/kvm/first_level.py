"""A first-level guest: a stock kernel in QEMU's TCG with an emulated SVM, in which KVM is hardware.

What cleave is run with in there is packed into an initramfs: the program and a test with their shared
libraries, KVM's modules, a stock kernel and initramfs, the flat test kernels.
"""
import gzip
import pathlib
import re
import shutil
import stat
import subprocess
import sys
import tempfile
import time

HERE = pathlib.Path(__file__).resolve().parent
# In the order in which they are loaded.
MODULES = "irqbypass", "kvm", "kvm-amd"


def skip(why):
    print(f"skipped: {why}")
    sys.exit(77)


def libraries(program):
    """The shared libraries that program is loaded with, and its loader."""
    text = subprocess.run(["ldd", program], check=True, capture_output=True, text=True).stdout
    return re.findall(r"(/\S+) \(0x", text)


class Archive:
    """A cpio archive in the "newc" form."""

    def __init__(self):
        self.data = bytearray()
        self.seen = set()
        self.inode = 0

    def entry(self, name, mode, content=b""):
        self.inode += 1
        raw = name.encode() + b"\0"
        fields = [self.inode, mode, 0, 0, 1, 0, len(content), 0, 0, 0, 0, len(raw), 0]
        self.data += b"070701" + b"".join(b"%08x" % f for f in fields) + raw
        self.pad()
        self.data += content
        self.pad()

    def pad(self):
        self.data += bytes(-len(self.data) % 4)

    def folder(self, path):
        if path == pathlib.PurePosixPath("/") or path in self.seen:
            return
        self.folder(path.parent)
        self.seen.add(path)
        self.entry(str(path)[1:], stat.S_IFDIR | 0o755)

    def file(self, path, source):
        path = pathlib.PurePosixPath(path)
        if path in self.seen:
            return
        self.folder(path.parent)
        self.seen.add(path)
        self.entry(str(path)[1:], stat.S_IFREG | 0o755, pathlib.Path(source).read_bytes())

    def program(self, path, source):
        self.file(path, source)
        for library in libraries(source):
            self.file(library, library)

    def write(self, path):
        self.entry("TRAILER!!!", 0)
        path.write_bytes(self.data)


def module(guests, name):
    found = list((guests / "modules-cloud").rglob(name + ".ko"))
    if not found:
        skip(f"{guests}/modules-cloud has no {name}")
    return found[0]


def pack(path, cleave, build, guests, kernels):
    a = Archive()
    for folder in "/dev", "/proc", "/sys", "/tmp":
        a.folder(pathlib.PurePosixPath(folder))
    a.file("/init", HERE / "init")
    a.file("/bin/busybox", guests / "busybox-amd64")
    for n, name in enumerate(MODULES):
        a.file(f"/modules/{n}-{name}", module(guests, name))
    a.program("/bin/cleave", cleave)
    for unit in "unit-cpu-kvm-kvm", "unit-cpu-kvm-irqchip":
        a.program(f"/bin/{unit}", build / "tests" / unit)
    a.file("/guest/vmlinuz", guests / "vmlinuz-cloud")
    a.file("/guest/initramfs.gz", guests / "initramfs.gz")
    for k in kernels:
        a.file(f"/flat/{k}", build / "tests/isa" / k)
    a.write(path)


def run(cleave, guests, build, parts, kernels, timeout, line=None, console=None):
    """Returns {part: (status, its output)} of the parts that ended, and all output. line: a Unix socket
    on which the guest's second serial line is offered. console: a file that gets the output as it comes.
    """
    qemu = shutil.which("qemu-system-x86_64")
    if not qemu:
        skip("there is no qemu-system-x86_64 (Debian's qemu-system-x86)")
    for needed in "vmlinuz-cloud", "initramfs.gz", "busybox-amd64", "modules-cloud":
        if not (guests / needed).exists():
            skip(f"{guests / needed} is missing (guests/build makes it)")
    with tempfile.TemporaryDirectory() as tmp:
        initrd = pathlib.Path(tmp) / "initrd"
        pack(initrd, cleave, build, guests, kernels)
        # One CPU: with two, that kernel itself crashes now and then under QEMU 7.2's nested SVM.
        args = [qemu, "-accel", "tcg", "-cpu", "max,+svm,+npt", "-smp", "1", "-m", "1024M",
                "-nodefaults", "-display", "none", "-no-reboot", "-serial", "stdio",
                "-kernel", guests / "vmlinuz-cloud", "-initrd", initrd, "-append",
                "console=ttyS0 quiet panic=-1 mitigations=off no_timer_check kvm.parts=" + ",".join(parts)]
        if line:
            args += ["-chardev", f"socket,id=line,path={line},server=on,wait=off", "-serial", "chardev:line"]
        console = console or pathlib.Path(tmp) / "console"
        late = b""
        with open(console, "wb") as to:
            try:
                subprocess.run(args, stdin=subprocess.DEVNULL, stdout=to, stderr=subprocess.PIPE, timeout=timeout)
            except subprocess.TimeoutExpired:
                late = f"\nno end after {timeout} s\n".encode()
        out = console.read_bytes() + late
    out = out.decode(errors="replace").replace("\r", "")
    done = {}
    for m in re.finditer(r"^part (\S+) begins.*?\n(.*?)^part \1 ends: (\d+)", out, re.M | re.S):
        done[m[1]] = int(m[3]), m[2]
    return done, out
