/* The host side of a disk: a raw image file or a block device. */
#ifndef DEV_BLK_DISK_H
#define DEV_BLK_DISK_H

#include "src/base/types.h"

struct blk_disk {
	int fd;
	uint64_t size; /* bytes, a multiple of 512 */
	bool readonly;
	bool can_punch; /* deallocation works */
};

/* 0, or -errno after one log line that names the path. */
int blk_disk_open(struct blk_disk *d, const char *path, bool readonly);
void blk_disk_close(struct blk_disk *d);

#endif
