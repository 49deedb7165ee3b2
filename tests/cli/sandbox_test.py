#!/usr/bin/env python3
"""Tries what breaks out of a running machine, as code in each of its threads would: by ptrace each
thread is made to execute system calls, all of which must fail, and the machine must live on.

usage: sandbox_test.py CLEAVE KERNEL ENGINE
Exit status: 0 passed, 1 failed, 77 not allowed to trace here (root is).
"""
import ctypes
import errno
import json
import os
import pathlib
import signal
import subprocess
import sys
import tempfile
import time

cleave, kernel, engine = sys.argv[1:]
EPERM = 1
CALLS = {"read(own)": None, "open": 2, "socket": 41, "connect": 42, "bind": 49, "clone": 56, "fork": 57, "vfork": 58,
         "execve": 59, "kill": 62, "ptrace": 101, "prctl": 157, "mount": 165, "openat": 257, "unshare": 272,
         "process_vm_readv": 310, "process_vm_writev": 311, "memfd_create": 319, "bpf": 321, "execveat": 322,
         "io_uring_setup": 425, "clone3": 435, "pidfd_getfd": 438, "openat2": 437}
del CALLS["read(own)"]
SEIZE, INTERRUPT, GETREGS, SETREGS, CONT, DETACH = 0x4206, 0x4207, 12, 13, 7, 17
SIGSYS, WALL = 31, 0x40000000

libc = ctypes.CDLL(None, use_errno=True)
libc.ptrace.argtypes = [ctypes.c_long, ctypes.c_long, ctypes.c_void_p, ctypes.c_void_p]
libc.ptrace.restype = ctypes.c_long


class Regs(ctypes.Structure):
    _fields_ = [(n, ctypes.c_ulonglong) for n in (
        "r15 r14 r13 r12 rbp rbx r11 r10 r9 r8 rax rcx rdx rsi rdi orig_rax rip cs eflags rsp ss fs_base gs_base "
        "ds es fs gs").split()]


def fail(why):
    print(f"FAILED ({engine}): {why}")
    sys.exit(1)


def ptrace(request, tid, addr=None, data=None):
    if libc.ptrace(request, tid, addr, data) < 0:
        raise OSError(ctypes.get_errno(), f"ptrace {request:#x} of {tid}")


def wait(tid):
    _, status = os.waitpid(tid, WALL)
    if not os.WIFSTOPPED(status):
        fail(f"thread {tid} has ended: {status:#x}")
    return os.WSTOPSIG(status)


def go_until_trap(tid):
    """Run on, passing the filter's signal to its handler, to the breakpoint."""
    deliver = 0
    while True:
        ptrace(CONT, tid, None, deliver)
        got = wait(tid)
        if got == signal.SIGTRAP:
            return
        deliver = got if got == SIGSYS else 0


def inject(tid, at, number, args=()):
    """What the call returns. at is an address where `syscall; int3` lies."""
    saved, r = Regs(), Regs()
    ptrace(GETREGS, tid, None, ctypes.byref(saved))
    ctypes.memmove(ctypes.byref(r), ctypes.byref(saved), ctypes.sizeof(r))
    r.rax, r.orig_rax, r.rip = number, 2**64 - 1, at
    r.rsp = (saved.rsp - 1024) & ~15
    for name, value in zip(("rdi", "rsi", "rdx", "r10", "r8", "r9"), (*args, 0, 0, 0, 0, 0, 0)):
        setattr(r, name, value)
    ptrace(SETREGS, tid, None, ctypes.byref(r))
    go_until_trap(tid)
    ptrace(GETREGS, tid, None, ctypes.byref(r))
    ptrace(SETREGS, tid, None, ctypes.byref(saved))
    return ctypes.c_longlong(r.rax).value


def plant(pid):
    """Put `syscall; int3` into the padding behind the program's text."""
    for line in pathlib.Path(f"/proc/{pid}/maps").read_text().splitlines():
        if "r-xp" in line and "/cleave" in line:
            start, end = (int(x, 16) for x in line.split()[0].split("-"))
            break
    with open(f"/proc/{pid}/mem", "r+b", buffering=0) as mem:
        mem.seek(end - 16)
        if mem.read(16).strip(b"\0"):
            fail("the last bytes of the program's text are in use")
        mem.seek(end - 16)
        mem.write(b"\x0f\x05\xcc")
    return end - 16


