#include "src/dev/virtio_blk.h"

#include <stdio.h>
#include <stdlib.h>
#include <sys/epoll.h>
#include <sys/eventfd.h>
#include <unistd.h>

#include "src/base/atomic.h"
#include "src/base/log.h"
#include "src/dev/blk_disk.h"
#include "src/dev/blk_io.h"

#define QUEUE_SIZE 256
#define SEG_MAX	   (QUEUE_SIZE - 2) /* header and status are descriptors too */
#define SECTOR	   512u

#define F_SEG_MAX      (1ull << 2)
#define F_RO	       (1ull << 5)
#define F_BLK_SIZE     (1ull << 6)
#define F_FLUSH	       (1ull << 9)
#define F_MQ	       (1ull << 12)
#define F_DISCARD      (1ull << 13)
#define F_WRITE_ZEROES (1ull << 14)

#define T_IN	       0
#define T_OUT	       1
#define T_FLUSH	       4
#define T_GET_ID       8
#define T_DISCARD      11
#define T_WRITE_ZEROES 13

#define S_OK	 0
#define S_IOERR	 1
#define S_UNSUPP 2

#define ID_LEN 20

#define MAX_DISCARD_SECTORS (GIB(2) / SECTOR)
#define MAX_ZERO_SECTORS    (MIB(64) / SECTOR)
#define ZERO_F_UNMAP	    1u

/* Zeroes are written from here where the file system cannot make them. */
#define ZERO_CHUNK KIB(64)
#define ZERO_IOVS  64
static const uint8_t zeroes[ZERO_CHUNK];

/* 5.2.4, little-endian. */
struct blk_config {
	uint64_t capacity;
	uint32_t size_max;
	uint32_t seg_max;
	uint16_t cylinders;
	uint8_t heads, sectors;
	uint32_t blk_size;
	uint8_t physical_block_exp, alignment_offset;
	uint16_t min_io_size;
	uint32_t opt_io_size;
	uint8_t writeback, unused0;
	uint16_t num_queues;
	uint32_t max_discard_sectors, max_discard_seg, discard_sector_alignment;
	uint32_t max_write_zeroes_sectors, max_write_zeroes_seg;
	uint8_t write_zeroes_may_unmap, unused1[3];
};

#define BLK_CONFIG_LEN 60
_Static_assert(offsetof(struct blk_config, unused1) + 3 == BLK_CONFIG_LEN, "layout of 5.2.4");

struct blk_header {
	uint32_t type;
	uint32_t reserved;
	uint64_t sector;
};

struct blk_range {
	uint64_t sector;
	uint32_t sectors;
	uint32_t flags;
};

struct blk_req {
	struct virtq_elem elem; /* first: freed by virtqueue_push() */
	struct blk_op op;
	uint8_t *status;   /* in guest memory */
	struct iovec *iov; /* data still to be transferred ... */
	unsigned niov;
	uint64_t left; /* ... in bytes, from op.offset on */
	bool zeroing;  /* a write of zeroes instead of BLK_ZERO or BLK_PUNCH */
	struct iovec tail;
};

/* Everything is under the queue's lock. */
struct blk_queue {
	struct virtio_blk *blk;
	struct virtqueue *vq;
	struct blk_io *io;
	struct ev_fd ev;
	unsigned outstanding; /* operations given to io */
	bool completed;	      /* pushed something since the last interrupt */
};

struct virtio_blk {
	struct virtio_device vdev;
	struct evloop *loop;
	struct blk_disk disk;
	struct blk_config config;
	char serial[ID_LEN];
	struct iovec zero_iov[ZERO_IOVS]; /* each is all of zeroes[] */
	unsigned nqueues;
	struct blk_queue queue[VIRTIO_BLK_MAX_QUEUES];
};

static struct virtio_blk *from_vdev(struct virtio_device *vdev)
{
	return container_of(vdev, struct virtio_blk, vdev);
}

/* --- requests: queue's lock held --- */

/*
 * All of the writable part counts as written: the status is its last byte, and a read that failed
 * may have stored anything before it.
 */
static void complete(struct blk_queue *q, struct blk_req *req, uint8_t status)
{
	atomic_store_relaxed(req->status, status);
	virtqueue_push(q->vq, &req->elem, req->elem.write_len);
	q->completed = true;
}

