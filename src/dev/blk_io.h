/*
 * Asynchronous I/O on one descriptor: io_uring, or a few threads where the host refuses it. One
 * struct blk_io per queue of a block device; every function is called with that queue's lock held,
 * except for what is said.
 */
#ifndef DEV_BLK_IO_H
#define DEV_BLK_IO_H

#include <sys/uio.h>

#include "src/base/types.h"

enum blk_op_kind {
	BLK_READ,
	BLK_WRITE,
	BLK_WRITE_DSYNC, /* on stable storage when complete */
	BLK_FLUSH,	 /* everything whose completion was reaped before is on stable storage */
	BLK_PUNCH,	 /* deallocate; reads as zeroes afterwards */
	BLK_ZERO,	 /* zeroes, still allocated */
};

/* Owned by the caller and left alone by it between blk_io_submit() and blk_io_reap(). */
struct blk_op {
	enum blk_op_kind kind;
	uint64_t offset;	 /* bytes */
	uint64_t len;		 /* PUNCH, ZERO */
	const struct iovec *iov; /* not more than IOV_MAX */
	unsigned niov;
	int64_t result; /* bytes, 0 for other kinds, or -errno; may be less than was asked for */
	struct blk_op *next;
};

struct blk_io;

struct blk_io_ops {
	void (*submit)(struct blk_io *io, struct blk_op *op);
	void (*kick)(struct blk_io *io);
	struct blk_op *(*reap)(struct blk_io *io);
	void (*destroy)(struct blk_io *io);
};

struct blk_io {
	const struct blk_io_ops *ops;
	int fd;
	int event_fd; /* non-blocking eventfd: readable when something is to be reaped that was not
		       * there to reap right after a kick */
};

/* At most depth operations at a time. The descriptors stay the caller's. 0 or -errno, unlogged. */
int blk_io_create_uring(struct blk_io **io, int fd, int event_fd, unsigned depth);
int blk_io_create_threads(struct blk_io **io, int fd, int event_fd, unsigned nthreads);

/* Queues an operation; it may start at once or at the next kick. */
static inline void blk_io_submit(struct blk_io *io, struct blk_op *op)
{
	io->ops->submit(io, op);
}

/* Starts everything queued. Does not wait. The caller reaps then. */
static inline void blk_io_kick(struct blk_io *io)
{
	io->ops->kick(io);
}

/* A completed operation, or NULL. */
static inline struct blk_op *blk_io_reap(struct blk_io *io)
{
	return io->ops->reap(io);
}

/* When nothing is in flight. */
static inline void blk_io_destroy(struct blk_io *io)
{
	io->ops->destroy(io);
}

/* What the fallocate mode of a PUNCH or ZERO is. */
int blk_io_fallocate_mode(enum blk_op_kind kind);

#endif
