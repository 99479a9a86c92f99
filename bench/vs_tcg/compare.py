#!/usr/bin/env python3
"""Measures and reports; started by bench/vs_tcg.sh, which makes what it needs."""

import argparse
import hashlib
import os
import resource
import subprocess
import sys
import time

import chart
import machines
from report import Report
from rows import BY_NAME, MACHINE, NATIVE, POSTGRES, POSTGRES_CPUS, ROWS, TCG
from store import Store

QUIET = 0.1  # what others may use of the host before a report warns

def parse_arguments():
    parser = argparse.ArgumentParser(
        prog="vs_tcg.sh", description="Compares guest time with native time and with QEMU's TCG.",
        epilog="rows, and what is timed:\n" + "\n".join(
            f"  {row.name:18} {row.what}" for row in ROWS),
        formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rows", help="only these, with commas between")
    parser.add_argument("--only", help="measure only these, with commas between: native, tcg, and"
                        " bt or what --engine says; the others' figures are from earlier runs")
    parser.add_argument("--report", action="store_true", help="measure nothing: report earlier"
                        " figures")
    parser.add_argument("--engine", default="bt", help="numavisor's engine (bt)")
    parser.add_argument("--reps", type=int, default=5, help="measure so often (5)")
    parser.add_argument("--best", action="store_true", help="take the best of the repetitions"
                        " instead of their median: for a host with other work")
    parser.add_argument("--ms", type=int, default=300, help="milliseconds of a measurement (300)")
    parser.add_argument("--postgres", action="store_true",
                        help="PostgreSQL, too; a few minutes for each repetition")
    parser.add_argument("--postgres-seconds", type=int, default=20,
                        help="seconds of each of its loads (20)")
    parser.add_argument("--strict", action="store_true", help="exit status 1 for a requirement"
                        " that is not met")
    for name in "numavisor", "kernel", "dir", "postgres-guest":
        parser.add_argument(f"--{name}", help=argparse.SUPPRESS)
    args = parser.parse_args()
    args.rows = choose_rows(parser, args)
    args.only = args.only.split(",") if args.only else [NATIVE, args.engine, TCG]
    if unknown := set(args.only) - {NATIVE, args.engine, TCG}:
        parser.error(f"--only: not {', '.join(unknown)}")
    if args.reps < 1 or args.ms < 1:
        parser.error("--reps and --ms take positive numbers")
    if args.report:
        args.only = []
    return args


def choose_rows(parser, args):
    if not args.rows:
        return [row.name for row in ROWS if args.postgres or row.group != POSTGRES]
    chosen = args.rows.split(",")
    if unknown := set(chosen) - set(BY_NAME):
        parser.error(f"there is no row {', '.join(unknown)}")
    if any(BY_NAME[name].group == POSTGRES for name in chosen) and not args.postgres:
        parser.error("the rows of PostgreSQL need --postgres")
    return [row.name for row in ROWS if row.name in chosen]


def measured_with(setup):
    """A hash of what all engines share: a figure of an earlier run is of use if it is the same."""
    digest = hashlib.sha256(f"{os.path.basename(setup.kernel)} {setup.ms}".encode())
    for program in "work", "tiny", "redis-server", "redis-benchmark":
        with open(setup.path("tree", "usr", "bin", program), "rb") as f:
            digest.update(f.read())
    digest.update(subprocess.run([machines.QEMU, "--version"], capture_output=True,
                                 check=True).stdout)
    return digest.hexdigest()[:16]


def jobs(setup, names):
    """What measures the rows: functions of an engine that return figures and problems."""
    guest = [n for n in names if BY_NAME[n].group not in (MACHINE, POSTGRES)]
    if guest:
        yield guest, lambda engine: machines.workloads(setup, engine, guest)
    for name in names:
        if name.startswith("boot_"):
            cpus = int(name.removeprefix("boot_"))
            yield [name], lambda engine, cpus=cpus: machines.boot(setup, engine, cpus)
        elif name == "memory":
            yield [name], lambda engine: machines.memory_at_rest(setup, engine)
    for cpus in POSTGRES_CPUS:
        postgres = [n for n in names
                    if BY_NAME[n].group == POSTGRES and n.endswith(f"_{cpus}")]
        if postgres:
            yield postgres, lambda engine, cpus=cpus: machines.postgres(setup, engine, cpus)


class OtherLoad:
    """How busy the host's processors are with what is not ours, as a part of all of them."""

    def __init__(self):
        self.start = time.monotonic()
        self.busy_start, self.ours_start = self._busy(), self._ours()

    @staticmethod
    def _busy():
        with open("/proc/stat", encoding="utf-8") as f:
            user, nice, system, _idle, _wait, irq, softirq, steal = map(
                int, f.readline().split()[1:9])
        ticks = user + nice + system + irq + softirq + steal
        return ticks / os.sysconf("SC_CLK_TCK")

    @staticmethod
    def _ours():
        used = [resource.getrusage(who)
                for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)]
        return sum(u.ru_utime + u.ru_stime for u in used)

    def part(self):
        """Since the object was made. Our children must have ended."""
        others = self._busy() - self.busy_start - (self._ours() - self.ours_start)
        return max(others, 0) / (time.monotonic() - self.start) / os.cpu_count()


def measure(args, setup, store):
    """All of it, the engines in turn. Returns the problems."""
    problems = []
    for rep in range(args.reps):
        for names, job in jobs(setup, args.rows):
            for engine in args.only:
                if engine == NATIVE and not BY_NAME[names[0]].native:
                    continue
                print(f"== {rep + 1} of {args.reps}: {engine}:"
                      f" {names[0] if len(names) == 1 else f'{len(names)} rows'}",
                      file=sys.stderr, flush=True)
                figures, trouble = job(engine)
                problems += trouble
                for name, value, checksum in figures:
                    if name in args.rows:
                        store.add(name, engine, rep, value, checksum)
    return problems


def missing(args, store):
    """Rows that did not report as often as they were run."""
    return [f"{engine}: {name} is missing {count} times of {args.reps}"
            for name in args.rows for engine in args.only
            if (engine != NATIVE or BY_NAME[name].native)
            and (count := args.reps - store.measured(name, engine))]


def main():
    args = parse_arguments()
    setup = machines.Setup(args.numavisor, args.kernel, args.dir, args.ms, args.postgres_guest,
                           args.postgres_seconds)
    store = Store(setup.path("results.jsonl"), measured_with(setup), args.best)
    load = OtherLoad()
    problems = measure(args, setup, store)
    others = load.part()
    report = Report(store, args.engine, args.rows)
    problems += missing(args, store) + report.problems()
    verdicts = report.verdicts()

    print(report.table())
    if args.only:
        print(f"meanwhile other work used {others * 100:.0f} % of the host's processors"
              f"{'; measure on a quiet machine' if others > QUIET else ''}")
    print()
    for verdict in verdicts:
        print(f"{'PASS' if verdict.passed else 'MISS'}  {verdict.what}")
    report.write_summary(setup.path("summary.jsonl"))
    if ratios := report.ratios():
        with open(setup.path("chart.svg"), "w", encoding="utf-8") as f:
            f.write(chart.svg("Time, as a multiple of native", (args.engine, "QEMU TCG"), ratios))
    for problem in problems:
        print(f"vs_tcg: {problem}", file=sys.stderr)
    return 1 if problems or args.strict and not all(v.passed for v in verdicts) else 0


if __name__ == "__main__":
    sys.exit(main())
