#!/usr/bin/env python3
"""What a user meets at the command line: exit statuses, one clear sentence for a mistake, help.

usage: cli_test.py CLEAVE
"""
import json
import os
import pathlib
import re
import struct
import subprocess
import sys
import tempfile

cleave = sys.argv[1]
bad = 0


def run(*args, timeout=20, env=None):
    return subprocess.run([cleave, *map(str, args)], stdin=subprocess.DEVNULL, capture_output=True,
                          text=True, timeout=timeout, env={**os.environ, **(env or {})})


def check(what, ok, got=""):
    global bad
    if not ok:
        print(f"FAILED: {what}: {got}")
        bad = 1


def refused(what, *args, names=(), env=None):
    """Exit status 1, nothing on stdout, one sentence on stderr that names the trouble."""
    p = run(*args, env=env)
    check(what, p.returncode == 1, f"exit status {p.returncode}")
    check(what, p.stdout == "", f"stdout {p.stdout!r}")
    check(what, p.stderr.count("\n") == 1 and p.stderr.startswith("cleave"), f"stderr {p.stderr!r}")
    for n in names:
        check(what, n in p.stderr, f"{n!r} not in {p.stderr!r}")


def multiboot(code):
    """A multiboot 1 kernel by its address fields, loaded and entered at 1 MiB."""
    flags = 0x10000
    base = 0x100000
    header = struct.pack("<IIIIIIII", 0x1BADB002, flags, (-0x1BADB002 - flags) & 0xFFFFFFFF, base, base,
                         0, 0, base + 32)
    return header + code


