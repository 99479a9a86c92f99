#include "src/engine/interp/ops_string.h"

#include "src/x86/sys.h"

/*
 * String instructions. A repeated one runs a bounded number of iterations and then leaves the block
 * in front of itself with the registers advanced, so interrupts are taken between iterations.
 */
#define CHUNK 4096u

static uint64_t addr_mask(const struct insn *i)
{
	return i->flags & INSN_ADDR16 ? 0xffff : i->flags & INSN_ADDR32 ? 0xffffffff : ~0ull;
}

static void set_addr_reg(struct cpu *c, const struct insn *i, unsigned r, uint64_t v)
{
	if (i->flags & INSN_ADDR16)
		R16(c, r * 8) = v;
	else
		c->gpr[r] = v & addr_mask(i);
}

static gva_t linear(struct cpu *c, const struct insn *i, enum seg_index seg, uint64_t off,
		    bool write)
{
	off &= addr_mask(i);
	if (i->mode == 8)
		return off + (seg == SEG_FS || seg == SEG_GS ? c->seg[seg].base : 0);
	return seg_linear(c, seg, off, 1u << i->size, write);
}

static int64_t step(const struct cpu *c, const struct insn *i)
{
	return c->rflags & FLAG_DF ? -(1 << i->size) : 1 << i->size;
}

static void advance(struct cpu *c, const struct insn *i, unsigned r, int64_t by)
{
	set_addr_reg(c, i, r, c->gpr[r] + by);
}

enum string_op { STR_MOVS, STR_STOS, STR_LODS, STR_CMPS, STR_SCAS, STR_INS, STR_OUTS };

static void compare(struct cpu *c, unsigned size, uint64_t a, uint64_t b)
{
	uint64_t r = a - b, cout = (~a & b) | (~(a ^ b) & r);

	flags_result(c, r, size);
	c->fl_carry = ((cout << (64 - (8u << size))) & (3ull << 62)) | (cout & 8);
}

static void one(struct cpu *c, const struct insn *i, enum string_op op)
{
	uint64_t v, w;
	gva_t to;

	switch (op) {
	case STR_MOVS:
		v = load_size(c, i, linear(c, i, i->seg, c->gpr[RSI], false), i->size);
		store_size(c, i, linear(c, i, SEG_ES, c->gpr[RDI], true), i->size, v);
		advance(c, i, RSI, step(c, i));
		advance(c, i, RDI, step(c, i));
		break;
	case STR_STOS:
		store_size(c, i, linear(c, i, SEG_ES, c->gpr[RDI], true), i->size, c->gpr[RAX]);
		advance(c, i, RDI, step(c, i));
		break;
	case STR_LODS:
		v = load_size(c, i, linear(c, i, i->seg, c->gpr[RSI], false), i->size);
		reg_set(c, RAX * 8, i->size, v);
		advance(c, i, RSI, step(c, i));
		break;
	case STR_CMPS:
		v = load_size(c, i, linear(c, i, i->seg, c->gpr[RSI], false), i->size);
		w = load_size(c, i, linear(c, i, SEG_ES, c->gpr[RDI], false), i->size);
		compare(c, i->size, v, w);
		advance(c, i, RSI, step(c, i));
		advance(c, i, RDI, step(c, i));
		break;
	case STR_SCAS:
		w = load_size(c, i, linear(c, i, SEG_ES, c->gpr[RDI], false), i->size);
		compare(c, i->size, reg_get(c, RAX * 8, i->size), w);
		advance(c, i, RDI, step(c, i));
		break;
	case STR_INS:
		/* The store must be known to succeed before the port is read. */
		to = linear(c, i, SEG_ES, c->gpr[RDI], true);
		mem_probe_write(c, to, 1u << i->size);
		v = 0;
		STAT_INC(c->stats, pio);
		c->ops->pio_read(c, c->gpr[RDX], &v, 1u << i->size);
		store_size(c, i, to, i->size, v);
		advance(c, i, RDI, step(c, i));
		break;
	case STR_OUTS:
		v = load_size(c, i, linear(c, i, i->seg, c->gpr[RSI], false), i->size);
		STAT_INC(c->stats, pio);
		c->ops->pio_write(c, c->gpr[RDX], &v, 1u << i->size);
		advance(c, i, RSI, step(c, i));
		break;
	}
}

/*
 * Fast paths: forward MOVS and STOS in 64-bit mode between pages that the software TLB holds.
 * Returns the number of iterations done, 0 if the slow path must do the next one.
 */
