#include "src/engine/interp/ops_int.h"

/*
 * Locked instructions: the host's own locked operation on guest memory, so they are atomic against
 * every other VCPU and every device thread. The operand may be misaligned within a page or across
 * two pages that neighbour in host memory. Only across pages that do not, and on MMIO, is the
 * operation not atomic (docs/architecture.md).
 */

#define CASE_SIZES(size, stmt)    \
	switch (size) {           \
	case 0: stmt(8); break;   \
	case 1: stmt(16); break;  \
	case 2: stmt(32); break;  \
	default: stmt(64); break; \
	}

typedef uint8_t u8_any __attribute__((aligned(1), may_alias));
typedef uint16_t u16_any __attribute__((aligned(1), may_alias));
typedef uint32_t u32_any __attribute__((aligned(1), may_alias));
typedef uint64_t u64_any __attribute__((aligned(1), may_alias));

static bool cas(void *p, unsigned size, uint64_t *expect, uint64_t v)
{
	bool ok = false;

	/* In assembly, because compilers may call a library for operands not known to be aligned.
	 */
#define CAS(bits)                                                                \
	{                                                                        \
		uint##bits##_t old = *expect;                                    \
		asm volatile("lock cmpxchg %3, %1"                               \
			     : "+a"(old), "+m"(*(u##bits##_any *)p), "=@ccz"(ok) \
			     : "q"((uint##bits##_t)v)                            \
			     : "memory");                                        \
		*expect = old;                                                   \
	}
	CASE_SIZES(size, CAS)
#undef CAS
	return ok;
}

struct locked {
	gva_t ea;
	void *p; /* NULL: not plain memory in one piece */
	uint64_t old;
};

static void locked_begin_at(struct cpu *c, const struct insn *i, gva_t ea, struct locked *l)
{
	l->ea = ea;
	c->cur = i;
	l->p = mem_fast_write(c, ea, 1u << i->size);
	if (!l->p)
		l->p = mem_rmw_ptr(c, ea, 1u << i->size);
	if (l->p) {
#define LOAD(bits) l->old = *(volatile u##bits##_any *)l->p
		CASE_SIZES(i->size, LOAD)
#undef LOAD
	} else {
		l->old = mem_read_slow(c, ea, 1u << i->size);
	}
}

static void locked_begin(struct cpu *c, const struct insn *i, struct locked *l)
{
	locked_begin_at(c, i, insn_ea(c, i, 1u << i->size, true), l);
}

/* Tries to replace old by v; false with the current value in old if another got there first. */
static bool locked_try(struct cpu *c, const struct insn *i, struct locked *l, uint64_t v)
{
	if (!l->p) {
		mem_write_slow(c, l->ea, v, 1u << i->size);
		return true;
	}
	return cas(l->p, i->size, &l->old, v);
}

static void locked_end(struct cpu *c, const struct insn *i, struct locked *l)
{
	if (l->p && !mem_fast_write(c, l->ea, 1u << i->size))
		mem_rmw_done(c, l->ea, 1u << i->size);
}

static uint64_t alu_value(enum alu_op op, uint64_t a, uint64_t b, bool cf)
{
	switch (op) {
	case ALU_ADD: return a + b;
	case ALU_ADC: return a + b + cf;
	case ALU_SUB: return a - b;
	case ALU_SBB: return a - b - cf;
	case ALU_AND: return a & b;
	case ALU_OR: return a | b;
	default: return a ^ b;
	}
}

static void alu_flags(struct cpu *c, enum alu_op op, uint64_t a, uint64_t b, uint64_t r,
		      unsigned size)
{
	uint64_t cout = 0;

	if (op == ALU_ADD || op == ALU_ADC)
		cout = (a & b) | ((a | b) & ~r);
	else if (op == ALU_SUB || op == ALU_SBB)
		cout = (~a & b) | (~(a ^ b) & r);
	flags_result(c, r, size);
	c->fl_carry = ((cout << (64 - (8u << size))) & (3ull << 62)) | (cout & 8);
}

OP(op_lock_alu)
{
	uint64_t b = i->src == REG_ZERO * 8 ? i->imm : reg_get(c, i->src, i->size), r;
	bool cf = flag_cf(c);
	struct locked l;

	locked_begin(c, i, &l);
	do {
		r = alu_value(i->aux, l.old, b, cf);
	} while (!locked_try(c, i, &l, r));
	alu_flags(c, i->aux, l.old, b, r, i->size);
	locked_end(c, i, &l);
	NEXT_STORED(c, i);
}

OP(op_lock_unary)
{
	struct locked l;
	uint64_t r;
	bool cf = flag_cf(c);

	locked_begin(c, i, &l);
	do {
		r = i->aux == 0	  ? l.old + 1
		    : i->aux == 1 ? l.old - 1
		    : i->aux == 2 ? ~l.old
				  : -l.old;
	} while (!locked_try(c, i, &l, r));
	if (i->aux == 0)
		alu_flags(c, ALU_ADD, l.old, 1, r, i->size);
	else if (i->aux == 1)
		alu_flags(c, ALU_SUB, l.old, 1, r, i->size);
	else if (i->aux == 3)
		alu_flags(c, ALU_SUB, 0, l.old, r, i->size);
	if (i->aux <= 1)
		flags_cf_of(c, cf, flag_of(c));
	locked_end(c, i, &l);
	NEXT_STORED(c, i);
}

/* aux: 1 BTS, 2 BTR, 3 BTC; the bit number in src, or in imm if src is REG_ZERO * 8. */
OP(op_lock_bt)
{
	uint64_t bit, r;
	struct locked l;
	gva_t ea;

	if (i->src == REG_ZERO * 8) {
		bit = 1ull << (i->imm & ((8u << i->size) - 1));
		ea = insn_ea(c, i, 1u << i->size, true);
	} else {
		ea = bt_address(c, i, &bit, true);
	}
	locked_begin_at(c, i, ea, &l);
	do {
		r = i->aux == 1 ? l.old | bit : i->aux == 2 ? l.old & ~bit : l.old ^ bit;
	} while (!locked_try(c, i, &l, r));
	flags_cf_of(c, l.old & bit, flag_of(c));
	locked_end(c, i, &l);
	NEXT_STORED(c, i);
}

OP(op_xchg_mem)
{
	uint64_t v = reg_get(c, i->src, i->size);
	struct locked l;

	locked_begin(c, i, &l);
	while (!locked_try(c, i, &l, v))
		;
	reg_set(c, i->src, i->size, l.old);
	locked_end(c, i, &l);
	NEXT_STORED(c, i);
}

OP(op_xadd)
{
	uint64_t b = reg_get(c, i->src, i->size), r;

	if (i->flags & INSN_MEM) {
		struct locked l;

		locked_begin(c, i, &l);
		do {
			r = l.old + b;
		} while (!locked_try(c, i, &l, r));
		reg_set(c, i->src, i->size, l.old);
		alu_flags(c, ALU_ADD, l.old, b, r, i->size);
		locked_end(c, i, &l);
	} else {
		uint64_t a = reg_get(c, i->dst, i->size);

		r = a + b;
		reg_set(c, i->src, i->size, a);
		reg_set(c, i->dst, i->size, r);
		alu_flags(c, ALU_ADD, a, b, r, i->size);
	}
	NEXT_STORED(c, i);
}

OP(op_cmpxchg)
{
	uint64_t acc = reg_get(c, RAX * 8, i->size), v = reg_get(c, i->src, i->size), old;

	if (i->flags & INSN_MEM) {
		struct locked l;

		/* Without LOCK, too: being atomic is allowed, and a store always happens. */
		locked_begin(c, i, &l);
		do {
			old = l.old;
		} while (!locked_try(c, i, &l, old == acc ? v : old));
		locked_end(c, i, &l);
	} else {
		old = reg_get(c, i->dst, i->size);
		if (old == acc)
			reg_set(c, i->dst, i->size, v);
		else if (i->size == 2)
			reg_set(c, i->dst, i->size, old);
	}
	if (old != acc)
		reg_set(c, RAX * 8, i->size, old);
	alu_flags(c, ALU_SUB, acc, old, acc - old, i->size);
	NEXT_STORED(c, i);
}

OP(op_cmpxchg8b)
{
	uint64_t expect = (c->gpr[RDX] << 32) | R32(c, RAX * 8), old;
	uint64_t v = (c->gpr[RCX] << 32) | R32(c, RBX * 8);
	struct locked l;

	locked_begin(c, i, &l);
	do {
		old = l.old;
	} while (!locked_try(c, i, &l, old == expect ? v : old));
	if (old != expect) {
		c->gpr[RAX] = (uint32_t)old;
		c->gpr[RDX] = old >> 32;
	}
	flags_set_zf(c, old == expect);
	locked_end(c, i, &l);
	NEXT_STORED(c, i);
}

OP(op_cmpxchg16b)
{
	uint64_t lo = c->gpr[RAX], hi = c->gpr[RDX];
	gva_t ea = insn_ea(c, i, 16, true);
	bool ok;
	void *p;

	c->cur = i;
	if (ea & 15)
		cpu_raise_gp(c);
	p = mem_rmw_ptr(c, ea, 16);
	if (unlikely(c->overlay)) {
		mem_read(c, ea, c->vec_buf, 16);
		p = c->vec_buf;
	}
	if (!p)
		cpu_raise_gp(c); /* MMIO: no device has a 16-byte register */
	asm volatile("lock cmpxchg16b %0"
		     : "+m"(*(unsigned __int128 *)p), "+a"(lo), "+d"(hi), "=@ccz"(ok)
		     : "b"(c->gpr[RBX]), "c"(c->gpr[RCX])
		     : "memory");
	if (!ok) {
		c->gpr[RAX] = lo;
		c->gpr[RDX] = hi;
	}
	flags_set_zf(c, ok);
	if (unlikely(c->overlay))
		mem_write(c, ea, c->vec_buf, 16);
	else
		mem_rmw_done(c, ea, 16);
	NEXT_STORED(c, i);
}
