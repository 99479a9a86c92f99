#include "src/engine/interp/ops_int.h"

/* --- unary -------------------------------------------------------------------------------- */

/* INC and DEC keep CF; r is the result. */
static force_inline void flags_incdec(struct cpu *c, uint64_t r, unsigned size, bool inc)
{
	uint64_t sign = 1ull << ((8u << size) - 1);
	bool of = inc ? (r & size_mask(size)) == sign : (r & size_mask(size)) == sign - 1;
	bool af = inc ? !(r & 15) : (r & 15) == 15;
	bool cf = flag_cf(c);

	flags_result(c, r, size);
	c->fl_carry = af << 3;
	flags_cf_of(c, cf, of);
}

OP(op_inc)
{
	struct rmw m;

	rmw_begin(c, i, &m);
	rmw_end(c, i, &m, m.old + 1);
	flags_incdec(c, m.old + 1, i->size, true);
	NEXT_STORED(c, i);
}

OP(op_dec)
{
	struct rmw m;

	rmw_begin(c, i, &m);
	rmw_end(c, i, &m, m.old - 1);
	flags_incdec(c, m.old - 1, i->size, false);
	NEXT_STORED(c, i);
}

OP(op_inc_r)
{
	uint64_t r = reg_get(c, i->dst, i->size) + 1;

	reg_set(c, i->dst, i->size, r);
	flags_incdec(c, r, i->size, true);
	NEXT(c, i);
}

OP(op_dec_r)
{
	uint64_t r = reg_get(c, i->dst, i->size) - 1;

	reg_set(c, i->dst, i->size, r);
	flags_incdec(c, r, i->size, false);
	NEXT(c, i);
}

OP(op_not)
{
	struct rmw m;

	rmw_begin(c, i, &m);
	rmw_end(c, i, &m, ~m.old);
	NEXT_STORED(c, i);
}

OP(op_neg)
{
	struct rmw m;
	uint64_t r, cout;
	unsigned shift = 64 - (8u << i->size);

	rmw_begin(c, i, &m);
	r = -m.old;
	rmw_end(c, i, &m, r);
	flags_result(c, r, i->size);
	cout = m.old | r; /* borrows of 0 - old */
	c->fl_carry = ((cout << shift) & (3ull << 62)) | (cout & 8);
	NEXT_STORED(c, i);
}

/* --- multiply and divide ------------------------------------------------------------------ */

/* CF = OF = the high half matters; the other flags are undefined and follow the low half. */
static void flags_mul(struct cpu *c, uint64_t low, bool overflow, unsigned size)
{
	flags_result(c, low, size);
	c->fl_carry = 0;
	flags_cf_of(c, overflow, overflow);
}

static void set_wide(struct cpu *c, unsigned size, uint64_t low, uint64_t high)
{
	if (size == 0) {
		R16(c, RAX * 8) = (low & 0xff) | high << 8;
	} else {
		reg_set(c, RAX * 8, size, low);
		reg_set(c, RDX * 8, size, high);
	}
}

OP(op_mul)
{
	uint64_t b = rm_get(c, i), a = reg_get(c, RAX * 8, i->size);
	unsigned __int128 p = (unsigned __int128)a * b;
	uint64_t low = p & size_mask(i->size), high = p >> (8u << i->size);

	set_wide(c, i->size, low, high);
	flags_mul(c, low, high != 0, i->size);
	NEXT(c, i);
}

OP(op_imul1)
{
	int64_t b = sign_extend(rm_get(c, i), i->size);
	int64_t a = sign_extend(reg_get(c, RAX * 8, i->size), i->size);
	__int128 p = (__int128)a * b;
	uint64_t low = (uint64_t)p & size_mask(i->size), high = p >> (8u << i->size);

	set_wide(c, i->size, low, high & size_mask(i->size));
	flags_mul(c, low, p != sign_extend(low, i->size), i->size);
	NEXT(c, i);
}

static force_inline void imul(struct cpu *c, const struct insn *i, int64_t a, int64_t b)
{
	__int128 p = (__int128)a * b;
	uint64_t low = (uint64_t)p & size_mask(i->size);

	reg_set(c, i->dst, i->size, low);
	flags_mul(c, low, p != sign_extend(low, i->size), i->size);
}

OP(op_imul2)
{
	int64_t b = sign_extend(src_get(c, i), i->size);

	imul(c, i, sign_extend(reg_get(c, i->dst, i->size), i->size), b);
	NEXT(c, i);
}

OP(op_imul3)
{
	imul(c, i, sign_extend(src_get(c, i), i->size), i->imm);
	NEXT(c, i);
}

