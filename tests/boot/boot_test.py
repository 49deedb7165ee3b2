#!/usr/bin/env python3
"""Boots a stock kernel on cleave and checks what the guest reports.

usage: boot_test.py CLEAVE GUESTS CASE ENGINE
The cases are in cases.txt. TEST_SLOW in the environment multiplies their times, for programs that
are made slower. Exit status: 0 passed, 1 failed, 77 skipped.
"""
import os
import pathlib
import re
import subprocess
import sys
import time

HERE = pathlib.Path(__file__).resolve().parent
sys.path.insert(0, str(HERE.parent))
from kvm_host import need_hardware  # noqa: E402

SLOW = int(os.environ.get("TEST_SLOW", 1))
# Lines of dmesg that a kernel prints on bare metal or other virtual machines too.
HARMLESS = [re.compile(x) for x in (HERE / "harmless.txt").read_text().splitlines()
            if x and not x.startswith("#")]
SUSPECT = re.compile(r"\b(WARNING|BUG|Oops|Call Trace|panic|error|failed|bogus|broken|unexpected|"
                     r"timed? ?out|stuck|stall|unstable|lockup|denied|invalid|not present|missing|"
                     r"could not|couldn't|cannot|can't|unable|conflicts?|corrupt(ed)?|mismatch)\b",
                     re.I)


def cases():
    for line in (HERE / "cases.txt").read_text().splitlines():
        line = line.split("#")[0].strip()
        if line:
            name, timeout, engines, kernel, cpus, memory, cpu, test, *rest = line.split()
            yield name, dict(timeout=int(timeout) * SLOW, kernel=kernel, cpus=int(cpus),
                             memory=memory, cpu=cpu, test=test, extra=rest)


def fail(why, out):
    sys.stdout.write(out[-6000:])
    print(f"\nFAILED: {why}")
    sys.exit(1)


def run(cleave, guests, case):
    kernel = guests / f"vmlinuz-{case['kernel']}"
    narrow = case["kernel"] == "686" or "user=32" in case["extra"]
    initrd = guests / ("initramfs32.gz" if narrow else "initramfs.gz")
    if not kernel.exists() or not initrd.exists():
        print(f"skipped: {kernel} or {initrd} is missing (guests/build makes them)")
        sys.exit(77)
    append = f"console=ttyS0 panic=-1 cleave.test={case['test']} " + " ".join(
        x for x in case["extra"] if not x.startswith("--"))
    args = [cleave, "run", "--kernel", kernel, "--initrd", initrd, "--append", append, "--memory",
            case["memory"], "--cpus", str(case["cpus"]), "--cpu", case["cpu"],
            "--engine", case["engine"]]
    args += [x for x in case["extra"] if x.startswith("--")]
    started = time.monotonic()
    with subprocess.Popen(args, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE,
                          stderr=subprocess.STDOUT) as p:
        out = b""
        stamps = {}
        deadline = started + case["timeout"]
        os.set_blocking(p.stdout.fileno(), False)
        while True:
            piece = p.stdout.read()
            if piece:
                now = time.monotonic()
                out += piece
                for word in (b"report clock_start", b"report clock_end"):
                    if word in out and word not in stamps:
                        stamps[word] = now
            elif p.poll() is not None:
                break
            elif case["test"] == "reboot" and out.count(b"report rebooting") == 2:
                # It came up a second time, which is what was asked.
                p.terminate()
                p.wait(10)
                break
            elif time.monotonic() > deadline:
                p.kill()
                fail(f"no end after {case['timeout']} s", out.decode(errors="replace"))
            else:
                time.sleep(0.005)
    return p.returncode, out.decode(errors="replace").replace("\r", ""), stamps


def reports(out):
    return dict(re.findall(r"^report (\w+): (.*)$", out, re.M))


def check_dmesg(out):
    for line in re.findall(r"^report dmesg (.*)$", out, re.M):
        text = re.sub(r"^\[ *[\d.]+\] *", "", line)
        if re.match(r"(Kernel command line|Command line): ", text):
            continue
        if SUSPECT.search(text) and not any(h.search(text) for h in HARMLESS):
            fail(f"the kernel complains: {text}", "")


def main():
    cleave, guests, name = sys.argv[1], pathlib.Path(sys.argv[2]), sys.argv[3]
    if not sys.argv[2]:
        print("skipped: no test guests (guests/build makes them)")
        sys.exit(77)
    case = dict(cases())[name] | {"engine": sys.argv[4]}
    if case["engine"] == "kvm":
        need_hardware(cleave)
    status, out, stamps = run(cleave, guests, case)
    got = reports(out)
    want_status = 128 + 15 if case["test"] == "reboot" else 0
    if status != want_status:
        fail(f"exit status {status}, wanted {want_status}", out)
    if case["test"] == "boot":
        if got.get("cpus") != str(case["cpus"]):
            fail(f"{got.get('cpus')} CPUs, wanted {case['cpus']}", out)
        want = case["cpus"] * 3
        if got.get("work") != f"1 of {want}":
            fail(f"work on all CPUs: {got.get('work')}, wanted 1 of {want}", out)
        has_avx = "avx" in got.get("flags", "").split()
        if case["cpu"] in ("x86-64-v1", "x86-64-v2") and has_avx:
            fail("AVX is visible though the CPU model has none", out)
        paravirtual = "Booting paravirtualized kernel on KVM" in out
        if paravirtual != ("--pv=off" not in case["extra"]):
            fail(f"the kernel knows the paravirtual interface: {paravirtual}", out)
        check_dmesg(out)
    if case["test"] == "clock":
        guest = float(got["clock_end"]) - float(got["clock_start"])
        host = stamps[b"report clock_end"] - stamps[b"report clock_start"]
        print(f"guest {guest:.3f} s, host {host:.3f} s")
        if abs(guest - host) > 0.01 * host + 0.1:
            fail(f"clocks: guest {guest:.3f} s, host {host:.3f} s", out)
    if case["test"] == "reboot" and out.count("report rebooting") != 2:
        fail("the guest did not come up again after its reboot", out)
    if case["test"] == "stress" and got.get("stress") != "PASS":
        said = [f"{k}: {v}" for k, v in got.items() if k.startswith("stress")]
        fail(f"stress: {', '.join(said) or 'no end'}", out)
    if case["test"] == "smp" and got.get("smp") != "adds up":
        fail(f"the SMP check says {got.get('smp')}", out)


if __name__ == "__main__":
    main()
