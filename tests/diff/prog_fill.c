/* Any instruction, as gen_bytes() draws them, if a program survives it. */
#include "tests/diff/prog_gen.h"

static bool reserved(const struct prog_gen *g, ZydisRegister r)
{
	switch (ZydisRegisterGetLargestEnclosing(ZYDIS_MACHINE_MODE_LONG_64, r)) {
	case ZYDIS_REGISTER_RSP:
	case ZYDIS_REGISTER_RBX:
	case ZYDIS_REGISTER_RBP:
	case ZYDIS_REGISTER_R13:
	case ZYDIS_REGISTER_R14: return true;
	default: return false;
	}
}

/* What would mostly make programs short. */
static bool always_faults(const ZydisDecodedInstruction *zi)
{
	switch (zi->meta.category) {
	case ZYDIS_CATEGORY_IO:
	case ZYDIS_CATEGORY_IOSTRINGOP:
	case ZYDIS_CATEGORY_SYSTEM: return true;
	default: break;
	}
	switch (zi->mnemonic) {
	case ZYDIS_MNEMONIC_UD0:
	case ZYDIS_MNEMONIC_UD1:
	case ZYDIS_MNEMONIC_UD2:
	case ZYDIS_MNEMONIC_CLI:
	case ZYDIS_MNEMONIC_STI:
	case ZYDIS_MNEMONIC_RSM: return true;
	default:
		return (zi->attributes & ZYDIS_ATTRIB_IS_PRIVILEGED) ||
		       (zi->opcode_map == ZYDIS_OPCODE_MAP_DEFAULT && (zi->opcode & 0xfc) == 0xa0);
	}
}

/* Whether the stack, registers with a purpose and the flow of control stay as they are. */
static bool survivable(struct prog_gen *g, const ZydisDecodedInstruction *zi,
		       const ZydisDecodedOperand *op)
{
	if (zi->meta.branch_type != ZYDIS_BRANCH_TYPE_NONE || zi->mnemonic == ZYDIS_MNEMONIC_INT3)
		return false;
	if (always_faults(zi) && !rng_chance(&g->r, 3))
		return false;
	for (unsigned n = 0; n < zi->operand_count; n++) {
		bool writes = op[n].actions & ZYDIS_OPERAND_ACTION_MASK_WRITE;

		if (op[n].type == ZYDIS_OPERAND_TYPE_REGISTER && writes &&
		    reserved(g, op[n].reg.value))
			return false;
		if (op[n].type != ZYDIS_OPERAND_TYPE_MEMORY)
			continue;
		if (op[n].mem.base == ZYDIS_REGISTER_RSP ||
		    (g->rbp_busy && op[n].mem.base == ZYDIS_REGISTER_RBP))
			return false;
	}
	return true;
}

static int32_t rip_displacement(const ZydisDecodedInstruction *zi, const ZydisDecodedOperand *op)
{
	for (unsigned n = 0; n < zi->operand_count; n++)
		if (op[n].type == ZYDIS_OPERAND_TYPE_MEMORY &&
		    (op[n].mem.base == ZYDIS_REGISTER_RIP || op[n].mem.base == ZYDIS_REGISTER_EIP))
			return zi->raw.disp.offset;
	return 0;
}

static bool any(const ZydisDecodedInstruction *zi)
{
	return true;
}

void fill_by(struct prog_gen *g, bool (*want)(const ZydisDecodedInstruction *zi))
{
	ZydisDecodedOperand op[ZYDIS_MAX_OPERAND_COUNT];
	ZydisDecodedInstruction zi;
	uint32_t rip_dest;
	uint8_t bytes[15];
	int disp;

	do {
		gen_bytes(&g->r, false, bytes, &rip_dest);
	} while (ZYAN_FAILED(ZydisDecoderDecodeFull(&g->dec, bytes, 15, &zi, op)) || !want(&zi) ||
		 !gen_acceptable(&zi, op) || !survivable(g, &zi, op));
	disp = rip_displacement(&zi, op);
	prog_begin(g);
	prog_bytes(g, bytes, zi.length);
	if (disp)
		prog_refer_disp(g, REF_DATA, rip_dest ? rip_dest : gen_address(&g->r), 0,
				zi.length - disp - 4);
	prog_end(g);
}

/* The registers that random instructions address by. */
void fill_pointers(struct prog_gen *g)
{
	static const uint8_t regs[] = {RSI, RDI, R8};

	for (unsigned n = 0; n < sizeof(regs); n++)
		INS(g, MOV, op_r(ZYDIS_REGISTER_RAX + regs[n]), op_i(gen_address(&g->r)));
	INS(g, MOV, op_r(ZYDIS_REGISTER_EAX + SMALL_REG), op_i(rng_below(&g->r, 16)));
}

void fill_random(struct prog_gen *g)
{
	if (rng_chance(&g->r, 15))
		fill_pointers(g);
	for (unsigned n = 1 + rng_below(&g->r, 5); n-- > 0;)
		fill_by(g, any);
}
