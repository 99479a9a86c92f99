#include "src/dev/blk_disk.h"

#include <fcntl.h>
#include <linux/fs.h>
#include <sys/file.h>
#include <sys/ioctl.h>
#include <sys/stat.h>
#include <unistd.h>

#include "src/base/log.h"

static int fail(const char *path, const char *what, int err)
{
	log_err("disk '%s': %s", path, what ? what : strerror(err));
	return -err;
}

/* Punching beyond the end of a file changes nothing but tells whether the file system can. */
static bool probe_punch(const struct blk_disk *d, bool is_file)
{
	int mode = FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE;
	uint64_t end = ALIGN_UP(d->size + 1, PAGE_SIZE);

	if (d->readonly)
		return false;
	return !is_file || !fallocate(d->fd, mode, end, PAGE_SIZE);
}

static int examine(struct blk_disk *d, const char *path)
{
	struct stat st;

	if (fstat(d->fd, &st))
		return fail(path, NULL, errno);
	if (S_ISREG(st.st_mode))
		d->size = st.st_size;
	else if (!S_ISBLK(st.st_mode))
		return fail(path, "neither a file nor a block device", EINVAL);
	else if (ioctl(d->fd, BLKGETSIZE64, &d->size))
		return fail(path, NULL, errno);
	if (flock(d->fd, (d->readonly ? LOCK_SH : LOCK_EX) | LOCK_NB))
		return fail(path, "in use by another disk or another process", EBUSY);
	d->size = ALIGN_DOWN(d->size, 512);
	if (!d->size)
		return fail(path, "shorter than one sector", EINVAL);
	d->can_punch = probe_punch(d, S_ISREG(st.st_mode));
	return 0;
}

int blk_disk_open(struct blk_disk *d, const char *path, bool readonly)
{
	int r;

	d->readonly = readonly;
	d->fd = open(path, (readonly ? O_RDONLY : O_RDWR) | O_CLOEXEC);
	if (d->fd < 0)
		return fail(path, NULL, errno);
	r = examine(d, path);
	if (r)
		blk_disk_close(d);
	return r;
}

void blk_disk_close(struct blk_disk *d)
{
	/* The kernel may let go of finished I/O, and so of the lock, only after the close. */
	flock(d->fd, LOCK_UN);
	close(d->fd);
}
