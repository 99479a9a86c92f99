#include <stdarg.h>
#include <stddef.h>
#include <setjmp.h>
#include <stdint.h>
#include <cmocka.h>
#include <stdlib.h>

#include "smp/ioapic.h"
#include "src/dev/ioapic_dev.h"

#define MASKED (1u << 16)
#define LEVEL  (1u << 15)
#define IRR    (1u << 14)

struct fixture {
	struct ioapic *io;
	struct device *dev;
	struct apic_msg last;
	unsigned sent;
};

static void deliver(void *opaque, const struct apic_msg *msg)
{
	struct fixture *f = opaque;

	f->last = *msg;
	f->sent++;
}

static int setup(void **state)
{
	struct fixture *f = calloc(1, sizeof(*f));
	struct apic_sink sink = {deliver, f};

	*state = f;
	if (ioapic_create(&f->io, 3, &sink))
		return -1;
	return ioapic_dev_create(&f->dev, f->io);
}

static int teardown(void **state)
{
	struct fixture *f = *state;

	f->dev->ops->destroy(f->dev);
	ioapic_destroy(f->io);
	free(f);
	return 0;
}

static uint32_t get(struct fixture *f, uint32_t reg)
{
	uint32_t v;

	f->dev->ops->write(f->dev, 0, &reg, 4);
	f->dev->ops->read(f->dev, 0x10, &v, 4);
	return v;
}

static void put(struct fixture *f, uint32_t reg, uint32_t v)
{
	f->dev->ops->write(f->dev, 0, &reg, 4);
	f->dev->ops->write(f->dev, 0x10, &v, 4);
}

static void put_entry(struct fixture *f, unsigned pin, uint32_t low, uint32_t high)
{
	put(f, 0x10 + 2 * pin + 1, high);
	put(f, 0x10 + 2 * pin, low);
}

static void set(struct fixture *f, unsigned pin, bool level)
{
	struct irq_line line = ioapic_line(f->io, pin);

	irq_set(&line, level);
}

static void test_registers(void **state)
{
	struct fixture *f = *state;
	uint64_t wide;

	assert_int_equal(get(f, 0), 3u << 24);
	assert_int_equal(get(f, 1), 0x00170020);
	put(f, 0, ~0u);
	assert_int_equal(get(f, 0), 0x0f000000);
	assert_int_equal(get(f, 0x10), MASKED);
	put(f, 0x10 + 47, 0x12345678);
	assert_int_equal(get(f, 0x10 + 47), 0x12345678);
	put(f, 0x10 + 48, ~0u);
	assert_int_equal(get(f, 0x10 + 48), 0);
	put(f, 0x12, ~0u);
	assert_int_equal(get(f, 0x12), 0x1ffff & ~0x5000);
	f->dev->ops->read(f->dev, 0x10, &wide, 8);
	assert_int_equal(wide, 0x1ffff & ~0x5000);
	f->dev->ops->reset(f->dev);
	assert_int_equal(get(f, 0x12), MASKED);
}

static void test_edge(void **state)
{
	struct fixture *f = *state;

	set(f, 4, true); /* masked: lost */
	set(f, 4, false);
	put_entry(f, 4, 0x41 | 1 << 8 | 1 << 11, 0x5 << 24 | 2 << 17);
	assert_int_equal(f->sent, 0);
	set(f, 4, true);
	set(f, 4, true);
	assert_int_equal(f->sent, 1);
	assert_int_equal(f->last.vector, 0x41);
	assert_int_equal(f->last.delivery, APIC_LOWEST);
	assert_true(f->last.logical);
	assert_false(f->last.level);
	assert_int_equal(f->last.dest, 0x205);
	set(f, 4, false);
	set(f, 4, true);
	assert_int_equal(f->sent, 2);
	assert_false(ioapic_handles_vector(f->io, 0x41));
}

static void test_level(void **state)
{
	struct fixture *f = *state;

	put_entry(f, 16, 0x61 | LEVEL, 0);
	assert_true(ioapic_handles_vector(f->io, 0x61));
	assert_false(ioapic_handles_vector(f->io, 0x60));
	set(f, 16, true);
	assert_int_equal(f->sent, 1);
	assert_true(f->last.level);
	assert_true(get(f, 0x30) & IRR);
	set(f, 16, false);
	set(f, 16, true);
	assert_int_equal(f->sent, 1); /* still waits for the EOI */
	ioapic_eoi(f->io, 0x60);
	assert_int_equal(f->sent, 1);
	ioapic_eoi(f->io, 0x61);
	assert_int_equal(f->sent, 2);
	set(f, 16, false);
	ioapic_eoi(f->io, 0x61);
	assert_int_equal(f->sent, 2);
	assert_false(get(f, 0x30) & IRR);
}

static void test_level_mask(void **state)
{
	struct fixture *f = *state;
	const uint32_t vector = 0x61;

	put_entry(f, 16, 0x61 | LEVEL | MASKED, 0);
	set(f, 16, true);
	assert_int_equal(f->sent, 0);
	put(f, 0x30, 0x61 | LEVEL);
	assert_int_equal(f->sent, 1);
	put(f, 0x30, 0x61 | LEVEL | IRR); /* cannot be written */
	f->dev->ops->write(f->dev, 0x40, &vector, 4);
	assert_int_equal(f->sent, 2);
	put(f, 0x30, 0x61); /* edge: forgets the remote IRR */
	assert_false(get(f, 0x30) & IRR);
	put(f, 0x30, 0x61 | LEVEL);
	assert_int_equal(f->sent, 3);
}

/* NMI and ExtINT have no EOI: a level-triggered entry acts on edges. */
static void test_nmi(void **state)
{
	struct fixture *f = *state;

	put_entry(f, 2, LEVEL | APIC_NMI << 8, 0);
	set(f, 2, true);
	assert_int_equal(f->sent, 1);
	assert_int_equal(f->last.delivery, APIC_NMI);
	set(f, 2, false);
	set(f, 2, true);
	assert_int_equal(f->sent, 2);
	assert_false(get(f, 0x14) & IRR);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test_setup_teardown(test_registers, setup, teardown),
		cmocka_unit_test_setup_teardown(test_edge, setup, teardown),
		cmocka_unit_test_setup_teardown(test_level, setup, teardown),
		cmocka_unit_test_setup_teardown(test_level_mask, setup, teardown),
		cmocka_unit_test_setup_teardown(test_nmi, setup, teardown),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
