/* Which instructions both sides must agree on, and what of their results the manual leaves open. */
#include <cpuid.h>

#include "src/x86/arch.h"
#include "tests/diff/gen.h"

/* The user-mode part of the CPUID model. */
static bool in_model(ZydisISASet set)
{
	switch (set) {
	case ZYDIS_ISA_SET_ADOX_ADCX:
	case ZYDIS_ISA_SET_AES:
	case ZYDIS_ISA_SET_AVX:
	case ZYDIS_ISA_SET_AVX2:
	case ZYDIS_ISA_SET_AVX2GATHER:
	case ZYDIS_ISA_SET_AVXAES:
	case ZYDIS_ISA_SET_BMI1:
	case ZYDIS_ISA_SET_BMI2:
	case ZYDIS_ISA_SET_CLFLUSHOPT:
	case ZYDIS_ISA_SET_CLFSH:
	case ZYDIS_ISA_SET_CMOV:
	case ZYDIS_ISA_SET_CMPXCHG16B:
	case ZYDIS_ISA_SET_F16C:
	case ZYDIS_ISA_SET_FAT_NOP:
	case ZYDIS_ISA_SET_FCMOV:
	case ZYDIS_ISA_SET_FMA:
	case ZYDIS_ISA_SET_I186:
	case ZYDIS_ISA_SET_I386:
	case ZYDIS_ISA_SET_I486:
	case ZYDIS_ISA_SET_I486REAL:
	case ZYDIS_ISA_SET_I86:
	case ZYDIS_ISA_SET_LAHF:
	case ZYDIS_ISA_SET_LONGMODE:
	case ZYDIS_ISA_SET_LZCNT:
	case ZYDIS_ISA_SET_MOVBE:
	case ZYDIS_ISA_SET_PAUSE:
	case ZYDIS_ISA_SET_PCLMULQDQ:
	case ZYDIS_ISA_SET_PENTIUMMMX:
	case ZYDIS_ISA_SET_PENTIUMREAL:
	case ZYDIS_ISA_SET_POPCNT:
	case ZYDIS_ISA_SET_PPRO:
	case ZYDIS_ISA_SET_PREFETCH_NOP:
	case ZYDIS_ISA_SET_RDWRFSGS:
	case ZYDIS_ISA_SET_SHA:
	case ZYDIS_ISA_SET_SMAP:
	case ZYDIS_ISA_SET_SSE:
	case ZYDIS_ISA_SET_SSE2:
	case ZYDIS_ISA_SET_SSE2MMX:
	case ZYDIS_ISA_SET_SSE3:
	case ZYDIS_ISA_SET_SSE3X87:
	case ZYDIS_ISA_SET_SSE4:
	case ZYDIS_ISA_SET_SSE42:
	case ZYDIS_ISA_SET_SSEMXCSR:
	case ZYDIS_ISA_SET_SSE_PREFETCH:
	case ZYDIS_ISA_SET_SSSE3:
	case ZYDIS_ISA_SET_SSSE3MMX:
	case ZYDIS_ISA_SET_X87: return true;
	default: return false;
	}
}

/*
 * Answers that belong to the machine (identification, clocks), system calls, what would change the
 * host process's own segments, and what the host's kernel emulates or configures.
 */
