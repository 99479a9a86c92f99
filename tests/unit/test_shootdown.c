/* Shootdown queues: order, overflow and acknowledgement; then many posters against one owner. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <pthread.h>
#include <sched.h>
#include <cmocka.h>

#include "mmu/shootdown.h"
#include "src/base/atomic.h"

struct fixture {
	struct shootdown_queue q;
	struct shootdown_sink sink;
	unsigned kicks, handled, flushes;
	uint64_t args[SHOOTDOWN_SLOTS];
	enum shootdown_kind kinds[SHOOTDOWN_SLOTS];
};

static void kick(void *arg)
{
	((struct fixture *)arg)->kicks++;
}

static void handle(void *arg, enum shootdown_kind kind, uint64_t value)
{
	struct fixture *f = arg;

	assert_in_range(f->handled, 0, SHOOTDOWN_SLOTS - 1);
	f->kinds[f->handled] = kind;
	f->args[f->handled++] = value;
}

static void flush_all(void *arg)
{
	((struct fixture *)arg)->flushes++;
}

static int setup(void **state)
{
	static struct fixture f;

	memset(&f, 0, sizeof(f));
	f.sink = (struct shootdown_sink){handle, flush_all, &f};
	shootdown_queue_init(&f.q, kick, &f);
	*state = &f;
	return 0;
}

static unsigned drain(struct fixture *f)
{
	f->handled = f->flushes = 0;
	return shootdown_drain(&f->q, &f->sink);
}

static void test_order_and_content(void **state)
{
	struct fixture *f = *state;

	assert_int_equal(drain(f), 0);
	shootdown_post(&f->q, SHOOTDOWN_PROTECT, 0xfffffffffffull);
	shootdown_post(&f->q, SHOOTDOWN_DROP_CODE, 7);
	shootdown_post(&f->q, SHOOTDOWN_FLUSH_TLB, 0);
	assert_int_equal(f->kicks, 3);
	assert_int_equal(drain(f), 3);
	assert_int_equal(f->flushes, 0);
	assert_int_equal(f->kinds[0], SHOOTDOWN_PROTECT);
	assert_int_equal(f->args[0], 0xfffffffffffull);
	assert_int_equal(f->kinds[1], SHOOTDOWN_DROP_CODE);
	assert_int_equal(f->args[1], 7);
	assert_int_equal(f->kinds[2], SHOOTDOWN_FLUSH_TLB);
	assert_int_equal(drain(f), 0);
}

static void test_overflow_flushes_everything(void **state)
{
	struct fixture *f = *state;

	for (unsigned n = 0; n < SHOOTDOWN_SLOTS; n++)
		shootdown_post(&f->q, SHOOTDOWN_DROP_CODE, n);
	assert_int_equal(f->q.overflow, 0);
	shootdown_post(&f->q, SHOOTDOWN_DROP_CODE, 1000);
	shootdown_post(&f->q, SHOOTDOWN_DROP_CODE, 1001);
	assert_int_equal(f->q.overflows, 2);
	assert_int_equal(f->kicks, SHOOTDOWN_SLOTS + 2);
	drain(f);
	assert_int_equal(f->flushes, 1);
	assert_int_equal(drain(f), 0);
	assert_int_equal(f->flushes, 0);
	/* The queue works again. */
	shootdown_post(&f->q, SHOOTDOWN_DROP_CODE, 5);
	assert_int_equal(drain(f), 1);
	assert_int_equal(f->args[0], 5);
}

static void test_positions_wrap(void **state)
{
	struct fixture *f = *state;

	/* As after 2^32 messages less a few. */
	f->q.head = f->q.tail = -8u * SHOOTDOWN_SLOTS;
	for (uint32_t n = 0; n < SHOOTDOWN_SLOTS; n++)
		f->q.slot[n].seq = f->q.head + n;
	for (unsigned n = 0; n < 40; n++) {
		for (unsigned m = 0; m < SHOOTDOWN_SLOTS; m++)
			shootdown_post(&f->q, SHOOTDOWN_DROP_CODE, n + m);
		assert_int_equal(drain(f), SHOOTDOWN_SLOTS);
		assert_int_equal(f->flushes, 0);
		assert_int_equal(f->args[SHOOTDOWN_SLOTS - 1], n + SHOOTDOWN_SLOTS - 1);
	}
	assert_true(f->q.head < 64 * SHOOTDOWN_SLOTS);
}

static void test_ack(void **state)
{
	struct fixture *f = *state;
	uint64_t ticket;

	shootdown_online(&f->q, &f->sink);
	shootdown_post(&f->q, SHOOTDOWN_DROP_CODE, 1);
	ticket = shootdown_ticket(&f->q);
	assert_false(shootdown_acked(&f->q, ticket));
	drain(f);
	assert_true(shootdown_acked(&f->q, ticket));
	/* A drain from before the ticket acknowledges nothing. */
	ticket = shootdown_ticket(&f->q);
	assert_false(shootdown_acked(&f->q, ticket));
}

static void test_drain_in_progress_does_not_ack(void **state)
{
	struct fixture *f = *state;
	uint64_t ticket;

	shootdown_online(&f->q, &f->sink);
	/* As seen by another thread while the owner is inside a drain. */
	f->q.drains_begun++;
	shootdown_post(&f->q, SHOOTDOWN_DROP_CODE, 1);
	ticket = shootdown_ticket(&f->q);
	f->q.drains_done = f->q.drains_begun;
	assert_false(shootdown_acked(&f->q, ticket));
	drain(f);
	assert_true(shootdown_acked(&f->q, ticket));
}

