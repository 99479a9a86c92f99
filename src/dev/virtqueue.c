/*
 * Split virtqueues (2.7). Everything in guest memory may change under our hands at any time: each
 * value is read once into a local and checked there.
 */
#include <stdlib.h>

#include "src/base/atomic.h"
#include "src/base/log.h"
#include "src/base/rcu.h"
#include "src/dev/virtio.h"

#define DESC_F_NEXT	1
#define DESC_F_WRITE	2
#define DESC_F_INDIRECT 4

#define AVAIL_F_NO_INTERRUPT 1

struct vring_desc {
	uint64_t addr;
	uint32_t len;
	uint16_t flags;
	uint16_t next;
};

struct vring_avail {
	uint16_t flags;
	uint16_t idx;
	uint16_t ring[]; /* then used_event */
};

struct vring_used_elem {
	uint32_t id;
	uint32_t len;
};

struct vring_used {
	uint16_t flags;
	uint16_t idx;
	struct vring_used_elem ring[]; /* then avail_event */
};

_Static_assert(sizeof(struct vring_desc) == 16, "2.7.5");
_Static_assert(sizeof(struct vring_used_elem) == 8, "2.7.8");

/* Host addresses of the three parts; valid until the caller's next quiescent state. */
struct ring {
	const struct vring_desc *desc;
	struct vring_avail *avail;
	struct vring_used *used;
};

static uint64_t avail_bytes(const struct virtqueue *vq)
{
	return sizeof(struct vring_avail) + 2ull * vq->size + 2;
}

static uint64_t used_bytes(const struct virtqueue *vq)
{
	return sizeof(struct vring_used) + sizeof(struct vring_used_elem) * vq->size + 2;
}

static bool map_ring(struct virtqueue *vq, struct ring *r)
{
	struct gmem *gm = vq->vdev->gm;

	r->desc = gmem_ptr(gm, vq->desc, sizeof(struct vring_desc) * vq->size, false);
	r->avail = gmem_ptr(gm, vq->avail, avail_bytes(vq), false);
	r->used = gmem_ptr(gm, vq->used, used_bytes(vq), true);
	return r->desc && r->avail && r->used;
}

bool virtqueue_enable(struct virtqueue *vq)
{
	struct ring r;

	if (!vq->desc || !vq->avail || !vq->used || vq->desc % 16 || vq->avail % 2 ||
	    vq->used % 4 || !map_ring(vq, &r)) {
		virtio_set_broken(vq->vdev, "bad ring address");
		return false;
	}
	vq->event_idx = virtio_has_feature(vq->vdev, VIRTIO_F_EVENT_IDX);
	vq->indirect = virtio_has_feature(vq->vdev, VIRTIO_F_INDIRECT_DESC);
	vq->enabled = true;
	return true;
}

/* outstanding stays: what is in flight is still pushed, and the reset waits for it. */
void virtqueue_reset(struct virtqueue *vq)
{
	vq->enabled = false;
	vq->size = vq->max_size;
	atomic_store_relaxed(&vq->vector, VIRTIO_NO_VECTOR);
	vq->desc = vq->avail = vq->used = 0;
	vq->last_avail = vq->used_idx = vq->signalled = 0;
	vq->signalled_valid = false;
	vq->event_idx = vq->indirect = false;
}

static uint8_t status(const struct virtio_device *vdev)
{
	return atomic_load_relaxed(&vdev->status);
}

/* May the rings be read and written? */
static bool usable(const struct virtqueue *vq)
{
	uint8_t s = status(vq->vdev);

	return vq->enabled && (s & VIRTIO_STATUS_DRIVER_OK) && !(s & VIRTIO_STATUS_NEEDS_RESET) &&
	       pci_bus_master(&vq->vdev->pci);
}

static uint16_t *used_event(const struct virtqueue *vq, const struct ring *r)
{
	return &r->avail->ring[vq->size];
}

