#include <fcntl.h>
#include <liburing.h>
#include <stdlib.h>
#include <sys/eventfd.h>
#include <unistd.h>

#include "src/base/atomic.h"
#include "src/base/log.h"
#include "src/dev/blk_io.h"

struct uring_io {
	struct blk_io io;
	struct io_uring ring;
};

static struct uring_io *from_io(struct blk_io *io)
{
	return container_of(io, struct uring_io, io);
}

int blk_io_fallocate_mode(enum blk_op_kind kind)
{
	return FALLOC_FL_KEEP_SIZE |
	       (kind == BLK_PUNCH ? FALLOC_FL_PUNCH_HOLE : FALLOC_FL_ZERO_RANGE);
}

/*
 * What the kernel did not take now is offered again when the I/O thread next looks at this queue,
 * which the eventfd makes soon. What is complete meanwhile needs no eventfd: the caller reaps it.
 */
static void uring_kick(struct blk_io *io)
{
	struct uring_io *u = from_io(io);
	int r;

	if (!io_uring_sq_ready(&u->ring))
		return;
	io_uring_cq_eventfd_toggle(&u->ring, false);
	do {
		r = io_uring_submit(&u->ring);
	} while (r == -EINTR);
	io_uring_cq_eventfd_toggle(&u->ring, true);
	/* Who completed something and saw the eventfd off did so before: the caller finds it. */
	atomic_fence_seq();
	if (r < 0 || io_uring_sq_ready(&u->ring))
		eventfd_write(io->event_fd, 1);
}

static struct io_uring_sqe *get_sqe(struct uring_io *u)
{
	struct io_uring_sqe *sqe = io_uring_get_sqe(&u->ring);

	/* The ring has one entry for each operation that can be in flight. */
	BUG_ON(!sqe);
	return sqe;
}

static void uring_submit(struct blk_io *io, struct blk_op *op)
{
	struct uring_io *u = from_io(io);
	struct io_uring_sqe *sqe = get_sqe(u);

	switch (op->kind) {
	case BLK_READ: io_uring_prep_readv(sqe, io->fd, op->iov, op->niov, op->offset); break;
	case BLK_WRITE: io_uring_prep_writev(sqe, io->fd, op->iov, op->niov, op->offset); break;
	case BLK_WRITE_DSYNC:
		io_uring_prep_writev2(sqe, io->fd, op->iov, op->niov, op->offset, RWF_DSYNC);
		break;
	case BLK_FLUSH: io_uring_prep_fsync(sqe, io->fd, IORING_FSYNC_DATASYNC); break;
	case BLK_PUNCH:
	case BLK_ZERO:
		io_uring_prep_fallocate(sqe, io->fd, blk_io_fallocate_mode(op->kind), op->offset,
					op->len);
		break;
	}
	io_uring_sqe_set_data(sqe, op);
}

static struct blk_op *uring_reap(struct blk_io *io)
{
	struct uring_io *u = from_io(io);
	struct io_uring_cqe *cqe;
	struct blk_op *op;

	if (io_uring_peek_cqe(&u->ring, &cqe) || !cqe)
		return NULL;
	op = io_uring_cqe_get_data(cqe);
	op->result = cqe->res;
	io_uring_cqe_seen(&u->ring, cqe);
	return op;
}

static void uring_destroy(struct blk_io *io)
{
	struct uring_io *u = from_io(io);

	io_uring_queue_exit(&u->ring);
	free(u);
}

static const struct blk_io_ops uring_ops = {
	.submit = uring_submit,
	.kick = uring_kick,
	.reap = uring_reap,
	.destroy = uring_destroy,
};

int blk_io_create_uring(struct blk_io **io, int fd, int event_fd, unsigned depth)
{
	struct uring_io *u = calloc(1, sizeof(*u));
	int r;

	if (!u)
		return -ENOMEM;
	u->io = (struct blk_io){.ops = &uring_ops, .fd = fd, .event_fd = event_fd};
	r = io_uring_queue_init(depth, &u->ring, 0);
	if (r) {
		free(u);
		return r;
	}
	r = io_uring_register_eventfd(&u->ring, event_fd);
	if (r) {
		uring_destroy(&u->io);
		return r;
	}
	*io = &u->io;
	return 0;
}
