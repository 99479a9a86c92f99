#include "src/engine/interp/ops_sys.h"

#include <immintrin.h>

#include "src/engine/interp/ops_int.h"
#include "src/x86/exc.h"
#include "src/x86/seg.h"
#include "src/x86/sys.h"

/* The handler is the last of its block: execution goes on at the next instruction. */
#define END_BLOCK(c, i)                    \
	do {                               \
		(c)->rip = next_rip(c, i); \
		return;                    \
	} while (0)

static unsigned opsize(const struct insn *i)
{
	return 1u << i->size;
}

OP(op_ud)
{
	c->cur = i;
	cpu_raise_ud(c);
}

OP(op_gp)
{
	c->cur = i;
	cpu_raise_gp(c);
}

/* --- flags and interrupts ------------------------------------------------------------------ */

OP(op_hlt)
{
	c->cur = i;
	sys_check_cpl0(c);
	c->event |= CPU_EVENT_HALT;
	END_BLOCK(c, i);
}

static void check_iopl(struct cpu *c)
{
	if (!cpu_real_mode(c) && c->cpl > (c->rflags & FLAG_IOPL) >> 12)
		cpu_raise_gp(c);
}

OP(op_cli)
{
	c->cur = i;
	check_iopl(c);
	c->rflags &= ~FLAG_IF;
	NEXT(c, i);
}

OP(op_sti)
{
	c->cur = i;
	check_iopl(c);
	if (!(c->rflags & FLAG_IF)) {
		c->rflags |= FLAG_IF;
		/* Requests are looked at between blocks: the next instruction has its shadow. */
		if (c->event || i[1].exec == op_end) {
			c->event |= CPU_EVENT_SHADOW;
			END_BLOCK(c, i);
		}
	}
	NEXT(c, i);
}

OP(op_pushf)
{
	uint64_t f = flags_get(c) & ~(uint64_t)(FLAG_RF | FLAG_VM);
	struct stack st;

	if (likely(i->mode == 8 && i->size == 3)) {
		push64(c, i, f);
		NEXT_STORED(c, i);
	}
	c->cur = i;
	stack_current(c, &st);
	stack_push(&st, f, opsize(i));
	stack_commit(&st);
	NEXT_STORED(c, i);
}

OP(op_popf)
{
	struct stack st;
	uint64_t f;

	c->cur = i;
	stack_current(c, &st);
	f = stack_pop(&st, opsize(i));
	stack_commit(&st);
	sys_popf(c, f, opsize(i));
	END_BLOCK(c, i);
}

OP(op_int)
{
	c->cur = i;
	exc_soft_interrupt(c, i->imm, next_rip(c, i), false);
}

OP(op_int3)
{
	c->cur = i;
	exc_soft_interrupt(c, EXC_BP, next_rip(c, i), false);
}

OP(op_int1)
{
	c->cur = i;
	exc_soft_interrupt(c, EXC_DB, next_rip(c, i), true);
}

OP(op_into)
{
	c->cur = i;
	if (flag_of(c))
		exc_soft_interrupt(c, EXC_OF, next_rip(c, i), false);
	else
		END_BLOCK(c, i);
}

OP(op_bound)
{
	gva_t ea = insn_ea(c, i, 2 * opsize(i), false);
	int64_t v = sign_extend(reg_get(c, i->dst, i->size), i->size);
	int64_t lo = sign_extend(load_size(c, i, ea, i->size), i->size);
	int64_t hi = sign_extend(load_size(c, i, ea + opsize(i), i->size), i->size);

	c->cur = i;
	if (v < lo || v > hi)
		cpu_raise(c, EXC_BR);
	NEXT(c, i);
}

OP(op_iret)
{
	c->cur = i;
	seg_iret(c, opsize(i));
}

OP(op_syscall)
{
	c->cur = i;
	seg_syscall(c, next_rip(c, i));
}

