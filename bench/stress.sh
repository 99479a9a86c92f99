#!/bin/bash
# Debian's stress-ng with verification in a guest of 4 VCPUs: stress.sh [ENGINE [SECONDS]]. Exit
# status 0 only if it found no error, the guest's kernel had nothing to complain of, and the guest
# powered off.
set -uo pipefail
. "$(dirname "$0")/lib.sh"

engine=${1:-auto}
seconds=${2:-60}
dir=$NV_ROOT/build/stress
nv_packages tests/packages.txt
nv_packages bench/stress_packages.txt
nv_build release numavisor || nv_die "the build failed"
nv_kernel
rm -rf "$dir"
mkdir -p "$dir/tree/usr/bin"
tests/mkinitrd.sh "$dir/base" bench/guest/stress "$NV_MODULES" || nv_die "no initial RAM disk"

# stress-ng and the libraries it is linked with, as a second archive behind the first.
cp "$(command -v stress-ng)" "$dir/tree/usr/bin/"
for lib in $(ldd "$(command -v stress-ng)" | grep -o '/[^ ]*'); do
	mkdir -p "$dir/tree$(dirname "$lib")"
	cp -L "$lib" "$dir/tree$lib"
done
(cd "$dir/tree" && find . | busybox cpio -o -H newc 2>/dev/null) >"$dir/extra"
cat "$dir/base" "$dir/extra" >"$dir/initrd"

nv_say "stress-ng for $seconds s in a guest of 4 VCPUs, engine $engine"
timeout -s KILL $((seconds * 3 + 120)) build/release/numavisor run --kernel "$NV_KERNEL" \
	--initrd "$dir/initrd" --append "console=ttyS0 quiet panic=-1 nv.seconds=$seconds" \
	--cpus 4 --memory 1G --engine "$engine" --stats "$dir/stats.json" </dev/null 2>&1 |
	tr -d '\r' | tee "$dir/log"
status=${PIPESTATUS[0]}
complaints=$(sed -n '/NV-STRESS status/,/NV-STRESS done/p' "$dir/log" | grep -vc NV-STRESS)
if [ "$status" = 0 ] && [ "$complaints" = 0 ] && grep -q 'NV-STRESS status 0' "$dir/log"; then
	echo "stress: no error, no warning"
else
	echo "stress: FAILED (monitor's status $status, $complaints lines of the guest's kernel)"
	exit 1
fi
