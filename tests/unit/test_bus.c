#include <pthread.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include "src/base/atomic.h"
#include "src/base/rcu.h"
#include "src/dev/bus.h"

struct probe {
	struct device dev;
	uint64_t off; /* of the last access */
	unsigned len;
	uint64_t value;
	struct bus *unmap_from; /* on write: unmaps base 0x1000 of itself */
};

static void probe_read(struct device *dev, uint64_t off, void *data, unsigned len)
{
	struct probe *p = container_of(dev, struct probe, dev);

	p->off = off;
	p->len = len;
	memset(data, 0x5a, len);
}

static void probe_write(struct device *dev, uint64_t off, const void *data, unsigned len)
{
	struct probe *p = container_of(dev, struct probe, dev);

	p->off = off;
	p->len = len;
	p->value = 0;
	memcpy(&p->value, data, len);
	if (p->unmap_from)
		bus_unmap(p->unmap_from, BUS_MMIO, 0x1000);
}

static const struct device_ops probe_ops = {
	.name = "probe", .read = probe_read, .write = probe_write};

static void finds_the_right_device(void **state)
{
	struct probe a = {.dev.ops = &probe_ops}, b = {.dev.ops = &probe_ops};
	uint32_t v = 0x11223344;
	struct bus *bus;

	assert_int_equal(bus_create(&bus), 0);
	assert_int_equal(bus_map(bus, BUS_MMIO, 0x2000, 0x1000, &b.dev, 0), 0);
	assert_int_equal(bus_map(bus, BUS_MMIO, 0x1000, 0x1000, &a.dev, 0x100), 0);
	assert_true(bus_read(bus, BUS_MMIO, 0x1004, &v, 4));
	assert_int_equal(v, 0x5a5a5a5a);
	assert_int_equal(a.off, 0x104);
	v = 0xabcd;
	assert_true(bus_write(bus, BUS_MMIO, 0x2ffe, &v, 2));
	assert_int_equal(b.off, 0xffe);
	assert_int_equal(b.value, 0xabcd);
	bus_destroy(bus);
}

static void unclaimed_reads_ones(void **state)
{
	struct probe a = {.dev.ops = &probe_ops};
	uint64_t v = 0;
	struct bus *bus;

	assert_int_equal(bus_create(&bus), 0);
	assert_int_equal(bus_map(bus, BUS_MMIO, 0x1000, 0x1000, &a.dev, 0), 0);
	assert_false(bus_read(bus, BUS_MMIO, 0xfff, &v, 1));
	assert_int_equal(v, 0xff);
	assert_false(bus_read(bus, BUS_PIO, 0x1000, &v, 2));
	assert_int_equal(v, 0xffff);
	/* Over the end. */
	assert_false(bus_read(bus, BUS_MMIO, 0x1ffc, &v, 8));
	assert_int_equal(v, UINT64_MAX);
	assert_false(bus_write(bus, BUS_MMIO, 0x1fff, &v, 2));
	assert_int_equal(a.len, 0);
	bus_destroy(bus);
}

static void refuses_overlap(void **state)
{
	struct probe a = {.dev.ops = &probe_ops};
	struct bus *bus;

	assert_int_equal(bus_create(&bus), 0);
	assert_int_equal(bus_map(bus, BUS_PIO, 0x100, 0x10, &a.dev, 0), 0);
	assert_int_equal(bus_map(bus, BUS_PIO, 0x100, 1, &a.dev, 0), -EEXIST);
	assert_int_equal(bus_map(bus, BUS_PIO, 0x10f, 1, &a.dev, 0), -EEXIST);
	assert_int_equal(bus_map(bus, BUS_PIO, 0xff, 2, &a.dev, 0), -EEXIST);
	assert_int_equal(bus_map(bus, BUS_PIO, 0, 0x1000, &a.dev, 0), -EEXIST);
	assert_int_equal(bus_map(bus, BUS_PIO, 0x110, 1, &a.dev, 0), 0);
	assert_int_equal(bus_map(bus, BUS_PIO, 0xff, 1, &a.dev, 0), 0);
	assert_int_equal(bus_map(bus, BUS_MMIO, UINT64_MAX, 1, &a.dev, 0), 0);
	assert_int_equal(bus_map(bus, BUS_MMIO, UINT64_MAX - 1, 4, &a.dev, 0), -EINVAL);
	assert_int_equal(bus_map(bus, BUS_MMIO, 0, 0, &a.dev, 0), -EINVAL);
	bus_destroy(bus);
}

static void device_unmaps_itself(void **state)
{
	struct probe a = {.dev.ops = &probe_ops};
	uint8_t v = 0;
	struct bus *bus;

	assert_int_equal(bus_create(&bus), 0);
	assert_int_equal(bus_map(bus, BUS_MMIO, 0x1000, 0x1000, &a.dev, 0), 0);
	a.unmap_from = bus;
	assert_true(bus_write(bus, BUS_MMIO, 0x1000, &v, 1));
	assert_false(bus_write(bus, BUS_MMIO, 0x1000, &v, 1));
	bus_unmap(bus, BUS_MMIO, 0x1000); /* not mapped: nothing happens */
	assert_int_equal(bus_map(bus, BUS_MMIO, 0x1000, 0x1000, &a.dev, 0), 0);
	bus_destroy(bus);
}

struct race {
	struct bus *bus;
	bool stop;
	unsigned long hits;
};

static void *race_reader(void *arg)
{
	struct race *r = arg;
	uint32_t v;

	rcu_thread_init();
	while (!atomic_load_relaxed(&r->stop)) {
		/* Mapped throughout, whatever is mapped and unmapped around it. */
		if (bus_read(r->bus, BUS_MMIO, 0x8000, &v, 4))
			r->hits++;
		else
			atomic_store_relaxed(&r->stop, true);
		rcu_quiescent();
	}
	rcu_thread_exit();
	return NULL;
}

static void readers_run_while_maps_change(void **state)
{
	struct probe fixed = {.dev.ops = &probe_ops}, moving = {.dev.ops = &probe_ops};
	struct race r = {0};
	pthread_t t;

	assert_int_equal(bus_create(&r.bus), 0);
	assert_int_equal(bus_map(r.bus, BUS_MMIO, 0x8000, 0x1000, &fixed.dev, 0), 0);
	assert_int_equal(pthread_create(&t, NULL, race_reader, &r), 0);
	for (int i = 0; i < 20000; i++) {
		assert_int_equal(bus_map(r.bus, BUS_MMIO, 0x1000, 0x1000, &moving.dev, 0), 0);
		bus_unmap(r.bus, BUS_MMIO, 0x1000);
	}
	assert_false(atomic_load_relaxed(&r.stop));
	atomic_store_relaxed(&r.stop, true);
	pthread_join(t, NULL);
	bus_destroy(r.bus);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(finds_the_right_device),
		cmocka_unit_test(unclaimed_reads_ones),
		cmocka_unit_test(refuses_overlap),
		cmocka_unit_test(device_unmaps_itself),
		cmocka_unit_test(readers_run_while_maps_change),
	};
	int r;

	rcu_thread_init();
	r = cmocka_run_group_tests(tests, NULL, NULL);
	rcu_thread_exit();
	return r;
}
