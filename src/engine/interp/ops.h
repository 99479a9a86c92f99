/*
 * What instruction handlers share. A handler runs one decoded instruction and ends by calling the
 * next one's (NEXT), which the compiler turns into a jump; the last handler of a block sets rip and
 * returns to the run loop. A handler changes registers only after its last access that can fault.
 */
#ifndef ENGINE_INTERP_OPS_H
#define ENGINE_INTERP_OPS_H

#include "src/x86/mem.h"

typedef void exec_fn(struct cpu *c, const struct insn *i);

#define OP(name) void name(struct cpu *c, const struct insn *i)

#define NEXT(c, i)                      \
	do {                            \
		(i)++;                  \
		return (i)->exec(c, i); \
	} while (0)

/* After an instruction that stored to memory: its block may have become stale. */
#define NEXT_STORED(c, i)                      \
	do {                                   \
		if (unlikely((c)->event))      \
			return op_break(c, i); \
		NEXT(c, i);                    \
	} while (0)

OP(op_end);   /* after the last instruction of a block that does not end in a branch */
OP(op_break); /* leaves the block after instruction i */
OP(op_ud);
OP(op_restart); /* leaves the block before instruction i, to come back to it */

/* --- registers ---------------------------------------------------------------------------- */

#define R8(c, off)  (*((uint8_t *)(c)->gpr + (off)))
#define R16(c, off) (*(uint16_t *)((uint8_t *)(c)->gpr + (off)))
#define R32(c, off) (*(uint32_t *)((uint8_t *)(c)->gpr + (off)))
#define R64(c, off) (*(uint64_t *)((uint8_t *)(c)->gpr + (off)))

static force_inline void set_r8(struct cpu *c, unsigned off, uint8_t v)
{
	R8(c, off) = v;
}
static force_inline void set_r16(struct cpu *c, unsigned off, uint16_t v)
{
	R16(c, off) = v;
}
static force_inline void set_r32(struct cpu *c, unsigned off, uint32_t v)
{
	R64(c, off) = v; /* the upper half is cleared */
}
static force_inline void set_r64(struct cpu *c, unsigned off, uint64_t v)
{
	R64(c, off) = v;
}

static inline uint64_t reg_get(struct cpu *c, unsigned off, unsigned size)
{
	switch (size) {
	case 0: return R8(c, off);
	case 1: return R16(c, off);
	case 2: return R32(c, off);
	default: return R64(c, off);
	}
}

static inline void reg_set(struct cpu *c, unsigned off, unsigned size, uint64_t v)
{
	switch (size) {
	case 0: set_r8(c, off, v); break;
	case 1: set_r16(c, off, v); break;
	case 2: set_r32(c, off, v); break;
	default: set_r64(c, off, v); break;
	}
}

/* size: 0..3 = 1, 2, 4, 8 bytes */
static inline uint64_t load_size(struct cpu *c, const struct insn *i, gva_t a, unsigned size)
{
	switch (size) {
	case 0: return mem_read8(c, i, a);
	case 1: return mem_read16(c, i, a);
	case 2: return mem_read32(c, i, a);
	default: return mem_read64(c, i, a);
	}
}

static inline void store_size(struct cpu *c, const struct insn *i, gva_t a, unsigned size,
			      uint64_t v)
{
	switch (size) {
	case 0: mem_write8(c, i, a, v); break;
	case 1: mem_write16(c, i, a, v); break;
	case 2: mem_write32(c, i, a, v); break;
	default: mem_write64(c, i, a, v); break;
	}
}

/* The r/m operand, register or memory; the register is in dst. */
static inline uint64_t rm_get(struct cpu *c, const struct insn *i)
{
	if (i->flags & INSN_MEM)
		return load_size(c, i, insn_ea(c, i, 1u << i->size, false), i->size);
	return reg_get(c, i->dst, i->size);
}

static inline void rm_set(struct cpu *c, const struct insn *i, uint64_t v)
{
	if (i->flags & INSN_MEM)
		store_size(c, i, insn_ea(c, i, 1u << i->size, true), i->size, v);
	else
		reg_set(c, i->dst, i->size, v);
}

/* The source operand of instructions with a source r/m: the register is in src. */
static inline uint64_t src_get(struct cpu *c, const struct insn *i)
{
	if (i->flags & INSN_MEM)
		return load_size(c, i, insn_ea(c, i, 1u << i->size, false), i->size);
	return reg_get(c, i->src, i->size);
}

static inline uint64_t size_mask(unsigned size)
{
	return size == 3 ? ~0ull : (1ull << (8u << size)) - 1;
}

static inline int64_t sign_extend(uint64_t v, unsigned size)
{
	unsigned s = 64 - (8u << size);

	return (int64_t)(v << s) >> s;
}

