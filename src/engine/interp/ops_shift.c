#include "src/engine/interp/ops.h"
#include "src/engine/interp/ops_int.h"

enum { ROL, ROR, RCL, RCR, SHL, SHR, SAL, SAR };

/*
 * One shift or rotate of a value of the given size; count is already masked to 5 or 6 bits and not
 * zero. OF for counts other than 1 is what the formula of count 1 gives on the last bit.
 */
static uint64_t shift(struct cpu *c, unsigned op, uint64_t v, unsigned count, unsigned size)
{
	unsigned bits = 8u << size;
	uint64_t mask = size_mask(size), r;
	bool cf, of;

	v &= mask;
	switch (op) {
	case ROL:
		count %= bits;
		r = count ? (v << count | v >> (bits - count)) & mask : v;
		cf = r & 1;
		flags_cf_of(c, cf, cf ^ (r >> (bits - 1)));
		return r;
	case ROR:
		count %= bits;
		r = count ? (v >> count | v << (bits - count)) & mask : v;
		cf = r >> (bits - 1);
		flags_cf_of(c, cf, cf ^ (r >> (bits - 2) & 1));
		return r;
	case RCL:
		count %= bits + 1;
		cf = flag_cf(c);
		for (r = v; count; count--) {
			bool out = r >> (bits - 1);

			r = (r << 1 | cf) & mask;
			cf = out;
		}
		flags_cf_of(c, cf, cf ^ (r >> (bits - 1)));
		return r;
	case RCR:
		count %= bits + 1;
		cf = flag_cf(c);
		for (r = v; count; count--) {
			bool out = r & 1;

			r = r >> 1 | (uint64_t)cf << (bits - 1);
			cf = out;
		}
		flags_cf_of(c, cf, (r >> (bits - 1) ^ r >> (bits - 2)) & 1);
		return r;
	case SHR:
		cf = count <= bits ? v >> (count - 1) & 1 : 0;
		r = count < bits ? v >> count : 0;
		of = count == 1 ? v >> (bits - 1) & 1 : 0;
		break;
	case SAR: {
		int64_t s = sign_extend(v, size);

		cf = (count <= bits ? s >> (count - 1) : s >> 63) & 1;
		r = (count < bits ? s >> count : s >> 63) & mask;
		of = false;
		break;
	}
	default: /* SHL and its alias */
		cf = count <= bits ? v >> (bits - count) & 1 : 0;
		r = count < bits ? (v << count) & mask : 0;
		of = cf ^ (r >> (bits - 1) & 1);
		break;
	}
	flags_result(c, r, size);
	c->fl_carry = 0;
	flags_cf_of(c, cf, of);
	return r;
}

static unsigned count_mask(unsigned size)
{
	return size == 3 ? 63 : 31;
}

/* Register by an immediate that the decoder masked and found non-zero. */
#define SHIFT_RI(name, op, bits, sz)                                                  \
	static OP(name##_ri##bits)                                                    \
	{                                                                             \
		set_r##bits(c, i->dst, shift(c, op, R##bits(c, i->dst), i->imm, sz)); \
		NEXT(c, i);                                                           \
	}
SHIFT_RI(shl, SHL, 32, 2)
SHIFT_RI(shl, SHL, 64, 3)
SHIFT_RI(shr, SHR, 32, 2)
SHIFT_RI(shr, SHR, 64, 3)
SHIFT_RI(sar, SAR, 32, 2)
SHIFT_RI(sar, SAR, 64, 3)
SHIFT_RI(rol, ROL, 32, 2)
SHIFT_RI(rol, ROL, 64, 3)

/* aux: the operation. A count of 0 changes no flag, but memory is still accessed. */
static force_inline void shift_generic(struct cpu *c, const struct insn *i, unsigned count)
{
	struct rmw m;

	count &= count_mask(i->size);
	rmw_begin(c, i, &m);
	rmw_end(c, i, &m, count ? shift(c, i->aux, m.old, count, i->size) : m.old);
}

static OP(shift_imm)
{
	shift_generic(c, i, i->imm);
	NEXT_STORED(c, i);
}

static OP(shift_cl)
{
	shift_generic(c, i, R8(c, RCX * 8));
	NEXT_STORED(c, i);
}

exec_fn *ops_shift_cl(void)
{
	return shift_cl;
}

exec_fn *ops_shift_imm(unsigned op, unsigned size, bool mem, unsigned count)
{
	bool q = size == 3;

	if (mem || size < 2 || !(count & count_mask(size)))
		return shift_imm;
	switch (op) {
	case SHL:
	case SAL: return q ? shl_ri64 : shl_ri32;
	case SHR: return q ? shr_ri64 : shr_ri32;
	case SAR: return q ? sar_ri64 : sar_ri32;
	case ROL: return q ? rol_ri64 : rol_ri32;
	default: return shift_imm;
	}
}

/* --- SHLD, SHRD: imm is the count, or CL if aux is set ------------------------------------- */

static void double_shift(struct cpu *c, const struct insn *i, bool left)
{
	unsigned bits = 8u << i->size, count = i->aux ? R8(c, RCX * 8) : i->imm;
	uint64_t mask = size_mask(i->size), src = reg_get(c, i->src, i->size), v, r;
	struct rmw m;
	bool cf;

	count &= count_mask(i->size);
	rmw_begin(c, i, &m);
	v = m.old;
	if (!count) {
		rmw_end(c, i, &m, v);
		return;
	}
	/* 16-bit counts above 16 are undefined: keep shifting in the source, then the value. */
	if (count > bits) {
		unsigned n = count - bits;

		r = left ? src << n | v >> (bits - n) : src >> n | v << (bits - n);
		cf = left ? src >> (bits - n) & 1 : src >> (n - 1) & 1;
	} else if (left) {
		r = (count < bits ? v << count : 0) | src >> (bits - count);
		cf = v >> (bits - count) & 1;
	} else {
		r = v >> (count - 1) >> 1 | (count < bits ? src << (bits - count) : src);
		cf = v >> (count - 1) & 1;
	}
	r &= mask;
	rmw_end(c, i, &m, r);
	flags_result(c, r, i->size);
	c->fl_carry = 0;
	flags_cf_of(c, cf, (r ^ v) >> (bits - 1) & 1);
}

OP(op_shld)
{
	double_shift(c, i, true);
	NEXT_STORED(c, i);
}

OP(op_shrd)
{
	double_shift(c, i, false);
	NEXT_STORED(c, i);
}