OP(op_div)
{
	uint64_t b = rm_get(c, i), q, r;
	unsigned size = i->size;
	unsigned __int128 a;

	c->cur = i;
	if (!b)
		cpu_raise(c, EXC_DE);
	if (size == 0)
		a = R16(c, RAX * 8);
	else
		a = (unsigned __int128)reg_get(c, RDX * 8, size) << (8u << size) |
		    reg_get(c, RAX * 8, size);
	if (size < 3 || !(a >> 64)) {
		q = (uint64_t)a / b;
		r = (uint64_t)a % b;
	} else {
		if ((uint64_t)(a >> 64) >= b)
			cpu_raise(c, EXC_DE);
		q = a / b;
		r = a % b;
	}
	if (q & ~size_mask(size))
		cpu_raise(c, EXC_DE);
	set_wide(c, size, q, r);
	NEXT(c, i);
}

OP(op_idiv)
{
	int64_t b = sign_extend(rm_get(c, i), i->size);
	unsigned size = i->size;
	__int128 a, q, r;

	c->cur = i;
	if (!b)
		cpu_raise(c, EXC_DE);
	if (size == 0)
		a = (int16_t)R16(c, RAX * 8);
	else
		a = (__int128)sign_extend(reg_get(c, RDX * 8, size), size) << (8u << size) |
		    reg_get(c, RAX * 8, size);
	/* The one quotient that overflows 128 bits. */
	if (size == 3 && b == -1 && (unsigned __int128)a == (unsigned __int128)1 << 127)
		cpu_raise(c, EXC_DE);
	q = a / b;
	r = a % b;
	if (q != sign_extend((uint64_t)q & size_mask(size), size))
		cpu_raise(c, EXC_DE);
	set_wide(c, size, (uint64_t)q & size_mask(size), (uint64_t)r & size_mask(size));
	NEXT(c, i);
}

OP(op_mulx)
{
	unsigned __int128 p;
	uint64_t b = src_get(c, i), a = reg_get(c, RDX * 8, i->size);

	p = (unsigned __int128)a * b;
	/* aux: the low destination; if both are the same register the high half wins. */
	reg_set(c, i->aux, i->size, (uint64_t)p & size_mask(i->size));
	reg_set(c, i->dst, i->size, p >> (8u << i->size));
	NEXT(c, i);
}

/* CBW, CWDE, CDQE: size is the result's. */
OP(op_cbw)
{
	reg_set(c, RAX * 8, i->size, sign_extend(c->gpr[RAX], i->size - 1));
	NEXT(c, i);
}

OP(op_cwd)
{
	reg_set(c, RDX * 8, i->size, sign_extend(c->gpr[RAX], i->size) >> 63);
	NEXT(c, i);
}

/* --- moves -------------------------------------------------------------------------------- */

OP(op_lea)
{
	uint64_t a = c->gpr[i->base] + (c->gpr[i->index] << i->scale) + (int64_t)i->disp;

	if (i->flags & INSN_ADDR16)
		a = (uint16_t)a;
	else if (i->flags & INSN_ADDR32)
		a = (uint32_t)a;
	reg_set(c, i->dst, i->size, a);
	NEXT(c, i);
}

OP(op_xchg_rr)
{
	uint64_t a = reg_get(c, i->dst, i->size), b = reg_get(c, i->src, i->size);

	reg_set(c, i->dst, i->size, b);
	reg_set(c, i->src, i->size, a);
	NEXT(c, i);
}

OP(op_bswap)
{
	uint64_t v = reg_get(c, i->dst, i->size);

	/* The 16-bit form is undefined and gives zero on processors. */
	v = i->size == 3 ? __builtin_bswap64(v) : i->size == 2 ? __builtin_bswap32(v) : 0;
	reg_set(c, i->dst, i->size, v);
	NEXT(c, i);
}

static uint64_t bswap_size(uint64_t v, unsigned size)
{
	return size == 3   ? __builtin_bswap64(v)
	       : size == 2 ? __builtin_bswap32(v)
			   : __builtin_bswap16(v);
}

OP(op_movbe_load)
{
	reg_set(c, i->dst, i->size, bswap_size(src_get(c, i), i->size));
	NEXT(c, i);
}

OP(op_movbe_store)
{
	rm_set(c, i, bswap_size(reg_get(c, i->src, i->size), i->size));
	NEXT_STORED(c, i);
}

static gva_t moffs(struct cpu *c, const struct insn *i, bool write)
{
	c->cur = i;
	if (i->mode == 8)
		return c->seg[i->seg].base + i->imm;
	return seg_linear(c, i->seg, i->imm, 1u << i->size, write);
}

