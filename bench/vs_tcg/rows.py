"""What bench/vs_tcg.sh measures, and what is required of it."""

import math
from dataclasses import dataclass

INTEGER, VECTOR, KERNEL = "user code, integer", "user code, vectors", "kernel"
MACHINE, POSTGRES = "the machine", "PostgreSQL"

NATIVE, TCG = "native", "tcg"


@dataclass(frozen=True)
class Row:
    """A line of the report. Less is better, except for a row whose unit is "times"."""
    name: str
    group: str
    unit: str = "ns"
    native: bool = True  # there is such a thing on the bare host


def _rows(group, names, **attributes):
    return [Row(name, group, **attributes) for name in names.split()]


ROWS = [
    *_rows(INTEGER, "sha256 intmix chase rmw memcpy bytecode_switch bytecode_goto recurse indirect"
                    " sqlite_insert sqlite_select sqlite_scan redis_set redis_get"),
    *_rows(VECTOR, "sse2 avx2 x87"),
    *_rows(KERNEL, "getppid clock_gettime fork_exit fork_exec mmap_touch mmap_one segv pipe_same"
                   " pipe_two munmap_threads mutex_contended mutex_uncontended"),
    *_rows(KERNEL, "two_busy", unit="times"),
    *_rows(MACHINE, "boot_1 boot_2 boot_8", unit="s", native=False),
    *_rows(MACHINE, "memory", unit="MiB", native=False),
    *_rows(POSTGRES, "pgbench_read_only pgbench_tpc_b", unit="us", native=False),
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
    "pgbench_read_only": Limits(4), "pgbench_tpc_b": Limits(4),
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
