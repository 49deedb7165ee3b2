#!/usr/bin/env python3
"""`cleave disk` and `cleave run --disk` as a user meets them: images that QEMU agrees with, locks that
QEMU respects, network disks, and one clear sentence for each mistake.

usage: disk_cli_test.py CLEAVE
"""
import json
import os
import pathlib
import shutil
import signal
import subprocess
import sys
import tempfile
import time

cleave = sys.argv[1]
bad = 0
qemu = shutil.which("qemu-img")


def run(*args, timeout=60):
    return subprocess.run([str(a) for a in args], stdin=subprocess.DEVNULL, capture_output=True, text=True,
                          timeout=timeout)


def check(what, ok, got=""):
    global bad
    if not ok:
        print(f"FAILED: {what}: {got}")
        bad = 1


def done(*args):
    p = run(cleave, "disk", *args)
    check(args, p.returncode == 0 and not p.stderr, f"{p.returncode} {p.stdout}{p.stderr}")
    return p.stdout


def refused(names, *args):
    """Exit status 1, nothing on stdout, one sentence that has these words."""
    p = run(cleave, *args)
    check(args, p.returncode == 1 and p.stdout == "", f"{p.returncode} {p.stdout}")
    check(args, p.stderr.count("\n") == 1 and p.stderr.startswith("cleave"), p.stderr)
    for n in names if isinstance(names, list) else [names]:
        check(args, n in p.stderr, f"{n!r} not in {p.stderr!r}")


def bad_disk(names, value):
    refused(names, "run", "--kernel", "/dev/null", "--disk", value)


