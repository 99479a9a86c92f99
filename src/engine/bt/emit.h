/*
 * Host code emission: bytes into a buffer that is written through one mapping and runs in another.
 * Running out of room sets `full`; the translation is then abandoned as a whole.
 */
#ifndef ENGINE_BT_EMIT_H
#define ENGINE_BT_EMIT_H

#include <stddef.h>

#include "src/base/atomic.h"
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

#define H_NONE H_RSP /* as an index register */

struct emit {
	uint8_t *p, *end;  /* in the writable mapping */
	ptrdiff_t to_exec; /* executable address - writable address */
	bool full;
};

/* A memory operand of the host: [base + index << scale + disp]. */
struct host_mem {
	uint8_t base, index, scale;
	int32_t disp;
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

/* A literal sequence: e_code(e, 0x48, 0x99). */
#define e_code(e, ...) ebytes(e, (const uint8_t[]){__VA_ARGS__}, sizeof((uint8_t[]){__VA_ARGS__}))

static inline uint8_t *e_exec(const struct emit *e, uint8_t *p)
{
	return p + e->to_exec;
}

/*
 * ModRM and what follows it for a field of struct cpu, gs:[off]; the instruction begins with 0x65
 * and ends with imm bytes of an immediate operand. Relative to RIP it is shorter by one byte, which
 * reaches from low addresses.
 */
static inline void e_field(struct emit *e, unsigned reg, size_t off, unsigned imm)
{
	uintptr_t next = (uintptr_t)e_exec(e, e->p) + 5 + imm;

	if (next <= INT32_MAX) {
		e8(e, 0x05 | (reg & 7) << 3);
		e32(e, off - next);
	} else {
		e_code(e, 0x04 | (reg & 7) << 3, 0x25);
		e32(e, off);
	}
}

/* One-byte-opcode instruction with a field of struct cpu as memory operand: gs:[off]. */
static inline void e_gs(struct emit *e, bool w, uint8_t op, unsigned reg, size_t off)
{
	e_code(e, 0x65, 0x40 | (w ? 8 : 0) | (reg >> 3) << 2, op);
	e_field(e, reg, off, 0);
}

/* test dword gs:[off], imm32 */
static inline void e_gs_test(struct emit *e, size_t off, uint32_t imm)
{
	e_code(e, 0x65, 0xf7);
	e_field(e, 0, off, 4);
	e32(e, imm);
}

/* The same with a register as base: gs:[base + off]; base is not RSP or R12. */
static inline void e_gs_base(struct emit *e, uint8_t op, unsigned reg, unsigned base, size_t off)
{
	e_code(e, 0x65, 0x48 | (reg >> 3) << 2 | base >> 3, op, 0x80 | (reg & 7) << 3 | (base & 7));
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
	e_code(e, 0x48 | reg >> 3, 0xb8 | (reg & 7));
	e64(e, v);
}

/* mov reg, imm32 sign-extended */
static inline void e_mov_imm32(struct emit *e, unsigned reg, int32_t v)
{
	e_code(e, 0x48 | reg >> 3, 0xc7, 0xc0 | (reg & 7));
	e32(e, v);
}

static inline void e_mov_rr(struct emit *e, unsigned dst, unsigned src)
{
	e_code(e, 0x48 | (src >> 3) << 2 | dst >> 3, 0x89, 0xc0 | (src & 7) << 3 | (dst & 7));
}

/* dst = src rotated; flags may change. */
static inline void e_rotr(struct emit *e, bool bmi2, unsigned dst, unsigned src, unsigned by)
{
	if (bmi2) {
		e_code(e, 0xc4, 0x43 | (~dst >> 3 & 1) << 7 | (~src >> 3 & 1) << 5, 0xfb, 0xf0,
		       0xc0 | (dst & 7) << 3 | (src & 7), by);
	} else {
		e_mov_rr(e, dst, src);
		e_code(e, 0x48 | dst >> 3, 0xc1, 0xc8 | (dst & 7), by);
	}
}

/* ModRM, SIB and displacement of [base + index << scale + disp]; index H_NONE: none. */
static inline void e_modrm(struct emit *e, unsigned reg, const struct host_mem *m)
{
	bool sib = m->index != H_NONE || (m->base & 7) == 4;
	unsigned mod = m->disp == 0 && (m->base & 7) != 5 ? 0 : m->disp == (int8_t)m->disp ? 1 : 2;

	e8(e, mod << 6 | (reg & 7) << 3 | (sib ? 4 : m->base & 7));
	if (sib)
		e8(e, m->scale << 6 | (m->index & 7) << 3 | (m->base & 7));
	if (mod == 1)
		e8(e, m->disp);
	else if (mod == 2)
		e32(e, m->disp);
}

/* The same of [index << scale + disp]. */
static inline void e_modrm_no_base(struct emit *e, unsigned reg, const struct host_mem *m)
{
	e_code(e, (reg & 7) << 3 | 4, m->scale << 6 | (m->index & 7) << 3 | 5);
	e32(e, m->disp);
}

/* The REX bits that a memory operand needs. */
static inline unsigned e_rex_mem(const struct host_mem *m)
{
	return (m->index != H_NONE ? (m->index >> 3) << 1 : 0) | m->base >> 3;
}

/* 64-bit op reg, [mem] */
static inline void e_op_mem(struct emit *e, uint8_t op, unsigned reg, const struct host_mem *m)
{
	e_code(e, 0x48 | (reg >> 3) << 2 | e_rex_mem(m), op);
	e_modrm(e, reg, m);
}

static inline void e_lea(struct emit *e, unsigned reg, unsigned base, unsigned index,
			 unsigned scale, int32_t disp)
{
	e_op_mem(e, 0x8d, reg,
		 &(struct host_mem){.base = base, .index = index, .scale = scale, .disp = disp});
}

/* reg = [base + disp], and back. */
static inline void e_load_at(struct emit *e, unsigned reg, unsigned base, int32_t disp)
{
	e_op_mem(e, 0x8b, reg, &(struct host_mem){.base = base, .index = H_NONE, .disp = disp});
}

static inline void e_store_at(struct emit *e, unsigned reg, unsigned base, int32_t disp)
{
	e_op_mem(e, 0x89, reg, &(struct host_mem){.base = base, .index = H_NONE, .disp = disp});
}

/*
 * How many bytes have to come before an instruction with an opcode of so many bytes for its 32-bit
 * displacement to lie inside a quadword: a processor that runs it while it is stored sees the old
 * or the new (APM volume 2, 7.6.1).
 */
static inline unsigned e_displacement_pad(const struct emit *e, unsigned opcode)
{
	unsigned at = ((uintptr_t)e->p + opcode) % 8;

	return at > 4 ? 8 - at : 0;
}

/* Before a jmp or call that is going to be patched: one no-op. */
static inline void e_align_jmp(struct emit *e)
{
	switch (e_displacement_pad(e, 1)) {
	case 1: e8(e, 0x90); break;
	case 2: e_code(e, 0x66, 0x90); break;
	case 3: e_code(e, 0x0f, 0x1f, 0x00); break;
	}
}

/*
 * Before a jcc that is going to be patched. Prefixes of its own, the hint that it is not taken,
 * which processors ignore: a no-op would part it from the comparison that it is executed with.
 */
static inline void e_align_jcc(struct emit *e)
{
	for (unsigned n = e_displacement_pad(e, 2); n; n--)
		e8(e, 0x2e);
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
	e_code(e, 0x0f, 0x80 | cc);
	e32(e, 0);
	return e->p - 4;
}

static inline uint8_t *e_call(struct emit *e)
{
	e8(e, 0xe8);
	e32(e, 0);
	return e->p - 4;
}

static inline void e_jmp_reg(struct emit *e, unsigned reg)
{
	e_code(e, 0x40 | reg >> 3, 0xff, 0xe0 | (reg & 7));
}

/* at: from e_jmp(), e_jcc() or e_call(); to: writable address of the target. */
static inline void e_patch(uint8_t *at, const uint8_t *to)
{
	int32_t rel = to - (at + 4);

	memcpy(at, &rel, 4);
}

/* The same for code that may run meanwhile: see e_displacement_pad(). */
static inline void e_repatch(uint8_t *at, const uint8_t *to)
{
	atomic_store_relaxed((int32_t *)at, (int32_t)(to - (at + 4)));
}

/* Unless the code is not going to be used. */
static inline void e_patch_to(struct emit *e, uint8_t *at, const uint8_t *to)
{
	if (!e->full)
		e_patch(at, to);
}

/* To where emission stands now. */
static inline void e_patch_here(struct emit *e, uint8_t *at)
{
	e_patch_to(e, at, e->p);
}

static inline void e_jmp_to(struct emit *e, const uint8_t *to)
{
	uint8_t *at = e_jmp(e);

	e_patch_to(e, at, to);
}

static inline void e_jcc_to(struct emit *e, unsigned cc, const uint8_t *to)
{
	uint8_t *at = e_jcc(e, cc);

	e_patch_to(e, at, to);
}

static inline void e_call_to(struct emit *e, const uint8_t *to)
{
	uint8_t *at = e_call(e);

	e_patch_to(e, at, to);
}

static inline void e_push(struct emit *e, unsigned reg)
{
	e_code(e, 0x40 | reg >> 3, 0x50 | (reg & 7));
}

static inline void e_pop(struct emit *e, unsigned reg)
{
	e_code(e, 0x40 | reg >> 3, 0x58 | (reg & 7));
}

#define CC_B  2
#define CC_AE 3
#define CC_E  4
#define CC_NE 5
#define CC_BE 6
#define CC_A  7
#define CC_S  8

#endif
