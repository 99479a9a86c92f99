#include "src/dev/rtc.h"

#include <pthread.h>
#include <stdlib.h>

#include "src/dev/regs.h"
#include "src/dev/rtc_time.h"

#define CMOS_SIZE  128
#define INDEX_MASK 0x7f /* bit 7 masks NMI, which nothing here raises */

#define REG_A 0x0a
#define REG_B 0x0b
#define REG_C 0x0c
#define REG_D 0x0d

#define A_UPDATING	0x80
#define A_DIVIDER	0x70
#define A_DIVIDER_RESET 0x60 /* this bit pattern and above stop the clock */
#define A_RATE		0x0f
#define A_DEFAULT	0x26 /* 32768 Hz crystal, 1024 Hz periodic rate */

#define B_SET	   0x80
#define B_PERIODIC 0x40
#define B_ALARM	   0x20
#define B_UPDATE   0x10
#define B_DEFAULT  RTC_B_24_HOURS

#define C_IRQ 0x80
/* The flags stand in register C where their enable bits stand in register B. */
#define FLAGS (B_PERIODIC | B_ALARM | B_UPDATE)

#define D_VALID 0x80

#define CRYSTAL_HZ 32768
/* The update-in-progress bit is set this long before the time changes (data sheet, figure 15). */
#define UPDATE_AHEAD_NS 244000

#define DAY 86400

struct rtc {
	struct device dev;
	pthread_mutex_t lock; /* protects all below; taken before the line's */
	struct evloop *loop;
	struct clock *clk;
	struct irq_line irq;
	struct ev_timer timer;
	int64_t offset_ns;    /* wall time less guest time */
	int64_t last_second;  /* up to which the update and alarm flags are right */
	uint64_t last_period; /* up to which the periodic flag is */
	uint8_t index;
	uint8_t cmos[CMOS_SIZE]; /* time registers are right only while B_SET */
};

static int64_t wall_ns(const struct rtc *r)
{
	return r->offset_ns + (int64_t)clock_now(r->clk);
}

static int64_t wall_seconds(const struct rtc *r)
{
	return wall_ns(r) / (int64_t)NSEC_PER_SEC;
}

/* Time stands still while it is being set or the divider is held. */
static bool stopped(const struct rtc *r)
{
	return (r->cmos[REG_B] & B_SET) || (r->cmos[REG_A] & A_DIVIDER) >= A_DIVIDER_RESET;
}

/* Periodic interrupt rate in crystal cycles (data sheet, table 5); 0: none. */
static unsigned period_cycles(const struct rtc *r)
{
	unsigned rate = r->cmos[REG_A] & A_RATE;

	if (!rate)
		return 0;
	return 1u << ((rate <= 2 ? rate + 7 : rate) - 1);
}

static uint64_t periods(const struct rtc *r)
{
	unsigned cycles = period_cycles(r);

	if (!cycles)
		return 0;
	return (unsigned __int128)clock_now(r->clk) * CRYSTAL_HZ / NSEC_PER_SEC / cycles;
}

static void mark_now_locked(struct rtc *r)
{
	r->last_second = wall_seconds(r);
	r->last_period = periods(r);
}

static bool alarm_passed(const struct rtc *r, int64_t now)
{
	int64_t s = MAX(r->last_second + 1, now - DAY);

	for (; s <= now; s++)
		if (rtc_time_alarm(r->cmos, r->cmos[REG_B], s))
			return true;
	return false;
}

/* Brings the flags of register C up to date and drives the line. */
static void update_flags_locked(struct rtc *r)
{
	uint8_t *c = &r->cmos[REG_C];
	int64_t now = wall_seconds(r);

	if (periods(r) != r->last_period)
		*c |= B_PERIODIC;
	if (now > r->last_second && !stopped(r)) {
		*c |= B_UPDATE;
		if (alarm_passed(r, now))
			*c |= B_ALARM;
	}
	mark_now_locked(r);
	if (*c & r->cmos[REG_B] & FLAGS)
		*c |= C_IRQ;
	else
		*c &= ~C_IRQ;
	irq_set(&r->irq, *c & C_IRQ);
}

