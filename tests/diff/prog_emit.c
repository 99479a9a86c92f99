/* From mnemonics and operands to items. */
#include <stdlib.h>

#include "tests/diff/prog_gen.h"

static const uint8_t swap_fuel[] = {0x4c, 0x87, 0xe9}; /* xchg rcx, r13 */

ZydisRegister prog_reg(struct prog_gen *g, unsigned n, unsigned bits)
{
	switch (bits) {
	case 64: return ZYDIS_REGISTER_RAX + n;
	case 32: return ZYDIS_REGISTER_EAX + n;
	case 16: return ZYDIS_REGISTER_AX + n;
	default: break;
	}
	if (n < 4)
		return (rng_chance(&g->r, 30) && n != RBX ? ZYDIS_REGISTER_AH : ZYDIS_REGISTER_AL) +
		       n;
	return n < 8 ? ZYDIS_REGISTER_SPL + n - 4 : ZYDIS_REGISTER_R8B + n - 8;
}

prog_op op_r(ZydisRegister r)
{
	return (prog_op){.type = ZYDIS_OPERAND_TYPE_REGISTER, .reg.value = r};
}

prog_op op_i(int64_t v)
{
	return (prog_op){.type = ZYDIS_OPERAND_TYPE_IMMEDIATE, .imm.s = v};
}

prog_op op_mx(ZydisRegister base, ZydisRegister index, unsigned scale, int64_t disp, unsigned bytes)
{
	return (prog_op){.type = ZYDIS_OPERAND_TYPE_MEMORY,
			 .mem = {.base = base,
				 .index = index,
				 .scale = index == ZYDIS_REGISTER_NONE ? 0 : scale,
				 .displacement = disp,
				 .size = bytes}};
}

prog_op op_m(ZydisRegister base, int64_t disp, unsigned bytes)
{
	return op_mx(base, ZYDIS_REGISTER_NONE, 0, disp, bytes);
}

/* --- items ---------------------------------------------------------------------------------- */

void prog_begin(struct prog_gen *g)
{
	if (g->open || g->p->count >= PROG_ITEMS)
		abort(); /* a generator's mistake */
	g->open = &g->p->item[g->p->count];
	*g->open = (struct prog_item){.label = g->label_next};
	g->failed = false;
}

bool prog_end(struct prog_gen *g)
{
	struct prog_item *i = g->open;
	uint32_t undefined = g->undefined;

	g->open = NULL;
	if (g->failed || !i->len || (i->tested & undefined) ||
	    (i->leaves && ((undefined & ~i->defined) & ~FLAG_AF)))
		return false;
	g->undefined = i->ends ? 0 : (undefined & ~i->defined) | i->undefined;
	g->label_next = false;
	g->p->count++;
	return true;
}

static void add_flags(struct prog_item *i, const ZydisDecodedInstruction *zi)
{
	struct seq_insn f = {0};
	uint32_t tested;

	gen_flags(zi, &f, &tested);
	i->tested |= tested & ~i->defined;
	i->undefined = (i->undefined & ~f.defined) | f.undefined;
	i->defined = (i->defined & ~f.undefined) | f.defined;
	i->open |= f.open;
	i->leaves |= zi->meta.branch_type != ZYDIS_BRANCH_TYPE_NONE;
	i->ends = zi->mnemonic == ZYDIS_MNEMONIC_JMP || zi->mnemonic == ZYDIS_MNEMONIC_RET ||
		  zi->mnemonic == ZYDIS_MNEMONIC_INT3;
}

bool prog_bytes(struct prog_gen *g, const uint8_t *bytes, unsigned len)
{
	ZydisDecodedOperand op[ZYDIS_MAX_OPERAND_COUNT];
	ZydisDecodedInstruction zi;
	bool alone = !g->open;

	if (alone)
		prog_begin(g);
	if (g->open->len + len > PROG_BYTES ||
	    ZYAN_FAILED(ZydisDecoderDecodeFull(&g->dec, bytes, len, &zi, op)) || zi.length != len) {
		g->failed = true;
	} else {
		memcpy(g->open->bytes + g->open->len, bytes, len);
		g->open->len += len;
		add_flags(g->open, &zi);
	}
	return alone ? prog_end(g) : !g->failed;
}

bool prog_ins(struct prog_gen *g, ZydisMnemonic m, ZydisInstructionAttributes prefixes,
	      unsigned count, const prog_op *op)
{
	ZydisEncoderRequest q = {.machine_mode = ZYDIS_MACHINE_MODE_LONG_64,
				 .allowed_encodings = ZYDIS_ENCODABLE_ENCODING_LEGACY |
						      ZYDIS_ENCODABLE_ENCODING_VEX,
				 .mnemonic = m,
				 .prefixes = prefixes,
				 .operand_count = count};
	ZyanUSize len = ZYDIS_MAX_INSTRUCTION_LENGTH;
	uint8_t buf[ZYDIS_MAX_INSTRUCTION_LENGTH];

	memcpy(q.operands, op, count * sizeof(*op));
	if (ZYAN_FAILED(ZydisEncoderEncodeInstruction(&q, buf, &len))) {
		g->failed = true;
		return false;
	}
	return prog_bytes(g, buf, len);
}