def tasks(pid):
    """Our threads; the kernel's io_uring workers are listed with them."""
    for t in pathlib.Path(f"/proc/{pid}/task").iterdir():
        if not (t / "comm").read_text().startswith("iou-"):
            yield int(t.name), (t / "comm").read_text().strip(), (t / "status").read_text()


def attack(pid, at, tid, comm):
    ptrace(SEIZE, tid)
    ptrace(INTERRUPT, tid)
    wait(tid)
    for name, number in CALLS.items():
        # vsock alone may make sockets, of Unix only: IPv4 is asked for.
        args = (2, 1, 0) if name == "socket" else (os.getpid(), 0) if name == "kill" else ()
        got = inject(tid, at, number, args)
        if name == "connect" and got == -errno.ENOTSOCK:
            continue  # the vsock thread may, and finds no socket at 0
        if got != -EPERM:
            fail(f"{comm}: {name} gave {got}, not EPERM")
    # Memory that can be executed; a signal to another process.
    for name, number, args in (("mmap", 9, (0, 4096, 7, 0x22, 2**64 - 1, 0)), ("mprotect", 10, (at & ~4095, 4096, 7)),
                               ("tgkill", 234, (os.getpid(), os.getpid(), 0))):
        got = inject(tid, at, number, args)
        if got != -EPERM:
            fail(f"{comm}: {name} gave {got}, not EPERM")
    ptrace(DETACH, tid)


def status(d):
    ps = subprocess.run([cleave, "ps", "--json"], env={**os.environ, "XDG_RUNTIME_DIR": str(d)}, capture_output=True,
                        text=True, check=True)
    return json.loads(ps.stdout)[0]["sandbox"]


def main(d):
    for name in ("disk", "disk2"):
        with open(d / name, "wb") as f:
            f.truncate(1 << 20)
    err = open(d / "err", "w+")
    vm = subprocess.Popen([cleave, "run", "--kernel", kernel, "--append", "", "--engine", engine, "--cpus", "2", "--memory",
                           "64M", "--console", f"file={d}/console", "--disk", d / "disk", "--disk",
                           f"{d}/disk2,readonly", "--net", "user", "--vsock", f"cid=3,path={d}/vsock", "--name",
                           f"sandbox-{os.getpid()}", "--log", "info"], stdin=subprocess.DEVNULL, stderr=err,
                          env={**os.environ, "XDG_RUNTIME_DIR": str(d)})
    control = d / "cleave" / f"sandbox-{os.getpid()}.sock"
    until = time.monotonic() + 30
    while "shut in by seccomp, L" not in (d / "err").read_text():
        if vm.poll() is not None or time.monotonic() > until:
            fail(f"the machine does not start: {(d / 'err').read_text()}")
        time.sleep(0.05)
    if status(d)["refused_calls"]:
        fail(f"a call was refused in normal use: {(d / 'err').read_text()}")
    threads = list(tasks(vm.pid))
    if len(threads) < 9:
        fail(f"only {len(threads)} threads")
    for tid, comm, text in threads:
        for line in ("Seccomp:\t2", "NoNewPrivs:\t1", "CapEff:\t0000000000000000"):
            if line not in text:
                fail(f"thread {comm} has no {line!r}")
    try:
        at = plant(vm.pid)
        for tid, comm, _ in threads:
            attack(vm.pid, at, tid, comm)
    except PermissionError as e:
        print(f"skipped: {e}")
        vm.kill()
        sys.exit(77)
    sandbox = status(d)
    if sandbox["threads"] != len(threads) or sandbox["refused_calls"] < 20 * len(threads):
        fail(f"the status says {sandbox}")
    if "refused system call 257, openat" not in (d / "err").read_text():
        fail("no line about a refused call")
    vm.send_signal(signal.SIGTERM)
    if vm.wait(30) != 128 + signal.SIGTERM:
        fail(f"the machine ended with {vm.returncode}: {(d / 'err').read_text()}")
    if control.exists() or (d / "vsock").exists():
        fail("a socket is left")


with tempfile.TemporaryDirectory(prefix="cleave-sandbox-") as folder:
    main(pathlib.Path(folder))