static void submit(struct blk_queue *q, struct blk_req *req)
{
	struct blk_op *op = &req->op;

	op->len = req->left;
	op->iov = req->iov;
	op->niov = req->niov;
	if (req->zeroing && req->left >= ZERO_CHUNK) {
		op->iov = q->blk->zero_iov;
		op->niov = MIN(req->left / ZERO_CHUNK, ZERO_IOVS);
	} else if (req->zeroing) {
		req->tail = (struct iovec){(void *)zeroes, req->left};
		op->iov = &req->tail;
		op->niov = 1;
	}
	q->outstanding++;
	blk_io_submit(q->io, op);
}

/* Whether writes may stay in the host's cache until the driver flushes (5.2.6.2). */
static enum blk_op_kind write_kind(const struct blk_queue *q)
{
	return virtio_has_feature(&q->blk->vdev, F_FLUSH) ? BLK_WRITE : BLK_WRITE_DSYNC;
}

static bool in_range(const struct virtio_blk *blk, uint64_t sector, uint64_t sectors)
{
	return sector <= blk->config.capacity && sectors <= blk->config.capacity - sector;
}

static void start_transfer(struct blk_queue *q, struct blk_req *req, uint64_t sector)
{
	bool write = req->op.kind != BLK_READ;

	if ((write && q->blk->disk.readonly) || req->left % SECTOR ||
	    !in_range(q->blk, sector, req->left / SECTOR)) {
		complete(q, req, S_IOERR);
	} else if (!req->left) {
		complete(q, req, S_OK);
	} else {
		req->op.offset = sector * SECTOR;
		submit(q, req);
	}
}

static void start_range(struct blk_queue *q, struct blk_req *req, bool zero)
{
	struct virtio_blk *blk = q->blk;
	struct blk_range r;

	if (blk->disk.readonly || req->left != sizeof(r)) {
		complete(q, req, S_IOERR);
		return;
	}
	iov_to_buf(req->iov, req->niov, 0, &r, sizeof(r));
	if (r.flags & ~(zero ? ZERO_F_UNMAP : 0)) {
		complete(q, req, S_UNSUPP);
		return;
	}
	if (r.sectors > (zero ? MAX_ZERO_SECTORS : MAX_DISCARD_SECTORS) ||
	    !in_range(blk, r.sector, r.sectors)) {
		complete(q, req, S_IOERR);
		return;
	}
	req->op.kind = zero && !(r.flags & ZERO_F_UNMAP) ? BLK_ZERO : BLK_PUNCH;
	req->op.offset = r.sector * SECTOR;
	req->left = (uint64_t)r.sectors * SECTOR;
	if (req->left)
		submit(q, req);
	else
		complete(q, req, S_OK);
}

static void start_get_id(struct blk_queue *q, struct blk_req *req)
{
	iov_from_buf(req->iov, req->niov, 0, q->blk->serial, ID_LEN);
	complete(q, req, S_OK);
}

static void dispatch(struct blk_queue *q, struct blk_req *req, const struct blk_header *h)
{
	uint64_t features = q->blk->vdev.driver_features;

	switch (h->type) {
	case T_IN:
		req->op.kind = BLK_READ;
		start_transfer(q, req, h->sector);
		return;
	case T_OUT:
		req->op.kind = write_kind(q);
		start_transfer(q, req, h->sector);
		return;
	case T_FLUSH:
		req->op.kind = BLK_FLUSH;
		submit(q, req);
		return;
	case T_GET_ID: start_get_id(q, req); return;
	case T_DISCARD:
	case T_WRITE_ZEROES:
		if (features & (h->type == T_DISCARD ? F_DISCARD : F_WRITE_ZEROES)) {
			start_range(q, req, h->type == T_WRITE_ZEROES);
			return;
		}
		break;
	}
	complete(q, req, S_UNSUPP);
}

/* The layout of descriptors is the driver's choice (2.7.4.1): only byte positions count. */
static void start(struct blk_queue *q, struct blk_req *req)
{
	struct virtq_elem *e = &req->elem;
	struct iovec *in = e->iov + e->nread, *out = e->iov;
	unsigned nin = e->nwrite, nout = e->nread;
	struct blk_header h;

	if (e->read_len < sizeof(h) || !e->write_len) {
		virtio_set_broken(&q->blk->vdev, "request without header or status");
		virtqueue_push(q->vq, e, 0);
		return;
	}
	iov_to_buf(out, nout, 0, &h, sizeof(h));
	iov_drop_front(&out, &nout, sizeof(h));
	req->status = (uint8_t *)in[nin - 1].iov_base + in[nin - 1].iov_len - 1;
	iov_drop_back(in, &nin, 1);
	if (h.type == T_IN || h.type == T_GET_ID) {
		req->iov = in;
		req->niov = nin;
		req->left = e->write_len - 1;
	} else {
		req->iov = out;
		req->niov = nout;
		req->left = e->read_len - sizeof(h);
	}
	dispatch(q, req, &h);
}