OP(op_sysret)
{
	c->cur = i;
	seg_sysret(c, opsize(i));
}

OP(op_sysenter)
{
	c->cur = i;
	seg_sysenter(c);
}

OP(op_sysexit)
{
	c->cur = i;
	seg_sysexit(c, opsize(i));
}

/* --- far transfers ------------------------------------------------------------------------- */

OP(op_jmp_far_imm)
{
	c->cur = i;
	far_jump(c, i->disp, i->imm, opsize(i));
}

OP(op_call_far_imm)
{
	c->cur = i;
	far_call(c, i->disp, i->imm, opsize(i), next_rip(c, i));
}

static uint64_t read_far_pointer(struct cpu *c, const struct insn *i, uint16_t *sel)
{
	gva_t ea = insn_ea(c, i, opsize(i) + 2, false);
	uint64_t off = load_size(c, i, ea, i->size);

	*sel = mem_read16(c, i, ea + opsize(i));
	return off;
}

OP(op_jmp_far_mem)
{
	uint16_t sel;
	uint64_t off = read_far_pointer(c, i, &sel);

	c->cur = i;
	far_jump(c, sel, off, opsize(i));
}

OP(op_call_far_mem)
{
	uint16_t sel;
	uint64_t off = read_far_pointer(c, i, &sel);

	c->cur = i;
	far_call(c, sel, off, opsize(i), next_rip(c, i));
}

OP(op_ret_far)
{
	c->cur = i;
	far_return(c, opsize(i), i->imm);
}

OP(op_load_far)
{
	uint16_t sel;
	uint64_t off = read_far_pointer(c, i, &sel);

	c->cur = i;
	seg_load(c, i->aux, sel);
	reg_set(c, i->dst, i->size, off);
	END_BLOCK(c, i);
}

/* --- control, debug and segment registers ---------------------------------------------------- */

OP(op_mov_from_cr)
{
	c->cur = i;
	reg_set(c, i->dst, i->mode == 8 ? 3 : 2, sys_read_cr(c, i->aux));
	NEXT(c, i);
}

OP(op_mov_to_cr)
{
	c->cur = i;
	sys_write_cr(c, i->aux, reg_get(c, i->src, i->mode == 8 ? 3 : 2));
	END_BLOCK(c, i);
}

OP(op_mov_from_dr)
{
	c->cur = i;
	reg_set(c, i->dst, i->mode == 8 ? 3 : 2, sys_read_dr(c, i->aux));
	NEXT(c, i);
}

OP(op_mov_to_dr)
{
	c->cur = i;
	sys_write_dr(c, i->aux, reg_get(c, i->src, i->mode == 8 ? 3 : 2));
	END_BLOCK(c, i);
}

/* To memory always 16 bits; to a register zero-extended to the operand size. */
OP(op_mov_from_seg)
{
	uint16_t sel = c->seg[i->aux].sel;

	if (i->flags & INSN_MEM)
		mem_write16(c, i, insn_ea(c, i, 2, true), sel);
	else
		reg_set(c, i->dst, i->size, sel);
	NEXT_STORED(c, i);
}

static uint16_t rm16(struct cpu *c, const struct insn *i)
{
	return i->flags & INSN_MEM ? mem_read16(c, i, insn_ea(c, i, 2, false)) : R16(c, i->src);
}

OP(op_mov_to_seg)
{
	uint16_t sel = rm16(c, i);

	c->cur = i;
	seg_load(c, i->aux, sel);
	if (i->aux == SEG_SS)
		c->event |= CPU_EVENT_SHADOW | CPU_EVENT_SS_SHADOW;
	END_BLOCK(c, i);
}

static void check_umip(struct cpu *c)
{
	if (unlikely(c->cpl && (c->cr4 & CR4_UMIP)))
		cpu_raise_gp(c);
}

