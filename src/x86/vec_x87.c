/*
 * x87: data instructions through stubs that load and save the whole x87 state, control instructions
 * in C on the FXSAVE image. An exception that the guest has unmasked stays pending in FSW.ES, as on
 * the processor, and is raised by the next waiting instruction. With CR0.NE clear a processor would
 * signal it on FERR#; here it is then ignored, as if IGNNE# were asserted.
 */
#include "src/x86/vec_int.h"

#define FSAVE_MAX 108

void vec_fsw_set(struct vec_state *v, uint16_t fsw)
{
	bool pending = fsw & ~fx_get16(v, FX_FCW) & X87_EXCEPTIONS;

	fsw &= ~(FSW_ES | FSW_B);
	fx_set16(v, FX_FSW, fsw | (pending ? FSW_ES | FSW_B : 0));
}

/* Bit 6 reads as one; 7 and 13-15 as zero. */
static void fcw_set(struct vec_state *v, uint16_t fcw)
{
	fx_set16(v, FX_FCW, (fcw & 0x1f3f) | 0x40);
	vec_fsw_set(v, fx_get16(v, FX_FSW));
}

static void begin(struct cpu *c, const struct insn *i)
{
	c->cur = i;
	if (unlikely(c->cr0 & (CR0_EM | CR0_TS)))
		cpu_raise(c, EXC_NM);
}

static void wait_pending(struct cpu *c)
{
	if (unlikely((fx_get16(&c->vec, FX_FSW) & FSW_ES) && (c->cr0 & CR0_NE)))
		cpu_raise(c, EXC_MF);
}

/* --- data instructions --------------------------------------------------------------------- */

/* FOP, FIP and FDP, as they lie in the FXSAVE image. */
struct pointers {
	uint8_t b[FX_MXCSR - FX_FOP];
};

static struct pointers get_pointers(const struct vec_state *v)
{
	struct pointers p;

	memcpy(p.b, v->fx + FX_FOP, sizeof(p.b));
	return p;
}

/* After the stub, whose own are of no use; old: what they were before. */
static void set_pointers(struct cpu *c, const struct insn *i, const struct vec_form *f, gva_t ea,
			 const struct pointers *old)
{
	struct vec_state *v = &c->vec;

	memcpy(v->fx + FX_FOP, old->b, sizeof(old->b));
	if (f->x87_control)
		return;
	fx_set16(v, FX_FOP, i->dst << 8 | i->aux);
	fx_set64(v, FX_FIP, c->gpr[REG_PC] + i->off);
	if (f->mem_len)
		fx_set64(v, FX_FDP, ea - c->seg[i->seg].base);
}

/* A store is not done, and leaves memory alone, if it raised one of these unmasked. */
static bool store_suppressed(const struct vec_state *v)
{
	const uint16_t ie_oe_ue = 0x19;

	return fx_get16(v, FX_FSW) & ~fx_get16(v, FX_FCW) & ie_oe_ue;
}

/* The host must not see a pending exception, which would be its own. */
static uint64_t run_ignoring(struct cpu *c, const struct insn *i, const struct vec_op *op,
			     void *mem)
{
	uint16_t fcw = fx_get16(&c->vec, FX_FCW);
	uint64_t flags;

	fx_set16(&c->vec, FX_FCW, fcw | X87_EXCEPTIONS);
	vec_fsw_set(&c->vec, fx_get16(&c->vec, FX_FSW));
	flags = op->stub(&c->vec, mem, c->gpr, i, flags_get(c) & FLAGS_ARITH);
	fx_set16(&c->vec, FX_FCW, fcw);
	vec_fsw_set(&c->vec, fx_get16(&c->vec, FX_FSW));
	return flags;
}