static uint16_t *avail_event(const struct virtqueue *vq, const struct ring *r)
{
	return (uint16_t *)&r->used->ring[vq->size];
}

/* --- one chain --- */

/* What is being gathered; seg and iov are on the stack of the caller. */
struct chain {
	struct gmem *gm;
	unsigned n, nread;
	uint64_t read_len, write_len;
	struct iovec iov[VIRTQ_MAX_SIZE];
	struct virtq_seg seg[VIRTQ_MAX_SIZE];
};

/* Bytes from gpa to the end of the slot that contains it; 0 if none does. */
static uint64_t slot_room(struct gmem *gm, gpa_t gpa)
{
	const struct memslots *slots = rcu_deref(gm->slots);

	for (unsigned i = 0; i < slots->count; i++) {
		const struct memslot *s = &slots->slot[i];

		if (gpa >= s->gpa && gpa - s->gpa < s->size)
			return s->size - (gpa - s->gpa);
	}
	return 0;
}

/* A buffer may span slots (guest nodes) that lie side by side: one segment for each. */
static const char *add_buffer(struct chain *c, const struct vring_desc *d)
{
	bool write = d->flags & DESC_F_WRITE;
	uint64_t left = d->len;
	gpa_t gpa = d->addr;

	if (!left)
		return "empty buffer";
	if (!write && c->write_len)
		return "readable buffer after a writable one";
	while (left) {
		uint64_t n = left;
		void *p = gmem_ptr(c->gm, gpa, n, write);

		if (!p) {
			n = MIN(left, slot_room(c->gm, gpa));
			p = n ? gmem_ptr(c->gm, gpa, n, write) : NULL;
		}
		if (!p)
			return "buffer outside of memory";
		if (c->n == VIRTQ_MAX_SIZE)
			return "chain too long";
		c->iov[c->n] = (struct iovec){.iov_base = p, .iov_len = n};
		c->seg[c->n] = (struct virtq_seg){.gpa = gpa, .len = n};
		c->n++;
		gpa += n;
		left -= n;
	}
	if (write) {
		c->write_len += d->len;
	} else {
		c->read_len += d->len;
		c->nread = c->n;
	}
	if (c->read_len + c->write_len > UINT32_MAX)
		return "chain longer than 4 GiB";
	return NULL;
}

static struct vring_desc read_desc(const struct vring_desc *p)
{
	struct vring_desc d;

	/* Made visible by the avail index that the caller has read with acquire. */
	d.addr = atomic_load_relaxed(&p->addr);
	d.len = atomic_load_relaxed(&p->len);
	d.flags = atomic_load_relaxed(&p->flags);
	d.next = atomic_load_relaxed(&p->next);
	return d;
}

/*
 * Gathers the chain that begins at table[i]. A table of n descriptors cannot hold a chain of more
 * than n without a loop. Returns NULL or what is wrong; *ind is set to an indirect descriptor at
 * the end of the chain, if the caller allows one (2.7.5.3).
 */
static const char *walk_table(struct chain *c, const struct vring_desc *table, unsigned n,
			      unsigned i, struct vring_desc *ind)
{
	for (unsigned steps = 0; steps < n; steps++) {
		struct vring_desc d;
		const char *bad;

		if (i >= n)
			return "descriptor index out of range";
		d = read_desc(&table[i]);
		if (d.flags & DESC_F_INDIRECT) {
			if (!ind)
				return "indirect descriptor not allowed here";
			if (d.flags & DESC_F_NEXT)
				return "indirect descriptor with a next one";
			*ind = d;
			return NULL;
		}
		bad = add_buffer(c, &d);
		if (bad)
			return bad;
		if (!(d.flags & DESC_F_NEXT))
			return NULL;
		i = d.next;
	}
	return "descriptor loop";
}