static uint64_t next_period_ns(const struct rtc *r)
{
	uint64_t cycles = (periods(r) + 1) * period_cycles(r);

	return ((unsigned __int128)cycles * NSEC_PER_SEC + CRYSTAL_HZ - 1) / CRYSTAL_HZ;
}

static uint64_t next_second_ns(const struct rtc *r)
{
	return (wall_seconds(r) + 1) * (int64_t)NSEC_PER_SEC - r->offset_ns;
}

/* The timer runs only for an enabled interrupt, and not while the last one waits to be read. */
static void arm_locked(struct rtc *r)
{
	uint8_t b = r->cmos[REG_B];
	uint64_t next = UINT64_MAX;

	if (r->cmos[REG_C] & C_IRQ) {
		evloop_timer_cancel(r->loop, &r->timer);
		return;
	}
	if ((b & B_PERIODIC) && period_cycles(r))
		next = next_period_ns(r);
	if ((b & (B_ALARM | B_UPDATE)) && !stopped(r))
		next = MIN(next, next_second_ns(r));
	if (next == UINT64_MAX)
		evloop_timer_cancel(r->loop, &r->timer);
	else
		evloop_timer_arm(r->loop, &r->timer, next);
}

static void on_timer(struct ev_timer *t)
{
	struct rtc *r = container_of(t, struct rtc, timer);

	pthread_mutex_lock(&r->lock);
	update_flags_locked(r);
	arm_locked(r);
	pthread_mutex_unlock(&r->lock);
}

static bool is_time_register(uint8_t reg)
{
	return reg == RTC_SECONDS || reg == RTC_MINUTES || reg == RTC_HOURS ||
	       (reg >= RTC_WEEKDAY && reg <= RTC_YEAR) || reg == RTC_CENTURY;
}

static void load_time_locked(struct rtc *r)
{
	if (!stopped(r))
		rtc_time_store(r->cmos, r->cmos[REG_B], wall_seconds(r));
}

/* Makes the time registers the current time; the second starts anew. */
static void set_time_locked(struct rtc *r)
{
	int64_t seconds = rtc_time_load(r->cmos, r->cmos[REG_B]);

	r->offset_ns = seconds * (int64_t)NSEC_PER_SEC - (int64_t)clock_now(r->clk);
	mark_now_locked(r);
}

static uint8_t read_a_locked(struct rtc *r)
{
	uint64_t into = wall_ns(r) % (int64_t)NSEC_PER_SEC;
	bool updating = !stopped(r) && into >= NSEC_PER_SEC - UPDATE_AHEAD_NS;

	return r->cmos[REG_A] | (updating ? A_UPDATING : 0);
}

static uint8_t read_c_locked(struct rtc *r)
{
	uint8_t v;

	update_flags_locked(r);
	v = r->cmos[REG_C];
	r->cmos[REG_C] = 0;
	irq_set(&r->irq, false);
	arm_locked(r);
	return v;
}

static uint8_t read_locked(void *self, unsigned off)
{
	struct rtc *r = self;

	if (off == 0)
		return 0xff; /* the index cannot be read */
	switch (r->index) {
	case REG_A: return read_a_locked(r);
	case REG_C: return read_c_locked(r);
	case REG_D: return D_VALID;
	}
	if (is_time_register(r->index))
		load_time_locked(r);
	return r->cmos[r->index];
}

static void write_control_locked(struct rtc *r, uint8_t reg, uint8_t v)
{
	bool was_stopped;

	update_flags_locked(r);
	load_time_locked(r);
	was_stopped = stopped(r);
	if (reg == REG_B && (v & B_SET))
		v &= ~B_UPDATE; /* SET clears the update interrupt enable */
	r->cmos[reg] = reg == REG_A ? v & ~A_UPDATING : v;
	if (was_stopped && !stopped(r))
		set_time_locked(r);
	r->last_period = periods(r);
	update_flags_locked(r);
	arm_locked(r);
}

static void write_time_locked(struct rtc *r, uint8_t reg, uint8_t v)
{
	load_time_locked(r);
	r->cmos[reg] = v;
	if (!stopped(r))
		set_time_locked(r);
}

