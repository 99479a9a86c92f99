/* Decoding, availability checks and the generic execution of vector instructions through stubs. */
#include "src/x86/vec.h"

#include <pthread.h>
#include <stdlib.h>

#include "src/base/log.h"
#include "src/x86/vec_int.h"

static pthread_mutex_t cache_lock = PTHREAD_MUTEX_INITIALIZER;
static struct vec_cache *cache;
static unsigned cache_users;

static int create_cache(void)
{
	struct vec_cache *vc = calloc(1, sizeof(*vc));
	int r;

	if (!vc)
		return -ENOMEM;
	host_isa_probe(&vc->isa);
	pthread_mutex_init(&vc->lock, NULL);
	r = vec_stubs_init(vc);
	if (r) {
		free(vc);
		return r;
	}
	cache = vc;
	return 0;
}

int vec_cache_get(struct vec_cache **out)
{
	int r;

	pthread_mutex_lock(&cache_lock);
	r = cache_users ? 0 : create_cache();
	if (!r) {
		cache_users++;
		*out = cache;
	}
	pthread_mutex_unlock(&cache_lock);
	return r;
}

void vec_cache_put(struct vec_cache *vc)
{
	if (!vc)
		return;
	pthread_mutex_lock(&cache_lock);
	if (!--cache_users) {
		vec_stubs_fini(vc);
		pthread_mutex_destroy(&vc->lock);
		free(vc);
	}
	pthread_mutex_unlock(&cache_lock);
}

void vec_reset(struct vec_state *v)
{
	uint32_t mxcsr = MXCSR_INIT;

	memset(v, 0, sizeof(*v));
	/* FXRSTOR of the image needs a valid MXCSR there; the guest's own is v->mxcsr. */
	memcpy(v->fx + FX_MXCSR, &mxcsr, 4);
	/* Reset, unlike FNINIT, leaves 0x40 in the control word (SDM volume 3, table 10-1). */
	fx_set16(v, FX_FCW, 0x40);
	fx_set16(v, FX_FTW, 0xff);
	v->mxcsr = MXCSR_INIT;
}

cold_path void vec_unavailable_sse(struct cpu *c)
{
	if ((c->cr0 & CR0_EM) || !(c->cr4 & CR4_OSFXSR))
		cpu_raise_ud(c);
	cpu_raise(c, EXC_NM);
}

cold_path void vec_unavailable_avx(struct cpu *c)
{
	if (!(c->cr0 & CR0_PE) || !(c->cr4 & CR4_OSXSAVE) || (c->xcr0 & 6) != 6)
		cpu_raise_ud(c);
	cpu_raise(c, EXC_NM);
}

cold_path void vec_unavailable_mmx(struct cpu *c)
{
	if (c->cr0 & CR0_EM)
		cpu_raise_ud(c);
	cpu_raise(c, EXC_NM);
}

void vec_check_mmx(struct cpu *c)
{
	if (c->cr0 & (CR0_EM | CR0_TS))
		vec_unavailable_mmx(c);
	if ((fx_get16(&c->vec, FX_FSW) & FSW_ES) && (c->cr0 & CR0_NE))
		cpu_raise(c, EXC_MF);
}

void vec_top_set(struct vec_state *v, unsigned top)
{
	uint16_t fsw = fx_get16(v, FX_FSW);
	unsigned by = (top - (fsw >> FSW_TOP_SHIFT)) & 7;
	uint8_t st[8][16];

	fx_set16(v, FX_FSW, (fsw & ~FSW_TOP) | top << FSW_TOP_SHIFT);
	if (!by)
		return;
	memcpy(st, v->fx + FX_ST, sizeof(st));
	for (unsigned n = 0; n < 8; n++)
		memcpy(v->fx + FX_ST + 16 * n, st[(n + by) & 7], 16);
}

void vec_mmx_enter(struct vec_state *v)
{
	vec_top_set(v, 0);
	fx_set16(v, FX_FTW, 0xff);
}

/* Where the stub finds a source operand: in guest memory itself, or copied to vec_buf. */
static force_inline void *operand_read(struct cpu *c, const struct insn *i, const struct vec_op *op)
{
	unsigned len = op->form.mem_len;
	gva_t ea = insn_ea(c, i, len, false);
	void *p;

	if (op->form.align && unlikely(ea & (len - 1)))
		cpu_raise_gp(c);
	p = mem_fast_read(c, ea, len);
	if (likely(p))
		return p;
	mem_read(c, ea, c->vec_buf, len);
	return c->vec_buf;
}

