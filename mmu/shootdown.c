#include "mmu/shootdown.h"

#include "src/base/atomic.h"

void shootdown_queue_init(struct shootdown_queue *q, void (*kick)(void *), void *kick_arg)
{
	memset(q, 0, sizeof(*q));
	for (uint32_t i = 0; i < SHOOTDOWN_SLOTS; i++)
		q->slot[i].seq = i;
	q->kick = kick;
	q->kick_arg = kick_arg;
	q->offline = 1;
}

/* Bounded multi-producer queue: a slot's seq says whose turn it is. False when full. */
static bool enqueue(struct shootdown_queue *q, uint64_t kind_arg)
{
	uint32_t pos = atomic_load_relaxed(&q->tail);

	for (;;) {
		uint32_t i = pos % SHOOTDOWN_SLOTS;
		/* Acquire pairs with the owner's release of the slot in shootdown_drain(). */
		uint32_t seq = atomic_load_acquire(&q->slot[i].seq);

		if (seq == pos) {
			if (atomic_cas_seq(&q->tail, &pos, pos + 1)) {
				q->slot[i].kind_arg = kind_arg;
				/* Release pairs with the owner's acquire: the message is whole. */
				atomic_store_release(&q->slot[i].seq, pos + 1);
				return true;
			}
		} else if ((int32_t)(seq - pos) < 0) {
			return false;
		} else {
			pos = atomic_load_relaxed(&q->tail);
		}
	}
}

void shootdown_post(struct shootdown_queue *q, enum shootdown_kind kind, uint64_t arg)
{
	if (!enqueue(q, arg << 8 | kind)) {
		atomic_fetch_add_relaxed(&q->overflows, 1);
		atomic_store_seq(&q->overflow, 1);
	}
	/*
	 * Full fence: the post is visible before the caller reads drains_begun or offline. Pairs
	 * with the fences in shootdown_drain() and shootdown_offline().
	 */
	atomic_fence_seq();
	q->kick(q->kick_arg);
}

bool shootdown_acked(const struct shootdown_queue *q, uint64_t ticket)
{
	/* A drain that began after the ticket was taken, and is complete, saw the post. */
	return atomic_load_seq(&q->drains_done) > ticket || atomic_load_seq(&q->offline);
}

unsigned shootdown_drain(struct shootdown_queue *q, const struct shootdown_sink *sink)
{
	uint64_t begun = q->drains_begun + 1;
	unsigned n = 0;

	/* Orders "begun" before looking at the queue; pairs with the fence in shootdown_post(). */
	atomic_store_seq(&q->drains_begun, begun);
	atomic_fence_seq();

	if (atomic_load_seq(&q->overflow)) {
		atomic_store_seq(&q->overflow, 0);
		sink->flush_all(sink->arg);
		n++;
	}
	for (;;) {
		uint32_t i = q->head % SHOOTDOWN_SLOTS;
		uint64_t m;

		/* Acquire pairs with the poster's release: the message is whole. */
		if (atomic_load_acquire(&q->slot[i].seq) != q->head + 1) {
			/*
			 * A poster that took this position but has not filled it yet did not
			 * return from its post; but posters behind it may have. Their messages
			 * are behind an unfilled slot, so only a full flush covers them.
			 */
			if (atomic_load_seq(&q->tail) != q->head)
				sink->flush_all(sink->arg), n++;
			break;
		}
		m = q->slot[i].kind_arg;
		/* Release pairs with the poster's acquire: the slot is free again. */
		atomic_store_release(&q->slot[i].seq, q->head + SHOOTDOWN_SLOTS);
		q->head++;
		sink->handle(sink->arg, m & 0xff, m >> 8);
		n++;
	}
	/* All handled: pairs with the load in shootdown_acked(). */
	atomic_store_seq(&q->drains_done, begun);
	return n;
}

void shootdown_offline(struct shootdown_queue *q)
{
	/* After the last guest access; pairs with the fence in shootdown_post(). */
	atomic_store_seq(&q->offline, 1);
}

void shootdown_online(struct shootdown_queue *q, const struct shootdown_sink *sink)
{
	/* Full order: whoever still sees "offline" posted before the drain below looks. */
	atomic_store_seq(&q->offline, 0);
	shootdown_drain(q, sink);
}
