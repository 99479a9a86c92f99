/*
 * Instructions of which each element touches memory on its own: masked moves and gathers. An
 * element that is not enabled never faults. Stores check all their elements before the first is
 * written; a gather records its progress in the mask register, so it goes on where a fault
 * interrupted it.
 */
#include "src/x86/vec_int.h"

/* Parameters of a masked move or gather, kept in insn->imm. */
struct mask_param {
	uint8_t elem;  /* bytes of an element */
	uint8_t count; /* number of elements */
	uint8_t index; /* bytes of an index element (gathers) */
	uint8_t addr;  /* bytes of an address */
};

static struct mask_param param_of(const struct insn *i)
{
	struct mask_param p;

	memcpy(&p, &i->imm, sizeof(p));
	return p;
}

static void begin(struct cpu *c, const struct insn *i)
{
	c->cur = i;
	vec_check_avx(c);
}

static bool enabled(const uint8_t *mask, unsigned elem, unsigned n)
{
	return mask[elem * n + elem - 1] & 0x80;
}

static bool any_enabled(const uint8_t *mask, const struct mask_param *p)
{
	for (unsigned n = 0; n < p->count; n++)
		if (enabled(mask, p->elem, n))
			return true;
	return false;
}

static void read_elem(struct cpu *c, const struct insn *i, gva_t a, void *p, unsigned elem)
{
	if (elem == 4) {
		uint32_t v = mem_read32(c, i, a);

		memcpy(p, &v, 4);
	} else {
		uint64_t v = mem_read64(c, i, a);

		memcpy(p, &v, 8);
	}
}

static void write_elem(struct cpu *c, const struct insn *i, gva_t a, const void *p, unsigned elem)
{
	if (elem == 4) {
		uint32_t v;

		memcpy(&v, p, 4);
		mem_write32(c, i, a, v);
	} else {
		uint64_t v;

		memcpy(&v, p, 8);
		mem_write64(c, i, a, v);
	}
}

/* VMASKMOVPS/PD, VPMASKMOVD/Q. dst: register, aux: mask. */
static void mask_load(struct cpu *c, const struct insn *i)
{
	struct mask_param p = param_of(i);
	uint8_t value[32] = {0};
	const uint8_t *mask = vec_reg(c, i->aux);
	gva_t ea;

	begin(c, i);
	/* Without any element not even the segment is looked at. */
	ea = any_enabled(mask, &p) ? insn_ea(c, i, p.elem * p.count, false) : 0;
	for (unsigned n = 0; n < p.count; n++)
		if (enabled(mask, p.elem, n))
			read_elem(c, i, ea + n * p.elem, value + n * p.elem, p.elem);
	memcpy(vec_reg(c, i->dst), value, sizeof(value));
}

static void mask_store(struct cpu *c, const struct insn *i)
{
	struct mask_param p = param_of(i);
	const uint8_t *reg = vec_reg(c, i->dst), *mask = vec_reg(c, i->aux);
	gva_t ea;

	begin(c, i);
	ea = any_enabled(mask, &p) ? insn_ea(c, i, p.elem * p.count, true) : 0;
	for (unsigned n = 0; n < p.count; n++)
		if (enabled(mask, p.elem, n))
			mem_probe_write(c, ea + n * p.elem, p.elem);
	for (unsigned n = 0; n < p.count; n++)
		if (enabled(mask, p.elem, n))
			write_elem(c, i, ea + n * p.elem, reg + n * p.elem, p.elem);
}

static int64_t index_of(const uint8_t *reg, unsigned size, unsigned n)
{
	int32_t d;
	int64_t q;

	if (size == 4) {
		memcpy(&d, reg + 4 * n, 4);
		return d;
	}
	memcpy(&q, reg + 8 * n, 8);
	return q;
}