/*
 * With some exception unmasked. The instruction runs masked; if it raised an unmasked one, the
 * guest sees its registers unchanged and #XM. Of its flags only PE and UE may then differ from a
 * processor's, which tells whether the result would be inexact with unbounded exponents (and DE of
 * a dot product, which a processor stops after its first step).
 */
static cold_path uint64_t run_unmasked(struct cpu *c, const struct insn *i, const struct vec_op *op,
				       void *mem)
{
	const uint32_t pre = 7; /* invalid, denormal, divide: found before computing */
	const uint32_t um = 1u << 11, ue = 1u << 4, ftz = 1u << 15;
	struct vec_state *v = &c->vec;
	struct vec_state saved = *v;
	uint64_t gpr[GPR_SLOTS], flags;
	uint32_t guest = v->mxcsr, masked = (guest & ~X87_EXCEPTIONS) | MXCSR_INIT;
	uint32_t unmasked = ~(guest >> 7) & X87_EXCEPTIONS, raised, tiny = 0;

	memcpy(gpr, c->gpr, sizeof(gpr));
	if (!(guest & um)) {
		/*
		 * Unmasked underflow means tiny, masked means tiny and inexact; and flushing to
		 * zero applies to the masked one only. Flushing reports all that is tiny.
		 */
		v->mxcsr = masked | ftz;
		op->stub(v, mem, c->gpr, i, 0);
		tiny = v->mxcsr & ue;
		*v = saved;
		memcpy(c->gpr, gpr, sizeof(gpr));
		masked &= ~ftz;
	}
	v->mxcsr = masked;
	flags = op->stub(v, mem, c->gpr, i, 0);
	raised = (v->mxcsr & X87_EXCEPTIONS) | tiny;
	if (!(raised & unmasked)) {
		v->mxcsr = guest | raised;
		return flags;
	}
	if (raised & unmasked & pre)
		raised &= pre;
	*v = saved;
	memcpy(c->gpr, gpr, sizeof(gpr));
	v->mxcsr = guest | raised;
	if (!(c->cr4 & CR4_OSXMMEXCPT))
		cpu_raise_ud(c);
	cpu_raise(c, EXC_XM);
}

static force_inline uint64_t run(struct cpu *c, const struct insn *i, const struct vec_op *op,
				 void *mem)
{
	if (op->form.fp && unlikely((c->vec.mxcsr & MXCSR_INIT) != MXCSR_INIT))
		return run_unmasked(c, i, op, mem);
	return op->stub(&c->vec, mem, c->gpr, i, 0);
}

static force_inline void check(struct cpu *c, bool avx)
{
	if (avx)
		vec_check_avx(c);
	else
		vec_check_sse(c);
}

static force_inline void exec_reg(struct cpu *c, const struct insn *i, bool avx)
{
	c->cur = i;
	check(c, avx);
	run(c, i, insn_op(i), NULL);
}

static force_inline void exec_load(struct cpu *c, const struct insn *i, bool avx)
{
	const struct vec_op *op = insn_op(i);

	c->cur = i;
	check(c, avx);
	run(c, i, op, operand_read(c, i, op));
}

static void exec_sse_reg(struct cpu *c, const struct insn *i)
{
	exec_reg(c, i, false);
}

static void exec_avx_reg(struct cpu *c, const struct insn *i)
{
	exec_reg(c, i, true);
}

static void exec_sse_load(struct cpu *c, const struct insn *i)
{
	exec_load(c, i, false);
}

static void exec_avx_load(struct cpu *c, const struct insn *i)
{
	exec_load(c, i, true);
}

/* Everything else: stores, flags, MMX. */
static void exec_any(struct cpu *c, const struct insn *i)
{
	const struct vec_op *op = insn_op(i);
	const struct vec_form *f = &op->form;
	void *mem = NULL;
	uint64_t flags;
	gva_t ea = 0;

	c->cur = i;
	if (f->cls != VEC_MMX)
		check(c, f->cls == VEC_AVX);
	if (f->mmx)
		vec_check_mmx(c);
	if (f->mem_read) {
		mem = operand_read(c, i, op);
	} else if (f->mem_write) {
		ea = insn_ea(c, i, f->mem_len, true);
		if (f->align && (ea & (f->mem_len - 1)))
			cpu_raise_gp(c);
		/* The store must not fault once registers have changed. */
		mem_probe_write(c, ea, f->mem_len);
		mem = c->vec_buf;
	}
	if (f->mmx)
		vec_mmx_enter(&c->vec);
	flags = run(c, i, op, mem);
	if (f->mem_write)
		mem_write(c, ea, c->vec_buf, f->mem_len);
	if (f->flags_write)
		flags_set_arith(c, flags);
}

