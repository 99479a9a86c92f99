/*
 * Host code emission: bytes into a buffer that is written through one mapping and runs in another.
 * Running out of room sets `full`; the translation is then abandoned as a whole.
 */
#ifndef ENGINE_BT_EMIT_H
#define ENGINE_BT_EMIT_H

#include <stddef.h>

#include "src/base/types.h"

enum host_reg {
	H_RAX,
	H_RCX,
	H_RDX,
	H_RBX,
	H_RSP,
	H_RBP,
	H_RSI,
	H_RDI,
	H_R8,
	H_R9,
	H_R10,
	H_R11,
	H_R12,
	H_R13,
	H_R14,
	H_R15,
};

struct emit {
	uint8_t *p, *end;  /* in the writable mapping */
	ptrdiff_t to_exec; /* executable address - writable address */
	bool full;
};

static inline void e8(struct emit *e, uint8_t b)
{
	if (unlikely(e->p >= e->end))
		e->full = true;
	else
		*e->p++ = b;
}

static inline void e32(struct emit *e, uint32_t v)
{
	for (unsigned n = 0; n < 4; n++)
		e8(e, v >> 8 * n);
}

static inline void e64(struct emit *e, uint64_t v)
{
	e32(e, v);
	e32(e, v >> 32);
}

static inline void ebytes(struct emit *e, const void *p, size_t n)
{
	for (size_t k = 0; k < n; k++)
		e8(e, ((const uint8_t *)p)[k]);
}

static inline uint8_t *e_exec(const struct emit *e, uint8_t *p)
{
	return p + e->to_exec;
}

/* One-byte-opcode instruction with a field of struct cpu as memory operand: gs:[off]. */
static inline void e_gs(struct emit *e, bool w, uint8_t op, unsigned reg, size_t off)
{
	e8(e, 0x65);
	e8(e, 0x40 | (w ? 8 : 0) | (reg >> 3) << 2);
	e8(e, op);
	e8(e, 0x04 | (reg & 7) << 3);
	e8(e, 0x25);
	e32(e, off);
}

/* mov reg, gs:[off] and mov gs:[off], reg, 64 bits. */
static inline void e_load(struct emit *e, unsigned reg, size_t off)
{
	e_gs(e, true, 0x8b, reg, off);
}

static inline void e_store(struct emit *e, unsigned reg, size_t off)
{
	e_gs(e, true, 0x89, reg, off);
}

static inline void e_store16(struct emit *e, unsigned reg, size_t off)
{
	e8(e, 0x66);
	e_gs(e, false, 0x89, reg, off);
}

static inline void e_mov_imm64(struct emit *e, unsigned reg, uint64_t v)
{
	e8(e, 0x48 | reg >> 3);
	e8(e, 0xb8 | (reg & 7));
	e64(e, v);
}

static inline void e_mov_rr(struct emit *e, unsigned dst, unsigned src)
{
	e8(e, 0x48 | (src >> 3) << 2 | dst >> 3);
	e8(e, 0x89);
	e8(e, 0xc0 | (src & 7) << 3 | (dst & 7));
}

/* ModRM, SIB and displacement of [base + index << scale + disp]; index H_RSP: none. */
static inline void e_mem(struct emit *e, unsigned reg, unsigned base, unsigned index,
			 unsigned scale, int32_t disp)
{
	bool sib = index != H_RSP || (base & 7) == 4;
	unsigned mod = disp == 0 && (base & 7) != 5 ? 0 : disp == (int8_t)disp ? 1 : 2;

	e8(e, mod << 6 | (reg & 7) << 3 | (sib ? 4 : base & 7));
	if (sib)
		e8(e, scale << 6 | (index & 7) << 3 | (base & 7));
	if (mod == 1)
		e8(e, disp);
	else if (mod == 2)
		e32(e, disp);
}

static inline void e_lea(struct emit *e, unsigned reg, unsigned base, unsigned index,
			 unsigned scale, int32_t disp)
{
	e8(e, 0x48 | (reg >> 3) << 2 | (index >> 3) << 1 | base >> 3);
	e8(e, 0x8d);
	e_mem(e, reg, base, index, scale, disp);
}

/* 64-bit op reg, [base + disp]. */
static inline void e_op_mem(struct emit *e, uint8_t op, unsigned reg, unsigned base, int32_t disp)
{
	e8(e, 0x48 | (reg >> 3) << 2 | base >> 3);
	e8(e, op);
	e_mem(e, reg, base, H_RSP, 0, disp);
}

/* jmp, jcc and call with a 32-bit displacement; return where the displacement is, for e_patch(). */
static inline uint8_t *e_jmp(struct emit *e)
{
	e8(e, 0xe9);
	e32(e, 0);
	return e->p - 4;
}

static inline uint8_t *e_jcc(struct emit *e, unsigned cc)
{
	e8(e, 0x0f);
	e8(e, 0x80 | cc);
	e32(e, 0);
	return e->p - 4;
}

/* at: from e_jmp() or e_jcc(); to: writable address of the target. */
static inline void e_patch(uint8_t *at, const uint8_t *to)
{
	int32_t rel = to - (at + 4);

	memcpy(at, &rel, 4);
}

static inline void e_jmp_to(struct emit *e, const uint8_t *to)
{
	uint8_t *at = e_jmp(e);

	if (!e->full)
		e_patch(at, to);
}

static inline void e_call_to(struct emit *e, const uint8_t *to)
{
	e8(e, 0xe8);
	e32(e, 0);
	if (!e->full)
		e_patch(e->p - 4, to);
}

#define CC_NE 5
#define CC_E  4
#define CC_S  8

#endif