OP(op_mov_moffs_load)
{
	reg_set(c, RAX * 8, i->size, load_size(c, i, moffs(c, i, false), i->size));
	NEXT(c, i);
}

OP(op_mov_moffs_store)
{
	store_size(c, i, moffs(c, i, true), i->size, reg_get(c, RAX * 8, i->size));
	NEXT_STORED(c, i);
}

OP(op_xlat)
{
	uint64_t off = c->gpr[RBX] + R8(c, RAX * 8);

	c->cur = i;
	if (i->flags & INSN_ADDR16)
		off = (uint16_t)(R16(c, RBX * 8) + R8(c, RAX * 8));
	else if (i->flags & INSN_ADDR32)
		off = (uint32_t)off;
	R8(c, RAX * 8) = mem_read8(c, i,
				   i->mode == 8 ? c->seg[i->seg].base + off
						: seg_linear(c, i->seg, off, 1, false));
	NEXT(c, i);
}

OP(op_nop)
{
	NEXT(c, i);
}

/* --- bits --------------------------------------------------------------------------------- */

static uint64_t bit_op(unsigned op, uint64_t v, uint64_t bit)
{
	switch (op) {
	case 1: return v | bit;
	case 2: return v & ~bit;
	case 3: return v ^ bit;
	default: return v;
	}
}

static void set_cf(struct cpu *c, bool cf)
{
	flags_cf_of(c, cf, flag_of(c));
}

/* Bit number by immediate. */
OP(op_bt)
{
	uint64_t bit = 1ull << (i->imm & ((8u << i->size) - 1)), v;
	struct rmw m;

	if (i->aux == 0) {
		v = rm_get(c, i);
	} else {
		rmw_begin(c, i, &m);
		v = m.old;
		rmw_end(c, i, &m, bit_op(i->aux, v, bit));
	}
	set_cf(c, v & bit);
	NEXT_STORED(c, i);
}

/* Address of the word that holds a bit numbered by a register, which reaches beyond the operand. */
gva_t bt_address(struct cpu *c, const struct insn *i, uint64_t *bit, bool write)
{
	int64_t n = sign_extend(reg_get(c, i->src, i->size), i->size);
	unsigned bits = 8u << i->size;

	*bit = 1ull << (n & (bits - 1));
	return ea_offset(c, i, (n >> (3 + i->size)) * (1 << i->size), 1u << i->size, write);
}

OP(op_bt_reg)
{
	uint64_t bit, v;
	gva_t ea;

	if (!(i->flags & INSN_MEM)) {
		bit = 1ull << (reg_get(c, i->src, i->size) & ((8u << i->size) - 1));
		v = reg_get(c, i->dst, i->size);
		if (i->aux)
			reg_set(c, i->dst, i->size, bit_op(i->aux, v, bit));
		set_cf(c, v & bit);
		NEXT(c, i);
	}
	ea = bt_address(c, i, &bit, i->aux != 0);
	if (i->aux)
		mem_probe_write(c, ea, 1u << i->size);
	v = load_size(c, i, ea, i->size);
	if (i->aux)
		store_size(c, i, ea, i->size, bit_op(i->aux, v, bit));
	set_cf(c, v & bit);
	NEXT_STORED(c, i);
}

/* ZF by the source; the destination keeps its value if the source is zero. */
static void flags_scan(struct cpu *c, bool zero)
{
	c->fl_zero = !zero;
	c->fl_sign = zero ? 0 : 1; /* SF clear */
}

OP(op_bsf)
{
	uint64_t v = src_get(c, i);

	if (v)
		reg_set(c, i->dst, i->size, __builtin_ctzll(v));
	flags_scan(c, !v);
	NEXT(c, i);
}

OP(op_bsr)
{
	uint64_t v = src_get(c, i);

	if (v)
		reg_set(c, i->dst, i->size, 63 - __builtin_clzll(v));
	flags_scan(c, !v);
	NEXT(c, i);
}

/* CF: the source is zero; ZF: the result is zero. */
static void flags_count(struct cpu *c, uint64_t r, bool cf)
{
	c->fl_zero = r;
	c->fl_sign = r & 0xff;
	c->fl_carry = 0;
	flags_cf_of(c, cf, false);
}

OP(op_tzcnt)
{
	uint64_t v = src_get(c, i), r = v ? (unsigned)__builtin_ctzll(v) : 8u << i->size;

	reg_set(c, i->dst, i->size, r);
	flags_count(c, r, !v);
	NEXT(c, i);
}