static gva_t gather_address(struct cpu *c, const struct insn *i, const struct mask_param *p,
			    unsigned n)
{
	int64_t index = index_of(vec_reg(c, i->src), p->index, n);
	uint64_t off = c->gpr[i->base] + ((uint64_t)index << i->scale) + (int64_t)i->disp;

	if (p->addr == 4)
		off = (uint32_t)off;
	if (i->flags & INSN_EA_SLOW)
		return seg_linear(c, i->seg, off, p->elem, false);
	return c->seg[i->seg].base + off;
}

/* dst: destination, aux: mask, src: indices. */
static void gather(struct cpu *c, const struct insn *i)
{
	struct mask_param p = param_of(i);
	uint8_t *dst = vec_reg(c, i->dst), *mask = vec_reg(c, i->aux);

	begin(c, i);
	for (unsigned n = 0; n < p.count; n++) {
		if (enabled(mask, p.elem, n))
			read_elem(c, i, gather_address(c, i, &p, n), dst + n * p.elem, p.elem);
		memset(mask + n * p.elem, 0, p.elem);
	}
	memset(mask, 0, 32);
	memset(dst + p.elem * p.count, 0, 32 - p.elem * p.count);
}

/* MASKMOVQ and MASKMOVDQU: bytes of data go where mask has its top bits set. */
static void store_bytes(struct cpu *c, const struct insn *i, const uint8_t *data,
			const uint8_t *mask, unsigned len)
{
	gva_t ea = insn_ea(c, i, len, true);

	for (unsigned n = 0; n < len; n++)
		if (enabled(mask, 1, n))
			mem_probe_write(c, ea + n, 1);
	for (unsigned n = 0; n < len; n++)
		if (enabled(mask, 1, n))
			mem_write8(c, i, ea + n, data[n]);
}

/* dst: data, src: mask. aux: VEX-encoded. */
static void maskmovdqu(struct cpu *c, const struct insn *i)
{
	c->cur = i;
	if (i->aux)
		vec_check_avx(c);
	else
		vec_check_sse(c);
	store_bytes(c, i, vec_reg(c, i->dst), vec_reg(c, i->src), 16);
}

/* MMX register n is physical register n, which the image keeps relative to TOP. */
static const uint8_t *mmx_reg(const struct vec_state *v, uint8_t sel)
{
	unsigned top = (fx_get16(v, FX_FSW) & FSW_TOP) >> FSW_TOP_SHIFT;

	return v->fx + FX_ST + 16 * ((sel / 8 - top) & 7);
}

static void maskmovq(struct cpu *c, const struct insn *i)
{
	uint8_t data[8], mask[8];

	c->cur = i;
	vec_check_mmx(c);
	memcpy(data, mmx_reg(&c->vec, i->dst), 8);
	memcpy(mask, mmx_reg(&c->vec, i->src), 8);
	vec_mmx_enter(&c->vec);
	store_bytes(c, i, data, mask, 8);
}

static void undefined(struct cpu *c, const struct insn *i)
{
	c->cur = i;
	cpu_raise_ud(c);
}

static uint8_t selector(const ZydisDecodedOperand *o)
{
	return ZydisRegisterGetId(o->reg.value) * 8;
}

static void set_param(struct insn *insn, struct mask_param p)
{
	insn->imm = 0;
	memcpy(&insn->imm, &p, sizeof(p));
}

static void decode_maskmov(struct insn *insn, const ZydisDecodedOperand *ops, unsigned elem)
{
	bool store = ops[0].type == ZYDIS_OPERAND_TYPE_MEMORY;

	insn->dst = selector(&ops[store ? 2 : 0]);
	insn->aux = selector(&ops[1]);
	set_param(insn, (struct mask_param){.elem = elem, .count = ops[1].size / 8 / elem});
	insn->exec = store ? mask_store : mask_load;
}

