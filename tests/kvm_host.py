"""What tests on engine kvm have to know of the host's KVM."""
import json
import re
import subprocess
import sys


def probe(cleave):
    """The kvm_probe object of `cleave doctor`; its function_test is None where there is no KVM."""
    p = subprocess.run([cleave, "doctor", "--json"], capture_output=True, text=True)
    return json.loads(p.stdout)["kvm_probe"]


def need_hardware(cleave):
    """Ends the test as skipped where KVM is no hardware."""
    found = probe(cleave)
    if not found["fit"]:
        print(f"skipped: KVM is not fit here: {found['reason']}")
        sys.exit(77)


def known(*paths):
    """Rows "kernel lines why": {kernel: {lines of checks that may fail}}; None: it is left out."""
    found = {}
    for path in paths:
        for line in open(path):
            if line.strip() and not line.startswith("#"):
                name, lines, why = line.split(None, 2)
                print(f"known: {name}, {'left out' if lines == '-' else 'lines ' + lines}: {why.strip()}")
                if lines == "-":
                    found[name] = None
                elif found.get(name, set()) is not None:
                    found.setdefault(name, set()).update(map(int, lines.split(",")))
    return found


def passed(allowed, status, said):
    """Has a flat kernel passed (status 1), or failed (3) at lines that may fail only?"""
    failed = {int(n) for n in re.findall(r"^line (\d+):", said, re.M)}
    if status == 1:
        return "pass" in said
    return status == 3 and bool(failed) and failed <= allowed and "unexpected" not in said
