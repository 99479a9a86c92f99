#!/usr/bin/env python3
"""One boot to init: boot_time.py NUMAVISOR KERNEL INITRD DIR. Prints one JSON line."""

import json
import os
import resource
import sys
import time

sys.path.insert(0, os.path.join(os.path.dirname(os.path.abspath(__file__)), "../tests/boot"))
from guest import Guest  # noqa: E402

VCPUS = 2


def main():
    numavisor, kernel, initrd, directory = sys.argv[1:]
    stats_path = os.path.join(directory, "stats.json")
    start = time.monotonic()
    guest = Guest(numavisor, ["run", "--kernel", kernel, "--initrd", initrd, "--append",
                              "console=ttyS0 panic=-1", "--cpus", str(VCPUS), "--memory", "512M",
                              "--engine", "interp", "--stats", stats_path],
                  os.path.join(directory, "serial.log"))
    guest.wait_line("^NV init", 600)
    seconds = guest.values("init")[0][0]
    status = guest.wait_end(60)
    if status:
        sys.exit(f"boot_time: numavisor ended with status {status}")
    with open(stats_path, encoding="utf-8") as f:
        instructions = json.load(f)["total"]["instructions"]
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    cpu = used.ru_utime + used.ru_stime
    print(json.dumps({
        "bench": "boot_time", "engine": "interp", "vcpus": VCPUS,
        "seconds_to_init": round(seconds - start, 2),
        "instructions": instructions,
        "host_cpu_seconds": round(cpu, 2),
        # A VCPU that runs uses one host core: what it does in a second of that core.
        "instructions_per_second_per_vcpu": round(instructions / cpu),
    }))


if __name__ == "__main__":
    main()
