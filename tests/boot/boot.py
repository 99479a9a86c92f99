#!/usr/bin/env python3
"""Boots Debian's cloud kernel in many ways and checks what the guest saw and how it ended.

boot.py NUMAVISOR KERNEL INITRD OUT_DIR [NAME...]: without names, every check runs. Each check's
serial log is OUT_DIR/NAME.log. NV_ENGINE chooses another engine than the interpreter. Ends with one line "N passed, N failed".
"""

import hashlib
import http.server
import json
import os
import random
import re
import shutil
import signal
import socket
import stat
import statistics
import struct
import sys
import tempfile
import termios
import threading
import time
import urllib.request

sys.path.insert(0, os.path.dirname(os.path.abspath(__file__)))
from guest import Failed, Guest, expect  # noqa: E402

BOOT_TIMEOUT = int(os.environ.get("NV_BOOT_TIMEOUT", "240"))
ENGINE = os.environ.get("NV_ENGINE", "interp")
MIB = 1 << 20


class Env:
    """What every check gets."""

    def __init__(self, numavisor, kernel, initrd, out):
        self.numavisor, self.kernel, self.initrd, self.out = numavisor, kernel, initrd, out
        self.name = ""
        self.guests = []
        self.tmp = tempfile.mkdtemp(prefix="nv-boot-")

    def path(self, name):
        return os.path.join(self.tmp, name)

    def guest(self, *args, do="", append="", cpus="1", memory="512M", terminal=False,
              engine=ENGINE):
        words = f"console=ttyS0 panic=-1 nv.do={do} {append}".strip()
        log = os.path.join(self.out, f"{self.name}.log")
        guest = Guest(self.numavisor,
                      ["run", "--kernel", self.kernel, "--initrd", self.initrd, "--append", words,
                       "--cpus", cpus, "--memory", memory, "--engine", engine, *args],
                      log, terminal)
        self.guests.append(guest)
        return guest

    def image(self, name, size):
        data = random.randbytes(size)
        with open(self.path(name), "wb") as f:
            f.write(data)
        return data

    def clean(self):
        for guest in self.guests:
            guest.close()
        self.guests = []


def sha(data):
    return hashlib.sha256(data).hexdigest()


def free_port():
    with socket.socket() as s:
        s.bind(("127.0.0.1", 0))
        return s.getsockname()[1]


class Server:
    """An HTTP server on the host's loopback that has one body to give."""

    def __init__(self, body):
        class Handler(http.server.BaseHTTPRequestHandler):
            def do_GET(self):
                self.send_response(200)
                self.send_header("Content-Length", str(len(body)))
                self.end_headers()
                self.wfile.write(body)

            def log_message(self, *args):
                pass

        self.httpd = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.port = self.httpd.server_address[1]
        threading.Thread(target=self.httpd.serve_forever, daemon=True).start()

    def close(self):
        self.httpd.shutdown()
        self.httpd.server_close()


def check_stats(path, vcpus):
    with open(path) as f:
        stats = json.load(f)
    expect("VCPUs in --stats", len(stats["vcpus"]), vcpus)
    expect("engine in --stats", stats["engine"], ENGINE.split(":")[0])
    for n, counters in enumerate(stats["vcpus"]):
        for key in ("instructions", "interrupts", "halts", "walks", "tlb_misses"):
            if counters[key] <= 0:
                raise Failed(f"--stats: VCPU {n} has no {key}")
    for key, total in stats["total"].items():
        expect(f"total of {key} in --stats", total, sum(v[key] for v in stats["vcpus"]))


def check_cpus(guest, sockets, cpus, memory_mib):
    expect("nproc", guest.one("nproc"), str(cpus))
    expect("nodes", guest.one("nodes"), str(sockets))
    per = cpus // sockets
    wanted = [f"{n * per}-{(n + 1) * per - 1}" if per > 1 else str(n) for n in range(sockets)]
    expect("CPUs of the nodes", guest.all("node-cpus"), wanted)
    for n, row in enumerate(guest.all("node-distance")):
        row = [int(d) for d in row.split(",")]
        if row[n] != 10 or any(d <= 10 for i, d in enumerate(row) if i != n):
            raise Failed(f"distances from node {n}: {row}")
    expect("CPUs that ran a program", sorted(map(int, guest.all("ran-on"))), list(range(cpus)))
    if guest.one("clocksource") not in ("kvm-clock", "tsc"):
        raise Failed(f"clock source {guest.one('clocksource')}")
    kib = sum(int(k) for k in guest.all("node-kib"))
    if not memory_mib * 1024 * 0.8 < kib <= memory_mib * 1024:
        raise Failed(f"the guest's nodes have {kib} KiB of {memory_mib} MiB")
    when, date = guest.values("date")[0]
    drift = float(date) - (time.time() - (time.monotonic() - when))
    if not -3 < drift < 1:
        raise Failed(f"the guest's date is {drift:.1f} s from the host's")


