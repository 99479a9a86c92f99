/*
 * Read-copy-update; the only includer of liburcu (QSBR flavour).
 *
 * A thread that reads RCU-protected structures registers first and announces quiescent states: a
 * VCPU thread at each safepoint that drains its queue, and offline around anything that blocks.
 * Pointers obtained under rcu_deref() die at the next quiescent state.
 */
#ifndef BASE_RCU_H
#define BASE_RCU_H

#include <urcu-qsbr.h>

struct rcu_free_head {
	struct rcu_head head;
};

/* Any thread, before its first read; pairs with rcu_thread_exit(), of which the last one counts. */
void rcu_thread_init(void);
void rcu_thread_exit(void);

/* Registered threads. After this call no pointer read before it may be used. */
static inline void rcu_quiescent(void)
{
	rcu_quiescent_state();
}

/* Registered threads, around blocking: between the two calls no reads. */
static inline void rcu_offline(void)
{
	rcu_thread_offline();
}

static inline void rcu_online(void)
{
	rcu_thread_online();
}

/*
 * Acquire and release rather than liburcu's own macros, which order by data dependency: the cost is
 * none on x86, and the thread sanitizer understands them. The two pair with each other.
 */
#define rcu_deref(p)	  __atomic_load_n(&(p), __ATOMIC_ACQUIRE)
#define rcu_publish(p, v) __atomic_store_n(&(p), v, __ATOMIC_RELEASE)

#endif
