#!/usr/bin/env python3
"""Engine kvm where KVM is hardware, in a first-level guest (first_level.py).

usage: first_level_test.py CLEAVE BUILD GUESTS stock|moving|compare|flat|unit
stock: doctor finds the hardware, and stock kernels boot on --engine auto with 1 and 2 CPUs, pass the
checks of the boot tests and power off; so does one with the board's local APICs alone. moving: the same,
moving among all three engines. compare: what cleave compare measures on kvm. flat: the flat test kernels. unit: the engine's unit test.
TEST_SLOW in the environment multiplies the time limit.
"""
import json
import os
import pathlib
import re
import sys

import first_level

sys.path.insert(0, str(first_level.HERE.parent))
from kvm_host import known, passed  # noqa: E402

SLOW = int(os.environ.get("TEST_SLOW", 1))


def fail(why, out):
    sys.stdout.write(out[-8000:])
    print(f"\nFAILED: {why}")
    sys.exit(1)


def run(what, parts, kernels, timeout):
    cleave, build, guests = map(pathlib.Path, sys.argv[1:4])
    if not sys.argv[3]:
        first_level.skip("no test guests (guests/build makes them)")
    done, out = first_level.run(cleave, guests, build, parts, kernels, timeout * SLOW)
    for part in parts:
        if part not in done:
            fail(f"{what}: {part} did not end", out)
    return done


def check_doctor(status, out):
    if status != 0:
        fail(f"doctor's status is {status}", out)
    said = json.loads(re.search(r"^\{.*\}$", out, re.M)[0])
    print("probe:", said["kvm_probe"])
    if said["engine_auto"] != "kvm" or not said["kvm_probe"]["fit"]:
        fail("auto does not take kvm where KVM is hardware", out)


def check_boot(cpus, status, out, engine="kvm"):
    reports = dict(re.findall(r"^report (\w+): (.*)$", out, re.M))
    if status != 0:
        fail(f"{cpus} CPUs: status {status}", out)
    if engine and not re.search(rf"^cpu 0: {engine}: ", out, re.M):
        fail(f"{cpus} CPUs: auto did not take {engine}", out)
    if reports.get("cpus") != str(cpus):
        fail(f"{reports.get('cpus')} CPUs, wanted {cpus}", out)
    if reports.get("work") != f"1 of {3 * cpus}":
        fail(f"{cpus} CPUs: work: {reports.get('work')}", out)
    # What a processor without its maker's remedies is warned of names the page hw-vuln.
    for line in re.findall(r"^report dmesg (?!.*hw-vuln).*(?:BUG|WARNING|Oops|Call Trace|lockup|stall).*$",
                           out, re.M):
        fail(f"{cpus} CPUs: the kernel complains: {line}", out)


def stock():
    done = run("stock", ["doctor", "boot-1", "boot-2", "plain-boot-1"], [], 300)
    check_doctor(*done["doctor"])
    for cpus in 1, 2:
        check_boot(cpus, *done[f"boot-{cpus}"])
    check_boot(1, *done["plain-boot-1"])
    # Without KVM's local APIC each access to the board's is an exit; the kernel makes them by x2APIC registers.
    msrs = [int(re.search(r"kvm: entries .* msr exits (\d+)", done[p][1])[1]) for p in ("boot-1", "plain-boot-1")]
    print("MSR exits with and without KVM's local APIC:", *msrs)
    if msrs[0] * 4 > msrs[1]:
        fail("KVM's local APIC saves no exits", done["boot-1"][1])


def moving():
    parts = ["moving-1", "moving-2", "plain-moving-1"]
    done = run("moving", parts, [], 400)
    for part in parts:
        cpus = int(part[-1])
        status, out = done[part]
        check_boot(cpus, status, out, engine=None)
        moves = re.search(r"^engine moves (\d+), (.*)", out, re.M)
        print(f"{cpus} CPUs:", moves and moves[0])
        if not moves or int(moves[1]) < 100:
            fail(f"{cpus} CPUs: moves: {moves and moves[0]}", out)


def compare():
    status, out = run("compare", ["compare"], [], 280)["compare"]
    if status != 0:
        fail(f"compare's status is {status}", out)
    said = json.loads(out[out.index("\n{") if not out.startswith("{") else 0:])
    exits = {l["id"]: {m: r.get("exits") for m, r in l["results"].items()} for l in said["loads"]}
    for name, e in exits.items():
        print(name, e)
    # That guest has one CPU: no IPI to another.
    if len(exits) != 11 or any(set(e) - {"native"} != {"kvm", "kvm+pv"} for e in exits.values()):
        fail("not all is measured on kvm", out)
    # Interrupts and timers are KVM's local APIC's.
    for name in "integer", "sort", "hash", "syscall", "switch", "fault", "interrupt", "timer":
        if exits[name]["kvm"] > 0.1:
            fail(f"{name} is left to user space", out)
    for name in "clock", "port", "mmio":
        if not 0.99 < exits[name]["kvm"] < 1.2:
            fail(f"{name} is one exit", out)
    # What the paravirtual interface saves: the clock's port.
    if exits["clock"]["kvm+pv"] > 0.05:
        fail("the paravirtual interface saves no exits", out)


def unit():
    status, out = run("unit", ["unit"], [], 150)["unit"]
    # QEMU's CPU loads the guest's DR7 without arming it, and lets no #BP be intercepted.
    skipped = set(re.findall(r"SKIPPED \] ([a-z]\w+)", out)) - {"a_hardware_breakpoint_stops_before_its_instruction",
                                                          "a_watchpoint_stops_behind_the_store",
                                                          "an_int3_of_the_debugger_stops_and_one_of_the_guest_is_delivered"}
    if status != 0 or skipped or "PASSED" not in out:
        fail(f"the unit test's status is {status}, and it skips {skipped}", out)


def flat():
    isa = first_level.HERE.parent / "isa"
    names = dict.fromkeys(line.split()[0] for line in (isa / "tests.txt").read_text().splitlines()
                          if line and not line.startswith("#"))
    allowed = known(isa / "kvm_known.txt", first_level.HERE / "first_level_known.txt")
    kernels = [n for n in names if allowed.get(n, set()) is not None]
    parts = [f"flat-{k}-1" for k in kernels if k != "smp"] + ["flat-apic-4", "flat-smp-4"]
    done = run("flat", parts, kernels, 300)
    bad = [p for p in parts if not passed(allowed.get(p.split("-")[1], set()), *done[p])]
    for part in bad:
        print(f"{part}: status {done[part][0]}\n{done[part][1]}")
    if bad:
        sys.exit(1)
    print("passed:", ", ".join(parts))


{"stock": stock, "moving": moving, "compare": compare, "flat": flat, "unit": unit}[sys.argv[4]]()