static const char *walk_indirect(struct chain *c, const struct vring_desc *ind)
{
	unsigned n = ind->len / sizeof(struct vring_desc);
	const struct vring_desc *table;

	if (!n || ind->len % sizeof(struct vring_desc) || ind->addr % 16)
		return "bad indirect table";
	table = gmem_ptr(c->gm, ind->addr, ind->len, false);
	if (!table)
		return "indirect table outside of memory";
	return walk_table(c, table, MIN(n, 65536u), 0, NULL);
}

static const char *walk_chain(struct virtqueue *vq, const struct ring *r, uint16_t head,
			      struct chain *c)
{
	struct vring_desc ind = {0};
	const char *bad;

	c->gm = vq->vdev->gm;
	c->n = c->nread = 0;
	c->read_len = c->write_len = 0;
	bad = walk_table(c, r->desc, vq->size, head, vq->indirect ? &ind : NULL);
	if (!bad && (ind.flags & DESC_F_INDIRECT))
		bad = walk_indirect(c, &ind);
	return bad;
}

static struct virtq_elem *make_elem(size_t size, uint16_t head, const struct chain *c)
{
	size_t iov_off = ALIGN_UP(size, 16);
	size_t seg_off = iov_off + c->n * sizeof(struct iovec);
	struct virtq_elem *e = malloc(seg_off + c->n * sizeof(struct virtq_seg));

	if (!e)
		return NULL;
	memset(e, 0, size);
	e->head = head;
	e->nread = c->nread;
	e->nwrite = c->n - c->nread;
	e->read_len = c->read_len;
	e->write_len = c->write_len;
	e->iov = (struct iovec *)((char *)e + iov_off);
	e->seg = (struct virtq_seg *)((char *)e + seg_off);
	memcpy(e->iov, c->iov, c->n * sizeof(c->iov[0]));
	memcpy(e->seg, c->seg, c->n * sizeof(c->seg[0]));
	return e;
}

/* --- the device's side of the rings --- */

/*
 * Number of chains to take, or -1 if the driver's index is impossible. Acquire pairs with the
 * driver's write barrier between filling descriptors and raising idx (2.7.13.3.1).
 */
static int pending(struct virtqueue *vq, const struct ring *r)
{
	uint16_t n = atomic_load_acquire(&r->avail->idx) - vq->last_avail;

	return n > vq->size ? -1 : n;
}

static int protocol_error(struct virtqueue *vq, const char *why)
{
	virtio_set_broken(vq->vdev, why);
	return -EPROTO;
}

/* Asks for a notification of the next buffer, and looks once more. */
static int pending_or_arm(struct virtqueue *vq, const struct ring *r)
{
	int n = pending(vq, r);

	if (n || !vq->event_idx)
		return n;
	atomic_store_relaxed(avail_event(vq, r), vq->last_avail);
	gmem_wrote(vq->vdev->gm, vq->used + used_bytes(vq) - 2, 2);
	/*
	 * Full fence between our avail_event and our second look at idx; pairs with the driver's
	 * fence between raising idx and reading avail_event (2.7.13.4.1): one of us sees the other.
	 */
	atomic_fence_seq();
	return pending(vq, r);
}

int virtqueue_pop(struct virtqueue *vq, size_t size, struct virtq_elem **out)
{
	struct chain c;
	struct virtq_elem *e;
	const char *bad;
	struct ring r;
	uint16_t head;
	int n;

	if (!usable(vq))
		return status(vq->vdev) & VIRTIO_STATUS_NEEDS_RESET ? -EPROTO : 0;
	if (!map_ring(vq, &r))
		return protocol_error(vq, "ring outside of memory");
	n = pending_or_arm(vq, &r);
	if (n < 0)
		return protocol_error(vq, "avail index out of range");
	if (n == 0)
		return 0;
	/* Each chain has a descriptor of its own, so the table bounds what can be in flight. */
	if (vq->outstanding >= vq->size)
		return protocol_error(vq, "more chains than descriptors");
	head = atomic_load_relaxed(&r.avail->ring[vq->last_avail % vq->size]);
	bad = walk_chain(vq, &r, head, &c);
	if (bad)
		return protocol_error(vq, bad);
	e = make_elem(size, head, &c);
	if (!e) {
		log_err("out of memory for a virtio request");
		return -ENOMEM;
	}
	vq->last_avail++;
	vq->outstanding++;
	/* Under vq->lock, which a reset takes after it began: it sees the element or refuses us. */
	atomic_fetch_add_relaxed(&vq->vdev->inflight, 1);
	*out = e;
	return 1;
}

