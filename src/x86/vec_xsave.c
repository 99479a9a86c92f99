/*
 * FXSAVE, XSAVE and their kin: SDM volume 1, chapter 13. XCR0 may hold x87, SSE and AVX, so the
 * compacted format differs from the standard one in its header only.
 */
#include "src/x86/vec_int.h"

#define XF_X87 1u
#define XF_SSE 2u
#define XF_AVX 4u

#define XSAVE_HEADER	512
#define XSAVE_XCOMP	520
#define XSAVE_AVX	576
#define XSAVE_AVX_END	832
#define XCOMP_COMPACTED (1ull << 63)

#define FX_X87_END   160
#define FX_XMM_END   416
#define FX_X87_HEAD  24
#define FX_MXCSR_END 32

/* How many vector registers exist in the current mode. */
static unsigned nregs(const struct insn *i)
{
	return i->mode == 8 ? 16 : 8;
}

static bool all_zero(const void *p, size_t len)
{
	const uint8_t *b = p;

	for (size_t n = 0; n < len; n++)
		if (b[n])
			return false;
	return true;
}

/* XINUSE: components that are not in their initial configuration. */
static uint64_t in_use(const struct vec_state *v)
{
	static const uint8_t fx_init[FX_X87_HEAD] = {0x7f, 0x03};
	uint64_t mask = 0;

	if (memcmp(v->fx, fx_init, sizeof(fx_init)) || !all_zero(v->fx + FX_ST, FX_X87_END - FX_ST))
		mask |= XF_X87;
	for (unsigned n = 0; n < 16; n++) {
		if (!all_zero(v->ymm[n], 16))
			mask |= XF_SSE;
		if (!all_zero(v->ymm[n] + 16, 16))
			mask |= XF_AVX;
	}
	return mask;
}

/* --- parts of the image: get fills a buffer from the state, set the other way --------------- */

static void x87_get(const struct vec_state *v, uint8_t *p, bool wide)
{
	memcpy(p, v->fx, FX_X87_HEAD);
	memcpy(p + FX_ST, v->fx + FX_ST, FX_X87_END - FX_ST);
	if (!wide) {
		/* 32-bit offsets; the selectors read as zero. */
		memset(p + FX_FIP + 4, 0, 4);
		memset(p + FX_FDP + 4, 0, 4);
	}
}

static void x87_set(struct vec_state *v, const uint8_t *p, bool wide)
{
	uint16_t fcw;

	memcpy(v->fx, p, FX_X87_HEAD);
	memcpy(v->fx + FX_ST, p + FX_ST, FX_X87_END - FX_ST);
	for (unsigned n = 0; n < 8; n++)
		memset(v->fx + FX_ST + 16 * n + 10, 0, 6);
	if (!wide) {
		memset(v->fx + FX_FIP + 4, 0, 4);
		memset(v->fx + FX_FDP + 4, 0, 4);
	}
	memcpy(&fcw, p, 2);
	fx_set16(v, FX_FCW, (fcw & 0x1f3f) | 0x40);
	fx_set16(v, FX_FTW, p[FX_FTW]);
	fx_set16(v, FX_FOP, fx_get16(v, FX_FOP) & 0x7ff);
	vec_fsw_set(v, fx_get16(v, FX_FSW));
}

static void x87_init(struct vec_state *v)
{
	memset(v->fx, 0, FX_X87_HEAD);
	memset(v->fx + FX_ST, 0, FX_X87_END - FX_ST);
	fx_set16(v, FX_FCW, FCW_INIT);
}

static void mxcsr_get(const struct vec_state *v, uint8_t *p)
{
	uint32_t mask = MXCSR_MASK;

	memcpy(p + FX_MXCSR, &v->mxcsr, 4);
	memcpy(p + FX_MXCSR + 4, &mask, 4);
}

static uint32_t mxcsr_of(struct cpu *c, const uint8_t *p)
{
	uint32_t mxcsr;

	memcpy(&mxcsr, p + FX_MXCSR, 4);
	if (mxcsr & ~MXCSR_MASK)
		cpu_raise_gp(c);
	return mxcsr;
}

static void xmm_get(const struct vec_state *v, uint8_t *p, unsigned n)
{
	while (n--)
		memcpy(p + FX_XMM + 16 * n, v->ymm[n], 16);
}

/* NULL: initial values. */
static void half_set(struct vec_state *v, const uint8_t *p, unsigned half, unsigned n)
{
	while (n--) {
		if (p)
			memcpy(v->ymm[n] + 16 * half, p + 16 * n, 16);
		else
			memset(v->ymm[n] + 16 * half, 0, 16);
	}
}

/* --- FXSAVE, FXRSTOR ------------------------------------------------------------------------- */

static gva_t fx_begin(struct cpu *c, const struct insn *i, bool write)
{
	gva_t ea;

	c->cur = i;
	if (c->cr0 & (CR0_EM | CR0_TS))
		cpu_raise(c, EXC_NM);
	ea = insn_ea(c, i, 512, write);
	if (ea & 15)
		cpu_raise_gp(c);
	return ea;
}

