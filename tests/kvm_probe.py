"""What `cleave doctor` found out about this host's KVM, for tests that run on engine kvm."""
import json
import subprocess
import sys


def probe(cleave):
    """The kvm_probe object; its function_test is None where there is no KVM at all."""
    p = subprocess.run([cleave, "doctor", "--json"], capture_output=True, text=True)
    return json.loads(p.stdout)["kvm_probe"]


def need_hardware(cleave):
    """Ends the test as skipped where KVM is no hardware."""
    found = probe(cleave)
    if not found["fit"]:
        print(f"skipped: KVM is not fit here: {found['reason']}")
        sys.exit(77)
