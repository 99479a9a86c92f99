"""Runs workloads natively, and machines under numavisor and QEMU, with the same guests in them."""

import os
import re
import subprocess
import sys
import time
from dataclasses import dataclass

from rows import NATIVE, TCG

sys.path.insert(0, os.path.join(os.path.dirname(os.path.abspath(__file__)), "../../tests/boot"))
from guest import Failed, Guest  # noqa: E402

QEMU = "qemu-system-x86_64"
ROW_LIMIT = 60  # seconds that a workload may take
BOOT_LIMIT = 180
ROW_LINE = re.compile(r"ROW (\S+) ([0-9.]+) ([0-9a-f]{16})$")


@dataclass(frozen=True)
class Setup:
    """What all measurements of a run share."""
    numavisor: str
    kernel: str
    directory: str  # has bin/work and the initial RAM disks, gets the logs
    ms: int  # how long a workload is measured
    postgres: str | None  # a directory with the guest of bench/demo.sh
    postgres_seconds: int

    def path(self, *names):
        return os.path.join(self.directory, *names)


def numavisor_command(setup, engine, cpus, memory, initrd, words, disk):
    command = [setup.numavisor, "run", "--engine", engine, "--kernel", setup.kernel,
               "--initrd", initrd, "--append", words, "--cpus", str(cpus), "--memory", memory]
    if disk:
        command += ["--disk", f"path={disk}", "--rng"]
    return command


def qemu_command(setup, cpus, memory, initrd, words, disk):
    command = [QEMU, "-accel", "tcg,thread=multi", "-machine", "q35", "-cpu", "max",
               "-smp", str(cpus), "-m", memory, "-kernel", setup.kernel, "-initrd", initrd,
               "-append", words, "-nodefaults", "-display", "none", "-serial", "stdio",
               "-no-reboot"]
    if disk:
        command += ["-drive", f"file={disk},if=none,id=disk,format=raw",
                    "-device", "virtio-blk-pci,drive=disk", "-device", "virtio-rng-pci"]
    return command


REST_MEMORY = 1 << 30  # bytes, of a machine at rest


def named_memory(memory):
    """What makes QEMU take guest memory that can be told from its own."""
    return ["-object", f"memory-backend-memfd,id=ram,size={memory}",
            "-machine", "memory-backend=ram"]


def is_guest_memory(mapping):
    """Of a line of smaps: QEMU's has that name, ours is the only mapping that large."""
    start, end = (int(x, 16) for x in mapping.split()[0].split("-"))
    return "/memfd:memory-backend-memfd" in mapping or end - start >= REST_MEMORY


class Machine:
    """A guest on one of the engines; use it in a with statement, which ends it."""

    def __init__(self, setup, engine, log, *, cpus=2, memory="1G", initrd, words, disk=None,
                 flags=()):
        words = f"console=ttyS0 quiet panic=-1 {words}"
        if engine == TCG:
            command = qemu_command(setup, cpus, memory, initrd, words, disk)
        else:
            command = numavisor_command(setup, engine, cpus, memory, initrd, words, disk)
        self.engine = engine
        self.started = time.monotonic()
        self.log = setup.path(f"{log}-{engine}.log")
        self.guest = Guest(command[0], [*command[1:], *flags], self.log)

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.guest.close()

    def finish(self, limit):
        """Waits for the guest's end; returns what went wrong, or None."""
        try:
            status = self.guest.wait_end(limit)
        except Failed as problem:
            return f"{self.engine}: {problem}; see {self.log}"
        return (f"{self.engine}: the monitor ended with status {status}; see {self.log}"
                if status else None)

    def monitor_memory(self):
        """MiB of the process that are not the guest's memory, shared pages in proportion."""
        kib, counts = 0, False
        with open(f"/proc/{self.guest.child.pid}/smaps", encoding="utf-8") as smaps:
            for line in smaps:
                if re.match(r"[0-9a-f]+-[0-9a-f]+ ", line):
                    counts = not is_guest_memory(line)
                elif counts and line.startswith("Pss:"):
                    kib += int(line.split()[1])
        return kib / 1024

    def wait_idle(self, limit=60):
        """Until the guest has used less than a twentieth of a processor for a second."""
        end = time.monotonic() + limit
        before = self.guest.cpu_seconds()
        while time.monotonic() < end:
            time.sleep(1)
            now = self.guest.cpu_seconds()
            if now - before < 0.05:
                return
            before = now
        raise Failed(f"{self.engine}: the guest does not come to rest")


