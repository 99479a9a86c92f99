/* One counter of an 8254: a pure function of its programming and of the time. No lock. */
#ifndef DEV_PIT_CHANNEL_H
#define DEV_PIT_CHANNEL_H

#include "src/base/types.h"

struct pit_channel {
	uint8_t mode;	/* 0 to 5 */
	uint8_t access; /* 1: low byte, 2: high byte, 3: low, then high */
	bool bcd;
	bool gate;
	bool loaded;	/* a count was written since the control word */
	bool triggered; /* modes 1 and 5: the gate has risen since the count was written */
	bool write_high, read_high; /* which byte of access 3 comes next */
	uint8_t write_low;
	uint8_t latched_bytes; /* how many bytes of the count latch remain */
	bool status_latched;
	uint16_t latch;
	uint8_t status;
	uint32_t count;	   /* 1 to 0x10000 ticks */
	uint64_t start_ns; /* when counting began; meaningless while stopped */
	uint64_t stopped;  /* ticks counted when the gate went low (modes 0 and 4) */
};

void pit_channel_reset(struct pit_channel *c, bool gate);
/* Control word of this channel (not the latch and read-back commands). */
void pit_channel_control(struct pit_channel *c, uint8_t word);
void pit_channel_latch_count(struct pit_channel *c, uint64_t now);
void pit_channel_latch_status(struct pit_channel *c, uint64_t now);
/* Returns true if the write completed a count, which starts (or restarts) the counter. */
bool pit_channel_write(struct pit_channel *c, uint64_t now, uint8_t v);
uint8_t pit_channel_read(struct pit_channel *c, uint64_t now);
void pit_channel_set_gate(struct pit_channel *c, uint64_t now, bool gate);
bool pit_channel_out(const struct pit_channel *c, uint64_t now);
/* Guest time of the first rising edge of OUT after now; UINT64_MAX if none comes. */
uint64_t pit_channel_next_rise(const struct pit_channel *c, uint64_t now);

#endif