static void test_offline(void **state)
{
	struct fixture *f = *state;
	uint64_t ticket;

	/* A queue starts offline: its VCPU does not run yet. */
	assert_true(shootdown_acked(&f->q, shootdown_ticket(&f->q)));
	shootdown_post(&f->q, SHOOTDOWN_DROP_CODE, 3);
	f->handled = 0;
	shootdown_online(&f->q, &f->sink);
	assert_int_equal(f->handled, 1);
	ticket = shootdown_ticket(&f->q);
	assert_false(shootdown_acked(&f->q, ticket));
	shootdown_offline(&f->q);
	assert_true(shootdown_acked(&f->q, ticket));
}

/* A poster that took a place and has not filled it hides those behind it: all must go. */
static void test_unfilled_slot_flushes(void **state)
{
	struct fixture *f = *state;

	f->q.tail++;
	shootdown_post(&f->q, SHOOTDOWN_DROP_CODE, 9);
	drain(f);
	assert_int_equal(f->flushes, 1);
	f->q.slot[0].kind_arg = 8 << 8 | SHOOTDOWN_DROP_CODE;
	f->q.slot[0].seq = 1;
	assert_int_equal(drain(f), 2);
	assert_int_equal(f->flushes, 0);
	assert_int_equal(f->args[0], 8);
	assert_int_equal(f->args[1], 9);
}

/* --- stress ----------------------------------------------------------------------------------- */

/*
 * The owner caches values; posters change them and post. Once a poster has its acknowledgement it
 * raises the value's floor, below which the owner must never again use a cached copy.
 */
#define POSTERS 3
#define BURST	48 /* of all posters together more than the queue holds */
#define KEYS	(POSTERS * BURST)
#ifdef __SANITIZE_THREAD__
#define ROUNDS 100000u
#else
#define ROUNDS 2000000u
#endif

struct stress {
	struct shootdown_queue q;
	uint64_t value[KEYS], floor[KEYS];
	uint64_t cached[KEYS]; /* the owner's; 0: not cached */
	unsigned running;
	unsigned stale, flushes;
};

struct poster {
	struct stress *s;
	unsigned first;
	pthread_t thread;
};

static void no_kick(void *arg)
{
}

static void drop_key(void *arg, enum shootdown_kind kind, uint64_t key)
{
	((struct stress *)arg)->cached[key] = 0;
}

static void drop_all(void *arg)
{
	struct stress *s = arg;

	memset(s->cached, 0, sizeof(s->cached));
	s->flushes++;
}

static void *poster_main(void *arg)
{
	struct poster *p = arg;
	struct stress *s = p->s;

	for (uint64_t round = 2; round < ROUNDS; round++) {
		uint64_t ticket;
		unsigned burst = round % 32 ? 1 + round % 3 : BURST;

		for (unsigned n = 0; n < burst; n++) {
			atomic_store_relaxed(&s->value[p->first + n], round);
			shootdown_post(&s->q, SHOOTDOWN_DROP_CODE, p->first + n);
		}
		ticket = shootdown_ticket(&s->q);
		for (unsigned spins = 1; !shootdown_acked(&s->q, ticket); spins++)
			if (spins % 256 == 0)
				sched_yield();
		for (unsigned n = 0; n < burst; n++)
			atomic_store_seq(&s->floor[p->first + n], round);
	}
	atomic_fetch_add_seq(&s->running, -1);
	return NULL;
}

static void use_key(struct stress *s, unsigned key)
{
	uint64_t floor = atomic_load_seq(&s->floor[key]);

	if (s->cached[key] && s->cached[key] < floor)
		s->stale++;
	if (!s->cached[key])
		s->cached[key] = atomic_load_relaxed(&s->value[key]);
}

static void test_stress(void **state)
{
	static struct stress s;
	struct poster p[POSTERS];
	struct shootdown_sink sink = {drop_key, drop_all, &s};
	uint64_t step = 0;

	memset(&s, 0, sizeof(s));
	shootdown_queue_init(&s.q, no_kick, NULL);
	for (unsigned k = 0; k < KEYS; k++)
		s.value[k] = 1;
	s.running = POSTERS;
	for (unsigned n = 0; n < POSTERS; n++) {
		p[n] = (struct poster){.s = &s, .first = n * BURST};
		assert_int_equal(pthread_create(&p[n].thread, NULL, poster_main, &p[n]), 0);
	}
	shootdown_online(&s.q, &sink);
	while (atomic_load_seq(&s.running)) {
		step++;
		/* The first keys of each poster change most often. */
		for (unsigned k = 0; k < KEYS; k += step % 16 ? BURST : 1)
			use_key(&s, k);
		if (step % 8 == 0) {
			/* Blocked for a while, as in HLT. */
			shootdown_offline(&s.q);
			if (step % 1024 == 0)
				sched_yield();
			shootdown_online(&s.q, &sink);
		} else if (step % 4096 == 1) {
			sched_yield();
		} else {
			shootdown_drain(&s.q, &sink);
		}
	}
	for (unsigned n = 0; n < POSTERS; n++)
		pthread_join(p[n].thread, NULL);
	assert_int_equal(s.stale, 0);
	/* The stress is worth its name only if the queue did overflow. */
	assert_true(s.q.overflows > 0);
	assert_true(s.flushes > 0);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test_setup(test_order_and_content, setup),
		cmocka_unit_test_setup(test_overflow_flushes_everything, setup),
		cmocka_unit_test_setup(test_positions_wrap, setup),
		cmocka_unit_test_setup(test_ack, setup),
		cmocka_unit_test_setup(test_drain_in_progress_does_not_ack, setup),
		cmocka_unit_test_setup(test_offline, setup),
		cmocka_unit_test_setup(test_unfilled_slot_flushes, setup),
		cmocka_unit_test(test_stress),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