static void write_locked(void *self, unsigned off, uint8_t v)
{
	struct rtc *r = self;

	if (off == 0) {
		r->index = v & INDEX_MASK;
	} else if (r->index == REG_A || r->index == REG_B) {
		write_control_locked(r, r->index, v);
	} else if (is_time_register(r->index)) {
		write_time_locked(r, r->index, v);
	} else if (r->index != REG_C && r->index != REG_D) {
		update_flags_locked(r); /* the old alarm time counts until now */
		r->cmos[r->index] = v;
	}
}

static void rtc_read(struct device *dev, uint64_t off, void *data, unsigned len)
{
	struct rtc *r = container_of(dev, struct rtc, dev);

	pthread_mutex_lock(&r->lock);
	reg_read_bytes(r, read_locked, off, data, len);
	pthread_mutex_unlock(&r->lock);
}

static void rtc_write(struct device *dev, uint64_t off, const void *data, unsigned len)
{
	struct rtc *r = container_of(dev, struct rtc, dev);

	pthread_mutex_lock(&r->lock);
	reg_write_bytes(r, write_locked, off, data, len);
	pthread_mutex_unlock(&r->lock);
}

/* A machine reset stops the interrupts but keeps time and memory: there is a battery. */
static void rtc_reset(struct device *dev)
{
	struct rtc *r = container_of(dev, struct rtc, dev);

	pthread_mutex_lock(&r->lock);
	r->index = 0;
	r->cmos[REG_B] &= ~FLAGS;
	r->cmos[REG_C] = 0;
	irq_set(&r->irq, false);
	evloop_timer_cancel(r->loop, &r->timer);
	pthread_mutex_unlock(&r->lock);
}

static void rtc_destroy(struct device *dev)
{
	struct rtc *r = container_of(dev, struct rtc, dev);

	evloop_timer_cancel(r->loop, &r->timer);
	pthread_mutex_destroy(&r->lock);
	free(r);
}

static const struct device_ops ops = {
	.name = "rtc",
	.read = rtc_read,
	.write = rtc_write,
	.reset = rtc_reset,
	.destroy = rtc_destroy,
};

static void put16(uint8_t *cmos, unsigned reg, uint64_t v)
{
	v = MIN(v, 0xffff);
	cmos[reg] = v;
	cmos[reg + 1] = v >> 8;
}

/* Where PC firmware and QEMU's pc machine leave the sizes of memory. */
static void describe_machine(uint8_t *cmos, const struct rtc_config *cfg)
{
	uint64_t above_1m = cfg->low_ram > MIB(1) ? cfg->low_ram - MIB(1) : 0;
	uint64_t above_16m = cfg->low_ram > MIB(16) ? cfg->low_ram - MIB(16) : 0;
	uint64_t high = cfg->high_ram >> 16;

	cmos[0x14] = 0x02; /* equipment: coprocessor */
	put16(cmos, 0x15, 640);
	put16(cmos, 0x17, above_1m >> 10);
	put16(cmos, 0x30, above_1m >> 10);
	put16(cmos, 0x34, above_16m >> 16);
	cmos[0x5b] = high;
	cmos[0x5c] = high >> 8;
	cmos[0x5d] = high >> 16;
	cmos[0x5f] = MIN(cfg->ncpus - 1, 0xff);
}

int rtc_create(struct device **dev, const struct rtc_config *cfg, struct evloop *loop,
	       struct clock *clk, const struct irq_line *irq)
{
	struct rtc *r = calloc(1, sizeof(*r));

	if (!r)
		return -ENOMEM;
	pthread_mutex_init(&r->lock, NULL);
	r->dev.ops = &ops;
	r->loop = loop;
	r->clk = clk;
	r->irq = *irq;
	r->timer.cb = on_timer;
	r->offset_ns = clk->epoch_ns;
	r->cmos[REG_A] = A_DEFAULT;
	r->cmos[REG_B] = B_DEFAULT;
	describe_machine(r->cmos, cfg);
	mark_now_locked(r);
	*dev = &r->dev;
	return 0;
}
