#!/usr/bin/env python3
"""Wrong command lines get one clear line and status 2 before any guest runs.

bad_inputs.py NUMAVISOR KERNEL. Ends with one line "N passed, N failed".
"""

import os
import shutil
import struct
import subprocess
import sys
import tempfile

# The e_machine of an ELF file and the xloadflags of a bzImage: where they are.
ELF_MACHINE, XLOADFLAGS = 18, 0x236
EM_386, EM_AARCH64 = 3, 183


def write(path, data):
    with open(path, "wb") as f:
        f.write(data)
    return path


def elf(machine, bits=2):
    """An ELF header without anything behind it."""
    return (b"\x7fELF" + bytes([bits, 1, 1]) + bytes(9) + struct.pack("<HHI", 2, machine, 1)
            + bytes(40))


def files(tmp, kernel):
    """The inputs, by name."""
    with open(kernel, "rb") as f:
        image = f.read()
    no_long_mode = bytearray(image)
    no_long_mode[XLOADFLAGS] &= 0xFE
    made = {
        "good": image,
        "empty": b"",
        "short": image[:300],
        "half": image[:len(image) // 2],
        "text": b"#!/bin/sh\necho no kernel\n" * 100,
        "arm": elf(EM_AARCH64),
        "i386": bytes(no_long_mode),
        "elf": elf(62),
        "disk": bytes(1 << 20),
        "sector": bytes(100),
        "secret": bytes(1 << 20),
    }
    paths = {name: write(os.path.join(tmp, name), data) for name, data in made.items()}
    paths["link"] = os.path.join(tmp, "link")
    os.symlink(paths["disk"], paths["link"])
    paths["hard"] = os.path.join(tmp, "hard")
    os.link(paths["disk"], paths["hard"])
    os.chmod(paths["secret"], 0)
    paths["dir"] = tmp
    return paths


def cases(p):
    """(arguments, what the line must contain)"""
    run = ["run", "--kernel", p["good"]]
    missing = os.path.join(p["dir"], "missing")
    return [
        ([], "command"),
        (["start"], "'start'"),
        (["run"], "--kernel"),
        (["run", "--kernel"], "--kernel needs a value"),
        (["run", "--kernel", missing], "No such file"),
        (["run", "--kernel", p["dir"]], "directory"),
        (["run", "--kernel", p["secret"]], "Permission denied"),
        (["run", "--kernel", p["empty"]], p["empty"]),
        (["run", "--kernel", p["short"]], p["short"]),
        (["run", "--kernel", p["half"]], p["half"]),
        (["run", "--kernel", p["text"]], p["text"]),
        (["run", "--kernel", p["arm"]], "not for x86"),
        (["run", "--kernel", p["i386"]], p["i386"]),
        (["run", "--kernel", p["elf"]], p["elf"]),
        ([*run, "--initrd", missing], "No such file"),
        ([*run, "--initrd", p["dir"]], "directory"),
        ([*run, "--append", "x" * 100000], "command line"),
        ([*run, "--disk", f"path={missing}"], "No such file"),
        ([*run, "--disk", f"path={p['dir']}"], "directory"),
        ([*run, "--disk", f"path={p['secret']}"], "Permission denied"),
        ([*run, "--disk", f"path={p['sector']}"], p["sector"]),
        ([*run, "--disk", p["disk"]], "path="),
        ([*run, "--disk", f"path={p['disk']}", "--disk", f"path={p['disk']}"], "one file"),
        ([*run, "--disk", f"path={p['disk']}", "--disk", f"path={p['link']}"], "one file"),
        ([*run, "--disk", f"path={p['hard']}", "--disk", f"path={p['disk']}"], "one file"),
        ([*run, "--disk", f"path={p['disk']}", "--disk", f"path={p['link']},readonly"],
         "one file"),
        ([*run, "--memory", "900T"], "memory"),
        ([*run, "--memory", "8T"], "memory"),
        ([*run, "--memory", "1M"], "memory"),
        ([*run, "--memory", "0"], "--memory 0"),
        ([*run, "--memory", "4GB"], "4GB"),
        ([*run, "--memory", "-1G"], "-1G"),
        ([*run, "--memory", "99999999999999999999999"], "999"),
        ([*run, "--cpus", "0"], "1 to 1024"),
        ([*run, "--cpus", "1025"], "1 to 1024"),
        ([*run, "--cpus", "sockets=40,cores=40"], "1 to 1024"),
        ([*run, "--cpus", "two"], "'two'"),
        ([*run, "--cpus", "cores=2,dies=2"], "'dies=2'"),
        ([*run, "--kernal", "x"], "'--kernal'"),
        ([*run, "stray"], "'stray'"),
        ([*run, "--memory"], "--memory needs a value"),
        ([*run, "--memory", "1G", "--memory", "2G"], "twice"),
        ([*run, "--engine", "none"], "none"),
        ([*run, "--net", "bridge"], "'bridge'"),
        ([*run, "--net", "user,hostfwd=tcp:x"], "hostfwd"),
        ([*run, "--net", "tap=nv-no-such-tap"], "nv-no-such-tap"),
        ([*run, "--serial", "tcp:1"], "--serial"),
        ([*run, "--serial", f"file:{missing}/x"], "missing/x"),
        ([*run, "--stats", f"{missing}/x"], "missing/x"),
        ([*run, "--stats", p["good"]], "overwrite"),
        ([*run, "--disk", f"path={p['disk']}", "--serial", f"file:{p['link']}"], "overwrite"),
    ]


def unprivileged():
    """Root may read everything: for that it must be somebody else."""
    return {"user": "nobody", "extra_groups": []} if os.getuid() == 0 else {}


def wrong(numavisor, args, text):
    """What is wrong with the answer, or None."""
    try:
        r = subprocess.run([numavisor, *args], stdin=subprocess.DEVNULL, capture_output=True,
                           timeout=60, text=True, check=False, **unprivileged())
    except subprocess.TimeoutExpired:
        return "it went on"
    if r.returncode != 2:
        return f"status {r.returncode}, '{r.stderr.strip()}'"
    if r.stdout:
        return f"output '{r.stdout[:200]}'"
    if len(r.stderr.splitlines()) != 1 or not r.stderr.startswith("numavisor: "):
        return f"not one line: '{r.stderr[:300]}'"
    if text not in r.stderr:
        return f"'{text}' is not in '{r.stderr.strip()}'"
    return None


def main():
    passed = failed = 0
    with tempfile.TemporaryDirectory(prefix="nv-bad-") as tmp:
        os.chmod(tmp, 0o755)
        numavisor = shutil.copy(sys.argv[1], tmp)
        paths = files(tmp, sys.argv[2])
        if os.getuid() == 0:
            os.chmod(paths["disk"], 0o666)
        for args, text in cases(paths):
            problem = wrong(numavisor, args, text)
            passed += problem is None
            failed += problem is not None
            if problem:
                shown = " ".join(a if len(a) < 100 else a[:20] + "..." for a in args)
                print(f"FAIL bad input: {shown}: {problem}")
    print(f"{'ok  ' if not failed else 'FAIL'} {passed + failed} bad inputs")
    print(f"{passed} passed, {failed} failed")
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
