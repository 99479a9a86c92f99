#include <stdarg.h>
#include <stddef.h>
#include <setjmp.h>
#include <stdint.h>
#include <cmocka.h>
#include <stdlib.h>

#include "src/dev/pit.h"
#include "tests/unit/fake_machine.h"

struct fixture {
	struct fake_machine m;
	struct pit_devices d;
};

static int setup(void **state)
{
	struct fixture *f = calloc(1, sizeof(*f));
	struct irq_line irq;

	fake_machine_init(&f->m);
	irq = fake_line(&f->m, 0);
	*state = f;
	return pit_create(&f->d, f->m.loop, &f->m.clk, &irq);
}

static int teardown(void **state)
{
	struct fixture *f = *state;

	f->d.control->ops->destroy(f->d.control);
	f->d.timer->ops->destroy(f->d.timer);
	fake_machine_fini(&f->m);
	free(f);
	return 0;
}

static uint64_t ticks(uint64_t n)
{
	return (n * NSEC_PER_SEC + PIT_HZ - 1) / PIT_HZ;
}

static void program(struct fixture *f, unsigned ch, unsigned mode, uint16_t count)
{
	out8(f->d.timer, 3, ch << 6 | 0x30 | mode << 1);
	out8(f->d.timer, ch, count);
	out8(f->d.timer, ch, count >> 8);
}

static uint16_t latch(struct fixture *f, unsigned ch)
{
	uint16_t v;

	out8(f->d.timer, 3, ch << 6);
	v = in8(f->d.timer, ch);
	return v | in8(f->d.timer, ch) << 8;
}

static void test_periodic(void **state)
{
	struct fixture *f = *state;

	program(f, 0, 2, 11932); /* 100 Hz */
	fake_advance(&f->m, NSEC_PER_SEC + 1000000, 100000);
	assert_int_equal(f->m.edges[0], 100);
	program(f, 0, 3, 11932);
	fake_advance(&f->m, NSEC_PER_SEC + 1000000, 100000);
	assert_int_equal(f->m.edges[0], 200);
	/* A late host loses ticks instead of delivering a burst. */
	fake_advance(&f->m, NSEC_PER_SEC, 1);
	assert_int_equal(f->m.edges[0], 201);
	out8(f->d.timer, 3, 0x34); /* no count yet: stopped */
	fake_advance(&f->m, NSEC_PER_SEC, 10);
	assert_int_equal(f->m.edges[0], 201);
}

static void test_one_shot(void **state)
{
	struct fixture *f = *state;

	program(f, 0, 0, 1000);
	fake_advance(&f->m, ticks(999), 1);
	assert_int_equal(f->m.edges[0], 0);
	fake_advance(&f->m, ticks(2), 1);
	assert_int_equal(f->m.edges[0], 1);
	fake_advance(&f->m, NSEC_PER_SEC, 100);
	assert_int_equal(f->m.edges[0], 1);
	program(f, 0, 4, 1000);
	fake_advance(&f->m, ticks(1002), 1);
	assert_int_equal(f->m.edges[0], 2);
	fake_advance(&f->m, NSEC_PER_SEC, 100);
	assert_int_equal(f->m.edges[0], 2);
}

static void test_latch(void **state)
{
	struct fixture *f = *state;

	program(f, 0, 2, 1000);
	f->m.now_ns += ticks(300);
	assert_int_equal(latch(f, 0), 700);
	out8(f->d.timer, 3, 0);
	f->m.now_ns += ticks(100);
	out8(f->d.timer, 3, 0); /* a second latch does not replace the first */
	assert_int_equal(in8(f->d.timer, 0), 700 & 0xff);
	assert_int_equal(in8(f->d.timer, 0), 700 >> 8);
	assert_in_range(latch(f, 0), 599, 600);
	/* Mode 3 counts in twos, twice in a period. */
	program(f, 0, 3, 1000);
	f->m.now_ns += ticks(100);
	assert_int_equal(latch(f, 0), 800);
	f->m.now_ns += ticks(500);
	assert_in_range(latch(f, 0), 798, 800);
	/* BCD */
	out8(f->d.timer, 3, 0x31);
	out8(f->d.timer, 0, 0x00);
	out8(f->d.timer, 0, 0x10);
	f->m.now_ns += ticks(1);
	assert_int_equal(latch(f, 0), 0x0999);
}