static void store_table(struct cpu *c, const struct insn *i, const struct dtable *t)
{
	unsigned n = i->mode == 8 ? 8 : 4;
	uint8_t buf[10];
	gva_t ea;

	c->cur = i;
	check_umip(c);
	ea = insn_ea(c, i, 2 + n, true);
	memcpy(buf, &t->limit, 2);
	memcpy(buf + 2, &t->base, n);
	mem_write(c, ea, buf, 2 + n);
}

OP(op_sgdt)
{
	store_table(c, i, &c->gdtr);
	NEXT_STORED(c, i);
}

OP(op_sidt)
{
	store_table(c, i, &c->idtr);
	NEXT_STORED(c, i);
}

static void load_table(struct cpu *c, const struct insn *i, struct dtable *t)
{
	unsigned n = i->mode == 8 ? 8 : 4;
	struct dtable v = {0};
	uint8_t buf[10];
	gva_t ea;

	c->cur = i;
	sys_check_cpl0(c);
	ea = insn_ea(c, i, 2 + n, false);
	mem_read(c, ea, buf, 2 + n);
	memcpy(&v.limit, buf, 2);
	memcpy(&v.base, buf + 2, n);
	if (i->mode == 8 && !gva_canonical(v.base))
		cpu_raise_gp(c);
	if (i->mode != 8 && i->size == 1)
		v.base &= 0xffffff;
	*t = v;
}

OP(op_lgdt)
{
	load_table(c, i, &c->gdtr);
	NEXT(c, i);
}

OP(op_lidt)
{
	load_table(c, i, &c->idtr);
	NEXT(c, i);
}

static void store_sel(struct cpu *c, const struct insn *i, uint64_t v)
{
	if (i->flags & INSN_MEM)
		mem_write16(c, i, insn_ea(c, i, 2, true), v);
	else
		reg_set(c, i->dst, i->size, v);
}

static void need_protected(struct cpu *c)
{
	if (cpu_real_mode(c))
		cpu_raise_ud(c);
}

OP(op_sldt)
{
	c->cur = i;
	need_protected(c);
	check_umip(c);
	store_sel(c, i, c->seg[SEG_LDTR].sel);
	NEXT_STORED(c, i);
}

OP(op_str)
{
	c->cur = i;
	need_protected(c);
	check_umip(c);
	store_sel(c, i, c->seg[SEG_TR].sel);
	NEXT_STORED(c, i);
}

OP(op_smsw)
{
	c->cur = i;
	check_umip(c);
	if (i->flags & INSN_MEM)
		mem_write16(c, i, insn_ea(c, i, 2, true), c->cr0);
	else
		reg_set(c, i->dst, i->size, c->cr0);
	NEXT_STORED(c, i);
}

OP(op_lldt)
{
	c->cur = i;
	need_protected(c);
	sys_check_cpl0(c);
	seg_load_ldt(c, rm16(c, i));
	NEXT(c, i);
}

OP(op_ltr)
{
	c->cur = i;
	need_protected(c);
	sys_check_cpl0(c);
	seg_load_tr(c, rm16(c, i));
	NEXT_STORED(c, i);
}

OP(op_lmsw)
{
	c->cur = i;
	sys_check_cpl0(c);
	sys_lmsw(c, rm16(c, i));
	END_BLOCK(c, i);
}

OP(op_clts)
{
	c->cur = i;
	sys_check_cpl0(c);
	c->cr0 &= ~(uint64_t)CR0_TS;
	NEXT(c, i);
}

OP(op_seg_query)
{
	uint32_t value = 0;
	bool ok;

	c->cur = i;
	need_protected(c);
	ok = seg_query(c, i->aux, rm16(c, i), &value);
	if (ok)
		reg_set(c, i->dst, i->size, value);
	flags_set_zf(c, ok);
	NEXT(c, i);
}

OP(op_verr)
{
	uint32_t value;

	c->cur = i;
	need_protected(c);
	flags_set_zf(c, seg_query(c, i->aux, rm16(c, i), &value));
	NEXT(c, i);
}