/* Address of the next instruction, masked to the code segment's width. */
static inline uint64_t next_rip(const struct cpu *c, const struct insn *i)
{
	uint64_t rip = c->gpr[REG_PC] + i->off + i->len;

	return i->mode == 8 ? rip : i->mode == 4 ? (uint32_t)rip : (uint16_t)rip;
}

/* --- the 64-bit stack: a non-canonical address is #SS, not #GP ------------------------------ */

void stack_write_slow(struct cpu *c, const struct insn *i, gva_t a, uint64_t v);
uint64_t stack_read_slow(struct cpu *c, const struct insn *i, gva_t a);

static force_inline void push64(struct cpu *c, const struct insn *i, uint64_t v)
{
	gva_t a = c->gpr[RSP] - 8;
	void *p = mem_fast_write(c, a, 8);

	if (likely(p))
		*(volatile uint64_t *)p = v;
	else
		stack_write_slow(c, i, a, v);
	c->gpr[RSP] = a;
}

static force_inline uint64_t stack_read64(struct cpu *c, const struct insn *i, gva_t a)
{
	void *p = mem_fast_read(c, a, 8);

	return likely(p) ? *(volatile uint64_t *)p : stack_read_slow(c, i, a);
}

/* --- flags -------------------------------------------------------------------------------- */

/* Result and carry-out vector of an addition or subtraction of the given width. */
#define FLAGS_ADDSUB(c, bits, r, cout)                                                           \
	do {                                                                                     \
		(c)->fl_zero = (uint##bits##_t)(r);                                              \
		(c)->fl_sign = (int64_t)(int##bits##_t)(r);                                      \
		(c)->fl_carry = (((uint64_t)(cout) << (64 - bits)) & (3ull << 62)) | ((cout)&8); \
	} while (0)

#define FLAGS_LOGIC(c, bits, r)                             \
	do {                                                \
		(c)->fl_zero = (uint##bits##_t)(r);         \
		(c)->fl_sign = (int64_t)(int##bits##_t)(r); \
		(c)->fl_carry = 0;                          \
	} while (0)

/* CF and OF; AF stays, the others are not touched. */
static inline void flags_cf_of(struct cpu *c, bool cf, bool of)
{
	c->fl_carry = (c->fl_carry & 8) | (uint64_t)cf << 63 | (uint64_t)(cf ^ of) << 62;
}

static inline void flags_result(struct cpu *c, uint64_t r, unsigned size)
{
	c->fl_zero = r & size_mask(size);
	c->fl_sign = sign_extend(r, size);
}

/* ZF alone; the others stay. */
static inline void flags_set_zf(struct cpu *c, bool zf)
{
	uint64_t f = flags_get(c);

	flags_set_arith(c, zf ? f | FLAG_ZF : f & ~(uint64_t)FLAG_ZF);
}

enum cond { COND_O, COND_B, COND_Z, COND_BE, COND_S, COND_P, COND_L, COND_LE };

static force_inline bool cond_test(const struct cpu *c, unsigned cc)
{
	bool r;

	switch (cc >> 1) {
	case COND_O: r = flag_of(c); break;
	case COND_B: r = flag_cf(c); break;
	case COND_Z: r = flag_zf(c); break;
	case COND_BE: r = (int)flag_cf(c) | (int)flag_zf(c); break;
	case COND_S: r = flag_sf(c); break;
	case COND_P: r = flag_pf(c); break;
	case COND_L: r = flag_sf(c) ^ flag_of(c); break;
	default: r = (int)flag_zf(c) | (flag_sf(c) ^ flag_of(c)); break;
	}
	return r ^ (cc & 1);
}

/* --- look-ups by the decoder: NULL if there is no such form -------------------------------- */

enum alu_op {
	ALU_ADD,
	ALU_OR,
	ALU_ADC,
	ALU_SBB,
	ALU_AND,
	ALU_SUB,
	ALU_XOR,
	ALU_CMP,
	ALU_TEST,
	ALU_OPS
};
/* Operand forms: register or memory destination; register, memory or immediate source. */
enum form { FORM_RR, FORM_RM, FORM_RI, FORM_MR, FORM_MI, FORMS };

exec_fn *ops_alu(enum alu_op op, enum form form, unsigned size);
exec_fn *ops_mov(enum form form, unsigned size);
/* Extension from a smaller register or memory operand. */
exec_fn *ops_movx(bool sign, bool mem, unsigned from, unsigned to);
exec_fn *ops_jcc(unsigned cc, unsigned mode);
exec_fn *ops_cmov(unsigned cc, bool mem, unsigned size);
exec_fn *ops_setcc(unsigned cc, bool mem);

#endif