/* AMD's fast FXSAVE leaves the XMM registers out for the kernel. */
static bool fx_skips_xmm(const struct cpu *c)
{
	return (c->efer & EFER_FFXSR) && c->cpl == 0 && cpu_code64(c);
}

/* aux: 64-bit format */
static void fxsave(struct cpu *c, const struct insn *i)
{
	gva_t ea = fx_begin(c, i, true);
	uint8_t p[FX_XMM_END] = {0};
	unsigned len = FX_XMM + 16 * nregs(i);

	x87_get(&c->vec, p, i->aux);
	mxcsr_get(&c->vec, p);
	if (fx_skips_xmm(c))
		len = FX_XMM;
	else
		xmm_get(&c->vec, p, nregs(i));
	mem_probe_write(c, ea, 512);
	mem_write(c, ea, p, len);
}

static void fxrstor(struct cpu *c, const struct insn *i)
{
	gva_t ea = fx_begin(c, i, false);
	uint8_t p[512];
	uint32_t mxcsr;

	mem_read(c, ea, p, sizeof(p));
	mxcsr = mxcsr_of(c, p);
	x87_set(&c->vec, p, i->aux);
	c->vec.mxcsr = mxcsr;
	if (!fx_skips_xmm(c))
		half_set(&c->vec, p + FX_XMM, 0, nregs(i));
}

/* --- XSAVE ---------------------------------------------------------------------------------- */

static gva_t xsave_begin(struct cpu *c, const struct insn *i, bool write, uint64_t *rfbm)
{
	gva_t ea;

	c->cur = i;
	if (!(c->cr4 & CR4_OSXSAVE))
		cpu_raise_ud(c);
	if (c->cr0 & CR0_TS)
		cpu_raise(c, EXC_NM);
	*rfbm = c->xcr0 & (c->gpr[RDX] << 32 | (uint32_t)c->gpr[RAX]);
	ea = insn_ea(c, i, XSAVE_AVX, write);
	if (ea & 63)
		cpu_raise_gp(c);
	return ea;
}

/* Writes the chosen parts and nothing between them. */
static void xsave_parts(struct cpu *c, const struct insn *i, gva_t ea, uint64_t parts, bool mxcsr)
{
	uint8_t p[FX_XMM_END] = {0}, hi[256];

	x87_get(&c->vec, p, i->aux);
	mxcsr_get(&c->vec, p);
	xmm_get(&c->vec, p, nregs(i));
	if (parts & XF_X87) {
		mem_write(c, ea, p, FX_X87_HEAD);
		mem_write(c, ea + FX_ST, p + FX_ST, FX_X87_END - FX_ST);
	}
	if (mxcsr)
		mem_write(c, ea + FX_MXCSR, p + FX_MXCSR, FX_MXCSR_END - FX_MXCSR);
	if (parts & XF_SSE)
		mem_write(c, ea + FX_XMM, p + FX_XMM, 16 * nregs(i));
	if (parts & XF_AVX) {
		for (unsigned n = 0; n < nregs(i); n++)
			memcpy(hi + 16 * n, c->vec.ymm[n] + 16, 16);
		mem_write(c, ea + XSAVE_AVX, hi, 16 * nregs(i));
	}
}

static void xsave_standard(struct cpu *c, const struct insn *i, bool optimise)
{
	uint64_t rfbm, used = in_use(&c->vec), bv;
	gva_t ea = xsave_begin(c, i, true, &rfbm);

	mem_probe_write(c, ea, rfbm & XF_AVX ? XSAVE_AVX_END : XSAVE_AVX);
	mem_read(c, ea + XSAVE_HEADER, &bv, 8);
	bv = (bv & ~rfbm) | (used & rfbm);
	xsave_parts(c, i, ea, optimise ? rfbm & used : rfbm, rfbm & (XF_SSE | XF_AVX));
	mem_write(c, ea + XSAVE_HEADER, &bv, 8);
}

static void xsave(struct cpu *c, const struct insn *i)
{
	xsave_standard(c, i, false);
}

static void xsaveopt(struct cpu *c, const struct insn *i)
{
	xsave_standard(c, i, true);
}

static void xsavec(struct cpu *c, const struct insn *i)
{
	uint64_t rfbm, used = in_use(&c->vec), header[2];
	gva_t ea = xsave_begin(c, i, true, &rfbm);

	if (c->vec.mxcsr != MXCSR_INIT)
		used |= XF_SSE;
	mem_probe_write(c, ea, rfbm & XF_AVX ? XSAVE_AVX_END : XSAVE_AVX);
	header[0] = rfbm & used;
	header[1] = rfbm | XCOMP_COMPACTED;
	xsave_parts(c, i, ea, header[0], header[0] & XF_SSE);
	mem_write(c, ea + XSAVE_HEADER, header, 16);
}

