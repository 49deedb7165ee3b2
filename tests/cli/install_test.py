#!/usr/bin/env python3
"""`make install` puts every file where DESTDIR and PREFIX say, and the pages tell the truth.

usage: install_test.py SOURCE BUILD MESON
"""
import os
import pathlib
import re
import subprocess
import sys
import tempfile

source, build, meson = pathlib.Path(sys.argv[1]), sys.argv[2], sys.argv[3:]
bad = 0
FILES = ["bin/cleave", "lib/libcleave.a", "lib/pkgconfig/cleave.pc",
         "share/man/man1/cleave.1", "share/man/man1/cleave-run.1", "share/man/man1/cleave-doctor.1",
         "share/man/man1/cleave-disk.1", "share/man/man1/cleave-image.1", "share/man/man1/cleave-ps.1", "share/man/man1/cleave-stop.1",
         "share/man/man1/cleave-console.1", "share/man/man1/cleave-ctl.1", "share/man/man1/cleave-ssh.1",
         "share/man/man1/cleave-image.1", "share/man/man1/cleave-compare.1",
         "share/bash-completion/completions/cleave"]


def check(what, ok, got=""):
    global bad
    if not ok:
        print(f"FAILED: {what}: {got}")
        bad = 1


def install(root, prefix):
    """What the Makefile's install does, into root."""
    env = {k: v for k, v in os.environ.items() if k not in ("MAKEFLAGS", "MAKELEVEL", "MFLAGS")}
    return subprocess.run(["make", "-s", "install-files", f"B={build}", f"DESTDIR={root}",
                           f"PREFIX={prefix}", f"MESON={' '.join(meson)}"], cwd=source, env=env,
                          stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=100)


def options(text):
    return set(re.findall(r"--[a-z][a-z-]*", text)) - {"--help"}


for prefix in "/usr", "/opt/some where":
    with tempfile.TemporaryDirectory() as root:
        p = install(root, prefix)
        check(f"install to {prefix}", p.returncode == 0, p.stdout + p.stderr)
        top = pathlib.Path(root)
        got = {str(f.relative_to(top)) for f in top.rglob("*") if f.is_file()}
        want = {f"{prefix[1:]}/{f}" for f in FILES}
        check(f"files under {prefix}", got == want, f"differ: {sorted(got ^ want)}")
        base = top / prefix[1:]
        if bad:
            continue
        check("the program runs", subprocess.run([base / "bin/cleave", "version"],
              stdout=subprocess.DEVNULL).returncode == 0)
        pc = (base / "lib/pkgconfig/cleave.pc").read_text()
        check("cleave.pc names the prefix", f"prefix={prefix}\n" in pc.replace("\\ ", " "), pc)
        libs = "".join(re.findall(r"^Libs.*: *(.*)$", pc, re.M)).split()
        check("cleave.pc names libraries, not files",
              not [x for x in libs if ".so" in x or ".a" in x or x.startswith("/")], libs)
        for command in "run", "image", "disk", "doctor", "compare":
            told = options(subprocess.run([base / "bin/cleave", command, "--help"],
                                          capture_output=True, text=True).stdout)
            page = (base / f"share/man/man1/cleave-{command}.1").read_text()
            listed = {"--" + o for o in re.findall(r"^\.It Fl -([a-z-]+)", page, re.M)} - {"--help"}
            check(f"options in cleave-{command}.1", listed == told, f"differ: {listed ^ told}")
            completion = base / "share/bash-completion/completions/cleave"
            check(f"options of {command} in the completion",
                  told <= options(completion.read_text()), told)
        words = subprocess.run(
            ["bash", "-c", '. "$1"; COMP_WORDS=(cleave run --co) COMP_CWORD=2; '
             '_cleave cleave --co run; echo "${COMPREPLY[@]}"', "-", completion],
            capture_output=True, text=True).stdout
        check("completion of --co", words == "--console\n", words)

sys.exit(bad)
