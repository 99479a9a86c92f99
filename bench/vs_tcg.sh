#!/bin/bash
# Guest time against native time and against QEMU's TCG: the same programs natively, in a guest of
# the binary translator, and in a guest of qemu-system-x86_64 -accel tcg, with the same kernel and
# initial RAM disk. Prints a table and a verdict for each requirement; figures and a chart are left
# in build/vs_tcg. Exit status 0 if everything was measured. For flags: vs_tcg.sh --help.
set -uo pipefail
. "$(dirname "$0")/lib.sh"

dir=$NV_ROOT/build/vs_tcg
bin=$dir/bin
cflags="-std=gnu17 -O2 -fno-tree-vectorize -fwrapv -D_GNU_SOURCE"
cflags+=" -Wall -Wextra -Werror -Wno-unused-parameter"

# The workloads, linked statically, and the small program that one of them executes.
build_workloads()
{
	local source object objects=() flags

	mkdir -p "$bin" "$dir/objects"
	for source in bench/vs_tcg/*.c; do
		flags=
		case ${source##*/} in
		tiny.c) continue ;;
		avx2.c) flags="-O3 -mavx2 -mfma" ;; # unrolls, or sums would live in memory
		esac
		object=$dir/objects/$(basename "$source" .c).o
		objects+=("$object")
		[ "$object" -nt "$source" ] && [ "$object" -nt bench/vs_tcg/work.h ] &&
			[ "$object" -nt bench/vs_tcg.sh ] && continue
		# shellcheck disable=SC2086
		gcc $cflags $flags -c -o "$object" "$source" || return
	done
	# SQLite loads extensions, which a static program cannot: the linker would warn.
	gcc -static -no-pie -Wl,--no-warnings -o "$bin/work" "${objects[@]}" -lsqlite3 -lm -pthread &&
		gcc -O2 -static -nostdlib -no-pie -o "$bin/tiny" bench/vs_tcg/tiny.c
}

# The workloads, Redis and its libraries as a second archive behind the first.
make_initrd()
{
	local tree=$dir/tree program lib

	rm -rf "$tree"
	mkdir -p "$tree/usr/bin"
	cp "$bin/work" "$bin/tiny" "$tree/usr/bin/"
	for program in redis-server redis-benchmark; do
		program=$(command -v "$program") && cp -L "$program" "$tree/usr/bin/" || return
		for lib in $(ldd "$program" | grep -o '/[^ ]*'); do
			mkdir -p "$tree$(dirname "$lib")"
			cp -L "$lib" "$tree$lib"
		done
	done
	tests/mkinitrd.sh "$dir/base" bench/guest/vs_tcg "$NV_MODULES" || return
	(cd "$tree" && find . | LC_ALL=C sort | busybox cpio -o -H newc 2>/dev/null) >"$dir/extra"
	cat "$dir/base" "$dir/extra" >"$dir/initrd"
	tests/mkinitrd.sh "$dir/initrd-boot" bench/guest/poweroff "$NV_MODULES"
}

case " $* " in
*" --help "* | *" -h "*) exec python3 bench/vs_tcg/compare.py --help ;;
esac
nv_packages tests/packages.txt
nv_packages bench/vs_tcg_packages.txt
nv_build release numavisor || nv_die "the build failed"
nv_kernel
build_workloads || nv_die "cannot build the workloads"
make_initrd || nv_die "no initial RAM disk"
postgres=()
case " $* " in
*" --postgres "*)
	nv_packages bench/packages.txt
	nv_guest demo "$dir/postgres"
	postgres=(--postgres-guest "$dir/postgres")
	;;
esac
exec python3 bench/vs_tcg/compare.py --numavisor build/release/numavisor --kernel "$NV_KERNEL" \
	--dir "$dir" ${postgres[@]+"${postgres[@]}"} "$@"