static bool is_transfer(const struct blk_req *req)
{
	return req->op.kind == BLK_READ || req->op.kind == BLK_WRITE ||
	       req->op.kind == BLK_WRITE_DSYNC;
}

static void transferred(struct blk_queue *q, struct blk_req *req, uint64_t n)
{
	if (n == 0 || n > req->left) {
		complete(q, req, S_IOERR); /* the image has become shorter */
		return;
	}
	req->left -= n;
	req->op.offset += n;
	if (!req->zeroing)
		iov_drop_front(&req->iov, &req->niov, n);
	if (req->left)
		submit(q, req);
	else
		complete(q, req, S_OK);
}

static void finished(struct blk_queue *q, struct blk_req *req)
{
	int64_t r = req->op.result;

	if (r == -EINTR || r == -EAGAIN) {
		submit(q, req);
	} else if (r == -EOPNOTSUPP && (req->op.kind == BLK_ZERO || req->op.kind == BLK_PUNCH)) {
		req->op.kind = write_kind(q);
		req->zeroing = true;
		submit(q, req);
	} else if (r < 0) {
		log_debug("disk I/O error: %s", strerror(-r));
		complete(q, req, S_IOERR);
	} else if (is_transfer(req)) {
		transferred(q, req, r);
	} else {
		complete(q, req, S_OK);
	}
}

/* What a kick starts may be complete at once, and nothing else tells of it. */
static struct blk_op *kick_and_reap(struct blk_queue *q)
{
	blk_io_kick(q->io);
	return blk_io_reap(q->io);
}

static void reap_locked(struct blk_queue *q)
{
	struct blk_op *op;

	while ((op = blk_io_reap(q->io)) || (op = kick_and_reap(q))) {
		q->outstanding--;
		finished(q, container_of(op, struct blk_req, op));
	}
	if (q->completed) {
		q->completed = false;
		virtqueue_interrupt(q->vq);
	}
}

/* --- entry points --- */

static void blk_notify(struct virtio_device *vdev, unsigned n)
{
	struct blk_queue *q = &from_vdev(vdev)->queue[n];
	struct virtq_elem *e;

	pthread_mutex_lock(&q->vq->lock);
	while (virtqueue_pop(q->vq, sizeof(struct blk_req), &e) == 1)
		start(q, container_of(e, struct blk_req, elem));
	/* What is in the page cache is complete when it was kicked. */
	blk_io_kick(q->io);
	reap_locked(q);
	pthread_mutex_unlock(&q->vq->lock);
}

static void on_event(struct ev_fd *ev, uint32_t events)
{
	struct blk_queue *q = container_of(ev, struct blk_queue, ev);
	eventfd_t v;

	eventfd_read(ev->fd, &v);
	pthread_mutex_lock(&q->vq->lock);
	reap_locked(q);
	pthread_mutex_unlock(&q->vq->lock);
}

static void drain_queue(struct blk_queue *q)
{
	pthread_mutex_lock(&q->vq->lock);
	reap_locked(q);
	while (q->outstanding) {
		pthread_mutex_unlock(&q->vq->lock);
		usleep(200);
		pthread_mutex_lock(&q->vq->lock);
		reap_locked(q);
	}
	pthread_mutex_unlock(&q->vq->lock);
}

static void blk_drain(struct virtio_device *vdev)
{
	struct virtio_blk *blk = from_vdev(vdev);

	for (unsigned i = 0; i < blk->nqueues; i++)
		drain_queue(&blk->queue[i]);
}

static void blk_config_read(struct virtio_device *vdev, unsigned off, void *data, unsigned len)
{
	memcpy(data, (char *)&from_vdev(vdev)->config + off, len);
}

static void free_queues(struct virtio_blk *blk)
{
	for (unsigned i = 0; i < blk->nqueues; i++) {
		struct blk_queue *q = &blk->queue[i];

		if (q->ev.fd >= 0) {
			evloop_del(blk->loop, &q->ev);
			close(q->ev.fd);
		}
		if (q->io)
			blk_io_destroy(q->io);
	}
}

static void blk_destroy(struct virtio_device *vdev)
{
	struct virtio_blk *blk = from_vdev(vdev);

	free_queues(blk);
	virtio_pci_fini(vdev);
	blk_disk_close(&blk->disk);
	free(blk);
}

static const struct virtio_ops blk_ops = {
	.name = "virtio-blk",
	.notify = blk_notify,
	.config_read = blk_config_read,
	.drain = blk_drain,
	.destroy = blk_destroy,
};

