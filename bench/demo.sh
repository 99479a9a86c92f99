#!/bin/bash
# The main job from one command: on a fresh Debian 12 machine, installs what it needs, builds,
# makes a guest disk with PostgreSQL, runs pgbench in a guest of 2 sockets x 2 CPUs with 2 NUMA
# nodes, and shows what came out. Exit status 0 only if the transactions really happened.
set -uo pipefail
. "$(dirname "$0")/lib.sh"

scale=${NV_SCALE:-5}
seconds=${NV_SECONDS:-20}
limit=${NV_TIMEOUT:-1800}
dir=$NV_ROOT/build/demo
log=$dir/serial.log
stats=$dir/stats.json

# What of the serial console is worth showing, with the time since the start. Not by awk or sed,
# which may read ahead.
show()
{
	local line

	SECONDS=0
	while IFS= read -r line; do
		line=${line%$'\r'}
		case $line in
		*"Linux version"*) line="the kernel runs" ;;
		*"Run /init"*) line="the kernel is up" ;;
		"DEMO running start") line="starting PostgreSQL" ;;
		"DEMO version "*) line="PostgreSQL ${line#DEMO version } runs" ;;
		"DEMO running initialise") line="pgbench: making its tables" ;;
		"DEMO running read-only") line="pgbench: read-only, 4 clients" ;;
		"DEMO running tpc-b") line="pgbench: TPC-B-like, 4 clients" ;;
		"progress: "*) line="  ${line#progress: }" ;;
		"done in "* | "DEMO failed"* | numavisor:* | *"Kernel panic"*) ;;
		*"reboot: Power down"*) line="the guest powers off" ;;
		*) continue ;;
		esac
		printf '   %4d s  %s\n' "$SECONDS" "$line"
	done
}

run_guest()
{
	timeout --foreground "$limit" build/release/numavisor run --engine "${NV_ENGINE:-auto}" \
		--kernel "$NV_KERNEL" --initrd "$dir/initrd" \
		--append "console=ttyS0 panic=-1 nv.run=demo nv.scale=$scale nv.seconds=$seconds" \
		--cpus sockets=2,cores=2 --memory 2G --disk "path=$dir/disk.img" --rng \
		--stats "$stats" </dev/null 2>&1 | tee "$log" | show
	return "${PIPESTATUS[0]}"
}

# value KEY: what the guest said, or nothing.
value()
{
	sed -n "s/\r//; s/^DEMO $1 //p" "$log" | tail -1
}

problems=0

check()
{
	local what=$1

	shift
	"$@" && return
	printf 'demo.sh: %s\n' "$what" >&2
	problems=$((problems + 1))
}

nv_setup
nv_guest demo "$dir"
rm -f "$stats"
nv_say "booting 2 sockets x 2 CPUs, 2 GiB (log: $log)"
run_guest
status=$?

check "numavisor ended with status $status" [ "$status" = 0 ]
check "the guest did not finish" grep -q '^DEMO done' "$log"
check "the guest has $(value cpus) CPUs" [ "$(value cpus)" = 4 ]
check "the guest has $(value nodes) NUMA nodes" [ "$(value nodes)" = 2 ]
check "no read-only transaction" [ "$(value read-only-transactions || echo 0)" -gt 0 ]
check "no TPC-B-like transaction" [ "$(value tpc-b-transactions || echo 0)" -gt 0 ]
check "$(value history) rows of history for $(value tpc-b-transactions) transactions" \
	[ "$(value history)" = "$(value tpc-b-transactions)" ]
check "the balances do not agree with the history" [ "$(value balances)" = t ]
check "transactions failed" [ "$(value read-only-failures)$(value tpc-b-failures)" = 00 ]
check "the guest's kernel complained" [ "$(value warnings)" = 0 ]
[ "$problems" = 0 ] || exit 1

printf '\nPostgreSQL %s in a guest of %s CPUs and %s NUMA nodes, pgbench scale %s, %s s each:\n' \
	"$(value version)" "$(value cpus)" "$(value nodes)" "$scale" "$seconds"
printf '   %-12s %8.1f transactions a second (%s in all)\n' \
	read-only "$(value read-only-tps)" "$(value read-only-transactions)" \
	TPC-B-like "$(value tpc-b-tps)" "$(value tpc-b-transactions)"
printf '   every TPC-B-like transaction is in the history, and the balances agree\n\n'
python3 bench/show_stats.py "$stats" || exit 1
