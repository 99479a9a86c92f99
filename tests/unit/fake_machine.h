/*
 * What a device under test is wired to: a clock that stands still until told, an event loop that is
 * never started (evloop_run_timers() runs what is due), an interrupt line that counts rising edges.
 */
#ifndef TESTS_FAKE_MACHINE_H
#define TESTS_FAKE_MACHINE_H

#include "smp/irq.h"
#include "src/base/evloop.h"
#include "src/base/log.h"
#include "src/dev/device.h"

struct fake_machine {
	struct clock clk;
	uint64_t now_ns;
	struct evloop *loop;
	bool level[32];
	unsigned edges[32];
};

static inline uint64_t fake_now(struct clock *clk)
{
	return container_of(clk, struct fake_machine, clk)->now_ns;
}

static inline void fake_machine_init(struct fake_machine *m)
{
	memset(m, 0, sizeof(*m));
	m->clk.now_ns = fake_now;
	BUG_ON(evloop_create(&m->loop, &m->clk));
}

static inline void fake_machine_fini(struct fake_machine *m)
{
	evloop_destroy(m->loop);
}

static inline void fake_line_set(void *opaque, unsigned n, bool level)
{
	struct fake_machine *m = opaque;

	m->edges[n] += level && !m->level[n];
	m->level[n] = level;
}

static inline struct irq_line fake_line(struct fake_machine *m, unsigned n)
{
	return (struct irq_line){fake_line_set, m, n};
}

/* Moves time forward in steps, running timers as they become due. */
static inline void fake_advance(struct fake_machine *m, uint64_t ns, unsigned steps)
{
	uint64_t from = m->now_ns;
	unsigned i;

	for (i = 1; i <= steps; i++) {
		m->now_ns = from + ns / steps * i + (i == steps ? ns % steps : 0);
		evloop_run_timers(m->loop);
	}
}

static inline uint8_t in8(struct device *dev, uint64_t off)
{
	uint8_t v;

	dev->ops->read(dev, off, &v, 1);
	return v;
}

static inline uint32_t in32(struct device *dev, uint64_t off)
{
	uint32_t v;

	dev->ops->read(dev, off, &v, 4);
	return v;
}

static inline uint16_t in16(struct device *dev, uint64_t off)
{
	uint16_t v;

	dev->ops->read(dev, off, &v, 2);
	return v;
}

static inline void out8(struct device *dev, uint64_t off, uint8_t v)
{
	dev->ops->write(dev, off, &v, 1);
}

static inline void out16(struct device *dev, uint64_t off, uint16_t v)
{
	dev->ops->write(dev, off, &v, 2);
}

static inline void out32(struct device *dev, uint64_t off, uint32_t v)
{
	dev->ops->write(dev, off, &v, 4);
}

#endif