with tempfile.TemporaryDirectory(prefix="cleave-disk-") as d:
    d = pathlib.Path(d)
    a, b, raw = d / "a.qcow2", d / "b.qcow2", d / "raw"

    done("create", a, "64M")
    info = json.loads(done("info", "--json", a))
    check("info", info["format"] == "qcow2" and info["bytes"] == 64 << 20 and info["version"] == 3, info)
    check("info as text", "qcow2" in done("info", a))
    check("a new image is in order", "in order" in done("check", a))
    refused("--force", "disk", "create", a, "1M")
    done("create", "--force", a, "32M")
    done("create", "--format", "raw", raw, "3M")
    check("raw size", raw.stat().st_size == 3 << 20)
    for cluster in "512", "4K", "2M":
        for compat, bits in ("2", "16"), ("3", "1"), ("3", "64"):
            done("create", "--force", "--cluster-size", cluster, "--compat", compat, "--refcount-bits", bits,
                 b, "1G")
            check("check", json.loads(done("check", "--json", b))["leaks"] == 0)
            if qemu:
                p = run(qemu, "check", "-q", "-f", "qcow2", b)
                check(f"qemu-img check of {cluster} {compat} {bits}", p.returncode == 0, p.stdout + p.stderr)

    refused("size is missing", "disk", "create", d / "x")
    refused("10Q", "disk", "create", d / "x", "10Q")
    refused("from 512 to 2M", "disk", "create", "--cluster-size", "3K", d / "x", "1M")
    refused("2 or 3", "disk", "create", "--compat", "4", d / "x", "1M")
    refused("1, 2, 4, 8", "disk", "create", "--refcount-bits", "3", d / "x", "1M")
    refused("16 bits in version 2", "disk", "create", "--compat", "2", "--refcount-bits", "8", d / "x", "1M")
    refused("too large for its clusters", "disk", "create", "--cluster-size", "512", d / "x", "1T")
    refused("vhdx", "disk", "create", "--format", "vhdx", d / "x", "1M")
    refused("--backing-format", "disk", "create", "--backing", a, d / "x", "1M")
    refused("take qcow2", "disk", "create", "--format", "raw", "--cluster-size", "4K", d / "x", "1M")
    refused("--colour", "disk", "info", "--colour", a)
    refused("give FILE", "disk", "info")
    refused("too much", "disk", "info", a, b)
    refused("frob", "disk", "frob", a)
    refused("No such file", "disk", "info", d / "none")
    refused("not a qcow2", "disk", "check", raw)
    check("nothing is left behind", sorted(f.name for f in d.iterdir()) == ["a.qcow2", "b.qcow2", "raw"],
          list(d.iterdir()))

    # Copy, resize, map.
    data = os.urandom(1 << 20)
    with open(raw, "r+b") as f:
        f.seek(1 << 20)
        f.write(data)
    done("convert", "--force", raw, b)
    extents = json.loads(done("map", "--format", "qcow2", "--json", b))
    check("map", [(e["offset"], e["bytes"], e["kind"]) for e in extents] ==
          [(0, 1 << 20, "hole"), (1 << 20, 1 << 20, "data"), (2 << 20, 1 << 20, "hole")], extents)
    check("map as text", done("map", raw).count("\n") >= 3)
    done("convert", "--format", "qcow2", "--to", "raw", b, d / "back")
    check("there and back", (d / "back").read_bytes() == raw.read_bytes())
    refused("looks like qcow2", "disk", "convert", b, d / "x")
    done("resize", "--format", "qcow2", b, "+5M")
    check("larger", json.loads(done("info", "--json", b))["bytes"] == 8 << 20)
    refused("--shrink", "disk", "resize", "--format", "qcow2", b, "1536K")
    done("resize", "--format", "qcow2", "--shrink", b, "1536K")
    done("resize", "--format", "qcow2", b, "3M")
    done("convert", "--force", "--format", "qcow2", "--to", "raw", b, d / "back")
    want = bytes(1 << 20) + data[:1 << 19] + bytes(3 << 19)
    check("cut off and grown: zeros", (d / "back").read_bytes() == want)
    done("check", b)

    # A backing file.
    done("create", "--backing", "raw", "--backing-format", "raw", d / "over")
    refused(["raw", "add backing"], "disk", "convert", "--format", "qcow2", d / "over", d / "x")
    done("convert", "--format", "qcow2", "--backing", "--to", "raw", "--force", d / "over", d / "back")
    check("through the backing file", (d / "back").read_bytes() == raw.read_bytes())
    check("map of it", '"depth": 1' in done("map", "--format", "qcow2", "--backing", "--json", d / "over"))

    # Ctrl-C: nothing at the target's name, nothing beside it.
    done("create", "--format", "raw", d / "large", "3G")
    with open(d / "large", "r+b") as f:
        for n in range(64):
            f.seek(n << 25)
            f.write(os.urandom(1 << 20))
    before = sorted(f.name for f in d.iterdir())
    for sig in signal.SIGINT, signal.SIGTERM:
        with subprocess.Popen([cleave, "disk", "convert", d / "large", d / "target"], stderr=subprocess.PIPE) as p:
            time.sleep(0.04)
            p.send_signal(sig)
            status = p.wait(20)
        check("status when ended", status in (128 + sig, -sig, 0), status)
        if status:
            check("no half file", sorted(f.name for f in d.iterdir()) == before, list(d.iterdir()))
        (d / "target").unlink(missing_ok=True)
    (d / "large").unlink()

    # A dirty image, with counts that are wrong: what --repair is for.
    done("convert", "--force", raw, b)
    with open(b, "r+b") as f:
        f.seek(72)
        f.write((1).to_bytes(8, "big"))
        f.seek(2 * 65536 + 8)
        f.write(bytes(4) + b"\0\7")
    p = run(cleave, "disk", "check", b)
    check("errors are found", p.returncode == 1 and "--repair" in p.stdout, p.stdout + p.stderr)
    check("and repaired", "in order" in done("check", "--repair", b))
    check("and stay so", "in order" in done("check", b))

    # Locks, in both directions.
    if shutil.which("qemu-io"):
        for image, fmt in (a, "qcow2"), (raw, "raw"):
            with subprocess.Popen(["qemu-io", "-f", fmt, image], stdin=subprocess.PIPE, stdout=subprocess.PIPE,
                                  text=True) as p:
                p.stdin.write("read 0 512\n")
                p.stdin.flush()
                while "ops/sec" not in p.stdout.readline():
                    pass
                refused("in use", "disk", "resize", "--format", fmt, image, "+1M")
                refused("in use", "disk", "convert", "--format", fmt, image, d / "x")
                p.stdin.write("quit\n")
                p.stdin.close()
                p.wait(20)

    # A network disk.
    if shutil.which("nbdkit") and run("nbdkit", "--version").returncode == 0:
        sock = d / "sock"
        with subprocess.Popen(["nbdkit", "-f", "-U", sock, "file", raw], stderr=subprocess.PIPE) as p:
            for _ in range(100):
                if sock.exists():
                    break
                time.sleep(0.05)
            uri = f"nbd+unix:///?socket={sock}"
            done("convert", "--force", "--to", "raw", uri, d / "back")
            check("over the network", (d / "back").read_bytes() == raw.read_bytes())
            p.terminate()
            p.wait(20)
        refused("nbd+unix", "disk", "convert", uri, d / "x")

    # The option of run.
    bad_disk(["--disk", "disk.img"], "")
    bad_disk(["--disk", "disk.img"], ",readonly")
    bad_disk(["--disk", "vmdk", "format=qcow2"], f"{raw},format=vmdk")
    bad_disk("no 'colour'", f"{raw},colour=red")
    bad_disk("no ''", f"{raw},")
    bad_disk("needs a value", f"{raw},serial")
    bad_disk("takes no value", f"{raw},readonly=yes")
    bad_disk("20 characters", f"{raw},serial=123456789012345678901")
    bad_disk("no blanks", f"{raw},serial=a b")
    for value in "0", "-1", "x", "1e3", "99999999999999999999", "10Q":
        bad_disk("iops=500", f"{raw},iops={value}")
        bad_disk("bps=20M", f"{raw},bps={value}")
    for value in "0", "9", "x":
        bad_disk("queues=2", f"{raw},queues={value}")
    bad_disk("burst", f"{raw},iops-burst=5")
    bad_disk("looks like qcow2", f"{a}")
    bad_disk("qcow2's", f"{raw},backing")
    bad_disk("backing-format", f"{a},format=qcow2,backing=x")
    refused("--on-io-error", "run", "--kernel", "/dev/null", "--on-io-error", "panic")
    refused("at most 16", *(["run", "--kernel", "/dev/null"] + ["--disk", str(raw)] * 17))

sys.exit(bad)