def boot(env, shape, sockets, cpus):
    """To userspace, with every device, and a clean power-off."""
    env.image("disk", 32 * MIB)
    fixed = env.image("fixed", 4 * MIB + 512)
    body = random.randbytes(3 * MIB + 17)
    server, port = Server(body), free_port()
    guest = env.guest("--disk", f"path={env.path('disk')}",
                      "--disk", f"path={env.path('fixed')},readonly",
                      "--net", f"user,hostfwd=tcp:127.0.0.1:{port}-:8080", "--rng",
                      "--stats", env.path("stats"), cpus=shape,
                      do="cpus,disk,rng,net", append=f"nv.port={server.port}")
    guest.wait_line("^NV httpd ready|^NV error", BOOT_TIMEOUT)
    with urllib.request.urlopen(f"http://127.0.0.1:{port}/hello", timeout=60) as answer:
        expect("what the guest served", answer.read(), b"served by the guest\n")
    guest.send(b"continue\n")
    expect("exit status", guest.wait_end(BOOT_TIMEOUT), 0)
    server.close()

    guest.check_quiet()
    check_cpus(guest, sockets, cpus, 512)
    expect("disk read back", guest.one("disk-read"), guest.one("disk-wrote"))
    with open(env.path("disk"), "rb") as f:
        f.seek(MIB)
        expect("disk on the host", sha(f.read(8 * MIB)), guest.one("disk-wrote"))
    expect("read-only disk", guest.one("readonly-read"), sha(fixed))
    expect("write to the read-only disk", guest.one("readonly-write"), "no")
    expect("lease", guest.one("lease"), "10.0.2.15")
    expect("fetched over the network", guest.one("fetched"), sha(body))
    expect("entropy device", guest.one("rng"), "virtio_rng.0")
    expect("bytes of entropy", guest.one("rng-bytes"), "64")
    check_stats(env.path("stats"), cpus)


def start(env):
    """The shortest life with two CPUs, to userspace and down again; and on one of the host's."""
    everywhere = os.sched_getaffinity(0)
    for processors in everywhere, {min(everywhere)}:
        os.sched_setaffinity(0, processors)
        try:
            guest = env.guest("--rng", cpus="2", do="rng")
        finally:
            os.sched_setaffinity(0, everywhere)
        expect("exit status", guest.wait_end(BOOT_TIMEOUT), 0)
        guest.check_quiet()
        expect("bytes of entropy", guest.one("rng-bytes"), "64")
        told = any("2 virtual CPUs take turns on 1 " in line for _, line in guest.lines)
        expect("a word about too few processors", told, len(processors) == 1)


def lockstep(env, *flags):
    """To userspace and down again, with translated code held against the interpreter."""
    guest = env.guest("--rng", "--check", "interp:4", "--stats", env.path("stats"), *flags,
                      do="rng", engine="bt")
    expect("exit status", guest.wait_end(BOOT_TIMEOUT), 0)
    guest.check_quiet()
    expect("bytes of entropy", guest.one("rng-bytes"), "64")
    with open(env.path("stats")) as f:
        total = json.load(f)["total"]
    checked, unchecked = total["blocks_checked"], total["blocks_unchecked"]
    print(f"   {checked} runs of translated code compared, {unchecked} could not be")
    if checked < 1000000 or unchecked > checked / 50:
        raise Failed(f"{checked} runs compared, {unchecked} not")


def lockstep_flags(env):
    """The same for flags that nothing reads any more."""
    lockstep(env, "--exact-flags")


def boot_1(env):
    boot(env, "1", 1, 1)


def boot_2(env):
    boot(env, "sockets=2", 2, 2)


def boot_4(env):
    boot(env, "sockets=2,cores=2", 2, 4)


def boot_8(env):
    boot(env, "sockets=2,cores=2,threads=2", 2, 8)


def boot_64(env):
    """Many more CPUs than the host has."""
    guest = env.guest(cpus="sockets=2,cores=16,threads=2", memory="2G", do="cpus")
    expect("exit status", guest.wait_end(600), 0)
    guest.check_quiet()
    check_cpus(guest, 2, 64, 2048)


