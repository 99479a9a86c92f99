# Shared by the scripts of tests/ and bench/, which source it. Sets NV_ROOT (the repository) and
# NV_CACHE (what is downloaded or made once), and changes to NV_ROOT.

NV_ROOT=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
NV_CACHE=${NV_CACHE:-$NV_ROOT/build/cache}
NV_JOBS=${NV_JOBS:-$(nproc)}
cd "$NV_ROOT" || exit 3

nv_say()
{
	printf '== %s\n' "$*" >&2
}

nv_die()
{
	printf '%s: %s\n' "$(basename "$0")" "$*" >&2
	exit 3
}

# As root, by sudo where we are not.
nv_root()
{
	if [ "$(id -u)" = 0 ]; then
		"$@"
	elif command -v sudo >/dev/null; then
		sudo "$@"
	else
		nv_die "this needs root or sudo: $*"
	fi
}

nv_installed()
{
	[ "$(dpkg-query -W -f '${db:Status-Status}' "$1" 2>/dev/null)" = installed ]
}

# The package lists are older than a day, or there are none.
nv_lists_stale()
{
	[ -z "$(find /var/lib/apt/lists -maxdepth 1 -name '*Packages*' -mtime -1 2>/dev/null)" ]
}

nv_apt_update()
{
	nv_lists_stale || return 0
	nv_say "reading package lists"
	nv_root apt-get update -qq || nv_die "apt-get update failed"
}

# Installs what a list file (one package a line, # comments) names and is missing.
nv_packages()
{
	local p missing=()

	for p in $(sed 's/#.*//' "$1"); do
		nv_installed "$p" || missing+=("$p")
	done
	[ ${#missing[@]} = 0 ] && return 0
	nv_apt_update
	nv_say "installing ${missing[*]}"
	nv_root env DEBIAN_FRONTEND=noninteractive apt-get install -qq -y \
		--no-install-recommends "${missing[@]}" >/dev/null ||
		nv_die "cannot install packages"
}

# nv_build PRESET [TARGET...]
nv_build()
{
	local preset=$1 quiet=--quiet

	shift
	[ ! -t 2 ] || quiet= # a terminal gets ninja's own progress, on one line
	nv_say "building $preset"
	cmake --preset "$preset" >/dev/null &&
		ninja $quiet -C "build/$preset" -j "$NV_JOBS" "$@" >&2
}

# Debian's cloud kernel, unpacked but not installed. Sets NV_KERNEL and NV_MODULES.
nv_kernel()
{
	local dir=$NV_CACHE/kernel tmp

	if [ ! -e "$dir/ok" ]; then
		nv_say "fetching Debian's cloud kernel"
		nv_apt_update
		tmp=$(mktemp -d)
		(cd "$tmp" && apt-get download -qq -o APT::Sandbox::User=root \
			"$(nv_kernel_package)") >&2 || nv_die "cannot fetch the kernel package"
		rm -rf "$dir" && mkdir -p "$dir"
		dpkg -x "$tmp"/*.deb "$dir" && touch "$dir/ok"
		rm -rf "$tmp"
		[ -e "$dir/ok" ] || nv_die "cannot unpack the kernel package"
	fi
	NV_KERNEL=$(echo "$dir"/boot/vmlinuz-*)
	NV_MODULES=$(echo "$dir"/lib/modules/*)
}

nv_kernel_package()
{
	apt-cache depends linux-image-cloud-amd64 | awk '$1 == "Depends:" { print $2; exit }'
}
