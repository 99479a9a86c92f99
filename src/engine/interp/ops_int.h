/* Read-modify-write operands and the integer instructions that have one handler for all sizes. */
#ifndef ENGINE_INTERP_OPS_INT_H
#define ENGINE_INTERP_OPS_INT_H

#include "src/engine/interp/ops.h"

/*
 * A read-modify-write of the r/m operand that is not locked. rmw_begin() raises every fault the
 * store could; after it registers and flags may change.
 */
struct rmw {
	uint64_t old;
	gva_t ea;
	void *p;
};

static inline void rmw_begin(struct cpu *c, const struct insn *i, struct rmw *m)
{
	if (!(i->flags & INSN_MEM)) {
		m->old = reg_get(c, i->dst, i->size);
		return;
	}
	m->ea = insn_ea(c, i, 1u << i->size, true);
	m->p = mem_fast_write(c, m->ea, 1u << i->size);
	if (!m->p) {
		c->cur = i;
		mem_probe_write(c, m->ea, 1u << i->size);
	}
	m->old = load_size(c, i, m->ea, i->size);
}

static inline void rmw_end(struct cpu *c, const struct insn *i, struct rmw *m, uint64_t v)
{
	if (!(i->flags & INSN_MEM))
		reg_set(c, i->dst, i->size, v);
	else
		store_size(c, i, m->ea, i->size, v);
}

/* Linear address and mask of the bit that BT and its kin number by register src. */
gva_t bt_address(struct cpu *c, const struct insn *i, uint64_t *bit, bool write);

exec_fn *ops_shift_cl(void);
exec_fn *ops_shift_imm(unsigned op, unsigned size, bool mem, unsigned count);

OP(op_shld);
OP(op_shrd);
OP(op_inc);
OP(op_dec);
OP(op_inc_r);
OP(op_dec_r);
OP(op_not);
OP(op_neg);
OP(op_mul);
OP(op_imul1);
OP(op_imul2);
OP(op_imul3);
OP(op_div);
OP(op_idiv);
OP(op_cbw);
OP(op_cwd);
OP(op_lea);
OP(op_xchg_rr);
OP(op_bswap);
OP(op_bt);     /* aux: 0 BT, 1 BTS, 2 BTR, 3 BTC; bit number in imm */
OP(op_bt_reg); /* ... in src */
OP(op_bsf);
OP(op_bsr);
OP(op_tzcnt);
OP(op_lzcnt);
OP(op_popcnt);
OP(op_movbe_load);
OP(op_movbe_store);
OP(op_crc32);
OP(op_adcx);
OP(op_adox);
OP(op_andn);
OP(op_bextr);
OP(op_blsi);
OP(op_blsmsk);
OP(op_blsr);
OP(op_bzhi);
OP(op_mulx);
OP(op_pdep);
OP(op_pext);
OP(op_rorx);
OP(op_shiftx); /* aux: 0 SARX, 1 SHLX, 2 SHRX */
OP(op_daa);
OP(op_das);
OP(op_aaa);
OP(op_aas);
OP(op_aam);
OP(op_aad);
OP(op_salc);
OP(op_lahf);
OP(op_sahf);
OP(op_flag); /* aux: 0 CLC, 1 STC, 2 CMC, 3 CLD, 4 STD */
OP(op_xlat);
OP(op_mov_moffs_load);
OP(op_mov_moffs_store);
OP(op_nop);

/* Locked and exchanging forms (ops_lock.c). */
OP(op_lock_alu);   /* aux: enum alu_op; immediate source if src is REG_ZERO * 8 */
OP(op_lock_unary); /* aux: 0 INC, 1 DEC, 2 NOT, 3 NEG */
OP(op_lock_bt);
OP(op_xchg_mem);
OP(op_xadd);
OP(op_cmpxchg);
OP(op_cmpxchg8b);
OP(op_cmpxchg16b);

#endif