void vec_x87_exec(struct cpu *c, const struct insn *i)
{
	const struct vec_op *op = insn_op(i);
	const struct vec_form *f = &op->form;
	const struct pointers old = get_pointers(&c->vec);
	void *mem = c->vec_buf;
	uint64_t flags;
	gva_t ea = 0;

	begin(c, i);
	wait_pending(c);
	if (f->mem_len) {
		ea = insn_ea(c, i, f->mem_len, f->mem_write);
		if (f->mem_write)
			mem_probe_write(c, ea, f->mem_len);
		else
			mem_read(c, ea, c->vec_buf, f->mem_len);
	}
	if (unlikely(fx_get16(&c->vec, FX_FSW) & FSW_ES)) {
		flags = run_ignoring(c, i, op, mem);
	} else {
		flags = op->stub(&c->vec, mem, c->gpr, i, flags_get(c) & FLAGS_ARITH);
		if (f->mem_write && store_suppressed(&c->vec))
			mem = NULL;
	}
	set_pointers(c, i, f, ea, &old);
	if (f->mem_write && mem)
		mem_write(c, ea, c->vec_buf, f->mem_len);
	if (f->flags_write)
		flags_set_arith(c, flags);
}

/* --- control instructions ------------------------------------------------------------------ */

static void fninit(struct cpu *c, const struct insn *i)
{
	begin(c, i);
	vec_top_set(&c->vec, 0);
	memset(c->vec.fx, 0, FX_MXCSR);
	fx_set16(&c->vec, FX_FCW, FCW_INIT);
}

static void fnclex(struct cpu *c, const struct insn *i)
{
	begin(c, i);
	fx_set16(&c->vec, FX_FSW, fx_get16(&c->vec, FX_FSW) & 0x7f00);
}

/* FENI, FDISI, FSETPM of the first coprocessors: nothing, without waiting. */
static void fnothing(struct cpu *c, const struct insn *i)
{
	begin(c, i);
}

static void fwait(struct cpu *c, const struct insn *i)
{
	c->cur = i;
	if ((c->cr0 & (CR0_MP | CR0_TS)) == (CR0_MP | CR0_TS))
		cpu_raise(c, EXC_NM);
	wait_pending(c);
}

static void emms(struct cpu *c, const struct insn *i)
{
	c->cur = i;
	vec_check_mmx(c);
	vec_mmx_enter(&c->vec);
	fx_set16(&c->vec, FX_FTW, 0);
}

static void fldcw(struct cpu *c, const struct insn *i)
{
	begin(c, i);
	wait_pending(c);
	fcw_set(&c->vec, mem_read16(c, i, insn_ea(c, i, 2, false)));
}

static void fnstcw(struct cpu *c, const struct insn *i)
{
	begin(c, i);
	mem_write16(c, i, insn_ea(c, i, 2, true), fx_get16(&c->vec, FX_FCW));
}

static void fnstsw(struct cpu *c, const struct insn *i)
{
	begin(c, i);
	mem_write16(c, i, insn_ea(c, i, 2, true), fx_get16(&c->vec, FX_FSW));
}

static void fnstsw_ax(struct cpu *c, const struct insn *i)
{
	uint16_t fsw = fx_get16(&c->vec, FX_FSW);

	begin(c, i);
	memcpy(&c->gpr[RAX], &fsw, 2);
}

/* --- environment: SDM volume 1, figures 8-9 to 8-12 ---------------------------------------- */

/* Tag of ST(n): 0 valid, 1 zero, 2 special, 3 empty. */
static unsigned tag_of(const struct vec_state *v, unsigned n, unsigned phys)
{
	const uint8_t *st = v->fx + FX_ST + 16 * n;
	uint64_t mantissa;
	uint16_t exponent;

	if (!(fx_get16(v, FX_FTW) >> phys & 1))
		return 3;
	memcpy(&mantissa, st, 8);
	memcpy(&exponent, st + 8, 2);
	exponent &= 0x7fff;
	if (exponent == 0)
		return mantissa ? 2 : 1;
	return exponent != 0x7fff && mantissa >> 63 ? 0 : 2;
}

static uint16_t tags_get(const struct vec_state *v)
{
	unsigned top = (fx_get16(v, FX_FSW) & FSW_TOP) >> FSW_TOP_SHIFT;
	uint16_t tags = 0;

	for (unsigned n = 0; n < 8; n++) {
		unsigned phys = (top + n) & 7;

		tags |= tag_of(v, n, phys) << 2 * phys;
	}
	return tags;
}

