#!/bin/bash
# Boots Debian's kernel on a built numavisor: run.sh [PRESET [NAME...]]. Names are those of the
# checks in boot.py; without one, all run, and those of bad_inputs.py.
set -uo pipefail
. "$(dirname "$0")/../lib.sh"

preset=${1:-release}
shift
numavisor=$NV_ROOT/build/$preset/numavisor
out=$NV_ROOT/build/$preset/boot
modules="virtio_pci virtio_blk virtio_net virtio_rng button evdev pvpanic_mmio"

nv_kernel
mkdir -p "$out"
# shellcheck disable=SC2086
tests/mkinitrd.sh "$out/initrd" tests/boot/init "$NV_MODULES" $modules || exit 3
status=0
python3 tests/boot/boot.py "$numavisor" "$NV_KERNEL" "$out/initrd" \
	"$out/logs-${NV_ENGINE:-interp}" "$@" || status=1
if [ $# = 0 ]; then
	python3 tests/boot/bad_inputs.py "$numavisor" "$NV_KERNEL" || status=1
fi
exit $status
