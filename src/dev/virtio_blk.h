/* A virtio block device (5.2) on a raw image file or a block device. */
#ifndef DEV_VIRTIO_BLK_H
#define DEV_VIRTIO_BLK_H

#include "src/base/evloop.h"
#include "src/dev/virtio.h"

#define VIRTIO_BLK_MAX_QUEUES 16

struct virtio_blk_params {
	const char *path;
	bool readonly;
	const char *serial; /* up to 20 characters; NULL: one made of the slot's number */
	unsigned nqueues;   /* one for each VCPU is best; capped at VIRTIO_BLK_MAX_QUEUES */
	bool threads;	    /* do not try io_uring */
};

/*
 * The image is locked (flock) shared or, for writing, exclusively: -EBUSY if another disk, of this
 * process too, has it. A size that is no multiple of 512 is rounded down.
 *
 * VCPU threads submit; completions arrive on the I/O thread. Where io_uring is refused a few
 * threads of the device's own make the system calls. A flush that the guest saw complete is on
 * stable storage, with every write that had completed before the flush was made.
 *
 * 0, or -errno after one log line; then nothing is left behind. Else the host owns the device.
 */
int virtio_blk_create(struct pci_host *host, unsigned slot, struct gmem *gm, struct evloop *loop,
		      const struct virtio_blk_params *params);

#endif
