#include "tests/diff/gen.h"
#include "src/x86/arch.h"

/* RBX, RBP, RSI, RDI, R8, R14 */
const uint8_t gen_pointer_regs[POINTER_REGS] = {3, 5, 6, 7, 8, 14};

uint64_t gen_address(struct rng *r)
{
	unsigned where = rng_below(r, 100);

	if (where < 80)
		return DATA_BASE + (rng_below(r, DATA_SIZE - 64) & ~63u);
	if (where < 90)
		return DATA_BASE + rng_below(r, DATA_SIZE - 64);
	if (where < 94)
		return DATA_BASE + PAGE_SIZE - rng_below(r, 64);
	if (where < 96)
		return DATA_BASE + DATA_SIZE - rng_below(r, 64);
	if (where < 97)
		return DATA_BASE - rng_below(r, 16);
	if (where < 98)
		return RO_BASE + rng_below(r, RO_SIZE);
	if (where < 99)
		return CODE_BASE + rng_below(r, CODE_SIZE);
	return rng_next(r);
}

static uint64_t corner_value(struct rng *r)
{
	static const uint64_t corners[] = {0,
					   1,
					   2,
					   ~0ull,
					   0x7f,
					   0x80,
					   0xff,
					   0x7fff,
					   0x8000,
					   0xffff,
					   0x7fffffff,
					   0x80000000,
					   0xffffffff,
					   0x7fffffffffffffff,
					   0x8000000000000000,
					   0xffffffff80000000};

	switch (rng_below(r, 4)) {
	case 0: return corners[rng_below(r, ARRAY_SIZE(corners))];
	case 1: return rng_below(r, 64);
	case 2: return rng_next(r) >> rng_below(r, 64);
	default: return rng_next(r);
	}
}

static float corner_float(struct rng *r)
{
	static const uint32_t corners[] = {0x00000000, 0x80000000, 0x3f800000, 0xbf800000,
					   0x7f800000, 0xff800000, 0x7fc00000, 0x7fa00000,
					   0x00000001, 0x007fffff, 0x00800000, 0x7f7fffff,
					   0x4f000000, 0xcf000000, 0x5f000000, 0x3f000000};
	uint32_t bits = corners[rng_below(r, ARRAY_SIZE(corners))];
	float f;

	if (rng_chance(r, 50))
		return ((int)rng_below(r, 20001) - 10000) / 64.0f;
	memcpy(&f, &bits, 4);
	return f;
}

static double corner_double(struct rng *r)
{
	static const uint64_t corners[] = {
		0x0000000000000000, 0x8000000000000000, 0x3ff0000000000000, 0x7ff0000000000000,
		0xfff0000000000000, 0x7ff8000000000000, 0x7ff4000000000000, 0x0000000000000001,
		0x000fffffffffffff, 0x0010000000000000, 0x7fefffffffffffff, 0x41dfffffffc00000,
		0xc3e0000000000000, 0x36a0000000000000};
	uint64_t bits = corners[rng_below(r, ARRAY_SIZE(corners))];
	double d;

	if (rng_chance(r, 50))
		return ((int)rng_below(r, 2000001) - 1000000) / 1024.0;
	memcpy(&d, &bits, 8);
	return d;
}

/* 32 bytes of integers, floats or doubles. */
static void fill_vector(struct rng *r, uint8_t *p)
{
	unsigned kind = rng_below(r, 4);

	for (unsigned n = 0; n < 4; n++) {
		if (kind == 0) {
			float f[2] = {corner_float(r), corner_float(r)};

			memcpy(p + 8 * n, f, 8);
		} else if (kind == 1) {
			double d = corner_double(r);

			memcpy(p + 8 * n, &d, 8);
		} else {
			uint64_t q = kind == 2 ? corner_value(r) : rng_next(r);

			memcpy(p + 8 * n, &q, 8);
		}
	}
}

static void gen_x87(struct rng *r, uint8_t *fx)
{
	uint16_t fcw = 0x37f, fsw = rng_below(r, 8) << 11 | (rng_next(r) & 0x4700);

	memset(fx, 0, X87_BYTES);
	if (rng_chance(r, 30))
		fcw = 0x40 | rng_below(r, 16) << 8 | (rng_chance(r, 50) ? 0x3f : rng_below(r, 64));
	memcpy(fx, &fcw, 2);
	memcpy(fx + 2, &fsw, 2);
	fx[4] = rng_chance(r, 30) ? 0 : rng_next(r);
	for (unsigned n = 0; n < 8; n++) {
		long double v = corner_double(r);

		memcpy(fx + 32 + 16 * n, &v, 10);
		if (rng_chance(r, 20)) {
			uint64_t q = rng_next(r);

			memcpy(fx + 32 + 16 * n, &q, 8);
		}
	}
}

void gen_state(struct rng *r, bool compat, struct diff_state *st)
{
	st->compat = compat;
	for (unsigned n = 0; n < 16; n++)
		st->gpr[n] = corner_value(r);
	if (rng_chance(r, 60))
		st->gpr[1] = rng_below(r, 12); /* RCX counts */
	for (unsigned n = 0; n < POINTER_REGS; n++)
		if (rng_chance(r, 95))
			st->gpr[gen_pointer_regs[n]] = gen_address(r);
	st->gpr[4] = DATA_BASE + 2048 + (rng_below(r, 2048) & ~7u);
	st->gpr[SMALL_REG] = rng_below(r, 16);
	for (unsigned n = 0; compat && n < 16; n++)
		st->gpr[n] = (uint32_t)st->gpr[n];
	st->rip = CODE_BASE;
	st->rflags = (rng_next(r) & FLAGS_ARITH) | FLAG_ONE | FLAG_IF;
	if (rng_chance(r, 10))
		st->rflags |= FLAG_DF;
	st->mxcsr = 0x1f80;
	if (rng_chance(r, 30))
		st->mxcsr = (rng_next(r) & 0xe07f) |
			    (rng_chance(r, 60) ? 0x1f80 : rng_next(r) & 0x1f80);
	for (unsigned n = 0; n < 16; n++)
		fill_vector(r, st->ymm[n]);
	gen_x87(r, st->fx);
	for (unsigned n = 0; n < DATA_SIZE; n += 32)
		fill_vector(r, st->data + n);
}
