/* Power, reset and test ports. */
#include <stdarg.h>
#include <stddef.h>
#include <setjmp.h>
#include <stdint.h>
#include <cmocka.h>
#include <stdlib.h>

#include "src/dev/acpi_pm.h"
#include "src/dev/i8042.h"
#include "src/dev/misc_ports.h"
#include "src/dev/testdev.h"
#include "tests/unit/fake_machine.h"

struct fixture {
	struct fake_machine m;
	struct machine_events events;
	unsigned power_offs, resets, crashes, exits;
	uint32_t exit_value;
};

static void on_power_off(void *opaque)
{
	((struct fixture *)opaque)->power_offs++;
}

static void on_reset(void *opaque)
{
	((struct fixture *)opaque)->resets++;
}

static void on_crash(void *opaque)
{
	((struct fixture *)opaque)->crashes++;
}

static void on_exit_value(void *opaque, uint32_t value)
{
	struct fixture *f = opaque;

	f->exits++;
	f->exit_value = value;
}

static int setup(void **state)
{
	struct fixture *f = calloc(1, sizeof(*f));

	fake_machine_init(&f->m);
	f->events = (struct machine_events){on_power_off, on_reset, on_exit_value, on_crash, f};
	*state = f;
	return 0;
}

static int teardown(void **state)
{
	struct fixture *f = *state;

	fake_machine_fini(&f->m);
	free(f);
	return 0;
}

static struct device *make_pm(struct fixture *f, struct acpi_pm **pm)
{
	struct irq_line sci = fake_line(&f->m, 9);

	assert_int_equal(acpi_pm_create(pm, f->m.loop, &f->m.clk, &sci, &f->events), 0);
	return acpi_pm_device(*pm);
}

static void test_pm_timer(void **state)
{
	struct fixture *f = *state;
	struct acpi_pm *pm;
	struct device *dev = make_pm(f, &pm);

	f->m.now_ns = NSEC_PER_SEC;
	assert_int_equal(in32(dev, 8), 3579545);
	assert_int_equal(in16(dev, 8), 3579545 & 0xffff);
	assert_int_equal(in8(dev, 10), 3579545 >> 16);
	assert_int_equal(in16(dev, 0), 0);
	out16(dev, 2, 1); /* interrupt when the top bit changes, every 600 s */
	fake_advance(&f->m, 598 * NSEC_PER_SEC, 10);
	assert_false(f->m.level[9]);
	fake_advance(&f->m, 2 * NSEC_PER_SEC, 10);
	assert_true(f->m.level[9]);
	assert_int_equal(in16(dev, 0), 1);
	out16(dev, 0, 1);
	assert_false(f->m.level[9]);
	fake_advance(&f->m, 600 * NSEC_PER_SEC, 10);
	assert_true(f->m.level[9]);
	assert_true(in32(dev, 8) < 2 * 3579545u); /* wrapped */
	dev->ops->reset(dev);
	assert_false(f->m.level[9]);
	dev->ops->destroy(dev);
}

static void test_pm_power(void **state)
{
	struct fixture *f = *state;
	struct acpi_pm *pm;
	struct device *dev = make_pm(f, &pm);

	assert_int_equal(in16(dev, 4), 1);
	assert_false(acpi_pm_power_button(pm));
	assert_int_equal(in16(dev, 0), 0x100);
	out16(dev, 0, 0x100);
	out16(dev, 2, 0x120);
	assert_true(acpi_pm_power_button(pm));
	assert_true(f->m.level[9]);
	out16(dev, 0, 0x100);
	assert_false(f->m.level[9]);
	out16(dev, 4, 0x2000); /* not S5 */
	assert_int_equal(f->power_offs, 0);
	out16(dev, 4, ACPI_PM_SLP_TYP_S5 << 10);
	assert_int_equal(f->power_offs, 0);
	out16(dev, 4, ACPI_PM_SLP_TYP_S5 << 10 | 0x2000);
	assert_int_equal(f->power_offs, 1);
	assert_int_equal(in16(dev, 4), ACPI_PM_SLP_TYP_S5 << 10 | 1);
	dev->ops->destroy(dev);
}

static void test_i8042(void **state)
{
	struct fixture *f = *state;
	struct device *dev;

	assert_int_equal(i8042_create(&dev, &f->events), 0);
	assert_int_equal(in8(dev, 4), 0x14);
	out8(dev, 4, 0xaa);
	assert_int_equal(in8(dev, 4) & 1, 1);
	assert_int_equal(in8(dev, 0), 0x55);
	assert_int_equal(in8(dev, 4) & 1, 0);
	out8(dev, 4, 0x60);
	out8(dev, 0, 0x47);
	out8(dev, 4, 0x20);
	assert_int_equal(in8(dev, 0), 0x47);
	out8(dev, 0, 0xed); /* nobody answers */
	assert_int_equal(in8(dev, 4) & 1, 0);
	out8(dev, 4, 0xd3);
	out8(dev, 0, 0x5a);
	assert_int_equal(in8(dev, 4) & 0x21, 0x21);
	assert_int_equal(in8(dev, 0), 0x5a);
	out8(dev, 4, 0xff);
	assert_int_equal(f->resets, 0);
	out8(dev, 4, 0xfe);
	assert_int_equal(f->resets, 1);
	out8(dev, 4, 0xd1);
	out8(dev, 0, 0xdf);
	assert_int_equal(f->resets, 1);
	out8(dev, 4, 0xd1);
	out8(dev, 0, 0xde);
	assert_int_equal(f->resets, 2);
	dev->ops->destroy(dev);
}