/* The classes that this module runs, as far as the host has them. */
static bool class_of(const struct host_isa *h, const ZydisDecodedInstruction *zi, uint8_t *cls)
{
	*cls = zi->encoding == ZYDIS_INSTRUCTION_ENCODING_VEX ? VEC_AVX : VEC_SSE;
	switch (zi->meta.isa_set) {
	case ZYDIS_ISA_SET_PENTIUMMMX: *cls = VEC_MMX; return true;
	case ZYDIS_ISA_SET_SSE:
	case ZYDIS_ISA_SET_SSE2:
	case ZYDIS_ISA_SET_SSEMXCSR: return true;
	case ZYDIS_ISA_SET_SSE2MMX: *cls = VEC_MMX; return true;
	case ZYDIS_ISA_SET_SSE3: return h->sse3;
	case ZYDIS_ISA_SET_SSSE3: return h->ssse3;
	case ZYDIS_ISA_SET_SSSE3MMX: *cls = VEC_MMX; return h->ssse3;
	case ZYDIS_ISA_SET_SSE4: return h->sse41;
	case ZYDIS_ISA_SET_SSE42: return h->sse42;
	case ZYDIS_ISA_SET_AES: return h->aes;
	case ZYDIS_ISA_SET_PCLMULQDQ: return h->pclmul;
	case ZYDIS_ISA_SET_SHA: return h->sha;
	case ZYDIS_ISA_SET_AVX:
		return h->avx && (zi->mnemonic != ZYDIS_MNEMONIC_VPCLMULQDQ || h->pclmul);
	case ZYDIS_ISA_SET_AVX2:
	case ZYDIS_ISA_SET_AVX2GATHER: return h->avx2;
	case ZYDIS_ISA_SET_AVXAES: return h->avx && h->aes;
	case ZYDIS_ISA_SET_F16C: return h->f16c;
	case ZYDIS_ISA_SET_FMA: return h->fma;
	default: return false;
	}
}

static void choose_exec(struct insn *insn, const struct vec_form *f)
{
	if (f->cls == VEC_X87)
		insn->exec = vec_x87_exec;
	else if (f->mmx || f->mem_write || f->flags_write || f->cls == VEC_MMX)
		insn->exec = exec_any;
	else if (f->mem_read)
		insn->exec = f->cls == VEC_AVX ? exec_avx_load : exec_sse_load;
	else
		insn->exec = f->cls == VEC_AVX ? exec_avx_reg : exec_sse_reg;
}

/* In C or through a stub. */
static int decode_data(struct cpu *cpu, struct insn *insn, const ZydisDecodedInstruction *zi,
		       const ZydisDecodedOperand *ops, const uint8_t *bytes, struct vec_form *form)
{
	struct vec_op *op;
	int err;

	if (vec_x87_decode(insn, zi, ops))
		return 0;
	if (zi->meta.isa_ext == ZYDIS_ISA_EXT_X87 || zi->mnemonic == ZYDIS_MNEMONIC_FISTTP) {
		if (zi->mnemonic == ZYDIS_MNEMONIC_FISTTP && !cpu->vec_cache->isa.sse3)
			return -ENOTSUP;
		form->cls = VEC_X87;
		err = vec_encode_x87(form, insn, zi, ops, bytes);
	} else {
		if (!class_of(&cpu->vec_cache->isa, zi, &form->cls))
			return -ENOTSUP;
		if (vec_move_decode(insn, zi, ops) || vec_mask_decode(insn, zi, ops))
			return 0;
		err = vec_encode(form, insn, zi, ops);
	}
	if (err)
		return err;
	op = vec_op_get(cpu->vec_cache, form);
	if (!op) {
		log_err("no memory for an instruction stub");
		return -ENOTSUP;
	}
	insn->imm |= (uintptr_t)op;
	choose_exec(insn, form);
	return 0;
}

int vec_decode(struct cpu *cpu, struct insn *insn, const ZydisDecodedInstruction *zi,
	       const ZydisDecodedOperand *ops, const uint8_t *bytes)
{
	struct vec_form form;

	if (zi->encoding != ZYDIS_INSTRUCTION_ENCODING_LEGACY &&
	    zi->encoding != ZYDIS_INSTRUCTION_ENCODING_VEX)
		return -ENOTSUP;
	if (vec_xsave_decode(insn, zi))
		return 0;
	memset(&form, 0, sizeof(form));
	return decode_data(cpu, insn, zi, ops, bytes, &form);
}
