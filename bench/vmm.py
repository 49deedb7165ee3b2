"""Virtual machine monitors side by side: how each is started, watched and weighed."""
import os
import pathlib
import re
import select
import shutil
import signal
import struct
import subprocess
import time

HERE = pathlib.Path(__file__).resolve().parent


def guests(*what):
    """Build guests and return the folder they are in."""
    return pathlib.Path(subprocess.run([HERE.parent / "guests/build", *what], stdout=subprocess.PIPE,
                                       text=True, check=True).stdout.strip())


def vmlinux(folder, name):
    """The ELF file inside a bzImage, which has the PVH entry: what microvms boot fastest. Its place
    and size are in the setup header (Linux Documentation/arch/x86/boot.rst).
    """
    image, out = folder / f"vmlinuz-{name}", folder / f"vmlinux-{name}"
    if out.exists() and out.stat().st_mtime >= image.stat().st_mtime:
        return out
    data = image.read_bytes()
    offset, length = struct.unpack_from("<II", data, 0x248)
    start = (data[0x1f1] + 1) * 512 + offset
    packed = data[start:start + length - 4]    # the last four bytes are the unpacked size
    tools = {b"\x02\x21\x4c\x18": "lz4", b"\x28\xb5\x2f\xfd": "zstd", b"\xfd7zX": "xz",
             b"\x1f\x8b\x08\x00": "gzip"}
    tool = tools[packed[:4]]
    # A tool may complain of what follows the stream, after it has written all.
    elf = subprocess.run([tool, "-dc"], input=packed, stdout=subprocess.PIPE,
                         stderr=subprocess.DEVNULL, check=False).stdout
    if elf[:4] != b"\x7fELF":
        raise RuntimeError(f"{image}: no ELF file in it")
    out.write_bytes(elf)
    return out


def command(engine, cleave, kernel, initrd, append, memory_mib, cpus=1):
    """The command line for an engine: tcg, tcg-microvm, or one of cleave's."""
    if engine.startswith("tcg"):
        machine = []
        if engine == "tcg-microvm":
            # With ACPI a microvm is "hardware reduced": Linux then takes the PIT for absent, has
            # nothing to calibrate the TSC by under TCG, and stops there. Without, it finds the PIT.
            machine = ["-M", "microvm,isa-serial=on,rtc=on,acpi=off"]
            append += " reboot=t"
        return [shutil.which("qemu-system-x86_64") or "qemu-system-x86_64", *machine, "-nographic",
                "-no-reboot", "-m", str(memory_mib), "-smp", str(cpus),
                "-accel", "tcg,thread=multi", "-cpu", "max", "-kernel", str(kernel),
                "-initrd", str(initrd), "-append", append]
    return [str(cleave), "run", "--engine", engine, "--kernel", str(kernel), "--initrd", str(initrd),
            "--append", append, "--memory", f"{memory_mib}M", "--cpus", str(cpus), "--no-reboot"]


def extra_rss_kib(pid, memory_mib):
    """Resident KiB of a process beyond the guest's RAM; memory that is mapped twice, as the code cache
    is, counts once."""
    return extra_kib(pid, memory_mib, "Pss")


def extra_kib(pid, memory_mib, what):
    """KiB of a process, as smaps counts them (Rss, Pss), but for what is mapped of the guest's RAM:
    cleave's memfd "guest-ram", by any alias, and for QEMU the mapping that has RAM's size and that
    nobody executes (its buffer for translations may have the same size).
    """
    total = 0
    skip = False
    for line in pathlib.Path(f"/proc/{pid}/smaps").read_text().splitlines():
        m = re.match(r"[0-9a-f]+-[0-9a-f]+ (\S+) \S+ \S+ \S+ *(.*)", line)
        if m:
            skip = "memfd:guest-ram" in m[2]
            nameless = not m[2] and "x" not in m[1]
        elif line.startswith("Size:"):
            skip = skip or nameless and int(line.split()[1]) == memory_mib * 1024
        elif line.startswith(what + ":") and not skip:
            total += int(line.split()[1])
    return total


def waited_ms(pid):
    """Milliseconds that the busiest thread of a process, which of a monitor with one CPU is that CPU's,
    was ready to run and did not, because the host had others to run: the second field of schedstat
    (Linux Documentation/scheduler/sched-stats.rst). 0 where the host does not count it.
    """
    stats = [(0, 0)]
    for task in pathlib.Path(f"/proc/{pid}/task").glob("*/schedstat"):
        try:
            ran, waited, _ = task.read_text().split()
        except (OSError, ValueError):
            continue
        stats.append((int(ran), int(waited)))
    return max(stats)[1] / 1e6


class Run:
    """A started command whose output is read line by line. end() it."""

    def __init__(self, args):
        self.start = time.monotonic()
        self.process = subprocess.Popen(args, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE,
                                        stderr=subprocess.STDOUT, start_new_session=True)
        self.rest = b""

    def lines(self, limit):
        """Yield lines until the output ends, or limit seconds after start."""
        fd = self.process.stdout.fileno()
        while time.monotonic() < self.start + limit:
            if not select.select([fd], [], [], 0.2)[0]:
                continue
            piece = os.read(fd, 65536)
            if not piece:
                break
            *whole, self.rest = (self.rest + piece).split(b"\n")
            for line in whole:
                yield line.decode(errors="replace").strip("\r")

    def seconds(self):
        return time.monotonic() - self.start

    def end(self):
        """Kill it with what it started (time, taskset and shells), and wait."""
        try:
            os.killpg(self.process.pid, signal.SIGKILL)
        except ProcessLookupError:
            pass
        self.process.wait()
        self.process.stdout.close()
