#!/bin/sh
# Runs one guest: run.sh NUMAVISOR GUEST CPUS STATUS [ENGINE]. Prints what the guest wrote to its serial port.
# With NUMAVISOR given as a QEMU system emulator the same guest runs there, as an outside witness.
set -u
monitor=$1 guest=$2 cpus=$3 expected=$4 engine=${5:-interp}
out=$(mktemp) || exit 3
trap 'rm -f "$out"' EXIT
case $monitor in
*qemu-system*)
	"$monitor" -accel tcg -cpu max -m 64 -smp "$cpus" -kernel "$guest" -display none -net none \
		-no-reboot -serial "file:$out" -device isa-debug-exit,iobase=0xf4,iosize=4
	;;
*)
	"$monitor" run --kernel "$guest" --cpus "$cpus" --memory 64M --serial "file:$out" \
		--engine "$engine"
	;;
esac
status=$?
cat "$out"
if [ "$status" -ne "$expected" ]; then
	echo "status $status, expected $expected"
	exit 1
fi