static bool excluded(ZydisMnemonic m)
{
	switch (m) {
	case ZYDIS_MNEMONIC_CPUID:
	case ZYDIS_MNEMONIC_RDTSC:
	case ZYDIS_MNEMONIC_RDPMC:
	case ZYDIS_MNEMONIC_INT:
	case ZYDIS_MNEMONIC_INT1: /* hypervisors of the host get its address wrong */
	case ZYDIS_MNEMONIC_IRET:
	case ZYDIS_MNEMONIC_IRETD:
	case ZYDIS_MNEMONIC_IRETQ:
	case ZYDIS_MNEMONIC_SYSCALL:
	case ZYDIS_MNEMONIC_SYSENTER:
	case ZYDIS_MNEMONIC_SYSEXIT:
	case ZYDIS_MNEMONIC_SYSRET:
	case ZYDIS_MNEMONIC_POPF:
	case ZYDIS_MNEMONIC_POPFD:
	case ZYDIS_MNEMONIC_POPFQ:
	case ZYDIS_MNEMONIC_LDS:
	case ZYDIS_MNEMONIC_LES:
	case ZYDIS_MNEMONIC_LFS:
	case ZYDIS_MNEMONIC_LGS:
	case ZYDIS_MNEMONIC_LSS:
	case ZYDIS_MNEMONIC_LAR:
	case ZYDIS_MNEMONIC_LSL:
	case ZYDIS_MNEMONIC_VERR:
	case ZYDIS_MNEMONIC_VERW:
	case ZYDIS_MNEMONIC_SGDT:
	case ZYDIS_MNEMONIC_SIDT:
	case ZYDIS_MNEMONIC_SLDT:
	case ZYDIS_MNEMONIC_SMSW:
	case ZYDIS_MNEMONIC_STR:
	case ZYDIS_MNEMONIC_RDFSBASE:
	case ZYDIS_MNEMONIC_WRFSBASE:
	case ZYDIS_MNEMONIC_WRGSBASE:
	/* AMD's processors have one more bit in MXCSR than the model. */
	case ZYDIS_MNEMONIC_LDMXCSR:
	case ZYDIS_MNEMONIC_VLDMXCSR:
	/* These store the last instruction's address, which not every processor keeps. */
	case ZYDIS_MNEMONIC_FNSAVE:
	case ZYDIS_MNEMONIC_FNSTENV: return true;
	default: return false;
	}
}

static bool is_segment(const ZydisDecodedOperand *o)
{
	return o->type == ZYDIS_OPERAND_TYPE_REGISTER &&
	       ZydisRegisterGetClass(o->reg.value) == ZYDIS_REGCLASS_SEGMENT;
}

static bool branch_ok(const ZydisDecodedInstruction *zi, const ZydisDecodedOperand *ops)
{
	if (zi->meta.branch_type == ZYDIS_BRANCH_TYPE_NONE)
		return true;
	/* With an operand size of 16 vendors disagree. */
	return zi->meta.branch_type != ZYDIS_BRANCH_TYPE_FAR &&
	       !(zi->attributes & ZYDIS_ATTRIB_HAS_OPERANDSIZE) &&
	       ops[0].type == ZYDIS_OPERAND_TYPE_IMMEDIATE && ops[0].imm.is_relative &&
	       (zi->attributes & ZYDIS_ATTRIB_IS_RELATIVE);
}

static bool has_memory(const ZydisDecodedInstruction *zi, const ZydisDecodedOperand *ops)
{
	for (unsigned n = 0; n < zi->operand_count; n++)
		if (ops[n].type == ZYDIS_OPERAND_TYPE_MEMORY)
			return true;
	return false;
}

/* Whether the host's processor is AMD's, with which the interpreter agrees in what is open. */
static bool on_amd(void)
{
	static int amd = -1;
	unsigned a, b, c, d;

	if (amd < 0)
		amd = __get_cpuid(0, &a, &b, &c, &d) && b == signature_AMD_ebx;
	return amd;
}

/*
 * Intel's processors clear the upper halves of RCX, RSI and RDI, even if there is nothing to do. So
 * there a seed's sequence may be another one.
 */
static bool counts_in_32(const ZydisDecodedInstruction *zi)
{
	return zi->machine_mode == ZYDIS_MACHINE_MODE_LONG_64 && zi->address_width == 32 &&
	       zi->attributes &
		       (ZYDIS_ATTRIB_HAS_REP | ZYDIS_ATTRIB_HAS_REPE | ZYDIS_ATTRIB_HAS_REPNE);
}