static void tags_set(struct vec_state *v, uint16_t tags)
{
	uint16_t abridged = 0;

	for (unsigned phys = 0; phys < 8; phys++)
		if ((tags >> 2 * phys & 3) != 3)
			abridged |= 1u << phys;
	fx_set16(v, FX_FTW, abridged);
}

static void put16(uint8_t *p, uint16_t x)
{
	memcpy(p, &x, 2);
}

static void put32(uint8_t *p, uint32_t x)
{
	memcpy(p, &x, 4);
}

static uint16_t get16(const uint8_t *p)
{
	uint16_t x;

	memcpy(&x, p, 2);
	return x;
}

static uint32_t get32(const uint8_t *p)
{
	uint32_t x;

	memcpy(&x, p, 4);
	return x;
}

/* The selectors are zero: CPUID says that FCS and FDS are not kept. */
static void env16_put(const struct cpu *c, uint8_t *p)
{
	const struct vec_state *v = &c->vec;
	uint64_t fip = fx_get64(v, FX_FIP), fdp = fx_get64(v, FX_FDP);

	memset(p, 0, 14);
	put16(p, fx_get16(v, FX_FCW));
	put16(p + 2, fx_get16(v, FX_FSW));
	put16(p + 4, tags_get(v));
	put16(p + 6, fip);
	put16(p + 10, fdp);
	if (cpu_real_mode(c)) {
		put16(p + 8, (fip >> 4 & 0xf000) | (fx_get16(v, FX_FOP) & 0x7ff));
		put16(p + 12, fdp >> 4 & 0xf000);
	}
}

static void env32_put(const struct cpu *c, uint8_t *p)
{
	const struct vec_state *v = &c->vec;
	uint64_t fip = fx_get64(v, FX_FIP), fdp = fx_get64(v, FX_FDP);
	uint32_t fop = fx_get16(v, FX_FOP) & 0x7ff;

	put32(p, 0xffff0000u | fx_get16(v, FX_FCW));
	put32(p + 4, 0xffff0000u | fx_get16(v, FX_FSW));
	put32(p + 8, 0xffff0000u | tags_get(v));
	if (cpu_real_mode(c)) {
		put32(p + 12, 0xffff0000u | (uint16_t)fip);
		put32(p + 16, (fip >> 4 & 0x0ffff000) | fop);
		put32(p + 20, 0xffff0000u | (uint16_t)fdp);
		put32(p + 24, fdp >> 4 & 0x0ffff000);
	} else {
		put32(p + 12, fip);
		put32(p + 16, fop << 16);
		put32(p + 20, fdp);
		put32(p + 24, 0xffff0000u);
	}
}

static void env16_get(struct cpu *c, const uint8_t *p)
{
	struct vec_state *v = &c->vec;
	uint64_t fip = get16(p + 6), fdp = get16(p + 10);

	if (cpu_real_mode(c)) {
		fx_set16(v, FX_FOP, get16(p + 8) & 0x7ff);
		fip |= (get16(p + 8) & 0xf000u) << 4;
		fdp |= (get16(p + 12) & 0xf000u) << 4;
	}
	fx_set64(v, FX_FIP, fip);
	fx_set64(v, FX_FDP, fdp);
}

static void env32_get(struct cpu *c, const uint8_t *p)
{
	struct vec_state *v = &c->vec;

	if (cpu_real_mode(c)) {
		fx_set16(v, FX_FOP, get32(p + 16) & 0x7ff);
		fx_set64(v, FX_FIP, get16(p + 12) | (get32(p + 16) & 0x0ffff000u) << 4);
		fx_set64(v, FX_FDP, get16(p + 20) | (get32(p + 24) & 0x0ffff000u) << 4);
	} else {
		fx_set16(v, FX_FOP, get32(p + 16) >> 16 & 0x7ff);
		fx_set64(v, FX_FIP, get32(p + 12));
		fx_set64(v, FX_FDP, get32(p + 20));
	}
}

