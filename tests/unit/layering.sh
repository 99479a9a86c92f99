#!/bin/bash
# Every #include of the tree obeys the direction between folders. The libraries, their folders and
# whom they link are read from CMakeLists.txt: a file may include headers of its own folder and of
# the folders its library links, directly or not.
set -euo pipefail
cd "$(dirname "$0")/../.."

declare -A links dir_of
while read -r name dir rest; do
	dir_of[$name]=$dir
	links[$name]=${rest#LINK}
done < <(sed -n 's/^nv_library(\(nv_[a-z0-9]*\) \(.*\))$/\1 \2/p' CMakeLists.txt)
[ ${#dir_of[@]} -ge 10 ] || { echo "layering: cannot read CMakeLists.txt"; exit 1; }

# library PATH: the one whose folder holds the file, or nothing.
library()
{
	local name

	for name in "${!dir_of[@]}"; do
		case $1 in
		"${dir_of[$name]}"/*) echo "$name"; return ;;
		esac
	done
}

# allowed LIBRARY: itself and all that it links, one a line.
allowed()
{
	local l

	echo "$1"
	for l in ${links[$1]}; do
		[ -z "${dir_of[$l]:-}" ] || allowed "$l"
	done
}

bad=0 seen=0

report()
{
	echo "layering: $*"
	bad=$((bad + 1))
}

for name in "${!dir_of[@]}"; do
	may=" $(allowed "$name" | sort -u | tr '\n' ' ')"
	while IFS=: read -r file line; do
		header=${line#*\"}
		header=${header%%\"*}
		seen=$((seen + 1))
		[ -e "$header" ] || { report "$file: '$header' is not from the root"; continue; }
		owner=$(library "$header")
		[[ $may == *" ${owner:-none} "* ]] ||
			report "$file includes $header, which ${dir_of[$name]} is not built on"
	done < <(grep -rHE '^[[:space:]]*#[[:space:]]*include[[:space:]]*"' --include='*.[chS]' \
		--include='*.def' "${dir_of[$name]}")
done

# The one door to liburcu, so that the flavour is chosen in one place.
while read -r file; do
	[ "$file" = src/base/rcu.h ] || report "$file includes liburcu itself"
done < <(grep -rlE '#include <(urcu|lf|wf).*>' --include='*.[ch]' src mmu numa sched smp)

[ "$seen" -gt 100 ] || report "only $seen includes found"
[ "$bad" = 0 ]
