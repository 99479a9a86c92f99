# Shared by the scripts of bench/, which source it: the guest's disk and its initial RAM disk.

. "$(dirname "${BASH_SOURCE[0]}")/../tests/lib.sh"

# Where this machine gets its own Debian 12 packages from, unless the caller says otherwise.
NV_MIRROR=${NV_MIRROR:-$(apt-get indextargets --format '$(REPO_URI) $(CODENAME) $(COMPONENT)' \
	'Created-By: Packages' | awk '$2 == "bookworm" && $3 == "main" { print $1; exit }')}
NV_GUEST_MODULES="virtio_pci virtio_blk virtio_net virtio_rng button evdev"
# Part of the cached disk's name: raise it when what nv_make_tree does changes.
NV_DISK_VERSION=1

# Packages and a release build.
nv_setup()
{
	nv_packages tests/packages.txt
	nv_packages bench/packages.txt
	nv_build release numavisor || nv_die "the build failed"
	nv_kernel
}

# Shows that something long goes on: one line that changes on a terminal, some lines elsewhere.
nv_progress()
{
	local line n=0

	while IFS= read -r line; do
		if [ -t 2 ]; then
			printf '\r\033[K   %.72s' "$line"
		elif [ $((n++ % 40)) = 0 ]; then
			printf '   %s\n' "$line"
		fi
	done >&2
	[ ! -t 2 ] || printf '\r\033[K' >&2
}

# Debian with PostgreSQL 15 and an initialised cluster, in the directory $1. Runs as root.
nv_make_tree()
{
	local root=$1 data=/var/lib/postgresql/data

	debootstrap --variant=minbase --include=iproute2,procps bookworm "$root" "$NV_MIRROR" || return
	# No service starts in there, and the cluster is made below.
	printf '#!/bin/sh\nexit 101\n' >"$root/usr/sbin/policy-rc.d"
	chmod 755 "$root/usr/sbin/policy-rc.d"
	mkdir -p "$root/etc/postgresql-common"
	echo "create_main_cluster = false" >"$root/etc/postgresql-common/createcluster.conf"
	chroot "$root" env DEBIAN_FRONTEND=noninteractive apt-get install -y \
		--no-install-recommends postgresql-15 || return
	chroot "$root" runuser -u postgres -- /usr/lib/postgresql/15/bin/initdb -D "$data" \
		--auth=trust --locale=C.UTF-8 || return
	chroot "$root" apt-get clean
	rm -f "$root"/var/lib/apt/lists/*_*
	echo numavisor >"$root/etc/hostname"
	echo "127.0.0.1 localhost numavisor" >"$root/etc/hosts"
	echo "nameserver 10.0.2.3" >"$root/etc/resolv.conf"
}

# The guest's disk, made once. Sets NV_DISK; use a copy of it.
nv_disk()
{
	local tree log status

	NV_DISK=$NV_CACHE/guest-$NV_DISK_VERSION.img
	[ -e "$NV_DISK" ] && return 0
	nv_say "making the guest's disk from Debian packages (once; several minutes)"
	mkdir -p "$NV_CACHE"
	tree=$(mktemp -d "$NV_CACHE/tree.XXXXXX")
	log=$NV_CACHE/guest.log
	export NV_MIRROR
	export -f nv_make_tree
	nv_root env NV_MIRROR="$NV_MIRROR" bash -c 'nv_make_tree "$1"' bash "$tree/root" 2>&1 |
		tee "$log" | nv_progress
	status=${PIPESTATUS[0]}
	if [ "$status" = 0 ]; then
		nv_root mke2fs -q -F -t ext4 -L root -d "$tree/root" "$NV_DISK.new" 2G >>"$log" 2>&1
		status=$?
	fi
	nv_root rm -rf "$tree"
	if [ "$status" != 0 ]; then
		tail -5 "$log" >&2
		nv_die "cannot make the guest's disk; see $log"
	fi
	nv_root chown "$(id -u):$(id -g)" "$NV_DISK.new"
	mv "$NV_DISK.new" "$NV_DISK"
}

# nv_guest SCRIPT DIR: in DIR, a disk of its own and an initial RAM disk that runs
# bench/guest/SCRIPT on it.
nv_guest()
{
	mkdir -p "$2"
	nv_disk
	cp --sparse=always "$NV_DISK" "$2/disk.img" &&
		tests/mkinitrd.sh -f bench/guest/common -f "bench/guest/$1" "$2/initrd" \
			bench/guest/init "$NV_MODULES" $NV_GUEST_MODULES || nv_die "cannot make the guest"
}
