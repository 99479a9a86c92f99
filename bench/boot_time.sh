#!/bin/bash
# How long Debian's cloud kernel takes to its init with 2 VCPUs, and how fast the engine is
# meanwhile. One JSON line; boot_time.sh [RUNS] gives one for each run.
set -uo pipefail
. "$(dirname "$0")/lib.sh"

dir=$NV_ROOT/build/boot_time
nv_packages tests/packages.txt
nv_build release numavisor || nv_die "the build failed"
nv_kernel
mkdir -p "$dir"
tests/mkinitrd.sh "$dir/initrd" bench/guest/poweroff "$NV_MODULES" || nv_die "no initial RAM disk"
for ((i = 0; i < ${1:-1}; i++)); do
	python3 bench/boot_time.py build/release/numavisor "$NV_KERNEL" "$dir/initrd" "$dir" ||
		exit 1
done
