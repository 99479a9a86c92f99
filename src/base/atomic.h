/*
 * Every atomic access in the tree goes through these names, each of which states its memory order,
 * so that the same source can be compiled against a model of the memory in the race tests.
 */
#ifndef BASE_ATOMIC_H
#define BASE_ATOMIC_H

#define atomic_load_relaxed(p)	       __atomic_load_n(p, __ATOMIC_RELAXED)
#define atomic_load_acquire(p)	       __atomic_load_n(p, __ATOMIC_ACQUIRE)
#define atomic_load_seq(p)	       __atomic_load_n(p, __ATOMIC_SEQ_CST)
#define atomic_store_relaxed(p, v)     __atomic_store_n(p, v, __ATOMIC_RELAXED)
#define atomic_store_release(p, v)     __atomic_store_n(p, v, __ATOMIC_RELEASE)
#define atomic_store_seq(p, v)	       __atomic_store_n(p, v, __ATOMIC_SEQ_CST)
#define atomic_xchg_seq(p, v)	       __atomic_exchange_n(p, v, __ATOMIC_SEQ_CST)
#define atomic_fetch_add_relaxed(p, v) __atomic_fetch_add(p, v, __ATOMIC_RELAXED)
#define atomic_fetch_add_seq(p, v)     __atomic_fetch_add(p, v, __ATOMIC_SEQ_CST)
#define atomic_fetch_or_seq(p, v)      __atomic_fetch_or(p, v, __ATOMIC_SEQ_CST)
#define atomic_fetch_and_seq(p, v)     __atomic_fetch_and(p, v, __ATOMIC_SEQ_CST)
/* Returns true on success; on failure *old holds the current value. */
#define atomic_cas_seq(p, old, new) \
	__atomic_compare_exchange_n(p, old, new, false, __ATOMIC_SEQ_CST, __ATOMIC_SEQ_CST)
#define atomic_fence_seq() __atomic_thread_fence(__ATOMIC_SEQ_CST)

#endif
