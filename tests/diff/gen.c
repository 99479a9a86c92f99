/* Sequences of acceptable instructions, and how they are laid out. */
#include "src/x86/arch.h"
#include "tests/diff/gen.h"

#define INT3 0xcc

static bool has_rip_operand(const ZydisDecodedInstruction *zi, const ZydisDecodedOperand *ops)
{
	for (unsigned n = 0; n < zi->operand_count; n++)
		if (ops[n].type == ZYDIS_OPERAND_TYPE_MEMORY &&
		    (ops[n].mem.base == ZYDIS_REGISTER_RIP ||
		     ops[n].mem.base == ZYDIS_REGISTER_EIP))
			return true;
	return false;
}

static void describe(struct rng *r, const ZydisDecodedInstruction *zi,
		     const ZydisDecodedOperand *ops, uint32_t rip_dest, struct seq_insn *out)
{
	out->len = zi->length;
	if (has_rip_operand(zi, ops)) {
		out->disp_at = zi->raw.disp.offset;
		out->rip_dest = rip_dest ? rip_dest : gen_address(r);
	}
	if (zi->attributes & ZYDIS_ATTRIB_IS_RELATIVE) {
		out->target = 1 + rng_below(r, 4);
		out->rel_size = zi->raw.imm[0].size / 8;
	}
}

static bool wanted(const ZydisDecodedInstruction *zi, const char *only)
{
	return !only || !strcmp(ZydisMnemonicGetString(zi->mnemonic), only);
}

/* Draws until an instruction is found that may come next. */
static void gen_insn(struct rng *r, const ZydisDecoder *dec, const struct gen_options *opt,
		     uint32_t undefined, struct seq_insn *out)
{
	ZydisDecodedOperand ops[ZYDIS_MAX_OPERAND_COUNT];
	ZydisDecodedInstruction zi;
	uint32_t rip_dest, tested;

	for (;;) {
		memset(out, 0, sizeof(*out));
		gen_bytes(r, opt->compat, out->bytes, &rip_dest);
		if (ZYAN_FAILED(ZydisDecoderDecodeFull(dec, out->bytes, 15, &zi, ops)) ||
		    !wanted(&zi, opt->only) || !gen_acceptable(&zi, ops))
			continue;
		gen_flags(&zi, out, &tested);
		if (tested & undefined)
			continue;
		describe(r, &zi, ops, rip_dest, out);
		return;
	}
}

/* in[n]: flags that may be undefined at instruction n, along some path. Branches only go forward.
 */
static void flow_undefined(const struct sequence *s, unsigned n, uint32_t in[SEQ_MAX + 1])
{
	const struct seq_insn *i = &s->insn[n];
	uint32_t after = s->dropped[n] ? in[n] : (in[n] & ~i->defined) | i->undefined;

	in[n + 1] |= after;
	if (i->target && !s->dropped[n])
		in[MIN(n + i->target, s->count)] |= after;
}

uint32_t gen_undefined_at(const struct sequence *s, unsigned n)
{
	uint32_t in[SEQ_MAX + 1] = {0};

	for (unsigned k = 0; k < n; k++)
		flow_undefined(s, k, in);
	return in[n];
}

static void gen_decoder(ZydisDecoder *dec, bool compat)
{
	if (compat)
		ZydisDecoderInit(dec, ZYDIS_MACHINE_MODE_LONG_COMPAT_32, ZYDIS_STACK_WIDTH_32);
	else
		ZydisDecoderInit(dec, ZYDIS_MACHINE_MODE_LONG_64, ZYDIS_STACK_WIDTH_64);
}

void gen_sequence(struct sequence *s, uint64_t seed, const struct gen_options *opt)
{
	/* Not a linear function of the seed: streams of neighbours would be shifts of each other.
	 */
	struct rng r = {rng_next(&(struct rng){seed})};
	uint32_t in[SEQ_MAX + 1] = {0};
	ZydisDecoder dec;

	gen_decoder(&dec, opt->compat);
	memset(s->dropped, 0, sizeof(s->dropped));
	s->count = MIN(opt->len, (unsigned)SEQ_MAX);
	for (unsigned n = 0; n < s->count; n++) {
		gen_insn(&r, &dec, opt, in[n], &s->insn[n]);
		flow_undefined(s, n, in);
	}
	gen_state(&r, opt->compat, &s->init);
}

static void put_signed(uint8_t *p, int64_t v, unsigned size)
{
	memcpy(p, &v, size);
}

void gen_layout(const struct sequence *s, struct diff_image *image, uint16_t offset[SEQ_MAX + 1])
{
	uint8_t *code = image->code;
	size_t at = 0;

	for (unsigned n = 0; n < s->count; n++) {
		offset[n] = at;
		if (s->dropped[n])
			continue;
		memcpy(code + at, s->insn[n].bytes, s->insn[n].len);
		at += s->insn[n].len;
	}
	offset[s->count] = at;
	for (unsigned n = 0; n < s->count; n++) {
		const struct seq_insn *i = &s->insn[n];
		uint16_t end = offset[n] + i->len;

		if (s->dropped[n])
			continue;
		if (i->target)
			put_signed(code + end - i->rel_size,
				   offset[MIN(n + i->target, s->count)] - end, i->rel_size);
		if (i->disp_at)
			put_signed(code + offset[n] + i->disp_at,
				   (int64_t)(int32_t)i->rip_dest - (int64_t)(CODE_BASE + end), 4);
	}
	code[at] = INT3;
	image->len = at + 1;
}