static void release(struct virtqueue *vq, struct virtq_elem *e)
{
	free(e);
	vq->outstanding--;
	/*
	 * Last touch of guest memory was before. Pairs with the acquire in the status register's
	 * read: a driver that sees the device reset may reuse its buffers.
	 */
	__atomic_fetch_sub(&vq->vdev->inflight, 1, __ATOMIC_RELEASE);
}

void virtqueue_unpop(struct virtqueue *vq, struct virtq_elem *e)
{
	if (vq->enabled)
		vq->last_avail--;
	release(vq, e);
}

/* Tells guest memory that the first len bytes of the writable part were stored to. */
static void mark_written(struct virtqueue *vq, const struct virtq_elem *e, uint32_t len)
{
	for (unsigned i = e->nread; len && i < e->nread + e->nwrite; i++) {
		uint32_t n = MIN(len, e->seg[i].len);

		gmem_wrote(vq->vdev->gm, e->seg[i].gpa, n);
		len -= n;
	}
}

static void put_used(struct virtqueue *vq, const struct ring *r, uint16_t head, uint32_t len)
{
	unsigned slot = vq->used_idx % vq->size;
	struct vring_used_elem *u = &r->used->ring[slot];

	atomic_store_relaxed(&u->id, (uint32_t)head);
	atomic_store_relaxed(&u->len, len);
	gmem_wrote(vq->vdev->gm, vq->used + ((char *)u - (char *)r->used), sizeof(*u));
	vq->used_idx++;
	/*
	 * Release: buffer contents and the entry before the index. Pairs with the driver's read
	 * barrier after it has read idx (2.7.14).
	 */
	atomic_store_release(&r->used->idx, vq->used_idx);
	gmem_wrote(vq->vdev->gm, vq->used + offsetof(struct vring_used, idx), 2);
}

void virtqueue_push(struct virtqueue *vq, struct virtq_elem *e, uint32_t len)
{
	struct ring r;

	/* Stored to even if the device is being reset meanwhile: that is what reset waits for. */
	mark_written(vq, e, len);
	if (usable(vq) && map_ring(vq, &r))
		put_used(vq, &r, e->head, len);
	release(vq, e);
}

/* (2.7.7.2): did the index pass event + 1 on its way from old to new? */
static bool passed_event(uint16_t event, uint16_t new, uint16_t old)
{
	return (uint16_t)(new - event - 1) < (uint16_t)(new - old);
}

static bool wants_interrupt(struct virtqueue *vq, const struct ring *r)
{
	uint16_t old = vq->signalled;
	bool valid = vq->signalled_valid;

	/*
	 * Full fence between our used idx and reading what the driver wants; pairs with the
	 * driver's fence between writing used_event (or flags) and looking at idx again.
	 */
	atomic_fence_seq();
	if (!vq->event_idx)
		return !(atomic_load_relaxed(&r->avail->flags) & AVAIL_F_NO_INTERRUPT);
	vq->signalled = vq->used_idx;
	vq->signalled_valid = true;
	return !valid || passed_event(atomic_load_relaxed(used_event(vq, r)), vq->used_idx, old);
}

void virtqueue_interrupt(struct virtqueue *vq)
{
	struct ring r;

	if (usable(vq) && map_ring(vq, &r) && wants_interrupt(vq, &r))
		virtio_queue_interrupt(vq);
}
