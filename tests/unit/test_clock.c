/* Guest time while its source changes from CLOCK_MONOTONIC to the time stamp counter. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>

#include <pthread.h>
#include <time.h>

#include "src/base/atomic.h"
#include "src/base/clock.h"

#define READERS 2
#define RUN_NS	(NSEC_PER_SEC * 5 / 2) /* two steps of the scale */
#define NEAR_NS 1000000ull

struct shared {
	struct clock clk;
	uint64_t latest; /* that any thread has seen */
	uint32_t backward;
	uint32_t scales; /* that were seen to follow one another */
};

static uint64_t host_ns(const struct clock *clk)
{
	struct timespec ts;

	clock_gettime(CLOCK_MONOTONIC, &ts);
	return ts.tv_sec * NSEC_PER_SEC + ts.tv_nsec - clk->start_ns;
}

static void *read_time(void *arg)
{
	struct shared *s = arg;
	uint32_t seq = 0, next;
	struct clock_scale scale;

	do {
		uint64_t latest = atomic_load_seq(&s->latest), now = clock_now(&s->clk);

		if (now < latest)
			atomic_fetch_add_seq(&s->backward, 1);
		while (latest < now && !atomic_cas_seq(&s->latest, &latest, now))
			;
		clock_follow(&s->clk);
		next = clock_scale(&s->clk, &scale);
		if (next != seq)
			atomic_fetch_add_seq(&s->scales, 1);
		seq = next;
	} while (host_ns(&s->clk) < RUN_NS);
	return NULL;
}

static void test_follows(void **state)
{
	struct shared s = {0};
	pthread_t thread[READERS];
	struct clock_scale scale;
	bool counts;

	clock_init_host(&s.clk);
	counts = s.clk.seen_tsc;
	for (unsigned n = 0; n < READERS; n++)
		assert_int_equal(pthread_create(&thread[n], NULL, read_time, &s), 0);
	for (unsigned n = 0; n < READERS; n++)
		pthread_join(thread[n], NULL);
	assert_int_equal(s.backward, 0);
	assert_in_range(clock_now(&s.clk), host_ns(&s.clk) - NEAR_NS, host_ns(&s.clk) + NEAR_NS);
	assert_int_equal(clock_scale(&s.clk, &scale) != 0, counts);
	if (counts)
		assert_in_range(s.scales, 3, 3 * READERS);
	assert_in_range(clock_host_ns(&s.clk, clock_now(&s.clk) + NSEC_PER_SEC) - s.clk.start_ns,
			host_ns(&s.clk) + NSEC_PER_SEC - NEAR_NS,
			host_ns(&s.clk) + NSEC_PER_SEC + NEAR_NS);
}

/* The counter was set, as when the host itself is a guest that was moved: time goes on. */
static void test_jump(void **state)
{
	struct clock clk;
	struct clock_scale scale;

	clock_init_host(&clk);
	if (!clk.seen_tsc)
		skip();
	while (!clock_scale(&clk, &scale))
		clock_follow(&clk);
	for (int n = 0; n < 2; n++) {
		uint64_t far = n ? ~0ull << 40 : 1ull << 40;

		atomic_store_relaxed(&clk.scale.tsc0, clk.scale.tsc0 + far);
		atomic_store_relaxed(&clk.seen_tsc, clk.seen_tsc + far);
		clock_follow(&clk);
		assert_in_range(clock_now(&clk), host_ns(&clk) - NEAR_NS, host_ns(&clk) + NEAR_NS);
	}
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_follows),
		cmocka_unit_test(test_jump),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