def cpu_use(guest, seconds):
    """How much of a core the guest takes meanwhile."""
    before, start = guest.cpu_seconds(), time.monotonic()
    time.sleep(seconds)
    return (guest.cpu_seconds() - before) / (time.monotonic() - start)


def clock(env):
    """20 s of guest time against the host's within 0.1 %; meanwhile an idle guest costs nothing."""
    seconds = 20
    guest = env.guest(cpus="sockets=2,cores=2", do="clock", append=f"nv.seconds={seconds}")
    guest.wait_line("^NV idle start", BOOT_TIMEOUT)
    time.sleep(3)
    used = [cpu_use(guest, 2) for _ in range((seconds - 6) // 2)]
    expect("exit status", guest.wait_end(BOOT_TIMEOUT), 0)
    guest.check_quiet()

    # A line's way to us only ever adds time: the quickest of several is the nearest to the truth.
    def offset(key):
        return min(when - int(ns) / 1e9 for when, ns in guest.values(key))

    lasted = int(guest.all("clock-end")[-1]) / 1e9 - int(guest.all("clock-start")[0]) / 1e9
    error = abs(offset("clock-end") - offset("clock-start")) / lasted
    # What else the host does makes some of these dearer, but not half of them.
    usual, mean = statistics.median(used), statistics.mean(used)
    print(f"   {lasted:.1f} s of guest time, off by {error * 100:.4f} %; "
          f"idle, 4 VCPUs use {usual * 100:.2f} % of a core (mean {mean * 100:.2f} %)")
    if error > 0.001:
        raise Failed(f"guest time is off by {error * 100:.3f} % of the host's")
    if usual > 0.02 or mean > 0.05:
        raise Failed(f"an idle guest used {usual * 100:.1f} % of a core, mean {mean * 100:.1f} %")


def reboot(env):
    """A reset starts the guest again, with its disk as it was."""
    env.image("disk", MIB)
    guest = env.guest("--disk", f"path={env.path('disk')}", cpus="2", do="reboot")
    expect("exit status", guest.wait_end(2 * BOOT_TIMEOUT), 0)
    guest.check_quiet()
    expect("boots", len(guest.all("boot")), 2)
    expect("first", guest.all("first"), ["boot"])
    expect("second", guest.all("second"), ["boot"])


def power_button(env):
    """SIGTERM presses the power button, and the guest's acpid shuts down."""
    guest = env.guest(cpus="2", do="button")
    guest.wait_line("^NV waiting", BOOT_TIMEOUT)
    guest.child.send_signal(signal.SIGTERM)
    expect("exit status", guest.wait_end(60), 0)
    expect("button", guest.one("button"), "pressed")
    guest.check_quiet()


def second_signal(env):
    """A guest that does not listen to its power button is stopped by the next signal."""
    guest = env.guest(cpus="2", do="deaf")
    guest.wait_line("^NV waiting", BOOT_TIMEOUT)
    guest.child.send_signal(signal.SIGTERM)
    guest.wait_line("asking the guest to power off", 10)
    time.sleep(1)
    expect("still running", guest.child.poll(), None)
    guest.child.send_signal(signal.SIGTERM)
    expect("exit status", guest.wait_end(20), 128 + signal.SIGTERM)


def triple_fault(env):
    """A triple fault ends with status 1 and a register dump."""
    guest = env.guest(do="triple", append="reboot=triple")
    expect("exit status", guest.wait_end(BOOT_TIMEOUT), 1)
    guest.wait_line("(?i)rip", 5)


def panic(env):
    """A kernel that panics says so through pvpanic."""
    guest = env.guest(do="panic", append="panic=0")
    expect("exit status", guest.wait_end(BOOT_TIMEOUT), 1)
    guest.wait_line("Kernel panic", 5)


def multiboot(code):
    """A multiboot1 kernel that is its own header (with the address fields) and code."""
    base, flags = 0x100000, 1 << 16
    words = [0x1BADB002, flags, -(0x1BADB002 + flags) % 2**32, base, base, 0, 0, base + 32]
    return struct.pack("<8I", *words) + code


def debug_exit(env):
    """What the guest writes to port 0xf4 becomes the exit status."""
    with open(env.path("kernel"), "wb") as f:
        f.write(multiboot(b"\xb0\x21\xe6\xf4\xf4"))  # mov $0x21,%al; out %al,$0xf4; hlt
    guest = Guest(env.numavisor, ["run", "--kernel", env.path("kernel")],
                  os.path.join(env.out, "debug_exit.log"))
    env.guests.append(guest)
    expect("exit status", guest.wait_end(20), 0x21 << 1 | 1)


def terminal(env):
    """Keys on a terminal reach the guest, the escape keys do not, and its mode is restored."""
    guest = env.guest(do="echo", terminal=True)
    before = termios.tcgetattr(guest.slave)
    guest.wait_line("^NV echo ready", BOOT_TIMEOUT)
    raw = termios.tcgetattr(guest.slave)
    if raw[3] & (termios.ICANON | termios.ECHO | termios.ISIG):
        raise Failed("the terminal is not in raw mode")
    guest.send(b"hel\x01qlo\r")
    guest.wait_line("^NV echo hello", 30)
    guest.send(b"\x01h")
    guest.wait_line("Ctrl-A X leaves", 10)
    guest.send(b"\x01x")
    expect("exit status", guest.wait_end(20), 0)
    expect("terminal's mode", termios.tcgetattr(guest.slave), before)


def terminal_fault(env):
    """The terminal is restored even when the monitor dies of a fault."""
    guest = env.guest(do="echo", terminal=True)
    before = termios.tcgetattr(guest.slave)
    guest.wait_line("^NV echo ready", BOOT_TIMEOUT)
    guest.child.send_signal(signal.SIGSEGV)
    if guest.wait_end(20) == 0:
        raise Failed("exit status 0 after a fault")
    expect("terminal's mode", termios.tcgetattr(guest.slave), before)


def terminal_interrupt(env):
    """Ctrl-C twice asks the guest to power off."""
    guest = env.guest(do="button", terminal=True)
    guest.wait_line("^NV waiting", BOOT_TIMEOUT)
    guest.send(b"\x03\x03")
    expect("exit status", guest.wait_end(60), 0)


def serial_file(env):
    """--serial file: gets the output, standard output nothing."""
    guest = env.guest("--serial", f"file:{env.path('serial')}", do="rng", append="quiet")
    expect("exit status", guest.wait_end(BOOT_TIMEOUT), 0)
    expect("standard output", [l for _, l in guest.lines if l], [])
    with open(env.path("serial"), errors="replace") as f:
        if "NV end" not in f.read():
            raise Failed("the serial file lacks the guest's last line")


def serial_pty(env):
    """--serial pty names a terminal on which the guest can be reached."""
    guest = env.guest("--serial", "pty", do="echo", append="quiet")
    name = re.search(r"/dev/pts/\d+", guest.wait_line("/dev/pts/", 30)).group(0)
    expect("a character device", stat.S_ISCHR(os.stat(name).st_mode), True)
    fd = os.open(name, os.O_RDWR | os.O_NOCTTY)
    text, end = b"", time.monotonic() + BOOT_TIMEOUT
    sent = False
    while b"NV echo over" not in text:
        if time.monotonic() > end:
            raise Failed("no answer on the pseudo-terminal")
        text += os.read(fd, 4096)
        if b"NV echo ready" in text and not sent:
            os.write(fd, b"over\rend\r")
            sent = True
    os.close(fd)
    expect("exit status", guest.wait_end(BOOT_TIMEOUT), 0)


CHECKS = [start, lockstep, lockstep_flags, boot_1, boot_2, boot_4, boot_8, boot_64, clock, reboot, power_button, second_signal, triple_fault,
          panic, debug_exit, terminal, terminal_fault, terminal_interrupt, serial_file, serial_pty]


def run(env, check):
    """True if it passed. What was wrong, and the end of the guest's log, are printed."""
    env.name = check.__name__
    start = time.monotonic()
    try:
        check(env)
    except (Failed, OSError, KeyError, ValueError, IndexError) as e:
        print(f"FAIL boot.{env.name}: {e}")
        for guest in env.guests:
            for _, line in guest.lines[-15:]:
                print(f"   | {line}")
        return False
    finally:
        env.clean()
        sys.stdout.flush()
    print(f"ok   boot.{env.name} ({time.monotonic() - start:.1f} s)", flush=True)
    return True


def main():
    numavisor, kernel, initrd, out, *names = sys.argv[1:]
    os.makedirs(out, exist_ok=True)
    env = Env(numavisor, kernel, initrd, out)
    checks = [c for c in CHECKS if not names or c.__name__ in names]
    results = [run(env, c) for c in checks]
    shutil.rmtree(env.tmp, ignore_errors=True)
    print(f"{sum(results)} passed, {len(results) - sum(results)} failed")
    return 0 if results and all(results) else 1


if __name__ == "__main__":
    sys.exit(main())