/* aux: bytes of the environment, 14 or 28. */
static void env_put(const struct cpu *c, const struct insn *i, uint8_t *p)
{
	if (i->aux == 14)
		env16_put(c, p);
	else
		env32_put(c, p);
}

static void env_get(struct cpu *c, const struct insn *i, const uint8_t *p)
{
	unsigned word = i->aux / 7;

	if (i->aux == 14)
		env16_get(c, p);
	else
		env32_get(c, p);
	tags_set(&c->vec, get16(p + 2 * word));
	vec_top_set(&c->vec, (get16(p + word) & FSW_TOP) >> FSW_TOP_SHIFT);
	fx_set16(&c->vec, FX_FSW, get16(p + word));
	fcw_set(&c->vec, get16(p));
}

static void fnstenv(struct cpu *c, const struct insn *i)
{
	uint8_t env[28];
	gva_t ea;

	begin(c, i);
	ea = insn_ea(c, i, i->aux, true);
	env_put(c, i, env);
	mem_write(c, ea, env, i->aux);
	fcw_set(&c->vec, fx_get16(&c->vec, FX_FCW) | X87_EXCEPTIONS);
}

static void fldenv(struct cpu *c, const struct insn *i)
{
	uint8_t env[28];

	begin(c, i);
	wait_pending(c);
	mem_read(c, insn_ea(c, i, i->aux, false), env, i->aux);
	env_get(c, i, env);
}

static void fnsave(struct cpu *c, const struct insn *i)
{
	uint8_t image[FSAVE_MAX];
	unsigned len = i->aux + 80;
	gva_t ea;

	begin(c, i);
	ea = insn_ea(c, i, len, true);
	env_put(c, i, image);
	for (unsigned n = 0; n < 8; n++)
		memcpy(image + i->aux + 10 * n, c->vec.fx + FX_ST + 16 * n, 10);
	mem_write(c, ea, image, len);
	fninit(c, i);
}

static void frstor(struct cpu *c, const struct insn *i)
{
	uint8_t image[FSAVE_MAX];
	unsigned len = i->aux + 80;

	begin(c, i);
	wait_pending(c);
	mem_read(c, insn_ea(c, i, len, false), image, len);
	env_get(c, i, image);
	for (unsigned n = 0; n < 8; n++)
		memcpy(c->vec.fx + FX_ST + 16 * n, image + i->aux + 10 * n, 10);
}

bool vec_x87_decode(struct insn *insn, const ZydisDecodedInstruction *zi,
		    const ZydisDecodedOperand *ops)
{
	/* 112 and 752 bits: the environment and the whole state in the 16-bit format. */
	insn->aux = ops[0].size == 112 || ops[0].size == 752 ? 14 : 28;
	switch (zi->mnemonic) {
	case ZYDIS_MNEMONIC_FNINIT: insn->exec = fninit; return true;
	case ZYDIS_MNEMONIC_FNCLEX: insn->exec = fnclex; return true;
	case ZYDIS_MNEMONIC_FENI8087_NOP:
	case ZYDIS_MNEMONIC_FDISI8087_NOP:
	case ZYDIS_MNEMONIC_FSETPM287_NOP: insn->exec = fnothing; return true;
	case ZYDIS_MNEMONIC_FWAIT: insn->exec = fwait; return true;
	case ZYDIS_MNEMONIC_FLDCW: insn->exec = fldcw; return true;
	case ZYDIS_MNEMONIC_FNSTCW: insn->exec = fnstcw; return true;
	case ZYDIS_MNEMONIC_FNSTSW:
		insn->exec = ops[0].type == ZYDIS_OPERAND_TYPE_MEMORY ? fnstsw : fnstsw_ax;
		return true;
	case ZYDIS_MNEMONIC_FNSTENV: insn->exec = fnstenv; return true;
	case ZYDIS_MNEMONIC_FLDENV: insn->exec = fldenv; return true;
	case ZYDIS_MNEMONIC_FNSAVE: insn->exec = fnsave; return true;
	case ZYDIS_MNEMONIC_FRSTOR: insn->exec = frstor; return true;
	case ZYDIS_MNEMONIC_EMMS: insn->exec = emms; return true;
	default: return false;
	}
}
