/*
 * One queue per VCPU through which others tell it to drop what it caches.
 *
 * Any thread posts; only the VCPU's own thread (the owner) drains, at its safepoints. A post never
 * waits and never allocates: a full queue becomes "flush all". The acknowledgement says that the
 * owner passed a complete drain after the post, or that it is offline and will drain before it
 * runs guest code again. It protects cached translations; the lifetime of memory is RCU's business.
 */
#ifndef MMU_SHOOTDOWN_H
#define MMU_SHOOTDOWN_H

#include "src/base/types.h"

enum shootdown_kind {
	SHOOTDOWN_DROP_CODE,   /* arg: gfn whose decoded code is stale */
	SHOOTDOWN_PROTECT,     /* arg: gfn to which stores must leave the fast path */
	SHOOTDOWN_FLUSH_TLB,   /* everything the software TLB holds */
	SHOOTDOWN_FORGET_CODE, /* memory of the code cache is going to be used again */
};

struct shootdown_msg {
	uint64_t kind_arg; /* kind in the low 8 bits, arg above */
};

#define SHOOTDOWN_SLOTS 64

struct shootdown_queue {
	/* Written by posters. */
	uint32_t tail __attribute__((aligned(64)));
	uint32_t overflow; /* non-zero: drop and flush everything */
	uint64_t overflows;
	/* Written by the owner. */
	uint32_t head __attribute__((aligned(64)));
	uint64_t drains_begun; /* incremented before the queue is looked at */
	uint64_t drains_done;  /* = drains_begun once that drain is complete */
	uint32_t offline;      /* the owner runs no guest code until it has drained */
	/* seq == position: free for that position; position + 1: filled. */
	struct {
		uint32_t seq;
		uint64_t kind_arg;
	} slot[SHOOTDOWN_SLOTS] __attribute__((aligned(64)));
	void (*kick)(void *arg); /* any thread: have the owner reach a safepoint soon */
	void *kick_arg;
};

void shootdown_queue_init(struct shootdown_queue *q, void (*kick)(void *), void *kick_arg);

/* Any thread. */
void shootdown_post(struct shootdown_queue *q, enum shootdown_kind kind, uint64_t arg);

/* What a poster keeps to ask later whether everything it posted so far was acknowledged. */
static inline uint64_t shootdown_ticket(const struct shootdown_queue *q)
{
	return __atomic_load_n(&q->drains_begun, __ATOMIC_SEQ_CST);
}
bool shootdown_acked(const struct shootdown_queue *q, uint64_t ticket);

/*
 * Owner only. Handles every message posted before the call: handle() for each, or flush_all() once
 * if the queue had overflowed. Returns the number of messages handled.
 */
struct shootdown_sink {
	void (*handle)(void *arg, enum shootdown_kind kind, uint64_t value);
	void (*flush_all)(void *arg);
	void *arg;
};
unsigned shootdown_drain(struct shootdown_queue *q, const struct shootdown_sink *sink);

/* Owner only: before it blocks, and after it woke (which drains before returning). */
void shootdown_offline(struct shootdown_queue *q);
void shootdown_online(struct shootdown_queue *q, const struct shootdown_sink *sink);

#endif
