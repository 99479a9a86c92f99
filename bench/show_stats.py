#!/usr/bin/env python3
"""Prints the counters of a --stats file as a table: show_stats.py FILE."""

import json
import sys


def main():
    with open(sys.argv[1], encoding="utf-8") as f:
        stats = json.load(f)
    vcpus = stats["vcpus"]
    shown = min(len(vcpus), 4)
    print(f"The monitor's counters, engine {stats['engine']}, "
          f"{stats['guest_seconds']:.1f} s of guest time:")
    print(f"   {'':22}" + "".join(f"{'VCPU ' + str(n):>15}" for n in range(shown))
          + f"{'all':>16}")
    for key, total in stats["total"].items():
        if total:
            print(f"   {key:22}" + "".join(f"{v[key]:15,}" for v in vcpus[:shown])
                  + f"{total:16,}")


if __name__ == "__main__":
    main()
