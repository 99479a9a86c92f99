#include <stdarg.h>
#include <stddef.h>
#include <setjmp.h>
#include <stdint.h>
#include <cmocka.h>
#include <stdlib.h>

#include "src/dev/rtc.h"
#include "tests/unit/fake_machine.h"

struct fixture {
	struct fake_machine m;
	struct device *rtc;
};

static int setup(void **state)
{
	const struct rtc_config cfg = {.low_ram = MIB(2816), .high_ram = GIB(5), .ncpus = 4};
	struct fixture *f = calloc(1, sizeof(*f));
	struct irq_line irq;

	fake_machine_init(&f->m);
	irq = fake_line(&f->m, 8);
	f->m.clk.epoch_ns = 1709210096 * NSEC_PER_SEC; /* Thu 2024-02-29 12:34:56 UTC */
	*state = f;
	return rtc_create(&f->rtc, &cfg, f->m.loop, &f->m.clk, &irq);
}

static int teardown(void **state)
{
	struct fixture *f = *state;

	f->rtc->ops->destroy(f->rtc);
	fake_machine_fini(&f->m);
	free(f);
	return 0;
}

static uint8_t get(struct fixture *f, uint8_t reg)
{
	out8(f->rtc, 0, reg);
	return in8(f->rtc, 1);
}

static void put(struct fixture *f, uint8_t reg, uint8_t v)
{
	out8(f->rtc, 0, reg);
	out8(f->rtc, 1, v);
}

static void check_time(struct fixture *f, uint8_t h, uint8_t m, uint8_t s)
{
	assert_int_equal(get(f, 4), h);
	assert_int_equal(get(f, 2), m);
	assert_int_equal(get(f, 0), s);
}

static void test_time(void **state)
{
	struct fixture *f = *state;

	check_time(f, 0x12, 0x34, 0x56);
	assert_int_equal(get(f, 6), 5);
	assert_int_equal(get(f, 7), 0x29);
	assert_int_equal(get(f, 8), 0x02);
	assert_int_equal(get(f, 9), 0x24);
	assert_int_equal(get(f, 0x32), 0x20);
	assert_int_equal(get(f, 0x0d), 0x80);
	f->m.now_ns = 12 * 3600 * NSEC_PER_SEC;
	assert_int_equal(get(f, 8), 0x03);
	assert_int_equal(get(f, 7), 0x01);
	check_time(f, 0x00, 0x34, 0x56);
	put(f, 0x0b, 0x06); /* binary */
	check_time(f, 0, 34, 56);
	put(f, 0x0b, 0x00); /* 12 hours */
	check_time(f, 0x12, 0x34, 0x56);
	f->m.now_ns += 13 * 3600 * NSEC_PER_SEC;
	check_time(f, 0x81, 0x34, 0x56);
}

static void test_set_time(void **state)
{
	struct fixture *f = *state;

	put(f, 0x0b, 0x82);
	put(f, 9, 0x99);
	put(f, 0x32, 0x19);
	put(f, 8, 0x12);
	put(f, 7, 0x31);
	put(f, 4, 0x23);
	put(f, 2, 0x59);
	put(f, 0, 0x59);
	f->m.now_ns += 5 * NSEC_PER_SEC;
	check_time(f, 0x23, 0x59, 0x59); /* stands still */
	put(f, 0x0b, 0x02);
	f->m.now_ns += NSEC_PER_SEC;
	check_time(f, 0, 0, 0);
	assert_int_equal(get(f, 9), 0);
	assert_int_equal(get(f, 0x32), 0x20);
	put(f, 2, 0x30); /* without SET */
	check_time(f, 0, 0x30, 0);
}

static void test_update_in_progress(void **state)
{
	struct fixture *f = *state;

	f->m.now_ns = NSEC_PER_SEC - 300000;
	assert_int_equal(get(f, 0x0a), 0x26);
	f->m.now_ns = NSEC_PER_SEC - 100000;
	assert_int_equal(get(f, 0x0a), 0xa6);
	f->m.now_ns = NSEC_PER_SEC;
	assert_int_equal(get(f, 0x0a), 0x26);
}

static void test_periodic(void **state)
{
	struct fixture *f = *state;
	unsigned i, n = 0;

	get(f, 0x0c);
	put(f, 0x0b, 0x42); /* 1024 Hz */
	for (i = 0; i < 10000; i++) {
		fake_advance(&f->m, 100000, 1);
		if (f->m.level[8]) {
			assert_int_equal(get(f, 0x0c) & 0xd0, n % 1024 == 1023 ? 0xd0 : 0xc0);
			n++;
		}
	}
	assert_int_equal(n, 1024);
	/* Unread, it stays asserted and needs no timer. */
	fake_advance(&f->m, NSEC_PER_SEC, 10);
	assert_int_equal(f->m.edges[8], 1025);
	put(f, 0x0b, 0x02);
	assert_false(f->m.level[8]);
	get(f, 0x0c);
	fake_advance(&f->m, NSEC_PER_SEC, 10);
	assert_int_equal(f->m.edges[8], 1025);
	assert_int_equal(get(f, 0x0c), 0x50); /* flags are kept without interrupts, too */
}

static void test_update_and_alarm(void **state)
{
	struct fixture *f = *state;
	unsigned i;

	put(f, 0x0b, 0x12);
	for (i = 0; i < 5; i++) {
		fake_advance(&f->m, NSEC_PER_SEC, 100);
		assert_int_equal(get(f, 0x0c) & 0xb0, 0x90);
	}
	assert_int_equal(f->m.edges[8], 5);
	/* It is 12:35:01. */
	put(f, 1, 0x10);
	put(f, 3, 0x36);
	put(f, 5, 0xff);
	put(f, 0x0b, 0x22);
	fake_advance(&f->m, 68 * NSEC_PER_SEC, 680);
	assert_int_equal(f->m.edges[8], 5);
	fake_advance(&f->m, 2 * NSEC_PER_SEC, 20);
	assert_int_equal(f->m.edges[8], 6);
	assert_int_equal(get(f, 0x0c) & 0xa0, 0xa0);
	fake_advance(&f->m, 3600 * NSEC_PER_SEC, 36000);
	assert_int_equal(f->m.edges[8], 7);
}

static void test_cmos(void **state)
{
	struct fixture *f = *state;

	assert_int_equal(get(f, 0x15) | get(f, 0x16) << 8, 640);
	assert_int_equal(get(f, 0x30) | get(f, 0x31) << 8, 0xffff);
	assert_int_equal(get(f, 0x34) | get(f, 0x35) << 8, 2800 * 16);
	assert_int_equal(get(f, 0x5b) | get(f, 0x5c) << 8 | get(f, 0x5d) << 16, 5 << 14);
	assert_int_equal(get(f, 0x5f), 3);
	put(f, 0x0f, 0x0a);
	f->rtc->ops->reset(f->rtc);
	assert_int_equal(get(f, 0x8f), 0x0a);
	put(f, 0x0d, 0);
	assert_int_equal(get(f, 0x0d), 0x80);
}

#define TEST(f) cmocka_unit_test_setup_teardown(f, setup, teardown)

int main(void)
{
	const struct CMUnitTest tests[] = {
		TEST(test_time),     TEST(test_set_time),	  TEST(test_update_in_progress),
		TEST(test_periodic), TEST(test_update_and_alarm), TEST(test_cmos),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