/* Forms on which vendors differ and the manuals are silent, or results are undefined. */
static bool vendor_specific(const ZydisDecodedInstruction *zi, const ZydisDecodedOperand *ops)
{
	bool memory = has_memory(zi, ops);
	bool wide_vex = zi->encoding == ZYDIS_INSTRUCTION_ENCODING_VEX && zi->raw.vex.W;

	/* The register forms of PREFETCH. */
	if (zi->opcode_map == ZYDIS_OPCODE_MAP_0F && zi->opcode == 0x0d && !memory)
		return true;
	/* Is a misaligned operand refused? */
	if (zi->meta.isa_set == ZYDIS_ISA_SET_SHA)
		return memory;
	if (counts_in_32(zi) && !on_amd())
		return true;
	switch (zi->mnemonic) {
	/* Is the upper half of a register zeroed that is not written because it differs? */
	case ZYDIS_MNEMONIC_CMPXCHG: return !memory && zi->operand_width == 32;
	/* Results, not just flags, are undefined for 16-bit operands. */
	case ZYDIS_MNEMONIC_VPEXTRD:
	case ZYDIS_MNEMONIC_VPINSRD: /* W without 64-bit registers: ignored or invalid */
		return wide_vex && zi->machine_mode != ZYDIS_MACHINE_MODE_LONG_64;
	case ZYDIS_MNEMONIC_PAUSE: return zi->raw.rex.B; /* or XCHG of R8 */
	case ZYDIS_MNEMONIC_LOOPE:
	case ZYDIS_MNEMONIC_LOOPNE: /* REP prefixes replace the condition */
		return zi->raw.prefix_count > 0;
	case ZYDIS_MNEMONIC_MOVSXD: /* 16 or 32 bits read */
	case ZYDIS_MNEMONIC_BSWAP:
	case ZYDIS_MNEMONIC_SHLD:
	case ZYDIS_MNEMONIC_SHRD: return zi->operand_width == 16;
	default: return false;
	}
}

bool gen_acceptable(const ZydisDecodedInstruction *zi, const ZydisDecodedOperand *ops)
{
	bool compat = zi->machine_mode != ZYDIS_MACHINE_MODE_LONG_64;

	if (!in_model(zi->meta.isa_set) || excluded(zi->mnemonic) || !branch_ok(zi, ops))
		return false;
	for (unsigned n = 0; n < zi->operand_count; n++) {
		if (is_segment(&ops[n]) && (ops[n].actions & ZYDIS_OPERAND_ACTION_MASK_WRITE))
			return false;
		/* FS is the C library's; how much a pushed selector writes depends on the vendor.
		 */
		if (ops[n].type == ZYDIS_OPERAND_TYPE_MEMORY &&
		    ops[n].mem.segment == ZYDIS_REGISTER_FS)
			return false;
		if (compat && is_segment(&ops[n]) && zi->mnemonic == ZYDIS_MNEMONIC_PUSH)
			return false;
	}
	return !vendor_specific(zi, ops);
}

/* Shifts and rotates by CL or an immediate: some flags depend on the count. */
static uint32_t count_dependent(ZydisMnemonic m)
{
	switch (m) {
	case ZYDIS_MNEMONIC_SHL:
	case ZYDIS_MNEMONIC_SHR:
	case ZYDIS_MNEMONIC_SAR: return FLAG_OF | FLAG_AF;
	case ZYDIS_MNEMONIC_SHLD:
	case ZYDIS_MNEMONIC_SHRD: return FLAG_OF | FLAG_AF;
	case ZYDIS_MNEMONIC_ROL:
	case ZYDIS_MNEMONIC_ROR:
	case ZYDIS_MNEMONIC_RCL:
	case ZYDIS_MNEMONIC_RCR: return FLAG_OF;
	default: return 0;
	}
}

/* MOVD and MOVQ of an MMX register, and the like. */
static bool is_mmx(const ZydisDecodedInstruction *zi)
{
	switch (zi->meta.isa_set) {
	case ZYDIS_ISA_SET_PENTIUMMMX:
	case ZYDIS_ISA_SET_SSE2MMX:
	case ZYDIS_ISA_SET_SSSE3MMX: return true;
	/* MOVNTQ and others that came with SSE. */
	case ZYDIS_ISA_SET_SSE: return zi->meta.category == ZYDIS_CATEGORY_MMX;
	default: return false;
	}
}

/*
 * AMD's processors translate the address of an x87 store first, keep the flags of the last
 * repetition, and change nothing but what a gather has done.
 */