OP(op_lzcnt)
{
	uint64_t v = src_get(c, i);
	unsigned bits = 8u << i->size;
	uint64_t r = v ? bits - 64 + (unsigned)__builtin_clzll(v) : bits;

	reg_set(c, i->dst, i->size, r);
	flags_count(c, r, !v);
	NEXT(c, i);
}

OP(op_popcnt)
{
	uint64_t v = src_get(c, i), r = __builtin_popcountll(v);

	reg_set(c, i->dst, i->size, r);
	c->fl_zero = r;
	c->fl_sign = 1; /* all flags but ZF are cleared; the byte 1 has odd parity */
	c->fl_carry = 0;
	NEXT(c, i);
}

/* --- BMI, ADX, CRC32 ----------------------------------------------------------------------- */

/* SF and ZF by the result, CF given, OF clear. */
static void flags_bmi(struct cpu *c, uint64_t r, unsigned size, bool cf)
{
	flags_result(c, r, size);
	c->fl_carry = 0;
	flags_cf_of(c, cf, false);
}

/* Three operands: dst, aux (the VEX.vvvv register), r/m in src or memory. */
OP(op_andn)
{
	uint64_t r = ~reg_get(c, i->aux, i->size) & src_get(c, i);

	reg_set(c, i->dst, i->size, r);
	flags_bmi(c, r, i->size, false);
	NEXT(c, i);
}

OP(op_bextr)
{
	uint64_t v = src_get(c, i), r;
	unsigned ctl = reg_get(c, i->aux, i->size), start = ctl & 0xff, len = ctl >> 8 & 0xff;

	r = start < 64 ? v >> start : 0;
	if (len < 64)
		r &= (1ull << len) - 1;
	reg_set(c, i->dst, i->size, r);
	flags_bmi(c, r, i->size, false);
	NEXT(c, i);
}

OP(op_blsi)
{
	uint64_t v = src_get(c, i), r = v & -v;

	reg_set(c, i->dst, i->size, r);
	flags_bmi(c, r, i->size, v != 0);
	NEXT(c, i);
}

OP(op_blsmsk)
{
	uint64_t v = src_get(c, i), r = (v ^ (v - 1)) & size_mask(i->size);

	reg_set(c, i->dst, i->size, r);
	flags_bmi(c, r, i->size, !v);
	NEXT(c, i);
}

OP(op_blsr)
{
	uint64_t v = src_get(c, i), r = v & (v - 1);

	reg_set(c, i->dst, i->size, r);
	flags_bmi(c, r, i->size, !v);
	NEXT(c, i);
}

OP(op_bzhi)
{
	uint64_t v = src_get(c, i);
	unsigned n = reg_get(c, i->aux, i->size) & 0xff, bits = 8u << i->size;

	if (n < bits)
		v &= (1ull << n) - 1;
	reg_set(c, i->dst, i->size, v);
	flags_bmi(c, v, i->size, n >= bits);
	NEXT(c, i);
}

OP(op_pdep)
{
	uint64_t mask = src_get(c, i), v = reg_get(c, i->aux, i->size), r = 0;

	for (; mask; mask &= mask - 1, v >>= 1)
		if (v & 1)
			r |= mask & -mask;
	reg_set(c, i->dst, i->size, r);
	NEXT(c, i);
}

OP(op_pext)
{
	uint64_t mask = src_get(c, i), v = reg_get(c, i->aux, i->size), r = 0;

	for (unsigned n = 0; mask; mask &= mask - 1, n++)
		if (v & mask & -mask)
			r |= 1ull << n;
	reg_set(c, i->dst, i->size, r);
	NEXT(c, i);
}

OP(op_rorx)
{
	uint64_t v = src_get(c, i);
	unsigned bits = 8u << i->size, n = i->imm & (bits - 1);

	reg_set(c, i->dst, i->size, n ? v >> n | v << (bits - n) : v);
	NEXT(c, i);
}

OP(op_shiftx)
{
	uint64_t v = src_get(c, i);
	unsigned n = reg_get(c, i->aux >> 2 << 3, i->size) & ((8u << i->size) - 1);

	switch (i->aux & 3) {
	case 0: v = sign_extend(v, i->size) >> n; break;
	case 1: v <<= n; break;
	default: v >>= n; break;
	}
	reg_set(c, i->dst, i->size, v);
	NEXT(c, i);
}

static bool add_carry(uint64_t a, uint64_t b, bool carry, unsigned size, uint64_t *r)
{
	unsigned __int128 s = (unsigned __int128)a + b + carry;

	*r = (uint64_t)s & size_mask(size);
	return s >> (8u << size);
}