with tempfile.TemporaryDirectory() as d:
    d = pathlib.Path(d)

    def kernel(name, data):
        (d / name).write_bytes(data)
        return d / name

    general = run("help").stdout
    for args in (["--help"], ["-h"], ["help"]):
        p = run(*args)
        check(f"{args}", p.returncode == 0 and p.stdout.startswith("usage: cleave COMMAND"), p.stdout)
    for command in "run", "image", "ps", "stop", "console", "ssh", "doctor", "compare", "version", "help":
        check(f"help lists {command}", f"\n  {command} " in general, general)
        text = run("help", command).stdout
        for args in (["help", command], ["--help", command], [command, "--help"], [command, "-h"]):
            p = run(*args)
            check(f"{args}", p.returncode == 0 and not p.stderr, f"{p.returncode} {p.stderr}")
            check(f"{args}", p.stdout.startswith(f"usage: cleave {command}"), p.stdout)
            check(f"{args} and help {command} are one", p.stdout == text, p.stdout)
    p = run("run", "--cpus", "2", "--help")
    check("--help after another option", p.stdout.startswith("usage: cleave run"), p.stdout + p.stderr)
    refused("help on what there is not", "help", "frobnicate", names=["frobnicate"])
    p = run("doctor", "--json")
    facts = json.loads(p.stdout)
    check("doctor --json", any(f["id"] == "kvm" for f in facts["facts"]), p.stdout)

    refused("no command's name", "frobnicate", names=["frobnicate"])
    refused("nothing to boot", "run", names=["--kernel", "debian:12"])
    for option in "--ssh-key", "--hostname", "--user-data":
        refused(f"{option} without an image", "run", "--kernel", "k", option, "x", names=[option, "debian:12"])
    refused("--keep without an image", "run", "--kernel", "k", "--keep", names=["--keep", "debian:12"])
    refused("two images", "run", "debian:12", "web", names=["web"])
    refused("no image's name", "run", "../x", names=["../x", "debian:12"])
    store = {"XDG_DATA_HOME": str(d / "data")}
    refused("an unknown image", "run", "web", names=["web", "image list"], env=store)
    refused("--name that is no name", "run", "debian:12", "--name", "a/b", names=["--name", "a/b"], env=store)
    for command in "info", "rm":
        refused(f"image {command} of nothing", "image", command, names=["debian:12"], env=store)
        refused(f"image {command} of what there is not", "image", command, "web", names=["web"], env=store)
        refused(f"image {command} of a path", "image", command, "../web", names=["../web"], env=store)
    refused("rm of no instance", "image", "rm", "--instance", "web", names=["web"], env=store)
    refused("rm of a path", "image", "rm", "--instance", "..", names=[".."], env=store)
    refused("image does not", "image", "fly", names=["fly", "build"], env=store)
    refused("image of what there is not", "image", "build", "plan9:4", names=["plan9:4", "debian:12"], env=store)
    for option, value in ("--size", "much"), ("--size", "1M"), ("--package", "-x"), ("--package", "a,b"), \
            ("--name", "a/b"), ("--name", ":"):
        refused(f"{option} {value}", "image", "build", "debian:12", option, value, names=[option], env=store)
    refused("--json of build", "image", "build", "--json", names=["--json"], env=store)
    p = run("image", "list", "--json", env=store)
    check("no images", json.loads(p.stdout) == {"images": [], "instances": []}, p.stdout + p.stderr)

    # The option, what is wrong, and an example.
    valued = set(re.findall(r"^  (--[a-z-]+) \S", run("help", "run").stdout, re.M))
    check("options with values", len(valued) > 20, valued)
    for option in sorted(valued):
        refused(f"{option} without its value", "run", "--kernel", "k", option, names=[option, "as in"])
    for option, value in (("--cpu", "z80"), ("--cpu", "host,+frob"), ("--vsock", "x"), ("--net", "user,fly"),
                          ("--net", "tap=t,fly"), ("--virtio-console", "none,x"), ("--balloon", "x"), ("--pv", "x"),
                          ("--on-io-error", "x"), ("--disk", "x,iops=a"), ("--disk", "x,format=vmdk")):
        refused(f"{option} {value}", "run", "--kernel", "k", option, value, names=[option, "as in"])

    refused("a kernel that is not there", "run", "--kernel", d / "none", names=["none"])
    refused("a folder as kernel", "run", "--kernel", d)
    refused("an empty kernel", "run", "--kernel", kernel("empty", b""))
    refused("text as kernel", "run", "--kernel", kernel("text", b"hello\n" * 1000))
    refused("a truncated ELF", "run", "--kernel", kernel("elf", b"\x7fELF\x02\x01\x01" + b"\0" * 9))
    refused("a bad size", "run", "--kernel", d / "text", "--memory", "12Q", names=["--memory", "12Q"])
    refused("no memory", "run", "--kernel", d / "text", "--memory", "0", names=["--memory"])
    refused("no CPUs", "run", "--kernel", d / "text", "--cpus", "0", names=["--cpus"])
    refused("too many CPUs", "run", "--kernel", d / "text", "--cpus", "9999", names=["--cpus"])
    refused("an unknown CPU", "run", "--kernel", d / "text", "--cpu", "z80", names=["--cpu", "z80"])
    refused("an unknown feature", "run", "--kernel", d / "text", "--cpu", "host,+frob", names=["frob"])
    refused("an unknown engine", "run", "--kernel", d / "text", "--engine", "steam", names=["steam"])
    refused("an unknown option", "run", "--colour", names=["--colour"])
    for net in ("", "lan", "tap=", "user,fly", "user,forward=22", "user,forward=1:0", "user,forward=1.2.3:1:2",
                "user,mtu=100", "user,mac=1", "user,mac=01:00:00:00:00:00", "user,hostname=a_b",
                "tap=x,restrict"):
        refused(f"--net {net}", "run", "--kernel", d / "text", "--net", net, names=["--net"])
    refused("a bad name", "run", "--kernel", d / "text", "--name", "a/b", names=["--name"])
    refused("stop nobody", "stop", names=["cleave ps"])
    refused("stop with a bad time", "stop", "x", "--timeout", "soon", names=["--timeout"])
    refused("console of nobody", "console", "nobody", names=["nobody"])
    refused("ssh to nobody", "ssh", "nobody", names=["nobody"])
    refused("an unknown console", "run", "--kernel", d / "text", "--console", "x", names=["--console"])
    refused("an unknown trace point", "run", "--kernel", d / "text", "--trace", "x", names=["--trace"])

    # mov al, 5; out 0xf4, al
    k = kernel("exit5", multiboot(b"\xb0\x05\xe6\xf4\xf4\xeb\xfd"))
    p = run("run", "--kernel", k, "--debug-exit", "--console", "none")
    check("debug exit 5 is status 11", p.returncode == 11, f"{p.returncode} {p.stderr}")
    # lidt of nothing; int3: a triple fault
    k = kernel("triple", multiboot(b"\x0f\x01\x1d\x80\x00\x10\x00\xcc" + b"\0" * 200))
    p = run("run", "--kernel", k, "--no-reboot", "--console", "none")
    check("triple fault is status 3", p.returncode == 3, f"{p.returncode} {p.stderr}")
    # Reset through the keyboard controller: mov al, 0xfe; out 0x64, al
    k = kernel("reset", multiboot(b"\xb0\xfe\xe6\x64\xf4\xeb\xfd"))
    p = run("run", "--kernel", k, "--no-reboot", "--console", "none")
    check("a reset with --no-reboot is status 0", p.returncode == 0, f"{p.returncode} {p.stderr}")
    # mov edx, 0x3f8; mov al, 'A'; out dx, al; mov al, 0; out 0xf4, al
    k = kernel("print", multiboot(b"\xba\xf8\x03\x00\x00\xb0A\xee\xb0\x00\xe6\xf4\xf4"))
    p = run("run", "--kernel", k, "--debug-exit", "--console", f"file={d}/out")
    check("the console goes to a file", (d / "out").read_text() == "A", p.stderr)

sys.exit(bad)
