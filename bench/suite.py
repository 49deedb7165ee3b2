"""The suite in bench/guest, natively and in guests, in turn: a table of ratios."""
import json
import math
import re
import sys

import vmm

MEMORY_MIB = 1024
GROUPS = {"integer": ("int",), "fp, simd, crypto": ("fp", "simd", "crypto"), "system": ("sys",)}


def results(run, limit, out, where):
    """Take what one run of the suite prints into out[name]: natively the CPU time, in guests the
    guest's own clock less the time that the host ran others in place of the guest's CPU. On a quiet
    host both are the time that passes. Complaints go to stderr. Whether the suite came to its end.
    """
    before = 0
    for line in run.lines(limit):
        if re.search(r"START \S+$", line):
            before = vmm.waited_ms(run.process.pid)
        elif m := re.search(r"BENCH (\S+) ([\d.]+) ms cpu ([\d.]+)$", line):
            took = float(m[2])
            if where == "native":
                took = float(m[3])
            else:
                took = max(took - (vmm.waited_ms(run.process.pid) - before), took / 20)
            out.setdefault(m[1], []).append(took)
        elif re.search(r"\b(FAIL|SKIP) ", line) or re.search(r"panic|BUG:|Oops", line):
            print(f"  {where}: {line}", file=sys.stderr, flush=True)
        elif line == "report bench: done":
            rss = vmm.extra_rss_kib(run.process.pid, MEMORY_MIB) if where != "native" else 0
            out.setdefault("rss", []).append(rss / 1024)
            return True
    return False


def measure(engine, cleave, folder, only, limit, out):
    if engine == "native":
        run = vmm.Run([str(folder / "bench/run"), str(folder / "bench"), *only])
    else:
        append = "console=ttyS0 quiet panic=-1 cleave.test=bench"
        if only:
            append += " cleave.bench=" + ",".join(only)
        run = vmm.Run(vmm.command(engine, cleave, folder / "vmlinuz-cloud", folder / "bench.cpio",
                                  append, MEMORY_MIB))
    try:
        if not results(run, limit, out, engine) and engine != "native":
            print(f"  {engine}: the suite did not end (limit {limit} s)", file=sys.stderr, flush=True)
    finally:
        run.end()


def mean(values):
    return math.exp(sum(map(math.log, values)) / len(values)) if values else None


def cell(value, digits=2):
    return f"{value:9.{digits}f}" if value is not None else "        -"


def ratio(a, b):
    return a / b if a and b else None


def table(best, names, engines):
    """best[engine][name]: milliseconds. Times as ratios to native; TCG's beside each engine's."""
    peers = [e for e in engines if e not in ("native", "tcg")]
    print(f"{'':24}{'native':>9}{'tcg':>9}" + "".join(f"{e:>9}{'tcg/' + e:>10}" for e in peers))
    print(f"{'':24}{'ms':>9}{'x':>9}" + "".join(f"{'x':>9}{'x':>10}" for e in peers))

    def row(title, base, tcg, own):
        line = f"{title:24}{cell(base, 1)}{cell(tcg)}"
        slow = False
        for value, gain in own:
            line += f"{cell(value)} {cell(gain)}"
            slow = slow or gain is not None and gain < 1
        print(line + ("  SLOWER THAN TCG" if slow else ""))

    summary = {}
    for group, prefixes in GROUPS.items():
        ratios = {e: [] for e in engines}
        gains = {e: [] for e in peers}
        for name in names:
            if name.split(".")[0] not in prefixes:
                continue
            base = best["native"].get(name)
            x = {e: ratio(best[e].get(name), base) for e in engines}
            gain = {e: ratio(best.get("tcg", {}).get(name), best[e].get(name)) for e in peers}
            for e in engines:
                ratios[e] += [x[e]] if x[e] else []
            for e in peers:
                gains[e] += [gain[e]] if gain[e] else []
            row(name, base, x.get("tcg"), [(x[e], gain[e]) for e in peers])
        if any(ratios.values()):
            summary[group] = {e: {"to_native": mean(ratios[e]), "tcg_to_it": mean(gains.get(e, []))}
                              for e in engines}
    print("\nGeometric means")
    for group, s in summary.items():
        row(group, None, s.get("tcg", {}).get("to_native"),
            [(s[e]["to_native"], s[e]["tcg_to_it"]) for e in peers])
    return summary


def measure_all(cleave, engines, only, rounds, limit):
    """times[engine][name]: a list of milliseconds, one a round; of MiB for the name "rss"."""
    folder = vmm.guests("cloud", "bench")
    times = {e: {} for e in engines}
    for i in range(rounds):
        for e in engines + ["native"]:
            print(f"  round {i + 1} of {rounds}: {e}", file=sys.stderr, flush=True)
            measure(e, cleave, folder, only, limit, times[e])
    return times


def show(times):
    # The least of the rounds: what other loads on the host cost is not the engine's.
    best = {e: {name: min(t) for name, t in of.items()} for e, of in times.items()}
    names = list(dict.fromkeys(name for of in best.values() for name in of))
    summary = table(best, names, list(times))
    for e, of in times.items():
        if e != "native" and "rss" in of:
            print(f"{e}: {max(of['rss']):.1f} MiB resident beyond RAM at the suite's end")
    return summary


def main(cleave, engines, only, rounds, limit, json_file, show_file):
    if show_file:
        with open(show_file, encoding="utf-8") as f:
            show(json.load(f)["milliseconds"])
        return
    engines = ["native"] + [e for e in engines if e != "native"]
    times = measure_all(cleave, engines, only, rounds, limit)
    summary = show(times)
    if json_file:
        with open(json_file, "w", encoding="utf-8") as f:
            json.dump({"milliseconds": times, "geometric_means": summary}, f, indent=1)
