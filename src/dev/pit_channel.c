#include "src/dev/pit_channel.h"

#include "src/dev/pit.h"

#define ACCESS_LOW  1
#define ACCESS_HIGH 2

#define STATUS_OUT  0x80
#define STATUS_NULL 0x40

static uint64_t ns_to_ticks(uint64_t ns)
{
	return (unsigned __int128)ns * PIT_HZ / NSEC_PER_SEC;
}

/* Rounded up, so that at that time the ticks have been counted. */
static uint64_t ticks_to_ns(uint64_t ticks)
{
	return ((unsigned __int128)ticks * NSEC_PER_SEC + PIT_HZ - 1) / PIT_HZ;
}

static bool periodic(const struct pit_channel *c)
{
	return c->mode == 2 || c->mode == 3;
}

static bool hardware_triggered(const struct pit_channel *c)
{
	return c->mode == 1 || c->mode == 5;
}

static bool counting(const struct pit_channel *c)
{
	return c->loaded && (hardware_triggered(c) ? c->triggered : c->gate);
}

/* Ticks since the count was (re)loaded. */
static uint64_t elapsed(const struct pit_channel *c, uint64_t now)
{
	if (!counting(c))
		return c->stopped;
	return now > c->start_ns ? ns_to_ticks(now - c->start_ns) : 0;
}

static void start(struct pit_channel *c, uint64_t now)
{
	c->start_ns = now;
	c->stopped = 0;
}

void pit_channel_reset(struct pit_channel *c, bool gate)
{
	*c = (struct pit_channel){.mode = 3, .access = 3, .gate = gate, .count = 0x10000};
}

void pit_channel_control(struct pit_channel *c, uint8_t word)
{
	uint8_t mode = word >> 1 & 7;

	c->access = word >> 4 & 3;
	c->mode = mode > 5 ? mode - 4 : mode; /* bit 2 is ignored for modes 2 and 3 */
	c->bcd = word & 1;
	c->loaded = false;
	c->triggered = false;
	c->stopped = 0;
	c->write_high = c->read_high = false;
	c->latched_bytes = 0;
	c->status_latched = false;
}

static uint32_t from_bcd(uint16_t v)
{
	return (v >> 12) * 1000 + (v >> 8 & 15) * 100 + (v >> 4 & 15) * 10 + (v & 15);
}

static uint16_t to_bcd(uint32_t v)
{
	return v / 1000 % 10 << 12 | v / 100 % 10 << 8 | v / 10 % 10 << 4 | v % 10;
}

/* The counting element as the guest sees it. */
static uint16_t current_count(const struct pit_channel *c, uint64_t now)
{
	uint32_t wrap = c->bcd ? 10000 : 0x10000;
	uint64_t d = elapsed(c, now);
	uint32_t v;

	switch (c->mode) {
	case 2: v = c->count - d % c->count; break;
	/* In steps of two, twice in a period. */
	case 3: v = (c->count & ~1u) - 2 * d % MAX(c->count & ~1u, 2); break;
	default: v = (c->count + wrap - d % wrap) % wrap; break;
	}
	return c->bcd ? to_bcd(v) : v;
}

bool pit_channel_out(const struct pit_channel *c, uint64_t now)
{
	uint64_t d = elapsed(c, now);

	if (!c->loaded)
		return c->mode != 0;
	switch (c->mode) {
	case 0: return d >= c->count;
	case 1: return !c->triggered || d >= c->count;
	case 2: return !c->gate || d % c->count != c->count - 1;
	case 3: return !c->gate || d % c->count < (c->count + 1) / 2;
	default: return (c->mode == 5 && !c->triggered) || d != c->count;
	}
}

uint64_t pit_channel_next_rise(const struct pit_channel *c, uint64_t now)
{
	uint64_t d = elapsed(c, now), at;

	if (!counting(c))
		return UINT64_MAX;
	if (periodic(c))
		at = (d / c->count + 1) * c->count;
	else
		at = c->count + (c->mode >= 4 ? 1 : 0);
	if (at <= d)
		return UINT64_MAX;
	return c->start_ns + ticks_to_ns(at);
}

static void load(struct pit_channel *c, uint64_t now, uint16_t v)
{
	uint32_t count = c->bcd ? from_bcd(v) : v;

	c->count = count ? count : c->bcd ? 10000 : 0x10000;
	c->loaded = true;
	c->triggered = false;
	start(c, now);
}

bool pit_channel_write(struct pit_channel *c, uint64_t now, uint8_t v)
{
	switch (c->access) {
	case ACCESS_LOW: load(c, now, v); return true;
	case ACCESS_HIGH: load(c, now, v << 8); return true;
	}
	c->write_high = !c->write_high;
	if (c->write_high) {
		c->write_low = v;
		return false;
	}
	load(c, now, v << 8 | c->write_low);
	return true;
}

void pit_channel_latch_count(struct pit_channel *c, uint64_t now)
{
	if (c->latched_bytes)
		return;
	c->latch = current_count(c, now);
	c->latched_bytes = c->access == 3 ? 2 : 1;
}

void pit_channel_latch_status(struct pit_channel *c, uint64_t now)
{
	if (c->status_latched)
		return;
	c->status = (pit_channel_out(c, now) ? STATUS_OUT : 0) | (c->loaded ? 0 : STATUS_NULL) |
		    c->access << 4 | c->mode << 1 | c->bcd;
	c->status_latched = true;
}

static uint8_t byte_of(struct pit_channel *c, uint16_t v)
{
	bool high = c->access == ACCESS_HIGH;

	if (c->access == 3) {
		high = c->read_high;
		c->read_high = !c->read_high;
	}
	return high ? v >> 8 : v;
}

uint8_t pit_channel_read(struct pit_channel *c, uint64_t now)
{
	if (c->status_latched) {
		c->status_latched = false;
		return c->status;
	}
	if (c->latched_bytes) {
		c->latched_bytes--;
		return byte_of(c, c->latch);
	}
	return byte_of(c, current_count(c, now));
}

/* Gate effects: 8254 data sheet, figure 21 "Gate pin operations summary". */
void pit_channel_set_gate(struct pit_channel *c, uint64_t now, bool gate)
{
	bool rise = gate && !c->gate, fall = !gate && c->gate;

	if (hardware_triggered(c)) {
		if (rise && c->loaded) {
			c->triggered = true;
			start(c, now);
		}
	} else if (periodic(c)) {
		if (rise)
			start(c, now);
		else if (fall)
			c->stopped = 0;
	} else if (fall) {
		c->stopped = elapsed(c, now);
	} else if (rise) {
		c->start_ns = now - MIN(now, ticks_to_ns(c->stopped));
	}
	c->gate = gate;
}