static unsigned open_but_with_amd(const ZydisDecodedInstruction *zi)
{
	if (is_mmx(zi))
		return OPEN_TOP;
	switch (zi->mnemonic) {
	case ZYDIS_MNEMONIC_CMPSB:
	case ZYDIS_MNEMONIC_CMPSW:
	case ZYDIS_MNEMONIC_CMPSD:
	case ZYDIS_MNEMONIC_CMPSQ:
	case ZYDIS_MNEMONIC_SCASB:
	case ZYDIS_MNEMONIC_SCASW:
	case ZYDIS_MNEMONIC_SCASD:
	case ZYDIS_MNEMONIC_SCASQ: return OPEN_FLAGS;
	case ZYDIS_MNEMONIC_FST:
	case ZYDIS_MNEMONIC_FIST:
	case ZYDIS_MNEMONIC_FISTP:
	case ZYDIS_MNEMONIC_FISTTP: return OPEN_STORE;
	/* Of 10 bytes those in one page may be stored. */
	case ZYDIS_MNEMONIC_FSTP: return OPEN_STORE | (zi->opcode == 0xdb ? OPEN_PARTS : 0);
	case ZYDIS_MNEMONIC_FBSTP: return OPEN_STORE | OPEN_PARTS;
	case ZYDIS_MNEMONIC_PUSHAD:
	case ZYDIS_MNEMONIC_POPAD: return OPEN_PARTS;
	case ZYDIS_MNEMONIC_VCVTPS2PH: return OPEN_MXCSR;
	default: return zi->meta.category == ZYDIS_CATEGORY_AVX2GATHER ? OPEN_MASK : 0;
	}
}

static unsigned open_with_all(const ZydisDecodedInstruction *zi)
{
	switch (zi->mnemonic) {
	case ZYDIS_MNEMONIC_MASKMOVQ:
	case ZYDIS_MNEMONIC_MASKMOVDQU:
	case ZYDIS_MNEMONIC_VMASKMOVDQU:
	case ZYDIS_MNEMONIC_FLDENV:
	case ZYDIS_MNEMONIC_FRSTOR:
	case ZYDIS_MNEMONIC_VMASKMOVPS:
	case ZYDIS_MNEMONIC_VMASKMOVPD:
	case ZYDIS_MNEMONIC_VPMASKMOVD:
	case ZYDIS_MNEMONIC_VPMASKMOVQ: return OPEN_PARTS;
	/* Zen 4 reads by RDI first, Zen 5 by RSI. */
	case ZYDIS_MNEMONIC_CMPSB:
	case ZYDIS_MNEMONIC_CMPSW:
	case ZYDIS_MNEMONIC_CMPSD:
	case ZYDIS_MNEMONIC_CMPSQ:
		return zi->meta.category == ZYDIS_CATEGORY_STRINGOP ? OPEN_ORDER : 0;
	default: return 0;
	}
}

static unsigned gen_open(const ZydisDecodedInstruction *zi)
{
	return open_with_all(zi) | (on_amd() ? 0 : OPEN_WRAP | open_but_with_amd(zi));
}

void gen_flags(const ZydisDecodedInstruction *zi, struct seq_insn *out, uint32_t *tested)
{
	const ZydisAccessedFlags *f = zi->cpu_flags;

	*tested = 0;
	out->open = gen_open(zi);
	out->undefined = count_dependent(zi->mnemonic);
	out->defined = 0;
	if (!f)
		return;
	*tested = f->tested & FLAGS_ARITH;
	out->undefined |= f->undefined & FLAGS_ARITH;
	/* A shift by zero and a REP of no iterations leave the flags alone. */
	if (!count_dependent(zi->mnemonic) &&
	    !(zi->attributes &
	      (ZYDIS_ATTRIB_HAS_REP | ZYDIS_ATTRIB_HAS_REPE | ZYDIS_ATTRIB_HAS_REPNE)))
		out->defined = (f->modified | f->set_0 | f->set_1) & FLAGS_ARITH & ~out->undefined;
}
