#include "src/engine/interp/ops_branch.h"

#include "src/x86/seg.h"

/* Near branch target, checked as the mode demands: #GP belongs to the branch itself. */
static force_inline void branch_to(struct cpu *c, const struct insn *i, uint64_t rip)
{
	if (i->mode == 8) {
		if (unlikely(!gva_canonical(rip))) {
			c->cur = i;
			cpu_raise_gp(c);
		}
	} else if (unlikely(rip > c->seg[SEG_CS].limit)) {
		c->cur = i;
		cpu_raise_gp(c);
	}
	c->rip = rip;
}

/* Target of a relative branch outside 64-bit mode: cut to the operand size. */
static force_inline uint64_t relative(const struct cpu *c, const struct insn *i)
{
	uint64_t rip = c->gpr[REG_PC] + i->off + i->len + i->imm;

	return i->mode == 8 ? rip : i->size == 1 ? (uint16_t)rip : (uint32_t)rip;
}

#define JCC(cc)                                                                                  \
	static OP(jcc64_##cc)                                                                    \
	{                                                                                        \
		uint64_t rip = c->gpr[REG_PC] + i->off + i->len;                                 \
		c->rip = cond_test(c, cc) ? rip + i->imm : rip;                                  \
	}                                                                                        \
	static OP(jcc_##cc)                                                                      \
	{                                                                                        \
		if (cond_test(c, cc))                                                            \
			branch_to(c, i, relative(c, i));                                         \
		else                                                                             \
			c->rip = next_rip(c, i);                                                 \
	}                                                                                        \
	static OP(setcc_r_##cc)                                                                  \
	{                                                                                        \
		set_r8(c, i->dst, cond_test(c, cc));                                             \
		NEXT(c, i);                                                                      \
	}                                                                                        \
	static OP(setcc_m_##cc)                                                                  \
	{                                                                                        \
		mem_write8(c, i, insn_ea(c, i, 1, true), cond_test(c, cc));                      \
		NEXT_STORED(c, i);                                                               \
	}                                                                                        \
	static OP(cmov_##cc)                                                                     \
	{                                                                                        \
		uint64_t v = src_get(c, i);                                                      \
		reg_set(c, i->dst, i->size, cond_test(c, cc) ? v : reg_get(c, i->dst, i->size)); \
		NEXT(c, i);                                                                      \
	}                                                                                        \
	static OP(cmov64_rr_##cc)                                                                \
	{                                                                                        \
		if (cond_test(c, cc))                                                            \
			R64(c, i->dst) = R64(c, i->src);                                         \
		NEXT(c, i);                                                                      \
	}

#define ALL_CC(m) \
	m(0) m(1) m(2) m(3) m(4) m(5) m(6) m(7) m(8) m(9) m(10) m(11) m(12) m(13) m(14) m(15)
ALL_CC(JCC)

#define CC_TABLE(prefix)                                                                     \
	{                                                                                    \
		prefix##0, prefix##1, prefix##2, prefix##3, prefix##4, prefix##5, prefix##6, \
			prefix##7, prefix##8, prefix##9, prefix##10, prefix##11, prefix##12, \
			prefix##13, prefix##14, prefix##15                                   \
	}

exec_fn *ops_jcc(unsigned cc, unsigned mode)
{
	static exec_fn *const fast[16] = CC_TABLE(jcc64_), *const slow[16] = CC_TABLE(jcc_);

	return mode == 8 ? fast[cc] : slow[cc];
}

exec_fn *ops_setcc(unsigned cc, bool mem)
{
	static exec_fn *const reg[16] = CC_TABLE(setcc_r_), *const m[16] = CC_TABLE(setcc_m_);

	return mem ? m[cc] : reg[cc];
}

exec_fn *ops_cmov(unsigned cc, bool mem, unsigned size)
{
	static exec_fn *const any[16] = CC_TABLE(cmov_), *const rr64[16] = CC_TABLE(cmov64_rr_);

	return !mem && size == 3 ? rr64[cc] : any[cc];
}

/* --- jumps, calls, returns ----------------------------------------------------------------- */

OP(op_jmp64)
{
	c->rip = c->gpr[REG_PC] + i->off + i->len + i->imm;
}

OP(op_jmp)
{
	branch_to(c, i, relative(c, i));
}

OP(op_jmp_ind)
{
	branch_to(c, i, rm_get(c, i));
}

OP(op_call64)
{
	uint64_t next = c->gpr[REG_PC] + i->off + i->len;

	push64(c, i, next);
	c->rip = next + i->imm;
}

static void push(struct cpu *c, const struct insn *i, uint64_t v, unsigned size)
{
	struct stack st;

	c->cur = i;
	stack_current(c, &st);
	stack_push(&st, v, size);
	stack_commit(&st);
}

OP(op_call)
{
	uint64_t rip = relative(c, i);

	c->cur = i;
	if (i->mode != 8 && rip > c->seg[SEG_CS].limit)
		cpu_raise_gp(c);
	push(c, i, next_rip(c, i), 1u << i->size);
	c->rip = rip;
}

OP(op_call_ind)
{
	uint64_t rip = rm_get(c, i);

	c->cur = i;
	if (i->mode == 8 ? !gva_canonical(rip) : rip > c->seg[SEG_CS].limit)
		cpu_raise_gp(c);
	if (i->mode == 8 && i->size == 3) {
		push64(c, i, next_rip(c, i));
	} else {
		push(c, i, next_rip(c, i), 1u << i->size);
	}
	c->rip = rip;
}

OP(op_ret64)
{
	uint64_t rip = stack_read64(c, i, c->gpr[RSP]);

	branch_to(c, i, rip);
	c->gpr[RSP] += 8 + i->imm;
}

OP(op_ret)
{
	struct stack st;
	uint64_t rip;

	c->cur = i;
	stack_current(c, &st);
	rip = stack_pop(&st, 1u << i->size);
	branch_to(c, i, rip);
	st.sp = (st.sp & ~st.mask) | ((st.sp + i->imm) & st.mask);
	stack_commit(&st);
}

/* CX, ECX or RCX by address size. */
static uint64_t count_reg(const struct cpu *c, const struct insn *i)
{
	return i->flags & INSN_ADDR16	? (uint16_t)c->gpr[RCX]
	       : i->flags & INSN_ADDR32 ? (uint32_t)c->gpr[RCX]
					: c->gpr[RCX];
}

OP(op_jcxz)
{
	if (count_reg(c, i))
		c->rip = next_rip(c, i);
	else
		branch_to(c, i, relative(c, i));
}

OP(op_loop)
{
	unsigned size = i->flags & INSN_ADDR16 ? 1 : i->flags & INSN_ADDR32 ? 2 : 3;
	uint64_t n = (count_reg(c, i) - 1) & size_mask(size);
	bool taken = n != 0 && (i->aux == 0 || flag_zf(c) == (i->aux == 1));

	if (taken)
		branch_to(c, i, relative(c, i));
	else
		c->rip = next_rip(c, i);
	reg_set(c, RCX * 8, size, n);
}

/* --- stack -------------------------------------------------------------------------------- */

static void check_stack_address(struct cpu *c, const struct insn *i, gva_t a)
{
	c->cur = i;
	if (!gva_canonical(a) || !gva_canonical(a + 7))
		cpu_raise_err(c, EXC_SS, 0);
}

void stack_write_slow(struct cpu *c, const struct insn *i, gva_t a, uint64_t v)
{
	check_stack_address(c, i, a);
	mem_write_slow(c, a, v, 8);
}

uint64_t stack_read_slow(struct cpu *c, const struct insn *i, gva_t a)
{
	check_stack_address(c, i, a);
	return mem_read_slow(c, a, 8);
}

OP(op_push_r64)
{
	push64(c, i, R64(c, i->dst));
	NEXT_STORED(c, i);
}

OP(op_push_i64)
{
	push64(c, i, i->imm);
	NEXT_STORED(c, i);
}

OP(op_pop_r64)
{
	uint64_t v = stack_read64(c, i, c->gpr[RSP]);

	c->gpr[RSP] += 8;
	R64(c, i->dst) = v;
	NEXT(c, i);
}

OP(op_push_rm)
{
	push(c, i, rm_get(c, i), 1u << i->size);
	NEXT_STORED(c, i);
}

OP(op_push_imm)
{
	push(c, i, i->imm, 1u << i->size);
	NEXT_STORED(c, i);
}

/* POP to memory: RSP in the address is the value after the pop. */
OP(op_pop_rm)
{
	uint64_t v, old = c->gpr[RSP];
	struct stack st;

	c->cur = i;
	stack_current(c, &st);
	v = stack_pop(&st, 1u << i->size);
	if (i->flags & INSN_MEM) {
		gva_t ea;

		if (i->base == RSP) {
			ea = ea_offset(c, i, st.sp - old, 1u << i->size, true);
		} else {
			ea = insn_ea(c, i, 1u << i->size, true);
		}
		store_size(c, i, ea, i->size, v);
		stack_commit(&st);
	} else {
		stack_commit(&st);
		reg_set(c, i->dst, i->size, v);
	}
	NEXT_STORED(c, i);
}

OP(op_push_seg)
{
	struct stack st;
	uint16_t sel = c->seg[i->aux].sel;

	c->cur = i;
	stack_current(c, &st);
	if (i->size == 2 && i->mode != 8) {
		/* Processors write only the selector, yet move the pointer by four. */
		st.sp = (st.sp & ~st.mask) | ((st.sp - 2) & st.mask);
		stack_push(&st, sel, 2);
	} else {
		stack_push(&st, sel, 1u << i->size);
	}
	stack_commit(&st);
	NEXT_STORED(c, i);
}

OP(op_pop_seg)
{
	struct stack st;
	uint64_t v;

	c->cur = i;
	stack_current(c, &st);
	v = stack_pop(&st, 1u << i->size);
	seg_load(c, i->aux, v);
	stack_commit(&st);
	if (i->aux == SEG_SS)
		c->event |= CPU_EVENT_SHADOW | CPU_EVENT_SS_SHADOW;
	c->rip = next_rip(c, i);
}

OP(op_pusha)
{
	struct stack st;

	c->cur = i;
	stack_current(c, &st);
	for (unsigned r = 0; r < 8; r++)
		stack_push(&st, c->gpr[r], 1u << i->size);
	stack_commit(&st);
	NEXT_STORED(c, i);
}

OP(op_popa)
{
	struct stack st;
	uint64_t v[8];

	c->cur = i;
	stack_current(c, &st);
	for (unsigned r = 8; r-- > 0;)
		v[r] = stack_pop(&st, 1u << i->size);
	stack_commit(&st);
	for (unsigned r = 0; r < 8; r++)
		if (r != RSP)
			reg_set(c, r * 8, i->size, v[r]);
	NEXT(c, i);
}

/* imm: frame size; aux: nesting level. */
OP(op_enter)
{
	struct stack st;
	uint64_t frame, rbp = c->gpr[RBP];
	unsigned level = i->aux & 31, size = 1u << i->size;

	c->cur = i;
	stack_current(c, &st);
	stack_push(&st, c->gpr[RBP], size);
	frame = st.sp;
	for (unsigned n = 1; n < level; n++) {
		struct stack from = st;

		rbp = (rbp & ~st.mask) | ((rbp - size) & st.mask);
		from.sp = rbp;
		stack_push(&st, stack_pop(&from, size), size);
	}
	if (level)
		stack_push(&st, frame, size);
	st.sp = (st.sp & ~st.mask) | ((st.sp - i->imm) & st.mask);
	/* The new top of stack must be writable (SDM volume 2, ENTER). */
	mem_probe_write(c, seg_linear(c, SEG_SS, st.sp & st.mask, 1, true), 1);
	stack_commit(&st);
	if (i->mode == 8)
		c->gpr[RBP] = i->size == 1 ? (c->gpr[RBP] & ~0xffffull) | (uint16_t)frame : frame;
	else
		reg_set(c, RBP * 8, i->size, frame);
	NEXT_STORED(c, i);
}

OP(op_leave64)
{
	uint64_t v = stack_read64(c, i, c->gpr[RBP]);

	c->gpr[RSP] = c->gpr[RBP] + 8;
	c->gpr[RBP] = v;
	NEXT(c, i);
}

OP(op_leave)
{
	struct stack st;
	uint64_t v;

	c->cur = i;
	stack_current(c, &st);
	st.sp = (st.sp & ~st.mask) | (c->gpr[RBP] & st.mask);
	v = stack_pop(&st, 1u << i->size);
	stack_commit(&st);
	reg_set(c, RBP * 8, i->size, v);
	NEXT(c, i);
}