def parse_rows(lines):
    """(row, value, checksum) of each line that reports one."""
    found = filter(None, map(ROW_LINE.search, lines))
    return [(m[1], float(m[2]), m[3]) for m in found]


def native_workloads(setup, rows):
    lines, problems = [], []
    for row in rows:
        try:
            done = subprocess.run([setup.path("bin", "work"), "-t", str(setup.ms), row],
                                  stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
                                  timeout=ROW_LIMIT, check=False)
            lines += done.stdout.splitlines()
        except subprocess.TimeoutExpired:
            problems.append(f"native: {row} took more than {ROW_LIMIT} s")
    problems += [f"native: {line}" for line in lines if line.startswith("work: ")]
    return parse_rows(lines), problems


def workloads(setup, engine, rows):
    """Runs workloads, in guests all in one boot. Returns figures and a list of problems."""
    if engine == NATIVE:
        return native_workloads(setup, rows)
    words = f"nv.rows={','.join(rows)} nv.ms={setup.ms} nv.limit={ROW_LIMIT}"
    with Machine(setup, engine, "workloads", initrd=setup.path("initrd"), words=words) as machine:
        problem = machine.finish(BOOT_LIMIT + len(rows) * ROW_LIMIT // 2)
        lines = [line for _, line in machine.guest.lines]
    problems = [f"{engine}: {line}" for line in lines if line.startswith("work: ")]
    return parse_rows(lines), problems + ([problem] if problem else [])


def boot(setup, engine, cpus):
    """The host's seconds until the guest's init runs."""
    with Machine(setup, engine, f"boot_{cpus}", cpus=cpus, memory="512M",
                 initrd=setup.path("initrd-boot"), words="") as machine:
        try:
            machine.guest.wait_line("^NV init", BOOT_LIMIT)
        except Failed as problem:
            return [], [f"{engine}: boot with {cpus} VCPUs: {problem}"]
        seconds = machine.guest.values("init")[0][0] - machine.started
    return [(f"boot_{cpus}", round(seconds, 3), None)], []


def memory_at_rest(setup, engine):
    flags = named_memory(str(REST_MEMORY)) if engine == TCG else []
    with Machine(setup, engine, "memory", initrd=setup.path("initrd"), words="nv.rest",
                 flags=flags) as machine:
        try:
            machine.guest.wait_line("^NV init", BOOT_LIMIT)
            machine.wait_idle()
        except Failed as problem:
            return [], [str(problem)]
        return [("memory", round(machine.monitor_memory(), 2), None)], []


def postgres(setup, engine, cpus):
    """pgbench as in bench/demo.sh; microseconds of the whole machine for a transaction."""
    disk = os.path.join(setup.postgres, "copy.img")
    subprocess.run(["cp", "--sparse=always", os.path.join(setup.postgres, "disk.img"), disk],
                   check=True)
    words = f"nv.run=demo nv.scale=5 nv.seconds={setup.postgres_seconds}"
    with Machine(setup, engine, f"postgres_{cpus}", cpus=cpus, memory="2G", words=words,
                 disk=disk, initrd=os.path.join(setup.postgres, "initrd")) as machine:
        problem = machine.finish(600 + 6 * setup.postgres_seconds)
        said = dict(re.findall(r"^DEMO (\S+) (\S+)$", "\n".join(
            line for _, line in machine.guest.lines), re.MULTILINE))
    os.remove(disk)
    figures = [(f"pgbench_{key.replace('-', '_')}_{cpus}", 1e6 / float(said[f"{key}-tps"]), None)
               for key in ("read-only", "tpc-b") if f"{key}-tps" in said]
    problems = [problem] if problem else []
    if said.get("balances") != "t" or said.get("history") != said.get("tpc-b-transactions"):
        problems.append(f"{engine}: pgbench with {cpus} VCPUs: the database does not agree"
                        " with what was done")
    return figures, problems