OP(op_adcx)
{
	uint64_t r, b = src_get(c, i);
	bool cf = add_carry(reg_get(c, i->dst, i->size), b, flag_cf(c), i->size, &r);

	reg_set(c, i->dst, i->size, r);
	flags_cf_of(c, cf, flag_of(c));
	NEXT(c, i);
}

OP(op_adox)
{
	uint64_t r, b = src_get(c, i);
	bool of = add_carry(reg_get(c, i->dst, i->size), b, flag_of(c), i->size, &r);

	reg_set(c, i->dst, i->size, r);
	flags_cf_of(c, flag_cf(c), of);
	NEXT(c, i);
}

/* CRC-32C, bit-reflected polynomial 0x82f63b78, least significant byte first. size: the source's.
 */
OP(op_crc32)
{
	uint64_t v = src_get(c, i);
	uint32_t crc = R32(c, i->dst);

	for (unsigned n = 0; n < 1u << i->size; n++, v >>= 8) {
		crc ^= v & 0xff;
		for (unsigned b = 0; b < 8; b++)
			crc = crc >> 1 ^ (crc & 1 ? 0x82f63b78 : 0);
	}
	R64(c, i->dst) = crc;
	NEXT(c, i);
}

/* --- flags and decimal arithmetic ---------------------------------------------------------- */

OP(op_flag)
{
	switch (i->aux) {
	case 0: set_cf(c, false); break;
	case 1: set_cf(c, true); break;
	case 2: set_cf(c, !flag_cf(c)); break;
	case 3: c->rflags &= ~FLAG_DF; break;
	default: c->rflags |= FLAG_DF; break;
	}
	NEXT(c, i);
}

OP(op_lahf)
{
	R8(c, RAX * 8 + 1) = (flags_get(c) & 0xd5) | FLAG_ONE;
	NEXT(c, i);
}

OP(op_sahf)
{
	flags_set_arith(c, (R8(c, RAX * 8 + 1) & 0xd5) | (flag_of(c) ? FLAG_OF : 0));
	NEXT(c, i);
}

OP(op_salc)
{
	R8(c, RAX * 8) = flag_cf(c) ? 0xff : 0;
	NEXT(c, i);
}

static void flags_decimal(struct cpu *c, uint8_t r, bool cf, bool af)
{
	flags_result(c, r, 0);
	c->fl_carry = af << 3;
	flags_cf_of(c, cf, false);
}

static void decimal_adjust(struct cpu *c, bool sub)
{
	uint8_t old = R8(c, RAX * 8), al = old;
	bool old_cf = flag_cf(c), cf = false, af = false;

	if ((al & 15) > 9 || flag_af(c)) {
		cf = old_cf || (sub ? al < 6 : al > 0xf9);
		al = sub ? al - 6 : al + 6;
		af = true;
	}
	if (old > 0x99 || old_cf) {
		al = sub ? al - 0x60 : al + 0x60;
		cf = true;
	} else if (!sub) {
		cf = false;
	}
	R8(c, RAX * 8) = al;
	flags_decimal(c, al, cf, af);
}

OP(op_daa)
{
	decimal_adjust(c, false);
	NEXT(c, i);
}

OP(op_das)
{
	decimal_adjust(c, true);
	NEXT(c, i);
}

static void ascii_adjust(struct cpu *c, int sign)
{
	bool adjust = (R8(c, RAX * 8) & 15) > 9 || flag_af(c);

	if (adjust)
		R16(c, RAX * 8) += sign * 0x106;
	R8(c, RAX * 8) &= 15;
	flags_decimal(c, R8(c, RAX * 8), adjust, adjust);
}

OP(op_aaa)
{
	ascii_adjust(c, 1);
	NEXT(c, i);
}

OP(op_aas)
{
	ascii_adjust(c, -1);
	NEXT(c, i);
}

OP(op_aam)
{
	uint8_t base = i->imm, al = R8(c, RAX * 8);

	c->cur = i;
	if (!base)
		cpu_raise(c, EXC_DE);
	R16(c, RAX * 8) = (al / base) << 8 | al % base;
	flags_decimal(c, al % base, false, false);
	NEXT(c, i);
}

OP(op_aad)
{
	uint8_t al = R8(c, RAX * 8) + R8(c, RAX * 8 + 1) * (uint8_t)i->imm;

	R16(c, RAX * 8) = al;
	flags_decimal(c, al, false, false);
	NEXT(c, i);
}
