#include "src/dev/misc_ports.h"

#include <stdlib.h>

#include "src/base/atomic.h"
#include "src/dev/regs.h"

#define RESET_CPU	   0x04
#define RESET_KEPT	   0x06 /* hard or soft reset, and the trigger */
#define SYSTEM_FAST_RESET  0x01
#define SYSTEM_A20	   0x02
#define PVPANIC_PANICKED   0x01
#define PVPANIC_CRASH_LOAD 0x02 /* a crash kernel will be started */

/* A byte register needs no lock: each access is one atomic load or exchange. */
struct port {
	struct device dev;
	struct machine_events events;
	uint8_t value;
};

static struct port *to_port(struct device *dev)
{
	return container_of(dev, struct port, dev);
}

static void port_read(struct device *dev, uint64_t off, void *data, unsigned len)
{
	reg_put(data, len, atomic_load_relaxed(&to_port(dev)->value));
}

static void port_reset(struct device *dev)
{
	atomic_store_relaxed(&to_port(dev)->value, 0);
}

static void port_destroy(struct device *dev)
{
	free(to_port(dev));
}

static int port_create(struct device **dev, const struct device_ops *ops,
		       const struct machine_events *events)
{
	struct port *p = calloc(1, sizeof(*p));

	if (!p)
		return -ENOMEM;
	p->dev.ops = ops;
	if (events)
		p->events = *events;
	*dev = &p->dev;
	return 0;
}

static void reset_control_write(struct device *dev, uint64_t off, const void *data, unsigned len)
{
	struct port *p = to_port(dev);
	uint8_t v = reg_get(data, len) & RESET_KEPT;
	uint8_t old = atomic_xchg_seq(&p->value, v);

	if (v & ~old & RESET_CPU)
		p->events.reset(p->events.opaque);
}

static const struct device_ops reset_control_ops = {
	.name = "reset-control",
	.read = port_read,
	.write = reset_control_write,
	.reset = port_reset,
	.destroy = port_destroy,
};

int reset_control_create(struct device **dev, const struct machine_events *events)
{
	return port_create(dev, &reset_control_ops, events);
}

static void system_port_read(struct device *dev, uint64_t off, void *data, unsigned len)
{
	reg_put(data, len, SYSTEM_A20);
}

static void system_port_write(struct device *dev, uint64_t off, const void *data, unsigned len)
{
	struct port *p = to_port(dev);
	uint8_t v = reg_get(data, len) & SYSTEM_FAST_RESET;
	uint8_t old = atomic_xchg_seq(&p->value, v);

	if (v & ~old)
		p->events.reset(p->events.opaque);
}

static const struct device_ops system_port_ops = {
	.name = "port92",
	.read = system_port_read,
	.write = system_port_write,
	.reset = port_reset,
	.destroy = port_destroy,
};

int system_port_create(struct device **dev, const struct machine_events *events)
{
	return port_create(dev, &system_port_ops, events);
}

static void pvpanic_read(struct device *dev, uint64_t off, void *data, unsigned len)
{
	reg_put(data, len, PVPANIC_PANICKED | PVPANIC_CRASH_LOAD);
}

static void pvpanic_write(struct device *dev, uint64_t off, const void *data, unsigned len)
{
	struct port *p = to_port(dev);

	if (reg_get(data, len) & PVPANIC_PANICKED)
		p->events.crashed(p->events.opaque);
}

static const struct device_ops pvpanic_ops = {
	.name = "pvpanic",
	.read = pvpanic_read,
	.write = pvpanic_write,
	.destroy = port_destroy,
};

int pvpanic_create(struct device **dev, const struct machine_events *events)
{
	return port_create(dev, &pvpanic_ops, events);
}

static void debug_exit_read(struct device *dev, uint64_t off, void *data, unsigned len)
{
	reg_put(data, len, 0);
}

static void debug_exit_write(struct device *dev, uint64_t off, const void *data, unsigned len)
{
	struct port *p = to_port(dev);

	p->events.debug_exit(p->events.opaque, reg_get(data, len));
}

static const struct device_ops debug_exit_ops = {
	.name = "debug-exit",
	.read = debug_exit_read,
	.write = debug_exit_write,
	.destroy = port_destroy,
};

int debug_exit_create(struct device **dev, const struct machine_events *events)
{
	return port_create(dev, &debug_exit_ops, events);
}

static void scratch_write(struct device *dev, uint64_t off, const void *data, unsigned len)
{
	atomic_store_relaxed(&to_port(dev)->value, (uint8_t)reg_get(data, len));
}

static const struct device_ops scratch_ops = {
	.name = "scratch-port",
	.read = port_read,
	.write = scratch_write,
	.reset = port_reset,
	.destroy = port_destroy,
};

int scratch_port_create(struct device **dev)
{
	return port_create(dev, &scratch_ops, NULL);
}
