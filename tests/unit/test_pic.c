#include <stdarg.h>
#include <stddef.h>
#include <setjmp.h>
#include <stdint.h>
#include <cmocka.h>
#include <stdlib.h>

#include "src/dev/pic.h"
#include "tests/unit/fake_machine.h"

struct fixture {
	struct fake_machine m;
	struct pic *pic;
	struct pic_devices d;
};

static void init_chip(struct device *dev, uint8_t base, uint8_t cascade, uint8_t icw4)
{
	out8(dev, 0, 0x11);
	out8(dev, 1, base);
	out8(dev, 1, cascade);
	out8(dev, 1, icw4);
}

static int setup(void **state)
{
	struct fixture *f = calloc(1, sizeof(*f));
	struct irq_line intr;

	fake_machine_init(&f->m);
	intr = fake_line(&f->m, 0);
	if (pic_create(&f->pic, &f->d, &intr))
		return -1;
	init_chip(f->d.master, 0x30, 4, 1);
	init_chip(f->d.slave, 0x38, 2, 1);
	*state = f;
	return 0;
}

static int teardown(void **state)
{
	struct fixture *f = *state;

	f->d.slave->ops->destroy(f->d.slave);
	f->d.master->ops->destroy(f->d.master);
	fake_machine_fini(&f->m);
	free(f);
	return 0;
}

static void line(struct fixture *f, unsigned n, bool level)
{
	struct irq_line l = pic_line(f->pic, n);

	irq_set(&l, level);
}

static void pulse(struct fixture *f, unsigned n)
{
	line(f, n, true);
	line(f, n, false);
}

static bool intr(struct fixture *f)
{
	assert_int_equal(f->m.level[0], pic_pending(f->pic));
	return f->m.level[0];
}

static uint8_t read_isr(struct device *chip)
{
	out8(chip, 0, 0x0b);
	return in8(chip, 0);
}

static uint8_t read_irr(struct device *chip)
{
	out8(chip, 0, 0x0a);
	return in8(chip, 0);
}

static void test_edge(void **state)
{
	struct fixture *f = *state;

	assert_false(intr(f));
	pulse(f, 0);
	assert_true(intr(f));
	assert_int_equal(pic_ack(f->pic), 0x30);
	assert_false(intr(f));
	assert_int_equal(read_isr(f->d.master), 1);
	pulse(f, 0); /* latched, but its own level is in service */
	assert_false(intr(f));
	out8(f->d.master, 0, 0x20);
	assert_true(intr(f));
	assert_int_equal(pic_ack(f->pic), 0x30);
	out8(f->d.master, 0, 0x60);
	assert_int_equal(read_isr(f->d.master), 0);
}

static void test_mask_and_priority(void **state)
{
	struct fixture *f = *state;

	out8(f->d.master, 1, 0x02);
	pulse(f, 1);
	assert_false(intr(f));
	pulse(f, 4);
	pulse(f, 3);
	assert_int_equal(pic_ack(f->pic), 0x33);
	assert_false(intr(f));
	out8(f->d.master, 1, 0); /* 1 is more urgent than 3 */
	assert_true(intr(f));
	assert_int_equal(pic_ack(f->pic), 0x31);
	assert_int_equal(read_isr(f->d.master), 0x0a);
	out8(f->d.master, 0, 0x20);
	out8(f->d.master, 0, 0x20);
	assert_int_equal(pic_ack(f->pic), 0x34);
	assert_int_equal(in8(f->d.master, 1), 0);
}

static void test_cascade(void **state)
{
	struct fixture *f = *state;

	pulse(f, 8);
	pulse(f, 14);
	assert_int_equal(pic_ack(f->pic), 0x38);
	assert_int_equal(read_isr(f->d.master), 0x04);
	assert_int_equal(read_isr(f->d.slave), 0x01);
	out8(f->d.slave, 0, 0x20);
	assert_false(intr(f)); /* the master still serves input 2 */
	out8(f->d.master, 0, 0x20);
	assert_true(intr(f));
	assert_int_equal(pic_ack(f->pic), 0x3e);
}

/* A second, more urgent request of the slave: only in special fully nested mode. */
static void test_special_nested(void **state)
{
	struct fixture *f = *state;

	init_chip(f->d.master, 0x30, 4, 0x11);
	pulse(f, 12);
	assert_int_equal(pic_ack(f->pic), 0x3c);
	pulse(f, 9);
	assert_true(intr(f));
	assert_int_equal(pic_ack(f->pic), 0x39);
}

static void test_level(void **state)
{
	struct fixture *f = *state;

	out8(f->d.elcr, 1, 0xff);
	assert_int_equal(in8(f->d.elcr, 1), 0xde);
	line(f, 11, true);
	assert_int_equal(pic_ack(f->pic), 0x3b);
	out8(f->d.slave, 0, 0x20);
	out8(f->d.master, 0, 0x20);
	assert_true(intr(f)); /* still asserted */
	line(f, 11, false);
	assert_false(intr(f));
	assert_int_equal(pic_ack(f->pic), 0x37); /* spurious */
	assert_int_equal(read_isr(f->d.master), 0);
}

static void test_special_mask(void **state)
{
	struct fixture *f = *state;

	pulse(f, 1);
	assert_int_equal(pic_ack(f->pic), 0x31);
	pulse(f, 5);
	assert_false(intr(f));
	out8(f->d.master, 1, 0x02);
	out8(f->d.master, 0, 0x68); /* set special mask mode */
	assert_true(intr(f));
	assert_int_equal(pic_ack(f->pic), 0x35);
	out8(f->d.master, 0, 0x20); /* ends 5, not the masked 1 */
	assert_int_equal(read_isr(f->d.master), 0x02);
}

static void test_rotate(void **state)
{
	struct fixture *f = *state;

	pulse(f, 3);
	assert_int_equal(pic_ack(f->pic), 0x33);
	out8(f->d.master, 0, 0xa0); /* rotate on non-specific EOI: 3 becomes the lowest */
	pulse(f, 3);
	pulse(f, 4);
	assert_int_equal(pic_ack(f->pic), 0x34);
	out8(f->d.master, 0, 0x20);
	out8(f->d.master, 0, 0xc7); /* the usual order again */
	pulse(f, 4);
	assert_int_equal(pic_ack(f->pic), 0x33);
}

static void test_auto_eoi_and_poll(void **state)
{
	struct fixture *f = *state;

	init_chip(f->d.master, 0x40, 4, 0x03);
	pulse(f, 6);
	assert_int_equal(pic_ack(f->pic), 0x46);
	assert_int_equal(read_isr(f->d.master), 0);
	pulse(f, 5);
	assert_int_equal(read_irr(f->d.master), 0x20);
	out8(f->d.master, 0, 0x0c);
	assert_int_equal(in8(f->d.master, 0), 0x85);
	assert_false(intr(f));
	out8(f->d.master, 0, 0x0c);
	assert_int_equal(in8(f->d.master, 0), 0);
}

static void test_reset(void **state)
{
	struct fixture *f = *state;

	f->d.master->ops->reset(f->d.master);
	pulse(f, 4);
	assert_false(intr(f));
	assert_int_equal(in8(f->d.slave, 1), 0xff);
}

#define TEST(f) cmocka_unit_test_setup_teardown(f, setup, teardown)

int main(void)
{
	const struct CMUnitTest tests[] = {
		TEST(test_edge),    TEST(test_mask_and_priority),
		TEST(test_cascade), TEST(test_special_nested),
		TEST(test_level),   TEST(test_special_mask),
		TEST(test_rotate),  TEST(test_auto_eoi_and_poll),
		TEST(test_reset),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
