#!/bin/bash
# What gdb sees of compiled code, with --gdb-jit: gdb.sh NUMAVISOR SPIN_ELF SPIN_ELF64.
# Stops in the entry stub, in C code that compiled code calls, and in a unit by its name; every
# backtrace has to lead to the function of the VCPU's thread. Then the same for who attaches.
set -u
monitor=$1 guest=$2 symbols=$3
out=$(mktemp -d) || exit 3
pid=
trap 'rm -rf "$out"; [ -z "$pid" ] || kill -KILL "$pid"' EXIT
failed=0
run=(run --kernel "$guest" --cpus 2 --memory 64M --serial "file:$out/serial" --engine bt --gdb-jit)

fail()
{
	echo "FAIL: $1"
	failed=1
}

leaf=guest-$(nm "$symbols" | sed -n 's/^0*\([0-9a-f]*\) T leaf$/\1/p')
ticks=$(kill -l RTMIN) # the monitor's own

# debug LOG GDB_ARGUMENT...: with commands on standard input.
debug()
{
	local log=$out/$1

	shift
	cat >"$out/commands" - <(echo 'echo -- end\n')
	timeout -k 5 50 gdb -nx -batch -ex 'set pagination off' -ex 'set confirm off' \
		-ex 'set width 0' -ex 'set debuginfod enabled off' \
		-ex 'set breakpoint pending on' -ex "handle SIG$ticks nostop noprint pass" \
		-x "$out/commands" "$@" >"$log" 2>&1 </dev/null
	grep -q '^-- end$' "$log" || fail "gdb did not get to the end"
	grep -E "Backtrace stopped|previous frame|Cannot |Unable to|No symbol|Error" "$log" &&
		fail "gdb complains"
	# Whatever has a frame in compiled code.
	awk '/^#0 / { lost += inside; inside = 0 }
		/^#[0-9]+ .* in (guest|stub)-/ { inside = 1 }
		/^#[0-9]+ .* run_vcpu_thread / { inside = 0 }
		END { exit lost + inside }' "$log" || fail "a backtrace stops too early"
	# A unit does not call another one: that is a jump, to the processor.
	[ "$(grep -cE '^#0 .* in guest-' "$log")" = "$(grep -A1 -E '^#0 .* in guest-' "$log" |
		grep -cE '^#1 .* bt_run ')" ] || fail "a unit's caller is not bt_run()"
}

# count PART PATTERN: lines of the first log from where it says so to the next part.
count()
{
	sed -n "/^-- $1\$/,/^-- /p" "$out/started" | grep -cE "$2"
}

debug started --args "$monitor" "${run[@]}" <<EOF
break machine_create
run
echo -- entry\n
tbreak *'stub-enter'
continue
python
import gdb
def saved(frame):
    return [int(frame.read_register(r)) for r in ("rbx", "rbp", "r12", "r13", "r14", "r15")]
caller = saved(gdb.newest_frame())
for n in range(60):
    gdb.execute("bt")
    if saved(gdb.newest_frame().older()) != caller:
        print("Error: other registers")
    if "stub-enter" not in gdb.execute("info symbol \$pc", to_string=True):
        break
    gdb.execute("stepi")
end
echo -- step\n
tbreak bt_step
continue
bt
echo -- unit\n
break '$leaf'
continue
bt
info symbol \$pc
continue
thread apply all bt
echo -- out of it\n
delete
finish
kill
EOF

[ "$(count entry '^#0 .* in stub-enter')" -gt 20 ] || fail "no steps through the entry stub"
[ "$(count entry '^#1 .* bt_run ')" = "$(count entry '^#0 ')" ] || fail "steps lose their caller"
[ "$(count step '^#0 +bt_step ')" = 1 ] && [ "$(count step '^#1 .* in stub-step \(\)')" = 1 ] &&
	[ "$(count step '^#2 .* bt_run ')" = 1 ] || fail "no way from C code by a stub to bt_run()"
[ "$(count unit "^#0 .* in $leaf \\(\\)")" -ge 2 ] || fail "no stop in $leaf"
[ "$(count unit "^$leaf in section .text of <in-memory@")" = 1 ] || fail "$leaf begins elsewhere"
[ "$(count 'out of it' '^(Run till exit.*)?bt_run | in bt_run ')" = 1 ] ||
	fail "a unit does not return to bt_run()"

"$monitor" "${run[@]}" &
pid=$!
debug attached -p "$pid" <<EOF
break '$leaf'
continue
bt
EOF
# Now it has been compiled.
debug again -p "$pid" <<EOF
thread apply all bt
info address $leaf
EOF
grep -q "^Symbol \"$leaf\" is at 0x" "$out/again" || fail "who attaches does not know $leaf"

[ $failed = 0 ] || tail -n +1 "$out"/{started,attached,again}
exit $failed