void prog_refer_disp(struct prog_gen *g, enum prog_ref_kind kind, uint32_t to, uint32_t add,
		     unsigned behind)
{
	struct prog_item *i = g->open;

	if (g->failed)
		return;
	if (i->nrefs == PROG_REFS)
		abort();
	i->ref[i->nrefs++] = (struct prog_ref){.at = i->len - behind - (kind == REF_REL8 ? 1 : 4),
					       .end = i->len,
					       .kind = kind,
					       .to = to,
					       .add = add};
}

void prog_refer(struct prog_gen *g, enum prog_ref_kind kind, uint32_t to)
{
	prog_refer_disp(g, kind, to, 0, 0);
}

/* --- labels and flow ------------------------------------------------------------------------ */

uint16_t prog_label(struct prog_gen *g)
{
	if (g->p->labels == PROG_LABELS)
		abort();
	return g->p->labels++;
}

/* Control may come to the next item from elsewhere. */
static void join(struct prog_gen *g)
{
	g->label_next = true;
	g->undefined |= FLAG_AF;
}

void prog_place(struct prog_gen *g, uint16_t label)
{
	prog_settle(g);
	g->p->label_item[label] = g->p->count;
	join(g);
}

uint32_t prog_table(struct prog_gen *g, uint16_t label)
{
	if (g->p->ntable == PROG_TABLE)
		abort();
	g->p->table[g->p->ntable] = label;
	return TABLE_BASE + 8 * g->p->ntable++;
}

void prog_settle(struct prog_gen *g)
{
	unsigned bits = rng_chance(&g->r, 50) ? 32 : 64;
	ZydisRegister a = prog_reg(g, prog_dst(g), bits), b = prog_reg(g, prog_src(g), bits);

	if (!(g->undefined & ~FLAG_AF))
		return;
	switch (rng_below(&g->r, 4)) {
	case 0: INS(g, ADD, op_r(a), op_r(b)); break;
	case 1: INS(g, SUB, op_r(a), op_i((int8_t)rng_next(&g->r))); break;
	case 2: INS(g, NEG, op_r(a)); break;
	default: INS(g, CMP, op_r(a), op_r(b)); break;
	}
}

void prog_jmp(struct prog_gen *g, uint16_t to)
{
	static const uint8_t jmp[5] = {0xe9};

	prog_settle(g);
	prog_begin(g);
	prog_bytes(g, jmp, sizeof(jmp));
	prog_refer(g, REF_REL32, to);
	prog_end(g);
}

void prog_jcc(struct prog_gen *g, unsigned cc, uint16_t to)
{
	const uint8_t jcc[6] = {0x0f, 0x80 | cc};
	bool alone = !g->open;

	if (alone) {
		prog_settle(g);
		prog_begin(g);
	}
	prog_bytes(g, jcc, sizeof(jcc));
	prog_refer(g, REF_REL32, to);
	if (alone)
		prog_end(g);
}

void prog_jcc_short(struct prog_gen *g, unsigned cc, uint16_t to)
{
	const uint8_t jcc[2] = {0x70 | cc};

	prog_settle(g);
	prog_begin(g);
	prog_bytes(g, jcc, sizeof(jcc));
	prog_refer(g, REF_REL8, to);
	prog_end(g);
}

void prog_call(struct prog_gen *g, uint16_t to)
{
	static const uint8_t call[5] = {0xe8};
	bool alone = !g->open;

	if (alone) {
		prog_settle(g);
		prog_begin(g);
	}
	prog_bytes(g, call, sizeof(call));
	prog_refer(g, REF_REL32, to);
	if (alone)
		prog_end(g);
	prog_returned(g);
}

void prog_returned(struct prog_gen *g)
{
	/* In an open item, it is the one behind that control comes to. */
	if (g->open)
		g->open->undefined |= FLAG_AF;
	else
		join(g);
}

unsigned prog_guard(struct prog_gen *g)
{
	static const uint8_t jrcxz[] = {0xe3, 0x00}, dec[] = {0x48, 0x8d, 0x49, 0xff};
	unsigned at;

	prog_bytes(g, swap_fuel, sizeof(swap_fuel));
	prog_bytes(g, jrcxz, sizeof(jrcxz));
	at = g->open->len;
	prog_bytes(g, dec, sizeof(dec));
	prog_bytes(g, swap_fuel, sizeof(swap_fuel));
	return at;
}

void prog_guard_end(struct prog_gen *g, unsigned guard)
{
	static const uint8_t jmp[] = {0xeb, sizeof(swap_fuel)};

	prog_bytes(g, jmp, sizeof(jmp));
	if (!g->failed)
		g->open->bytes[guard - 1] = g->open->len - guard;
	prog_bytes(g, swap_fuel, sizeof(swap_fuel));
}

/* --- operands ------------------------------------------------------------------------------- */

unsigned prog_dst(struct prog_gen *g)
{
	static const uint8_t regs[] = {RAX, RCX, RDX, RSI, RDI, R8, R9, R10, R11, R12, R15};

	return regs[rng_below(&g->r, sizeof(regs))];
}

unsigned prog_src(struct prog_gen *g)
{
	return rng_chance(&g->r, 85) ? prog_dst(g) : rng_below(&g->r, 16);
}

ZydisRegister prog_pointer(struct prog_gen *g)
{
	static const uint8_t regs[] = {RBX, R14, RBP};

	return ZYDIS_REGISTER_RAX + regs[rng_below(&g->r, g->rbp_busy ? 2 : 3)];
}

unsigned prog_bits(struct prog_gen *g)
{
	return 8u << rng_below(&g->r, 4);
}