static void check_header(struct cpu *c, const uint8_t *header, bool compacted)
{
	uint64_t bv, comp;
	unsigned zero_from = compacted ? 16 : 8, zero_to = compacted ? 64 : 24;

	memcpy(&bv, header, 8);
	memcpy(&comp, header + 8, 8);
	if (compacted && ((comp & ~XCOMP_COMPACTED & ~c->xcr0) || (bv & ~comp)))
		cpu_raise_gp(c);
	if (bv & ~c->xcr0)
		cpu_raise_gp(c);
	if (!all_zero(header + zero_from, zero_to - zero_from))
		cpu_raise_gp(c);
}

static void xrstor(struct cpu *c, const struct insn *i)
{
	uint8_t p[XSAVE_AVX_END];
	uint64_t rfbm, bv, comp;
	uint32_t mxcsr = MXCSR_INIT;
	gva_t ea = xsave_begin(c, i, false, &rfbm);
	bool compacted, set_mxcsr;

	mem_read(c, ea, p, XSAVE_AVX);
	memcpy(&bv, p + XSAVE_HEADER, 8);
	memcpy(&comp, p + XSAVE_XCOMP, 8);
	compacted = comp >> 63;
	check_header(c, p + XSAVE_HEADER, compacted);
	/* The standard format loads MXCSR with SSE or AVX, whatever XSTATE_BV says. */
	set_mxcsr = rfbm & (compacted ? XF_SSE : XF_SSE | XF_AVX);
	if (set_mxcsr && (!compacted || (bv & XF_SSE)))
		mxcsr = mxcsr_of(c, p);
	if (rfbm & bv & XF_AVX)
		mem_read(c, ea + XSAVE_AVX, p + XSAVE_AVX, 16 * nregs(i));

	if (rfbm & bv & XF_X87)
		x87_set(&c->vec, p, i->aux);
	else if (rfbm & XF_X87)
		x87_init(&c->vec);
	if (set_mxcsr)
		c->vec.mxcsr = mxcsr;
	if (rfbm & XF_SSE)
		half_set(&c->vec, bv & XF_SSE ? p + FX_XMM : NULL, 0, nregs(i));
	if (rfbm & XF_AVX)
		half_set(&c->vec, bv & XF_AVX ? p + XSAVE_AVX : NULL, 1, nregs(i));
}

/* --- XCR0 ------------------------------------------------------------------------------------ */

static void xgetbv(struct cpu *c, const struct insn *i)
{
	uint64_t v = c->xcr0;

	c->cur = i;
	if (!(c->cr4 & CR4_OSXSAVE))
		cpu_raise_ud(c);
	if ((uint32_t)c->gpr[RCX] > 1)
		cpu_raise_gp(c);
	if ((uint32_t)c->gpr[RCX] == 1)
		v &= in_use(&c->vec);
	c->gpr[RAX] = (uint32_t)v;
	c->gpr[RDX] = v >> 32;
}

static void xsetbv(struct cpu *c, const struct insn *i)
{
	uint64_t v = c->gpr[RDX] << 32 | (uint32_t)c->gpr[RAX];
	uint64_t model = XF_X87 | XF_SSE | (c->vec_cache->isa.avx ? XF_AVX : 0);

	c->cur = i;
	if (!(c->cr4 & CR4_OSXSAVE))
		cpu_raise_ud(c);
	if (c->cpl || (uint32_t)c->gpr[RCX] || !(v & XF_X87) || (v & ~model) ||
	    ((v & XF_AVX) && !(v & XF_SSE)))
		cpu_raise_gp(c);
	c->xcr0 = v;
}

bool vec_xsave_decode(struct insn *insn, const ZydisDecodedInstruction *zi)
{
	insn->aux = 0;
	switch (zi->mnemonic) {
	case ZYDIS_MNEMONIC_FXSAVE64: insn->aux = 1; /* fall through */
	case ZYDIS_MNEMONIC_FXSAVE: insn->exec = fxsave; return true;
	case ZYDIS_MNEMONIC_FXRSTOR64: insn->aux = 1; /* fall through */
	case ZYDIS_MNEMONIC_FXRSTOR: insn->exec = fxrstor; return true;
	case ZYDIS_MNEMONIC_XSAVE64: insn->aux = 1; /* fall through */
	case ZYDIS_MNEMONIC_XSAVE: insn->exec = xsave; return true;
	case ZYDIS_MNEMONIC_XSAVEOPT64: insn->aux = 1; /* fall through */
	case ZYDIS_MNEMONIC_XSAVEOPT: insn->exec = xsaveopt; return true;
	case ZYDIS_MNEMONIC_XSAVEC64: insn->aux = 1; /* fall through */
	case ZYDIS_MNEMONIC_XSAVEC: insn->exec = xsavec; return true;
	case ZYDIS_MNEMONIC_XRSTOR64: insn->aux = 1; /* fall through */
	case ZYDIS_MNEMONIC_XRSTOR: insn->exec = xrstor; return true;
	case ZYDIS_MNEMONIC_XGETBV: insn->exec = xgetbv; return true;
	case ZYDIS_MNEMONIC_XSETBV: insn->exec = xsetbv; return true;
	default: return false;
	}
}
