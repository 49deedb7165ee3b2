#!/usr/bin/env python3
"""cleave compare: every load by every method, as a table, as JSON and as a picture.

usage: compare_test.py CLEAVE
"""
import json
import os
import pathlib
import subprocess
import sys
import tempfile
import xml.etree.ElementTree as xml

cleave = sys.argv[1]
SLOW = int(os.environ.get("TEST_SLOW", 1))
LOADS = {"integer": "integer loop", "sort": "heap sort", "hash": "hash table", "syscall": "system call",
         "fault": "page fault", "switch": "address space", "interrupt": "own interrupt", "timer": "timer",
         "ipi": "IPI to another CPU", "clock": "clock", "port": "port I/O", "mmio": "memory-mapped I/O"}
if len(os.sched_getaffinity(0)) < 2:
    del LOADS["ipi"]
NO_NATIVE = {"switch", "port", "mmio"}
bad = 0


def check(what, ok, got=""):
    global bad
    if not ok:
        print(f"FAILED: {what}: {got}")
        bad = 1


def run(*args):
    return subprocess.run([cleave, "compare", *map(str, args)], stdin=subprocess.DEVNULL,
                          capture_output=True, text=True, timeout=150 * SLOW, check=False)


def refused(what, *args, names):
    p = run(*args)
    check(what, p.returncode == 1 and not p.stdout, f"{p.returncode} {p.stdout!r}")
    check(what, p.stderr.count("\n") == 1 and names in p.stderr, p.stderr)


def check_json(said):
    methods = {m["id"]: m for m in said["methods"]}
    check("methods", list(methods) == ["native", "interp", "dbt", "dbt+pv", "kvm", "kvm+pv"], list(methods))
    for m in methods.values():
        check(f"{m['id']}: measured, or a reason", m["measured"] != bool(m["reason"]), m)
    on = {m for m, o in methods.items() if o["measured"]}
    check("native and interp are everywhere", {"native", "interp"} <= on, on)
    loads = {l["id"]: l for l in said["loads"]}
    check("loads", list(loads) == list(LOADS), list(loads))
    for name, l in loads.items():
        want = on - {"native"} if name in NO_NATIVE else on
        check(f"{name}: methods", set(l["results"]) == want, set(l["results"]))
        for m, r in l["results"].items():
            check(f"{name} on {m}", not r["failure"] and r["ns"] > 0 and len(r["rounds_ns"]) == said["rounds"], r)
            check(f"{name} on {m}: ratio", (r["times_native"] is None) == (name in NO_NATIVE), r)
    result = {m: {name: l["results"].get(m) for name, l in loads.items()} for m in on}
    # Far from any noise: an interpreter is no processor, and counts what it does.
    check("interp is slower than native", result["interp"]["integer"]["times_native"] > 3, result["interp"]["integer"])
    check("instructions of a turn", 8 < result["interp"]["integer"]["instructions"] < 60, result["interp"]["integer"])
    if "dbt" in on:
        check("translated", result["dbt"]["integer"]["interpreted"] < 0.01, result["dbt"]["integer"])
        # What the paravirtual interface is for: a clock without I/O, interrupts ended without the APIC.
        off, with_pv = result["dbt"], result["dbt+pv"]
        check("the ACPI timer is I/O", off["clock"]["interpreted"] >= 1, off["clock"])
        check("the clock in memory is none", with_pv["clock"]["interpreted"] < 0.1, with_pv["clock"])
        check("EOI in memory", with_pv["interrupt"]["interpreted"] < off["interrupt"]["interpreted"] - 0.5,
              (off["interrupt"], with_pv["interrupt"]))
        check("the guest says so", "pv-eoi" in methods["dbt+pv"]["guest_uses"] and
              "pv" not in methods["dbt"]["guest_uses"], methods)
    return on, loads


def check_picture(path, on, loads):
    root = xml.parse(path).getroot()
    space = "{http://www.w3.org/2000/svg}"
    check("a picture", root.tag == space + "svg", root.tag)
    words = {t.text for t in root.iter(space + "text")}
    for name in LOADS.values():
        check(f"{name} is in the picture", name in words, words)
    bars = [r for r in root.iter(space + "rect") if r.find(space + "title") is not None]
    check("a bar each", len(bars) == sum(len(l["results"]) for l in loads.values()), len(bars))
    for b in bars:
        right = float(b.get("x")) + float(b.get("width"))
        check("bars are inside", float(b.get("width")) > 0 and right < float(root.get("width")), b.attrib)
    check("legend", any(w and w.startswith("interp: ") for w in words) and "native" in words, words)


with tempfile.TemporaryDirectory() as d:
    d = pathlib.Path(d)
    refused("an unknown engine", "--engine", "interp,steam", names="steam")
    refused("an unknown option", "--colour", names="--colour")
    refused("an option without its value", "--svg", names="--svg")
    refused("a picture nowhere", "--svg", d / "none/x.svg", names="none/x.svg")
    refused("a kernel that is not there", "--kernel", d / "none", names="none")
    refused("--until without a kernel", "--until", "x", names="--kernel")

    p = run("--quick", "--json", "--svg", d / "c.svg")
    check("status", p.returncode == 0, p.stderr)
    on, loads = check_json(json.loads(p.stdout))
    check_picture(d / "c.svg", on, loads)

    # A kernel that does not boot is told, and the rest is there.
    (d / "text").write_text("hello\n" * 1000)
    p = run("--quick", "--engine", "interp", "--kernel", d / "text")
    check("a failure is the status", p.returncode == 1, p.returncode)
    check("a failure is told", "failed: boot of the kernel on interp" in p.stdout, p.stdout)
    for name in LOADS.values():
        check(f"{name} is in the table", f"\n  {name} " in p.stdout, p.stdout)
    for kind in "user code", "system calls", "memory", "interrupts", "clock and I/O":
        check(f"{kind} is in the table", p.stdout.count(f"\n{kind}") >= 2, p.stdout)
    check("only what was asked for", "dbt" not in p.stdout.split("What each took")[0], p.stdout)
sys.exit(bad)
