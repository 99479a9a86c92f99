#include "src/cli/check.h"

#include <fcntl.h>
#include <sys/stat.h>
#include <unistd.h>

#include "src/cli/values.h"

/* O_NONBLOCK: opening a named pipe by mistake must not hang. */
static int check_readable(struct options *o, const char *what, const char *path)
{
	int fd = open(path, O_RDONLY | O_CLOEXEC | O_NONBLOCK);
	struct stat st;
	int r = 0;

	if (fd < 0)
		return options_fail(o, "%s '%s': %s", what, path, strerror(errno));
	if (!fstat(fd, &st) && S_ISDIR(st.st_mode))
		r = options_fail(o, "%s '%s': is a directory", what, path);
	close(fd);
	return r;
}

static int check_disk(struct options *o, const struct vm_disk *d)
{
	int r = check_readable(o, "disk", d->path);

	if (!r && !d->readonly && access(d->path, W_OK))
		return options_fail(o, "disk '%s': %s; add ,readonly to use it without writing",
				    d->path, strerror(errno));
	return r;
}

static bool same_file(const char *a, const char *b)
{
	struct stat sa, sb;

	if (stat(a, &sa) || stat(b, &sb))
		return false;
	if (S_ISBLK(sa.st_mode) && S_ISBLK(sb.st_mode))
		return sa.st_rdev == sb.st_rdev;
	return sa.st_dev == sb.st_dev && sa.st_ino == sb.st_ino;
}

static int check_disk_pairs(struct options *o)
{
	const struct vm_disk *d = o->vm.disk;

	for (unsigned i = 0; i < o->vm.ndisks; i++) {
		for (unsigned j = 0; j < i; j++) {
			if (d[i].readonly && d[j].readonly)
				continue;
			if (same_file(d[i].path, d[j].path))
				return options_fail(o,
						    "disks '%s' and '%s' are one file; a disk "
						    "for writing can be given only once",
						    d[j].path, d[i].path);
		}
	}
	return 0;
}

static int check_output(struct options *o, const char *flag, const char *path)
{
	const char *clash = NULL;

	if (!path)
		return 0;
	if (same_file(path, o->vm.kernel))
		clash = "kernel";
	if (o->vm.initrd && same_file(path, o->vm.initrd))
		clash = "initial RAM disk";
	for (unsigned i = 0; i < o->vm.ndisks; i++) {
		if (same_file(path, o->vm.disk[i].path))
			clash = "disk";
	}
	if (clash)
		return options_fail(o, "%s '%s' would overwrite the guest's %s", flag, path, clash);
	return 0;
}

int check_files(struct options *o)
{
	int r = check_readable(o, "kernel", o->vm.kernel);

	if (!r && o->vm.initrd)
		r = check_readable(o, "initial RAM disk", o->vm.initrd);
	for (unsigned i = 0; i < o->vm.ndisks && !r; i++)
		r = check_disk(o, &o->vm.disk[i]);
	if (!r)
		r = check_disk_pairs(o);
	if (!r)
		r = check_output(o, "--stats", o->stats);
	if (!r)
		r = check_output(o, "--serial", o->vm.serial_path);
	return r;
}