/* The vector length is that of the wider of destination and indices. */
static void decode_gather(struct insn *insn, const ZydisDecodedInstruction *zi,
			  const ZydisDecodedOperand *ops, unsigned index, unsigned elem)
{
	unsigned len = zi->raw.vex.L ? 32 : 16;
	ZydisRegister vsib = ops[1].mem.index;

	insn->dst = selector(&ops[0]);
	insn->aux = selector(&ops[2]);
	insn->src = ZydisRegisterGetId(vsib) * 8;
	insn->index = REG_ZERO;
	insn->scale = __builtin_ctz(ops[1].mem.scale ? ops[1].mem.scale : 1);
	set_param(insn, (struct mask_param){
				.elem = elem,
				.index = index,
				.count = len / MAX(index, elem),
				.addr = zi->address_width / 8,
			});
	insn->exec = insn->dst == insn->aux || insn->dst == insn->src || insn->aux == insn->src
			     ? undefined
			     : gather;
}

static enum seg_index segment_of(const ZydisDecodedOperand *mem, uint8_t mode)
{
	switch (mem->mem.segment) {
	case ZYDIS_REGISTER_FS: return SEG_FS;
	case ZYDIS_REGISTER_GS: return SEG_GS;
	case ZYDIS_REGISTER_ES: return mode == 8 ? SEG_NONE : SEG_ES;
	case ZYDIS_REGISTER_CS: return mode == 8 ? SEG_NONE : SEG_CS;
	case ZYDIS_REGISTER_SS: return mode == 8 ? SEG_NONE : SEG_SS;
	default: return mode == 8 ? SEG_NONE : SEG_DS;
	}
}

/* The memory operand at [rDI] is implicit, so the caller has not filled in an address. */
static void decode_bytes(struct insn *insn, const ZydisDecodedInstruction *zi,
			 const ZydisDecodedOperand *ops, bool mmx)
{
	insn->dst = selector(&ops[0]);
	insn->src = selector(&ops[1]);
	insn->base = RDI;
	insn->index = REG_ZERO;
	insn->scale = 0;
	insn->disp = 0;
	insn->seg = segment_of(&ops[2], insn->mode);
	insn->flags = INSN_MEM;
	if (zi->address_width != 64)
		insn->flags |= zi->address_width == 16 ? INSN_ADDR16 : INSN_ADDR32;
	if (zi->address_width != 64 || insn->mode != 8)
		insn->flags |= INSN_EA_SLOW;
	insn->aux = zi->encoding == ZYDIS_INSTRUCTION_ENCODING_VEX;
	insn->exec = mmx ? maskmovq : maskmovdqu;
}

bool vec_mask_decode(struct insn *insn, const ZydisDecodedInstruction *zi,
		     const ZydisDecodedOperand *ops)
{
	switch (zi->mnemonic) {
	case ZYDIS_MNEMONIC_MASKMOVQ: decode_bytes(insn, zi, ops, true); return true;
	case ZYDIS_MNEMONIC_MASKMOVDQU:
	case ZYDIS_MNEMONIC_VMASKMOVDQU: decode_bytes(insn, zi, ops, false); return true;
	case ZYDIS_MNEMONIC_VMASKMOVPS:
	case ZYDIS_MNEMONIC_VPMASKMOVD: decode_maskmov(insn, ops, 4); return true;
	case ZYDIS_MNEMONIC_VMASKMOVPD:
	case ZYDIS_MNEMONIC_VPMASKMOVQ: decode_maskmov(insn, ops, 8); return true;
	case ZYDIS_MNEMONIC_VGATHERDPS:
	case ZYDIS_MNEMONIC_VPGATHERDD: decode_gather(insn, zi, ops, 4, 4); return true;
	case ZYDIS_MNEMONIC_VGATHERDPD:
	case ZYDIS_MNEMONIC_VPGATHERDQ: decode_gather(insn, zi, ops, 4, 8); return true;
	case ZYDIS_MNEMONIC_VGATHERQPS:
	case ZYDIS_MNEMONIC_VPGATHERQD: decode_gather(insn, zi, ops, 8, 4); return true;
	case ZYDIS_MNEMONIC_VGATHERQPD:
	case ZYDIS_MNEMONIC_VPGATHERQQ: decode_gather(insn, zi, ops, 8, 8); return true;
	default: return false;
	}
}