static uint64_t fast_bytes(gva_t gva, uint64_t want)
{
	return MIN(want, PAGE_SIZE - (gva & ~PAGE_MASK));
}

static uint64_t fast_movs(struct cpu *c, const struct insn *i, uint64_t count)
{
	gva_t from = linear(c, i, i->seg, c->gpr[RSI], false), to = c->gpr[RDI];
	uint64_t n = fast_bytes(from, fast_bytes(to, count << i->size)) >> i->size;
	unsigned bytes = n << i->size;
	char *s, *d;

	if (!n)
		return 0;
	s = mem_fast_read(c, from, 1u << i->size);
	d = mem_fast_write(c, to, 1u << i->size);
	if (!s || !d)
		return 0;
	/* A copy onto itself a little further on repeats a pattern: byte order matters. */
	if (d > s && d < s + bytes) {
		if ((size_t)(d - s) < 1u << i->size)
			return 0;
		for (uint64_t k = 0; k < n; k++)
			memcpy(d + (k << i->size), s + (k << i->size), 1u << i->size);
	} else {
		memmove(d, s, bytes);
	}
	c->gpr[RSI] += bytes;
	c->gpr[RDI] += bytes;
	return n;
}

static uint64_t fast_stos(struct cpu *c, const struct insn *i, uint64_t count)
{
	gva_t to = c->gpr[RDI];
	uint64_t n = fast_bytes(to, count << i->size) >> i->size, v = c->gpr[RAX];
	char *d;

	if (!n)
		return 0;
	d = mem_fast_write(c, to, 1u << i->size);
	if (!d)
		return 0;
	if (i->size == 0 || v == 0)
		memset(d, (uint8_t)v, n << i->size);
	else
		for (uint64_t k = 0; k < n; k++)
			memcpy(d + (k << i->size), &v, 1u << i->size);
	c->gpr[RDI] += n << i->size;
	return n;
}

static uint64_t fast(struct cpu *c, const struct insn *i, enum string_op op, uint64_t count)
{
	if (i->mode != 8 || addr_mask(i) != ~0ull || (c->rflags & (FLAG_DF | FLAG_TF)))
		return 0;
	if (op == STR_MOVS)
		return fast_movs(c, i, count);
	if (op == STR_STOS)
		return fast_stos(c, i, count);
	return 0;
}

static bool ends_early(const struct cpu *c, const struct insn *i, enum string_op op)
{
	if (op != STR_CMPS && op != STR_SCAS)
		return false;
	return i->flags & INSN_REP ? !flag_zf(c) : flag_zf(c);
}

/* Advances rcx as it goes, so that a fault leaves the registers at the faulting iteration. */
static force_inline void string(struct cpu *c, const struct insn *i, enum string_op op)
{
	uint64_t mask = addr_mask(i);

	c->cur = i;
	if (!(i->flags & (INSN_REP | INSN_REPNE))) {
		one(c, i, op);
		NEXT_STORED(c, i);
	}
	for (unsigned done = 0; c->gpr[RCX] & mask;) {
		uint64_t count = c->gpr[RCX] & mask, n;

		n = fast(c, i, op, MIN(count, CHUNK));
		if (!n) {
			one(c, i, op);
			n = 1;
		}
		set_addr_reg(c, i, RCX, count - n);
		done += n;
		if (ends_early(c, i, op))
			break;
		/* Single-stepping traps after each iteration. */
		if ((done >= CHUNK || c->event || (c->rflags & FLAG_TF)) && (c->gpr[RCX] & mask))
			return op_restart(c, i);
	}
	NEXT_STORED(c, i);
}

#define STRING_OP(name, op)       \
	OP(name)                  \
	{                         \
		string(c, i, op); \
	}
STRING_OP(op_movs, STR_MOVS)
STRING_OP(op_stos, STR_STOS)
STRING_OP(op_lods, STR_LODS)
STRING_OP(op_cmps, STR_CMPS)
STRING_OP(op_scas, STR_SCAS)

OP(op_ins)
{
	c->cur = i;
	sys_check_io(c, c->gpr[RDX], 1u << i->size);
	c->event |= CPU_EVENT_YIELD;
	string(c, i, STR_INS);
}

OP(op_outs)
{
	c->cur = i;
	sys_check_io(c, c->gpr[RDX], 1u << i->size);
	c->event |= CPU_EVENT_YIELD;
	string(c, i, STR_OUTS);
}
