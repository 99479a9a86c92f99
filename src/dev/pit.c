#include "src/dev/pit.h"

#include <pthread.h>
#include <stdlib.h>

#include "src/dev/pit_channel.h"
#include "src/dev/regs.h"

#define CHANNELS    3
#define REG_CONTROL 3

#define READ_BACK	    3 /* in the channel field of a control word */
#define READ_BACK_NO_COUNT  0x20
#define READ_BACK_NO_STATUS 0x10

#define CONTROL_GATE2	0x01
#define CONTROL_SPEAKER 0x02
#define CONTROL_KEPT	0x0f
#define CONTROL_REFRESH 0x10 /* toggles with every memory refresh, here 15 us */
#define CONTROL_OUT2	0x20
#define REFRESH_NS	15085

struct pit {
	struct device timer;
	struct device control;
	pthread_mutex_t lock; /* protects all below; taken before the line's */
	struct evloop *loop;
	struct clock *clk;
	struct irq_line irq;
	struct ev_timer tick;
	uint64_t due; /* guest time of the next rising edge, or UINT64_MAX */
	struct pit_channel channel[CHANNELS];
	uint8_t port61;
};

/* Arms the timer for the next rising edge of channel 0. */
static void arm_locked(struct pit *p, uint64_t now)
{
	p->due = pit_channel_next_rise(&p->channel[0], now);
	if (p->due == UINT64_MAX)
		evloop_timer_cancel(p->loop, &p->tick);
	else
		evloop_timer_arm(p->loop, &p->tick, p->due);
}

/*
 * Edges missed while the host was late are not made up for. The channel may have been programmed
 * anew just before: then the timer is armed for another time, and this call means nothing.
 */
static void on_tick(struct ev_timer *t)
{
	struct pit *p = container_of(t, struct pit, tick);
	uint64_t now;

	pthread_mutex_lock(&p->lock);
	now = clock_now(p->clk);
	if (now >= p->due) {
		irq_pulse(&p->irq);
		arm_locked(p, now);
	}
	pthread_mutex_unlock(&p->lock);
}

static void read_back_locked(struct pit *p, uint8_t word)
{
	uint64_t now = clock_now(p->clk);
	unsigned i;

	for (i = 0; i < CHANNELS; i++) {
		if (!(word & 2u << i))
			continue;
		if (!(word & READ_BACK_NO_COUNT))
			pit_channel_latch_count(&p->channel[i], now);
		if (!(word & READ_BACK_NO_STATUS))
			pit_channel_latch_status(&p->channel[i], now);
	}
}

static void control_word_locked(struct pit *p, uint8_t word)
{
	unsigned n = word >> 6;

	if (n == READ_BACK) {
		read_back_locked(p, word);
	} else if (!(word & 0x30)) {
		pit_channel_latch_count(&p->channel[n], clock_now(p->clk));
	} else {
		pit_channel_control(&p->channel[n], word);
		if (n == 0)
			arm_locked(p, clock_now(p->clk));
	}
}

static uint8_t read_locked(void *self, unsigned off)
{
	struct pit *p = self;

	if (off == REG_CONTROL)
		return 0; /* cannot be read */
	return pit_channel_read(&p->channel[off], clock_now(p->clk));
}

static void write_locked(void *self, unsigned off, uint8_t v)
{
	struct pit *p = self;
	uint64_t now = clock_now(p->clk);

	if (off == REG_CONTROL)
		control_word_locked(p, v);
	else if (pit_channel_write(&p->channel[off], now, v) && off == 0)
		arm_locked(p, now);
}

static void timer_read(struct device *dev, uint64_t off, void *data, unsigned len)
{
	struct pit *p = container_of(dev, struct pit, timer);

	pthread_mutex_lock(&p->lock);
	reg_read_bytes(p, read_locked, off, data, len);
	pthread_mutex_unlock(&p->lock);
}

static void timer_write(struct device *dev, uint64_t off, const void *data, unsigned len)
{
	struct pit *p = container_of(dev, struct pit, timer);

	pthread_mutex_lock(&p->lock);
	reg_write_bytes(p, write_locked, off, data, len);
	pthread_mutex_unlock(&p->lock);
}

static void timer_reset(struct device *dev)
{
	struct pit *p = container_of(dev, struct pit, timer);
	unsigned i;

	pthread_mutex_lock(&p->lock);
	for (i = 0; i < CHANNELS; i++)
		pit_channel_reset(&p->channel[i], i != 2);
	p->port61 = 0;
	p->due = UINT64_MAX;
	evloop_timer_cancel(p->loop, &p->tick);
	pthread_mutex_unlock(&p->lock);
}

static void timer_destroy(struct device *dev)
{
	struct pit *p = container_of(dev, struct pit, timer);

	evloop_timer_cancel(p->loop, &p->tick);
	pthread_mutex_destroy(&p->lock);
	free(p);
}

static const struct device_ops timer_ops = {
	.name = "pit",
	.read = timer_read,
	.write = timer_write,
	.reset = timer_reset,
	.destroy = timer_destroy,
};

static void control_read(struct device *dev, uint64_t off, void *data, unsigned len)
{
	struct pit *p = container_of(dev, struct pit, control);
	uint64_t now;
	uint8_t v;

	pthread_mutex_lock(&p->lock);
	now = clock_now(p->clk);
	v = p->port61 | (now / REFRESH_NS & 1 ? CONTROL_REFRESH : 0) |
	    (pit_channel_out(&p->channel[2], now) ? CONTROL_OUT2 : 0);
	pthread_mutex_unlock(&p->lock);
	reg_put(data, len, v);
}

static void control_write(struct device *dev, uint64_t off, const void *data, unsigned len)
{
	struct pit *p = container_of(dev, struct pit, control);

	pthread_mutex_lock(&p->lock);
	p->port61 = reg_get(data, len) & CONTROL_KEPT;
	pit_channel_set_gate(&p->channel[2], clock_now(p->clk), p->port61 & CONTROL_GATE2);
	pthread_mutex_unlock(&p->lock);
}

static void control_destroy(struct device *dev)
{
	/* A part of struct pit, which timer_destroy() frees. */
}

static const struct device_ops control_ops = {
	.name = "port61",
	.read = control_read,
	.write = control_write,
	.destroy = control_destroy,
};

int pit_create(struct pit_devices *devs, struct evloop *loop, struct clock *clk,
	       const struct irq_line *irq0)
{
	struct pit *p = calloc(1, sizeof(*p));

	if (!p)
		return -ENOMEM;
	pthread_mutex_init(&p->lock, NULL);
	p->timer.ops = &timer_ops;
	p->control.ops = &control_ops;
	p->loop = loop;
	p->clk = clk;
	p->irq = *irq0;
	p->tick.cb = on_tick;
	timer_reset(&p->timer);
	devs->timer = &p->timer;
	devs->control = &p->control;
	return 0;
}
