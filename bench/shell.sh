#!/bin/bash
# An interactive guest with networking and PostgreSQL: a root shell on its serial console. Does its
# own set-up. Flags are handed on to numavisor, e.g. bench/shell.sh --stats stats.json. The disk
# keeps its contents until the next start, which makes it anew.
set -uo pipefail
. "$(dirname "$0")/lib.sh"

dir=$NV_ROOT/build/shell
size=$(stty size 2>/dev/null | tr ' ' x)
case $size in "" | 0x* | *x0) size=24x80 ;; esac

nv_setup
nv_guest shell "$dir"
nv_say "booting; Ctrl-A X leaves, Ctrl-A H helps"
exec build/release/numavisor run --kernel "$NV_KERNEL" --initrd "$dir/initrd" \
	--append "console=ttyS0 quiet nv.run=shell nv.size=$size" --cpus "${NV_CPUS:-sockets=2,cores=2}" \
	--memory "${NV_MEMORY:-2G}" --disk "path=$dir/disk.img" --net user --rng "$@"