OP(op_arpl)
{
	uint16_t src = R16(c, i->src) & 3, v;
	struct rmw m;

	c->cur = i;
	need_protected(c);
	rmw_begin(c, i, &m);
	v = m.old;
	if ((v & 3) < src)
		rmw_end(c, i, &m, (v & ~3u) | src);
	flags_set_zf(c, (v & 3) < src);
	NEXT_STORED(c, i);
}

/* --- TLB and caches ------------------------------------------------------------------------- */

OP(op_invlpg)
{
	gva_t gva = c->gpr[i->base] + (c->gpr[i->index] << i->scale) + (int64_t)i->disp;

	c->cur = i;
	sys_check_cpl0(c);
	if (i->flags & INSN_ADDR32)
		gva = (uint32_t)gva;
	else if (i->flags & INSN_ADDR16)
		gva = (uint16_t)gva;
	gva += c->seg[i->seg].base;
	/* A non-canonical address is ignored. */
	if (i->mode != 8)
		gva = (uint32_t)gva;
	if (gva_canonical(gva))
		tlb_flush_page(&c->tlb, gva);
	STAT_INC(c->stats, tlb_page_flushes);
	END_BLOCK(c, i);
}

OP(op_invpcid)
{
	uint64_t type = reg_get(c, i->dst, i->mode == 8 ? 3 : 2), desc[2];
	gva_t ea;

	c->cur = i;
	sys_check_cpl0(c);
	ea = insn_ea(c, i, 16, false);
	mem_read(c, ea, desc, 16);
	sys_invpcid(c, type, desc[0], desc[1]);
	END_BLOCK(c, i);
}

OP(op_wbinvd)
{
	c->cur = i;
	sys_check_cpl0(c);
	NEXT(c, i);
}

/* Guest memory is coherent: only the access check of one byte remains. */
OP(op_clflush)
{
	mem_read8(c, i, insn_ea(c, i, 1, false));
	NEXT(c, i);
}

/* --- processor identification, MSRs, time ----------------------------------------------------- */

OP(op_cpuid)
{
	c->cur = i;
	sys_cpuid(c);
	END_BLOCK(c, i);
}

OP(op_rdmsr)
{
	uint64_t v;

	c->cur = i;
	sys_check_cpl0(c);
	if (msr_read(c, c->gpr[RCX], &v))
		cpu_raise_gp(c);
	c->gpr[RAX] = (uint32_t)v;
	c->gpr[RDX] = v >> 32;
	NEXT(c, i);
}

OP(op_wrmsr)
{
	c->cur = i;
	sys_check_cpl0(c);
	if (msr_write(c, c->gpr[RCX], (c->gpr[RDX] << 32) | (uint32_t)c->gpr[RAX]))
		cpu_raise_gp(c);
	END_BLOCK(c, i);
}

static void rdtsc(struct cpu *c)
{
	uint64_t v;

	if (c->cpl && (c->cr4 & CR4_TSD))
		cpu_raise_gp(c);
	v = c->ops->rdtsc(c);
	c->gpr[RAX] = (uint32_t)v;
	c->gpr[RDX] = v >> 32;
}

OP(op_rdtsc)
{
	c->cur = i;
	rdtsc(c);
	NEXT(c, i);
}

OP(op_rdtscp)
{
	c->cur = i;
	rdtsc(c);
	c->gpr[RCX] = (uint32_t)c->tsc_aux;
	NEXT(c, i);
}

OP(op_rdpid)
{
	c->gpr[i->dst / 8] = (uint32_t)c->tsc_aux;
	NEXT(c, i);
}

/* There is no performance counter. */
OP(op_rdpmc)
{
	c->cur = i;
	cpu_raise_gp(c);
}