/* --- construction --- */

static void fill_config(struct virtio_blk *blk)
{
	struct virtio_device *vdev = &blk->vdev;
	struct blk_config *c = &blk->config;

	c->capacity = blk->disk.size / SECTOR;
	c->seg_max = SEG_MAX;
	c->blk_size = SECTOR;
	c->num_queues = blk->nqueues;
	vdev->features = F_SEG_MAX | F_BLK_SIZE | F_FLUSH;
	if (blk->nqueues > 1)
		vdev->features |= F_MQ;
	if (blk->disk.readonly) {
		vdev->features |= F_RO;
		return;
	}
	vdev->features |= F_WRITE_ZEROES;
	c->max_write_zeroes_sectors = MAX_ZERO_SECTORS;
	c->max_write_zeroes_seg = 1;
	c->write_zeroes_may_unmap = blk->disk.can_punch;
	if (blk->disk.can_punch) {
		vdev->features |= F_DISCARD;
		c->max_discard_sectors = MAX_DISCARD_SECTORS;
		c->max_discard_seg = 1;
		c->discard_sector_alignment = PAGE_SIZE / SECTOR;
	}
}

static int create_io(struct blk_queue *q, bool threads)
{
	int fd = q->blk->disk.fd;
	int r = -ENOSYS;

	if (!threads)
		r = blk_io_create_uring(&q->io, fd, q->ev.fd, QUEUE_SIZE);
	if (r) {
		log_debug("io_uring is not used (%s)", strerror(-r));
		r = blk_io_create_threads(&q->io, fd, q->ev.fd, q->blk->nqueues > 1 ? 2 : 4);
	}
	return r;
}

static int init_queue(struct virtio_blk *blk, unsigned i, bool threads)
{
	struct blk_queue *q = &blk->queue[i];
	int r;

	q->blk = blk;
	q->ev.cb = on_event;
	q->ev.fd = eventfd(0, EFD_NONBLOCK | EFD_CLOEXEC);
	if (q->ev.fd < 0)
		r = -errno;
	else
		r = create_io(q, threads);
	if (!r)
		r = evloop_add(blk->loop, &q->ev, EPOLLIN); /* silent until the first request */
	if (r)
		log_err("cannot set up I/O for a disk: %s", strerror(-r));
	return r;
}

/* Padded with zeroes; no terminator if all 20 characters are used (5.2.6.1). */
static void set_serial(struct virtio_blk *blk, const char *text)
{
	memcpy(blk->serial, text, strnlen(text, ID_LEN));
}

int virtio_blk_create(struct pci_host *host, unsigned slot, struct gmem *gm, struct evloop *loop,
		      const struct virtio_blk_params *p)
{
	struct virtio_blk *blk = calloc(1, sizeof(*blk));
	char serial[ID_LEN + 1];
	int r;

	if (!blk)
		return -ENOMEM;
	blk->loop = loop;
	r = blk_disk_open(&blk->disk, p->path, p->readonly);
	if (r) {
		free(blk);
		return r;
	}
	snprintf(serial, sizeof(serial), "numavisor-%u", slot);
	set_serial(blk, p->serial ? p->serial : serial);
	for (unsigned i = 0; i < ZERO_IOVS; i++)
		blk->zero_iov[i] = (struct iovec){(void *)zeroes, ZERO_CHUNK};
	blk->nqueues = MIN(MAX(p->nqueues, 1u), (unsigned)VIRTIO_BLK_MAX_QUEUES);
	for (unsigned i = 0; i < blk->nqueues; i++)
		blk->queue[i].ev.fd = -1;
	for (unsigned i = 0; !r && i < blk->nqueues; i++)
		r = init_queue(blk, i, p->threads);
	fill_config(blk);
	blk->vdev.ops = &blk_ops;
	blk->vdev.gm = gm;
	blk->vdev.id = VIRTIO_ID_BLOCK;
	blk->vdev.class_code = 0x010000;
	blk->vdev.nvqs = blk->nqueues;
	blk->vdev.vq_size = QUEUE_SIZE;
	blk->vdev.config_len = BLK_CONFIG_LEN;
	if (!r)
		r = virtio_pci_create(&blk->vdev, host, slot);
	for (unsigned i = 0; !r && i < blk->nqueues; i++)
		blk->queue[i].vq = &blk->vdev.vqs[i];
	if (r) {
		free_queues(blk);
		blk_disk_close(&blk->disk);
		free(blk);
	}
	return r;
}
