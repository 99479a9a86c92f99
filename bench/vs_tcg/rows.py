"""What bench/vs_tcg.sh measures, and what is required of it."""

import math
from dataclasses import dataclass

INTEGER, VECTOR, KERNEL = "user code, integer", "user code, vectors", "kernel"
MACHINE, POSTGRES = "the machine", "PostgreSQL"

NATIVE, TCG = "native", "tcg"
POSTGRES_CPUS = 2, 4


@dataclass(frozen=True)
class Row:
    """A line of the report. Less is better, except for a row whose unit is "times"."""
    group: str
    name: str
    what: str  # is timed, in the given unit
    unit: str = "ns"
    native: bool = True  # there is such a thing on the bare host


ROWS = [
    Row(INTEGER, "sha256", "SHA-256 of 64 bytes"),
    Row(INTEGER, "intmix", "sorting a list of 512, a 24x24 product, CRC, parsing of 4 KiB"),
    Row(INTEGER, "chase", "a step of a random pointer chase in 256 MiB, 4 KiB pages"),
    Row(INTEGER, "rmw", "a random addition in 256 MiB, 4 KiB pages"),
    Row(INTEGER, "memcpy", "copying 64 MiB"),
    Row(INTEGER, "bytecode_switch", "a program in an interpreter that uses a switch"),
    Row(INTEGER, "bytecode_goto", "the same with computed goto"),
    Row(INTEGER, "recurse", "a recursive call"),
    Row(INTEGER, "indirect", "a call through a random pointer"),
    Row(INTEGER, "sqlite_insert", "SQLite in memory: a row of a transaction of 500 inserts"),
    Row(INTEGER, "sqlite_select", "a look-up by key in 20000 rows"),
    Row(INTEGER, "sqlite_scan", "a row of a scan with LIKE"),
    Row(INTEGER, "redis_set", "a SET by redis-benchmark, pipeline 16, loopback network"),
    Row(INTEGER, "redis_get", "a GET"),
    Row(VECTOR, "sse2", "a multiplication and addition of a scalar 32x32 product of doubles"),
    Row(VECTOR, "avx2", "a 256-bit fused multiply-add of a 64x64 product of doubles"),
    Row(VECTOR, "x87", "a turn of a loop with 7 long double operations"),
    Row(KERNEL, "getppid", "a system call"),
    Row(KERNEL, "clock_gettime", "reading the monotonic clock"),
    Row(KERNEL, "fork_exit", "fork, exit, wait"),
    Row(KERNEL, "fork_exec", "fork, exec of a small static program, wait"),
    Row(KERNEL, "mmap_touch", "mmap, touch and munmap of 4 MiB in 4 KiB pages"),
    Row(KERNEL, "mmap_one", "the same of one page"),
    Row(KERNEL, "segv", "mprotect, a write that faults, a handler that allows it"),
    Row(KERNEL, "pipe_same", "a byte to another process on the same CPU and back"),
    Row(KERNEL, "pipe_two", "the same between two CPUs"),
    Row(KERNEL, "munmap_threads", "mmap_one while a thread of the process is busy on another CPU"),
    Row(KERNEL, "mutex_contended", "taking a mutex for which two CPUs compete"),
    Row(KERNEL, "mutex_uncontended", "taking a free mutex"),
    Row(KERNEL, "two_busy", "what two busy CPUs get done, as a multiple of one", unit="times"),
    *(Row(MACHINE, f"boot_{n}", f"start of the monitor to init with {n} VCPUs", unit="s",
          native=False) for n in (1, 2, 8)),
    Row(MACHINE, "memory", "the monitor beside the memory of a guest of 2 VCPUs at rest",
        unit="MiB", native=False),
    *(Row(POSTGRES, f"pgbench_{key}_{n}", f"a {what} of pgbench, 4 clients, {n} VCPUs",
          unit="us", native=False) for n in POSTGRES_CPUS
      for key, what in (("read_only", "transaction with -S"),
                        ("tpc_b", "TPC-B-like transaction"))),
]
BY_NAME = {row.name: row for row in ROWS}


@dataclass(frozen=True)
class Limits:
    """At least so many times faster than TCG, at most so many times slower than native."""
    tcg: float | None = None
    native: float | None = None


LIMITS = {
    "sse2": Limits(10, 2), "x87": Limits(10, 2), "avx2": Limits(50, 2),
    "getppid": Limits(3, 2.5), "clock_gettime": Limits(3, 2),
    "boot_1": Limits(2), "boot_2": Limits(2), "boot_8": Limits(2), "memory": Limits(1),
    **{row.name: Limits(4) for row in ROWS if row.group == POSTGRES},
}
GEOMEAN_LIMITS = Limits(4, 3)
INTEGER_LIMITS = Limits(2, 5)
# Where TCG itself is close to native, it is native that counts.
TCG_IS_CLOSE, CLOSE_LIMITS = 2.5, Limits(None, 1.5)
TWO_BUSY = 1.9


@dataclass(frozen=True)
class Verdict:
    what: str
    passed: bool


def geomean(numbers):
    return math.exp(sum(map(math.log, numbers)) / len(numbers))


def limits_of(row, tcg_to_native):
    """The limits of a row, given how much slower than native TCG is, or None; None: no limits."""
    if row.group != INTEGER:
        return LIMITS.get(row.name)
    if tcg_to_native is not None and tcg_to_native <= TCG_IS_CLOSE:
        return CLOSE_LIMITS
    return INTEGER_LIMITS


def judge(what, limits, tcg_to_ours, ours_to_native):
    """The verdicts on one pair of ratios. Without a ratio there is none."""
    verdicts = []
    if limits.tcg is not None and tcg_to_ours is not None:
        verdicts.append(Verdict(f"{what}: {tcg_to_ours:.2f} times better than TCG,"
                                f" at least {limits.tcg:g}", tcg_to_ours >= limits.tcg))
    if limits.native is not None and ours_to_native is not None:
        verdicts.append(Verdict(f"{what}: {ours_to_native:.2f} times native,"
                                f" at most {limits.native:g}", ours_to_native <= limits.native))
    return verdicts