static void test_reset_ports(void **state)
{
	struct fixture *f = *state;
	struct device *dev;

	assert_int_equal(reset_control_create(&dev, &f->events), 0);
	out8(dev, 0, 0x02);
	assert_int_equal(in8(dev, 0), 0x02);
	assert_int_equal(f->resets, 0);
	out8(dev, 0, 0x06);
	assert_int_equal(f->resets, 1);
	out8(dev, 0, 0x06);
	assert_int_equal(f->resets, 1);
	dev->ops->reset(dev);
	out8(dev, 0, 0x06);
	assert_int_equal(f->resets, 2);
	dev->ops->destroy(dev);

	assert_int_equal(system_port_create(&dev, &f->events), 0);
	assert_int_equal(in8(dev, 0), 0x02);
	out8(dev, 0, 0x02);
	assert_int_equal(f->resets, 2);
	out8(dev, 0, 0x03);
	assert_int_equal(f->resets, 3);
	dev->ops->destroy(dev);
}

static void test_exit_ports(void **state)
{
	struct fixture *f = *state;
	struct device *dev;

	assert_int_equal(pvpanic_create(&dev, &f->events), 0);
	assert_int_equal(in8(dev, 0), 3);
	out8(dev, 0, 2);
	assert_int_equal(f->crashes, 0);
	out8(dev, 0, 1);
	assert_int_equal(f->crashes, 1);
	dev->ops->destroy(dev);

	assert_int_equal(debug_exit_create(&dev, &f->events), 0);
	out32(dev, 0, 0x12345678);
	assert_int_equal(f->exit_value, 0x12345678);
	out8(dev, 0, 0x21);
	assert_int_equal(f->exit_value, 0x21);
	assert_int_equal(f->exits, 2);
	dev->ops->destroy(dev);

	assert_int_equal(scratch_port_create(&dev), 0);
	out8(dev, 0, 0x99);
	assert_int_equal(in8(dev, 0), 0x99);
	dev->ops->destroy(dev);
}

static void test_testdev(void **state)
{
	struct fixture *f = *state;
	struct irq_line lines[TESTDEV_LINES];
	struct testdev_devices d;
	uint64_t v = 0x1122334455667788;
	unsigned i;

	for (i = 0; i < TESTDEV_LINES; i++)
		lines[i] = fake_line(&f->m, i);
	assert_int_equal(testdev_create(&d, lines), 0);
	out32(d.echo, 0, 0x11223344);
	assert_int_equal(in8(d.echo, 1), 0x33);
	out16(d.echo, 2, 0xabcd);
	assert_int_equal(in32(d.echo, 0), 0xabcd3344);
	assert_int_equal(in32(d.echo, 8), 0xabcd3344);
	out32(d.echo, 4, ~0u);
	assert_int_equal(in32(d.echo, 0), 0xabcd3344);
	out32(d.echo, 10, 0xeeeeeeee); /* over the end */
	assert_int_equal(in32(d.echo, 0), 0xeeee3344);
	out8(d.irq, 14, 1);
	assert_true(f->m.level[14]);
	out8(d.irq, 14, 0);
	assert_false(f->m.level[14]);
	d.memory->ops->write(d.memory, 0xfff8, &v, 8);
	assert_int_equal(in32(d.memory, 0xfffc), 0x11223344);
	d.memory->ops->write(d.memory, 0xfffc, &v, 8); /* over the end: dropped */
	assert_int_equal(in32(d.memory, 0xfffc), 0x11223344);
	assert_int_equal(in32(d.memory, 0xfffe), 0xffffffff);
	out8(d.irq, 3, 1);
	d.echo->ops->reset(d.echo);
	assert_false(f->m.level[3]);
	assert_int_equal(in32(d.echo, 0), 0);
	d.irq->ops->destroy(d.irq);
	d.memory->ops->destroy(d.memory);
	d.echo->ops->destroy(d.echo);
}

#define TEST(f) cmocka_unit_test_setup_teardown(f, setup, teardown)

int main(void)
{
	const struct CMUnitTest tests[] = {
		TEST(test_pm_timer),	TEST(test_pm_power),   TEST(test_i8042),
		TEST(test_reset_ports), TEST(test_exit_ports), TEST(test_testdev),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