OP(op_swapgs)
{
	uint64_t t = c->seg[SEG_GS].base;

	c->cur = i;
	if (i->mode != 8)
		cpu_raise_ud(c);
	sys_check_cpl0(c);
	c->seg[SEG_GS].base = c->kernel_gs_base;
	c->kernel_gs_base = t;
	NEXT(c, i);
}

static void need_fsgsbase(struct cpu *c, const struct insn *i)
{
	c->cur = i;
	if (i->mode != 8 || !(c->cr4 & CR4_FSGSBASE))
		cpu_raise_ud(c);
}

OP(op_rdfsbase)
{
	need_fsgsbase(c, i);
	reg_set(c, i->dst, i->size, c->seg[i->aux].base);
	NEXT(c, i);
}

OP(op_wrfsbase)
{
	uint64_t v = reg_get(c, i->dst, i->size);

	need_fsgsbase(c, i);
	if (!gva_canonical(v))
		cpu_raise_gp(c);
	c->seg[i->aux].base = v;
	NEXT(c, i);
}

static void set_ac(struct cpu *c, const struct insn *i, bool ac)
{
	c->cur = i;
	if (c->cpl)
		cpu_raise_ud(c);
	c->rflags = ac ? c->rflags | FLAG_AC : c->rflags & ~FLAG_AC;
	cpu_update_ctx(c);
}

OP(op_stac)
{
	set_ac(c, i, true);
	NEXT(c, i);
}

OP(op_clac)
{
	set_ac(c, i, false);
	NEXT(c, i);
}

/* --- ports ---------------------------------------------------------------------------------- */

static uint16_t port(struct cpu *c, const struct insn *i)
{
	uint16_t p = i->aux ? c->gpr[RDX] : i->imm;

	c->cur = i;
	sys_check_io(c, p, opsize(i));
	STAT_INC(c->stats, pio);
	return p;
}

OP(op_in)
{
	uint16_t p = port(c, i);
	uint64_t v = 0;

	c->ops->pio_read(c, p, &v, opsize(i));
	reg_set(c, RAX * 8, i->size, v);
	END_BLOCK(c, i);
}

OP(op_out)
{
	uint16_t p = port(c, i);

	c->ops->pio_write(c, p, &c->gpr[RAX], opsize(i));
	END_BLOCK(c, i);
}

/* --- others --------------------------------------------------------------------------------- */

__attribute__((target("rdrnd"))) static bool host_rdrand(uint64_t *v)
{
	unsigned long long t;
	bool ok = _rdrand64_step(&t);

	*v = t;
	return ok;
}

__attribute__((target("rdseed"))) static bool host_rdseed(uint64_t *v)
{
	unsigned long long t;
	bool ok = _rdseed64_step(&t);

	*v = t;
	return ok;
}

static void set_random(struct cpu *c, const struct insn *i, bool ok, uint64_t v)
{
	reg_set(c, i->dst, i->size, ok ? v : 0);
	flags_set_arith(c, ok ? FLAG_CF : 0);
}

OP(op_rdrand)
{
	uint64_t v;
	bool ok = host_rdrand(&v);

	set_random(c, i, ok, v);
	NEXT(c, i);
}

OP(op_rdseed)
{
	uint64_t v;
	bool ok = host_rdseed(&v);

	set_random(c, i, ok, v);
	NEXT(c, i);
}

OP(op_pause)
{
	c->event |= CPU_EVENT_PAUSE;
	END_BLOCK(c, i);
}

OP(op_fence)
{
	__atomic_thread_fence(__ATOMIC_SEQ_CST);
	NEXT(c, i);
}

OP(op_vmcall)
{
	uint64_t args[4] = {c->gpr[RBX], c->gpr[RCX], c->gpr[RDX], c->gpr[RSI]};

	c->cur = i;
	c->gpr[RAX] = c->ops->hypercall(c, c->gpr[RAX], args);
	END_BLOCK(c, i);
}