static void test_read_back(void **state)
{
	struct fixture *f = *state;

	program(f, 0, 0, 1000);
	out8(f->d.timer, 3, 0xc2); /* count and status of channel 0: status comes first */
	assert_int_equal(in8(f->d.timer, 0), 0x30);
	assert_int_equal(in8(f->d.timer, 0), 1000 & 0xff);
	assert_int_equal(in8(f->d.timer, 0), 1000 >> 8);
	f->m.now_ns += ticks(1001);
	out8(f->d.timer, 3, 0xe2);
	assert_int_equal(in8(f->d.timer, 0), 0xb0);
	out8(f->d.timer, 3, 0x34);
	out8(f->d.timer, 3, 0xe2);
	assert_int_equal(in8(f->d.timer, 0), 0xf4); /* null count */
}

/* How Linux calibrates: channel 2 in mode 0, output seen in port 0x61. */
static void test_gate2(void **state)
{
	struct fixture *f = *state;

	out8(f->d.control, 0, 0x01);
	assert_int_equal(in8(f->d.control, 0) & 0x0f, 1);
	program(f, 2, 0, 0x1000);
	assert_int_equal(in8(f->d.control, 0) & 0x20, 0);
	f->m.now_ns += ticks(0x800);
	assert_int_equal(latch(f, 2), 0x800);
	out8(f->d.control, 0, 0x00); /* gate low: holds */
	f->m.now_ns += ticks(0x5000);
	assert_int_equal(latch(f, 2), 0x800);
	assert_int_equal(in8(f->d.control, 0) & 0x20, 0);
	out8(f->d.control, 0, 0x01);
	f->m.now_ns += ticks(0x801);
	assert_int_equal(in8(f->d.control, 0) & 0x20, 0x20);
	/* Mode 1 starts with the gate. */
	out8(f->d.control, 0, 0x00);
	program(f, 2, 1, 100);
	f->m.now_ns += ticks(1000);
	assert_int_equal(in8(f->d.control, 0) & 0x20, 0x20);
	out8(f->d.control, 0, 0x01);
	assert_int_equal(in8(f->d.control, 0) & 0x20, 0);
	f->m.now_ns += ticks(101);
	assert_int_equal(in8(f->d.control, 0) & 0x20, 0x20);
	/* A square wave. */
	program(f, 2, 3, 100);
	assert_int_equal(in8(f->d.control, 0) & 0x20, 0x20);
	f->m.now_ns += ticks(51);
	assert_int_equal(in8(f->d.control, 0) & 0x20, 0);
}

static void test_access_modes(void **state)
{
	struct fixture *f = *state;

	out8(f->d.timer, 3, 0x94); /* channel 2, low byte only, mode 2 */
	out8(f->d.control, 0, 1);
	out8(f->d.timer, 2, 200);
	f->m.now_ns += ticks(50);
	assert_int_equal(in8(f->d.timer, 2), 150);
	out8(f->d.timer, 3, 0xa4); /* high byte only */
	out8(f->d.timer, 2, 2);
	assert_int_equal(in8(f->d.timer, 2), 2);
	f->m.now_ns += ticks(1);
	assert_int_equal(in8(f->d.timer, 2), 1);
}

#define TEST(f) cmocka_unit_test_setup_teardown(f, setup, teardown)

int main(void)
{
	const struct CMUnitTest tests[] = {
		TEST(test_periodic),  TEST(test_one_shot), TEST(test_latch),
		TEST(test_read_back), TEST(test_gate2),	   TEST(test_access_modes),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
