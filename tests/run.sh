#!/bin/bash
# Builds everything and passes all tests on a Debian 12 machine, packages included: as root, or as
# somebody who may use sudo. Logs are in build/logs. Ends with one line "N passed, N failed"; the
# exit status is 0 only if none failed.
#
#   tests/run.sh             all
#   tests/run.sh STEP...     only some: style, release, asan, tsan, boot
set -uo pipefail
. "$(dirname "$0")/lib.sh"

logs=$NV_ROOT/build/logs
passed=0
failed=0

sources()
{
	git ls-files '*.c' '*.h'
}

# result NAME STATUS LOG: counts one test and shows the log of a failure.
result()
{
	if [ "$2" = 0 ]; then
		passed=$((passed + 1))
		printf 'ok   %s\n' "$1"
	else
		failed=$((failed + 1))
		printf 'FAIL %s\n' "$1"
		[ -z "${3:-}" ] || tail -40 "$3"
	fi
}

# one NAME COMMAND...: a test of its own.
one()
{
	local name=$1 log=$logs/$1.log start=$SECONDS

	shift
	"$@" >"$log" 2>&1
	result "$name ($((SECONDS - start)) s)" $? "$log"
}

check_format()
{
	sources | xargs clang-format-14 --dry-run -Werror
}

check_tidy()
{
	cmake --preset release >/dev/null || return
	sources | grep -E '^(src|mmu|numa|smp|sched)/.*\.c$' |
		xargs -P "$NV_JOBS" -n 4 clang-tidy-14 -quiet -warnings-as-errors='*' \
			-p build/release
}

check_scripts()
{
	local f

	for f in $(git ls-files | xargs grep -lE '^#!/bin/bash') .ci/run; do
		bash -n "$f" || return
	done
	python3 - $(git ls-files '*.py') <<-'EOF'
		import sys
		for path in sys.argv[1:]:
		    compile(open(path).read(), path, "exec")
	EOF
}

# run_ctest PRESET [OPTION...]: counts every test that ctest ran.
run_ctest()
{
	local preset=$1 log=$logs/ctest-$1.log bad all

	shift
	nv_say "testing $preset"
	ctest --test-dir "build/$preset" -j "$NV_JOBS" --output-on-failure "$@" 2>&1 | tee "$log" |
		grep --line-buffered -vE '^(Internal ctest|Test project| +Start |$)'
	read -r bad all < <(sed -n \
		's/.*tests passed, \([0-9]*\) tests\{0,1\} failed out of \([0-9]*\).*/\1 \2/p' "$log")
	if [ -z "${all:-}" ]; then
		result "ctest $preset" 1
		return
	fi
	failed=$((failed + bad))
	passed=$((passed + all - bad))
}

# count_lines COMMAND...: a program of ours whose lines "N passed, N failed" count.
count_lines()
{
	local log=$logs/$1.log ok bad any=0 status

	shift
	"$@" 2>&1 | tee "$log" | grep --line-buffered -vE '^[0-9]+ passed, [0-9]+ failed$'
	status=${PIPESTATUS[0]}
	while read -r ok bad; do
		passed=$((passed + ok))
		failed=$((failed + bad))
		any=$((any + bad))
	done < <(sed -nE 's/^([0-9]+) passed, ([0-9]+) failed$/\1 \2/p' "$log")
	# It ended badly without saying what failed.
	[ "$status" = 0 ] || [ "$any" != 0 ] || result "$*" 1
}

step_style()
{
	nv_say "style"
	one format check_format
	one scripts check_scripts
	one tidy check_tidy
}

step_release()
{
	one build-release nv_build release
	run_ctest release
}

step_asan()
{
	one build-asan nv_build asan
	run_ctest asan
}

# Without the litmus guests: they race on their memory a million times, which is no finding, and
# the sanitizer takes minutes to see that.
step_tsan()
{
	one build-tsan nv_build tsan
	TSAN_OPTIONS="halt_on_error=1 suppressions=$NV_ROOT/tests/tsan.supp" run_ctest tsan -E litmus
}

step_boot()
{
	local translated="boot_1 boot_2 boot_4 boot_8 boot_64 clock reboot triple_fault"

	nv_say "booting Debian's kernel"
	one build-release nv_build release numavisor
	count_lines boot tests/boot/run.sh release
	nv_say "booting it on the translator"
	NV_ENGINE=bt count_lines boot-bt tests/boot/run.sh release $translated
	nv_say "the same with a code cache that is too small by far"
	NV_ENGINE=bt:4,2 count_lines boot-small tests/boot/run.sh release boot_4
	nv_say "booting it under the address sanitizer"
	one build-asan nv_build asan numavisor
	count_lines boot-asan tests/boot/run.sh asan boot_2 triple_fault terminal
}

steps=("$@")
[ $# != 0 ] || steps=(style release asan tsan boot)
for step in "${steps[@]}"; do
	declare -F "step_$step" >/dev/null || nv_die "there is no step '$step'"
done
nv_packages tests/packages.txt
mkdir -p "$logs"
for step in "${steps[@]}"; do
	"step_$step"
done
printf 'all of it took %d s\n' "$SECONDS"
printf '%d passed, %d failed\n' "$passed" "$failed"
[ "$failed" = 0 ] && [ "$passed" != 0 ]
