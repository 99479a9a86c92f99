#!/bin/bash
# Makes an initial RAM disk: mkinitrd.sh [-f FILE]... OUT INIT MODULES_DIR MODULE...
# It holds a static busybox, INIT as /init, each FILE in /, and the modules with what they depend
# on, which /modules lists in the order in which they can be inserted.
set -euo pipefail

files=()
while [ "$1" = -f ]; do
	files+=("$2")
	shift 2
done

out=$(realpath -m "$1")
init=$2
modules_dir=$3
shift 3
busybox=${NV_BUSYBOX:-/bin/busybox}
tree=$(mktemp -d)
trap 'rm -rf "$tree"' EXIT

mkdir -p "$tree"/{bin,dev,etc,lib,mnt,proc,root,sys,tmp}
cp "$busybox" "$tree/bin/busybox"
cp "$init" "$tree/init"
[ ${#files[@]} = 0 ] || install -m 755 "${files[@]}" "$tree/"
chmod 755 "$tree/init"
: >"$tree/modules"

# add_module NAME: after what it depends on, once. Files write - or _ as they like.
add_module()
{
	local pattern=${1//[-_]/[-_]} file dep

	file=$(find "$modules_dir/kernel" -name "$pattern.ko" -print -quit)
	if [ -z "$file" ]; then
		grep -q "/$pattern\.ko\$" "$modules_dir/modules.builtin" && return
		echo "mkinitrd.sh: no module $1 in $modules_dir" >&2
		exit 1
	fi
	[ -e "$tree/lib/${file##*/}" ] && return
	for dep in $(tr '\0' '\n' <"$file" | sed -n 's/^depends=//p' | tr , ' '); do
		add_module "$dep"
	done
	cp "$file" "$tree/lib/"
	echo "/lib/${file##*/}" >>"$tree/modules"
}

for m in "$@"; do
	add_module "$m"
done
(cd "$tree" && find . | busybox cpio -o -H newc 2>/dev/null) >"$out"
