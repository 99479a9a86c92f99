/* Helpers for register access. Guest and host are little-endian. */
#ifndef DEV_REGS_H
#define DEV_REGS_H

#include "src/dev/device.h"

/* The low len bytes; len is 1, 2, 4 or 8. */
static inline uint64_t reg_get(const void *data, unsigned len)
{
	uint64_t v = 0;

	memcpy(&v, data, len);
	return v;
}

static inline void reg_put(void *data, unsigned len, uint64_t v)
{
	memcpy(data, &v, len);
}

/* A wider access to a device of byte registers is that many accesses to neighbouring ones. */
static inline void reg_read_bytes(void *self, uint8_t (*rd)(void *self, unsigned off), uint64_t off,
				  void *data, unsigned len)
{
	unsigned i;

	for (i = 0; i < len; i++)
		((uint8_t *)data)[i] = rd(self, off + i);
}

static inline void reg_write_bytes(void *self, void (*wr)(void *self, unsigned off, uint8_t v),
				   uint64_t off, const void *data, unsigned len)
{
	unsigned i;

	for (i = 0; i < len; i++)
		wr(self, off + i, ((const uint8_t *)data)[i]);
}

#endif
