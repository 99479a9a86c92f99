/* Whether and how long a VCPU polls before it sleeps. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>

#include <pthread.h>

#include "sched/poll.h"
#include "src/base/atomic.h"
#include "src/base/clock.h"

#define WANTED 4u

static void pass_ns(uint64_t ns)
{
	for (uint64_t end = clock_monotonic_ns() + ns; clock_monotonic_ns() < end;)
		;
}

/* A wait that takes so long, as the VCPU's thread sees it. */
static void wait_for(struct sched_poll *poll, struct sched_host *host, uint64_t ns)
{
	uint32_t word = 0;

	assert_false(sched_poll(poll, host, &word, WANTED, 0));
	sched_host_leave(host);
	pass_ns(ns);
	sched_poll_woken(poll, host);
}

static struct sched_host host_with(unsigned processors)
{
	struct sched_host host;

	sched_host_init(&host);
	assert_true(host.processors >= 1);
	assert_int_equal(host.awake, 0);
	host.processors = processors;
	sched_host_join(&host);
	return host;
}

static void test_window(void **state)
{
	struct sched_host host = host_with(1);
	struct sched_poll poll = {0};
	uint64_t before, first;

	wait_for(&poll, &host, 0);
	assert_int_equal(host.awake, 1);
	first = poll.window_ns;
	assert_true(first > 0);
	/* A thread of the test may be kept from the processor: then the window is closed. */
	do {
		before = poll.window_ns;
		wait_for(&poll, &host, 0);
	} while (!poll.window_ns || !before);
	assert_true(poll.window_ns > before || poll.window_ns > first);
	for (unsigned n = 0; n < 8; n++) {
		before = poll.window_ns;
		wait_for(&poll, &host, 1000000);
		assert_true(poll.window_ns < before || !before);
	}
	assert_int_equal(poll.window_ns, 0);
}

static void test_asked_for(void **state)
{
	struct sched_host host = host_with(1);
	struct sched_poll poll = {.window_ns = 60 * NSEC_PER_SEC};
	uint32_t word = WANTED | 1;

	assert_true(sched_poll(&poll, &host, &word, WANTED, 0));
	/* Other bits do not end it, a deadline does. */
	word = 1;
	assert_false(sched_poll(&poll, &host, &word, WANTED, clock_monotonic_ns() + 1000000));
}

/* What another thread does while this one polls. */
struct meanwhile {
	struct sched_host host;
	uint32_t word;
};

static bool poll_while(struct meanwhile *m, void *(*fn)(void *))
{
	struct sched_poll poll = {.window_ns = 60 * NSEC_PER_SEC};
	pthread_t thread;
	bool wanted;

	m->host = host_with(1);
	assert_int_equal(pthread_create(&thread, NULL, fn, m), 0);
	wanted = sched_poll(&poll, &m->host, &m->word, WANTED, 0);
	pthread_join(thread, NULL);
	return wanted;
}

static void *ask(void *arg)
{
	struct meanwhile *m = arg;

	pass_ns(1000000);
	atomic_fetch_or_seq(&m->word, WANTED);
	return NULL;
}

static void test_while_polling(void **state)
{
	struct meanwhile m = {0};

	assert_true(poll_while(&m, ask));
}

static void *join_host(void *arg)
{
	struct meanwhile *m = arg;

	pass_ns(1000000);
	sched_host_join(&m->host);
	return NULL;
}

/* No longer once another VCPU needs the processor. */
static void test_gives_way(void **state)
{
	struct meanwhile m = {0};

	assert_false(poll_while(&m, join_host));
	sched_host_leave(&m.host);
	assert_int_equal(m.host.awake, 1);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_window),
		cmocka_unit_test(test_asked_for),
		cmocka_unit_test(test_while_polling),
		cmocka_unit_test(test_gives_way),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
