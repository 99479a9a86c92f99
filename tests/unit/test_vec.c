/* Vector instructions, decoded and executed one at a time on a CPU without paging. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <sys/mman.h>
#include <cmocka.h>

#include "src/x86/hostisa.h"
#include "src/x86/mem.h"
#include "src/x86/vec.h"

#define RAM_SIZE (64 * 1024)
#define NO_FAULT (-1)
#define NOT_OURS (-2)

struct fixture {
	struct cpu *cpu;
	struct gmem gmem;
	struct stats stats;
	uint8_t *ram;
	ZydisDecoder decoder;
	jmp_buf unwind;
	struct host_isa isa;
	uint64_t last_imm; /* of the last instruction decoded */
};

static int setup(void **state)
{
	struct fixture *f = aligned_alloc(64, ALIGN_UP(sizeof(*f), 64));
	struct memslot slot = {.size = RAM_SIZE};

	memset(f, 0, sizeof(*f));
	f->ram = mmap(NULL, RAM_SIZE, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
	assert_ptr_not_equal(f->ram, MAP_FAILED);
	assert_int_equal(gmem_init(&f->gmem), 0);
	slot.hva = (hva_t)f->ram;
	assert_int_equal(gmem_add_slot(&f->gmem, &slot), 0);
	f->cpu = cpu_alloc(sizeof(*f->cpu));
	assert_non_null(f->cpu);
	f->cpu->gmem = &f->gmem;
	f->cpu->stats = &f->stats;
	f->cpu->unwind = &f->unwind;
	assert_int_equal(cpu_init(f->cpu), 0);
	f->cpu->cr0 = CR0_PE | CR0_NE | CR0_MP;
	f->cpu->cr4 = CR4_OSFXSR | CR4_OSXMMEXCPT | CR4_OSXSAVE;
	f->cpu->xcr0 = 7;
	host_isa_probe(&f->isa);
	ZydisDecoderInit(&f->decoder, ZYDIS_MACHINE_MODE_LONG_64, ZYDIS_STACK_WIDTH_64);
	*state = f;
	return 0;
}

static int teardown(void **state)
{
	struct fixture *f = *state;

	cpu_fini(f->cpu);
	gmem_fini(&f->gmem);
	munmap(f->ram, RAM_SIZE);
	cpu_free(f->cpu, sizeof(*f->cpu));
	free(f);
	return 0;
}

static uint8_t gpr_number(ZydisRegister r)
{
	return r == ZYDIS_REGISTER_NONE ? REG_ZERO : ZydisRegisterGetId(r);
}

static void set_address(struct insn *insn, const ZydisDecodedOperand *o)
{
	insn->base = gpr_number(o->mem.base);
	insn->index = o->mem.type == ZYDIS_MEMOP_TYPE_VSIB ? REG_ZERO : gpr_number(o->mem.index);
	insn->scale = o->mem.scale ? __builtin_ctz(o->mem.scale) : 0;
	insn->disp = o->mem.disp.value;
	insn->flags = INSN_MEM;
}

/* Runs one instruction; returns the vector it raised, or NO_FAULT. */
static int step_bytes(struct fixture *f, const uint8_t *bytes, unsigned n)
{
	ZydisDecodedInstruction zi;
	ZydisDecodedOperand ops[ZYDIS_MAX_OPERAND_COUNT];
	struct insn insn = {
		.base = REG_ZERO, .index = REG_ZERO, .seg = SEG_NONE, .mode = 8, .off = 5};

	assert_true(ZYAN_SUCCESS(ZydisDecoderDecodeFull(&f->decoder, bytes, n, &zi, ops)));
	insn.len = zi.length;
	for (unsigned k = 0; k < zi.operand_count_visible; k++)
		if (ops[k].type == ZYDIS_OPERAND_TYPE_MEMORY)
			set_address(&insn, &ops[k]);
	if (vec_decode(f->cpu, &insn, &zi, ops, bytes))
		return NOT_OURS;
	f->last_imm = insn.imm;
	f->cpu->exc_pending = false;
	if (setjmp(f->unwind))
		return f->cpu->next_exc.vector;
	insn.exec(f->cpu, &insn);
	return NO_FAULT;
}

#define STEP(f, ...) \
	step_bytes(f, (const uint8_t[16]){__VA_ARGS__}, sizeof((const uint8_t[]){__VA_ARGS__}))

static void set_ps(struct fixture *f, unsigned reg, float a, float b, float c, float d)
{
	float v[8] = {a, b, c, d, 101, 102, 103, 104};

	memcpy(f->cpu->vec.ymm[reg], v, 32);
}

static float ps(struct fixture *f, unsigned reg, unsigned n)
{
	float v;

	memcpy(&v, f->cpu->vec.ymm[reg] + 4 * n, 4);
	return v;
}

static uint64_t q(struct fixture *f, unsigned reg, unsigned n)
{
	uint64_t v;

	memcpy(&v, f->cpu->vec.ymm[reg] + 8 * n, 8);
	return v;
}

static void set_q(struct fixture *f, unsigned reg, unsigned n, uint64_t v)
{
	memcpy(f->cpu->vec.ymm[reg] + 8 * n, &v, 8);
}

static void test_legacy_keeps_upper(void **state)
{
	struct fixture *f = *state;

	set_ps(f, 1, 1, 2, 3, 4);
	set_ps(f, 9, 10, 20, 30, 40);
	/* addps xmm1, xmm9 */
	assert_int_equal(STEP(f, 0x41, 0x0f, 0x58, 0xc9), NO_FAULT);
	assert_true(ps(f, 1, 0) == 11 && ps(f, 1, 3) == 44 && ps(f, 1, 4) == 101);
	/* movss xmm1, xmm9 merges */
	assert_int_equal(STEP(f, 0xf3, 0x41, 0x0f, 0x10, 0xc9), NO_FAULT);
	assert_true(ps(f, 1, 0) == 10 && ps(f, 1, 1) == 22);
}

static void test_vex_zeroes_upper(void **state)
{
	struct fixture *f = *state;

	if (!f->isa.avx)
		skip();
	set_ps(f, 2, 1, 2, 3, 4);
	set_ps(f, 3, 1, 1, 1, 1);
	set_ps(f, 1, 9, 9, 9, 9);
	/* vaddps xmm1, xmm2, xmm3 */
	assert_int_equal(STEP(f, 0xc5, 0xe8, 0x58, 0xcb), NO_FAULT);
	assert_true(ps(f, 1, 0) == 2 && ps(f, 1, 4) == 0);
	/* vaddps ymm1, ymm2, ymm3 */
	assert_int_equal(STEP(f, 0xc5, 0xec, 0x58, 0xcb), NO_FAULT);
	assert_true(ps(f, 1, 4) == 202);
	/* vmovaps xmm1, xmm1 */
	assert_int_equal(STEP(f, 0xc5, 0xf8, 0x28, 0xc9), NO_FAULT);
	assert_true(ps(f, 1, 0) == 2 && ps(f, 1, 4) == 0);
	/* vzeroupper */
	assert_int_equal(STEP(f, 0xc5, 0xf8, 0x77), NO_FAULT);
	assert_true(ps(f, 2, 0) == 1 && ps(f, 2, 4) == 0);
	/* vblendvps xmm1, xmm2, xmm3, xmm7 */
	set_q(f, 7, 0, 0x80000000);
	set_q(f, 7, 1, 0);
	assert_int_equal(STEP(f, 0xc4, 0xe3, 0x69, 0x4a, 0xcb, 0x70), NO_FAULT);
	assert_true(ps(f, 1, 0) == 1 && ps(f, 1, 1) == 2);
}

static void test_one_stub_for_all_registers(void **state)
{
	struct fixture *f = *state;
	uint64_t first;

	/* paddd xmm1, xmm2; paddd xmm12, xmm13 */
	assert_int_equal(STEP(f, 0x66, 0x0f, 0xfe, 0xca), NO_FAULT);
	first = f->last_imm;
	assert_int_equal(STEP(f, 0x66, 0x45, 0x0f, 0xfe, 0xe5), NO_FAULT);
	assert_int_equal(f->last_imm, first);
	/* paddq is another instruction */
	assert_int_equal(STEP(f, 0x66, 0x0f, 0xd4, 0xca), NO_FAULT);
	assert_int_not_equal(f->last_imm, first);
}

static void test_memory_and_alignment(void **state)
{
	struct fixture *f = *state;

	f->cpu->gpr[RBX] = 0x1000;
	memset(f->ram + 0x1000, 0x11, 64);
	memset(f->cpu->vec.ymm[4], 0x01, 32);
	/* paddb xmm4, [rbx] */
	assert_int_equal(STEP(f, 0x66, 0x0f, 0xfc, 0x23), NO_FAULT);
	assert_int_equal(q(f, 4, 1), 0x1212121212121212);
	assert_int_equal(STEP(f, 0x66, 0x0f, 0xfc, 0x63, 0x01), EXC_GP);
	/* movups crosses a page, movaps faults */
	f->cpu->gpr[RBX] = 0x1ff8;
	assert_int_equal(STEP(f, 0x0f, 0x11, 0x23), NO_FAULT);
	assert_int_equal(f->ram[0x1ff8], 0x12);
	assert_int_equal(f->ram[0x2007], 0x12);
	assert_int_equal(STEP(f, 0x0f, 0x29, 0x23), EXC_GP);
	/* pextrd [rbx], xmm4, 2 stores four bytes */
	f->cpu->gpr[RBX] = 0x3000;
	memset(f->ram + 0x3000, 0, 16);
	assert_int_equal(STEP(f, 0x66, 0x0f, 0x3a, 0x16, 0x23, 0x02), NO_FAULT);
	assert_int_equal(*(uint64_t *)(f->ram + 0x3000), 0x12121212);
}

static void test_gpr_operands(void **state)
{
	struct fixture *f = *state;
	double d;

	f->cpu->gpr[R9] = -7;
	f->cpu->gpr[RAX] = ~0ull;
	/* cvtsi2sd xmm3, r9; cvttsd2si eax, xmm3; movmskpd r12d, xmm3 */
	assert_int_equal(STEP(f, 0xf2, 0x49, 0x0f, 0x2a, 0xd9), NO_FAULT);
	memcpy(&d, f->cpu->vec.ymm[3], 8);
	assert_true(d == -7);
	assert_int_equal(STEP(f, 0xf2, 0x0f, 0x2c, 0xc3), NO_FAULT);
	assert_int_equal(f->cpu->gpr[RAX], 0xfffffff9);
	assert_int_equal(STEP(f, 0x66, 0x44, 0x0f, 0x50, 0xe3), NO_FAULT);
	assert_int_equal(f->cpu->gpr[R12], 1);
	/* pextrw edx, xmm3, 3; pinsrw xmm3, edx, 0 */
	assert_int_equal(STEP(f, 0x66, 0x0f, 0xc5, 0xd3, 0x03), NO_FAULT);
	assert_int_equal(f->cpu->gpr[RDX], 0xc01c);
	assert_int_equal(STEP(f, 0x66, 0x0f, 0xc4, 0xda, 0x00), NO_FAULT);
	assert_int_equal(q(f, 3, 0) & 0xffff, 0xc01c);
}

static void test_flags(void **state)
{
	struct fixture *f = *state;

	set_ps(f, 1, 1, 0, 0, 0);
	set_ps(f, 2, 2, 0, 0, 0);
	flags_set_arith(f->cpu, FLAGS_ARITH);
	/* ucomiss xmm1, xmm2: below */
	assert_int_equal(STEP(f, 0x0f, 0x2e, 0xca), NO_FAULT);
	assert_int_equal(flags_get(f->cpu) & FLAGS_ARITH, FLAG_CF);
	if (!f->isa.sse42)
		return;
	/* pcmpistri xmm1, xmm2, equal each: index to ECX */
	memset(f->cpu->vec.ymm[1], 0, 16);
	memset(f->cpu->vec.ymm[2], 0, 16);
	memcpy(f->cpu->vec.ymm[1], "abcXef", 6);
	memcpy(f->cpu->vec.ymm[2], "abcdef", 6);
	f->cpu->gpr[RCX] = ~0ull;
	assert_int_equal(STEP(f, 0x66, 0x0f, 0x3a, 0x63, 0xca, 0x18), NO_FAULT);
	assert_int_equal(f->cpu->gpr[RCX], 3);
	assert_true(flag_cf(f->cpu));
	/* pcmpestrm xmm1, xmm2: lengths in EAX and EDX, mask to XMM0 */
	f->cpu->gpr[RAX] = 3;
	f->cpu->gpr[RDX] = 3;
	assert_int_equal(STEP(f, 0x66, 0x0f, 0x3a, 0x60, 0xca, 0x08), NO_FAULT);
	assert_int_equal(q(f, 0, 0), 0xffff);
}

static void test_mxcsr(void **state)
{
	struct fixture *f = *state;

	set_ps(f, 1, 1, 1, 1, 1);
	set_ps(f, 2, 3, 0, 1, 1);
	/* divps: inexact and divide by zero, masked */
	assert_int_equal(STEP(f, 0x0f, 0x5e, 0xca), NO_FAULT);
	assert_int_equal(f->cpu->vec.mxcsr, 0x1fa4);
	/* Divide by zero unmasked: flagged, raised, destination kept. */
	f->cpu->vec.mxcsr = 0x1d80;
	set_ps(f, 1, 1, 1, 1, 1);
	assert_int_equal(STEP(f, 0x0f, 0x5e, 0xca), EXC_XM);
	assert_int_equal(f->cpu->vec.mxcsr, 0x1d84);
	assert_true(ps(f, 1, 0) == 1);
	f->cpu->cr4 &= ~CR4_OSXMMEXCPT;
	assert_int_equal(STEP(f, 0x0f, 0x5e, 0xca), EXC_UD);
	f->cpu->cr4 |= CR4_OSXMMEXCPT;
	/* Rounding towards zero is the guest's, not the host's. */
	f->cpu->vec.mxcsr = 0x7f80;
	set_ps(f, 1, 2.75f, -2.75f, 0, 0);
	/* cvtps2dq xmm1, xmm1 */
	assert_int_equal(STEP(f, 0x66, 0x0f, 0x5b, 0xc9), NO_FAULT);
	assert_int_equal(q(f, 1, 0), 0xfffffffe00000002);
	assert_true((float)(int)ps(f, 2, 0) + 0.1f != 3);
	/* ldmxcsr [rbx] refuses reserved bits; stmxcsr stores. */
	f->cpu->gpr[RBX] = 0x4000;
	*(uint32_t *)(f->ram + 0x4000) = 0x10000;
	assert_int_equal(STEP(f, 0x0f, 0xae, 0x13), EXC_GP);
	assert_int_equal(STEP(f, 0x0f, 0xae, 0x1b), NO_FAULT);
	assert_int_equal(*(uint32_t *)(f->ram + 0x4000), 0x7fa0);
}

static void test_underflow_unmasked(void **state)
{
	struct fixture *f = *state;
	float min = 0x1p-126f;

	/* 2^-126 * 0.5 is tiny and exact: only unmasked underflow reports it. */
	set_ps(f, 1, min, 1, 1, 1);
	set_ps(f, 2, 0.5f, 1, 1, 1);
	assert_int_equal(STEP(f, 0x0f, 0x59, 0xca), NO_FAULT);
	assert_int_equal(f->cpu->vec.mxcsr, 0x1f80);
	set_ps(f, 1, min, 1, 1, 1);
	f->cpu->vec.mxcsr = 0x1780;
	assert_int_equal(STEP(f, 0x0f, 0x59, 0xca), EXC_XM);
	assert_int_equal(f->cpu->vec.mxcsr & 0x10, 0x10);
	assert_true(ps(f, 1, 0) == min);
}

static void test_unavailable(void **state)
{
	struct fixture *f = *state;
	struct cpu *c = f->cpu;

	c->cr0 |= CR0_TS;
	assert_int_equal(STEP(f, 0x0f, 0x58, 0xca), EXC_NM);
	assert_int_equal(STEP(f, 0x0f, 0x28, 0xca), EXC_NM);
	assert_int_equal(STEP(f, 0x0f, 0xfc, 0xca), EXC_NM); /* paddb mm1, mm2 */
	assert_int_equal(STEP(f, 0xd9, 0xe8), EXC_NM);	     /* fld1 */
	assert_int_equal(STEP(f, 0x9b), EXC_NM);	     /* fwait */
	c->cr4 &= ~CR4_OSFXSR;
	assert_int_equal(STEP(f, 0x0f, 0x58, 0xca), EXC_UD);
	c->cr4 |= CR4_OSFXSR;
	c->cr0 |= CR0_EM;
	assert_int_equal(STEP(f, 0x0f, 0x58, 0xca), EXC_UD);
	assert_int_equal(STEP(f, 0x0f, 0xfc, 0xca), EXC_UD);
	assert_int_equal(STEP(f, 0xd9, 0xe8), EXC_NM);
	c->cr0 &= ~(CR0_EM | CR0_TS);
	c->xcr0 = 3;
	if (f->isa.avx) {
		assert_int_equal(STEP(f, 0xc5, 0xe8, 0x58, 0xcb), EXC_UD);
		c->xcr0 = 7;
		c->cr4 &= ~CR4_OSXSAVE;
		assert_int_equal(STEP(f, 0xc5, 0xe8, 0x58, 0xcb), EXC_UD);
	}
}

static void test_not_in_the_model(void **state)
{
	struct fixture *f = *state;

	/* vaddps zmm1, zmm2, zmm3; pfadd mm1, mm2; extrq xmm1, 1, 2; gf2p8mulb xmm1, xmm2 */
	assert_int_equal(STEP(f, 0x62, 0xf1, 0x6c, 0x48, 0x58, 0xcb), NOT_OURS);
	assert_int_equal(STEP(f, 0x0f, 0x0f, 0xca, 0x9e), NOT_OURS);
	assert_int_equal(STEP(f, 0x66, 0x0f, 0x78, 0xc1, 0x01, 0x02), NOT_OURS);
	assert_int_equal(STEP(f, 0x66, 0x0f, 0x38, 0xcf, 0xca), NOT_OURS);
	/* vaesenc ymm1, ymm2, ymm3; vpclmulqdq ymm1, ymm2, ymm3, 0; sfence; crc32 eax, ecx */
	assert_int_equal(STEP(f, 0xc4, 0xe2, 0x6d, 0xdc, 0xcb), NOT_OURS);
	assert_int_equal(STEP(f, 0xc4, 0xe3, 0x6d, 0x44, 0xcb, 0x00), NOT_OURS);
	assert_int_equal(STEP(f, 0x0f, 0xae, 0xf8), NOT_OURS);
	assert_int_equal(STEP(f, 0xf2, 0x0f, 0x38, 0xf1, 0xc1), NOT_OURS);
}

static void test_x87(void **state)
{
	struct fixture *f = *state;
	double d;

	f->cpu->gpr[RBX] = 0x5000;
	/* fninit; fld1; fldpi; faddp; fstp qword [rbx] */
	assert_int_equal(STEP(f, 0xdb, 0xe3), NO_FAULT);
	assert_int_equal(STEP(f, 0xd9, 0xe8), NO_FAULT);
	assert_int_equal(STEP(f, 0xd9, 0xeb), NO_FAULT);
	assert_int_equal(STEP(f, 0xde, 0xc1), NO_FAULT);
	assert_int_equal(STEP(f, 0xdd, 0x1b), NO_FAULT);
	memcpy(&d, f->ram + 0x5000, 8);
	assert_true(d > 4.14159 && d < 4.1416);
	/* fnstenv [rbx]: the last instruction's address and operand */
	f->cpu->gpr[REG_PC] = 0x7000;
	assert_int_equal(STEP(f, 0xd9, 0xe8), NO_FAULT);
	assert_int_equal(STEP(f, 0xd9, 0x33), NO_FAULT);
	assert_int_equal(*(uint32_t *)(f->ram + 0x5000), 0xffff037f);
	assert_int_equal(*(uint32_t *)(f->ram + 0x5008), 0xffff3fff);
	assert_int_equal(*(uint32_t *)(f->ram + 0x500c), 0x7005);
	assert_int_equal(*(uint32_t *)(f->ram + 0x5010), 0x1e80000);
	/* fcmovb and fcomi use the arithmetic flags. */
	assert_int_equal(STEP(f, 0xd9, 0xee), NO_FAULT); /* fldz */
	flags_set_arith(f->cpu, 0);
	assert_int_equal(STEP(f, 0xdb, 0xf1), NO_FAULT); /* fcomi st0, st1: 0 < 1 */
	assert_int_equal(flags_get(f->cpu) & FLAGS_ARITH, FLAG_CF);
	assert_int_equal(STEP(f, 0xda, 0xc1), NO_FAULT); /* fcmovb st0, st1 */
	assert_int_equal(STEP(f, 0xdd, 0x1b), NO_FAULT);
	memcpy(&d, f->ram + 0x5000, 8);
	assert_true(d == 1);
}

static void test_x87_pending(void **state)
{
	struct fixture *f = *state;
	uint16_t fsw;

	f->cpu->gpr[RBX] = 0x5000;
	*(uint16_t *)(f->ram + 0x5000) = 0x37b; /* divide by zero unmasked */
	assert_int_equal(STEP(f, 0xdb, 0xe3), NO_FAULT);
	assert_int_equal(STEP(f, 0xd9, 0x2b), NO_FAULT); /* fldcw */
	assert_int_equal(STEP(f, 0xd9, 0xe8), NO_FAULT);
	assert_int_equal(STEP(f, 0xd9, 0xee), NO_FAULT);
	assert_int_equal(STEP(f, 0xde, 0xf9), NO_FAULT); /* fdivp: pending */
	assert_int_equal(STEP(f, 0xd9, 0xe8), EXC_MF);
	assert_int_equal(STEP(f, 0x0f, 0xfc, 0xca), EXC_MF);
	assert_int_equal(STEP(f, 0x9b), EXC_MF);
	assert_int_equal(STEP(f, 0xdf, 0xe0), NO_FAULT); /* fnstsw ax does not wait */
	fsw = f->cpu->gpr[RAX];
	assert_int_equal(fsw & 0x8084, 0x8084);
	assert_int_equal(STEP(f, 0xdb, 0xe2), NO_FAULT); /* fnclex */
	assert_int_equal(STEP(f, 0x9b), NO_FAULT);
	/* An invalid store that is unmasked does not touch memory. */
	assert_int_equal(STEP(f, 0xdb, 0xe3), NO_FAULT);
	*(uint16_t *)(f->ram + 0x5000) = 0x37e;
	assert_int_equal(STEP(f, 0xd9, 0x2b), NO_FAULT);
	assert_int_equal(STEP(f, 0xd9, 0x1b), NO_FAULT); /* fstp dword [rbx], stack empty */
	assert_int_equal(*(uint16_t *)(f->ram + 0x5000), 0x37e);
	/* Without CR0.NE nothing is raised, and the host is not hurt. */
	f->cpu->cr0 &= ~CR0_NE;
	assert_int_equal(STEP(f, 0xd9, 0xe8), NO_FAULT);
	assert_int_equal(STEP(f, 0x9b), NO_FAULT);
}

static void test_mmx(void **state)
{
	struct fixture *f = *state;
	uint64_t v = 0x0102030405060708;

	/* With TOP = 7, ST(0) is physical register 7, that is MM7. */
	assert_int_equal(STEP(f, 0xdb, 0xe3), NO_FAULT);
	assert_int_equal(STEP(f, 0xd9, 0xe8), NO_FAULT);
	f->cpu->gpr[RAX] = v;
	/* movq mm3, rax; paddb mm3, mm3; movq rcx, mm3; movq rdx, mm7 */
	assert_int_equal(STEP(f, 0x48, 0x0f, 0x6e, 0xd8), NO_FAULT);
	assert_int_equal(STEP(f, 0x0f, 0xfc, 0xdb), NO_FAULT);
	assert_int_equal(STEP(f, 0x48, 0x0f, 0x7e, 0xd9), NO_FAULT);
	assert_int_equal(f->cpu->gpr[RCX], 2 * v);
	assert_int_equal(STEP(f, 0x48, 0x0f, 0x7e, 0xfa), NO_FAULT);
	assert_int_equal(f->cpu->gpr[RDX], 0x8000000000000000);
	assert_int_equal(f->cpu->vec.fx[4], 0xff);
	assert_int_equal(f->cpu->vec.fx[3] & 0x38, 0);
	assert_int_equal(f->cpu->vec.fx[32 + 3 * 16 + 8], 0xff);
	assert_int_equal(STEP(f, 0x0f, 0x77), NO_FAULT);
	assert_int_equal(f->cpu->vec.fx[4], 0);
	/* maskmovq mm3, mm3 with two bytes enabled, at [rdi] */
	v = 0x8000000000000080;
	f->cpu->gpr[RAX] = v;
	f->cpu->gpr[RDI] = 0x6001;
	memset(f->ram + 0x6000, 0x55, 16);
	assert_int_equal(STEP(f, 0x48, 0x0f, 0x6e, 0xd8), NO_FAULT);
	assert_int_equal(STEP(f, 0x0f, 0xf7, 0xdb), NO_FAULT);
	assert_int_equal(f->ram[0x6001], 0x80);
	assert_int_equal(f->ram[0x6002], 0x55);
	assert_int_equal(f->ram[0x6008], 0x80);
}

static void test_masked_moves(void **state)
{
	struct fixture *f = *state;

	if (!f->isa.avx2)
		skip();
	f->cpu->gpr[RBX] = 0x1000;
	for (unsigned n = 0; n < 8; n++)
		((uint32_t *)(f->ram + 0x1000))[n] = n + 1;
	set_q(f, 2, 0, 0x8000000000000000);
	set_q(f, 2, 1, 0);
	set_q(f, 2, 2, 0x80000000);
	set_q(f, 2, 3, 0);
	/* vmaskmovps ymm1, ymm2, [rbx] */
	assert_int_equal(STEP(f, 0xc4, 0xe2, 0x6d, 0x2c, 0x0b), NO_FAULT);
	assert_int_equal(q(f, 1, 0), 0x200000000);
	assert_int_equal(q(f, 1, 2), 5);
	/* vmaskmovps [rbx + 0x100], xmm2, xmm1 */
	memset(f->ram + 0x1100, 0xaa, 32);
	assert_int_equal(STEP(f, 0xc4, 0xe2, 0x69, 0x2e, 0x8b, 0, 1, 0, 0), NO_FAULT);
	assert_int_equal(*(uint64_t *)(f->ram + 0x1100), 0x2aaaaaaaa);
	/* vpgatherdd xmm1, [rbx + xmm3 * 4], xmm2 */
	set_q(f, 3, 0, 0x700000003);
	set_q(f, 3, 1, 0);
	set_q(f, 1, 0, 77);
	set_q(f, 2, 0, 0x8000000000000000);
	assert_int_equal(STEP(f, 0xc4, 0xe2, 0x69, 0x90, 0x0c, 0x9b), NO_FAULT);
	assert_int_equal(q(f, 1, 0), 0x80000004d);
	assert_int_equal(q(f, 2, 0), 0);
}

static void test_fxsave(void **state)
{
	struct fixture *f = *state;

	f->cpu->gpr[RBX] = 0x2000;
	memset(f->ram + 0x2000, 0xee, 512);
	set_q(f, 15, 0, 42);
	assert_int_equal(STEP(f, 0xdb, 0xe3), NO_FAULT);
	assert_int_equal(STEP(f, 0xd9, 0xe8), NO_FAULT);
	assert_int_equal(STEP(f, 0x48, 0x0f, 0xae, 0x03), NO_FAULT); /* fxsave64 [rbx] */
	assert_int_equal(*(uint16_t *)(f->ram + 0x2000), 0x37f);
	assert_int_equal(f->ram[0x2004], 0x80);
	assert_int_equal(*(uint32_t *)(f->ram + 0x2018), 0x1f80);
	assert_int_equal(f->ram[0x2000 + 160 + 240], 42);
	assert_int_equal(f->ram[0x2000 + 416], 0xee);
	set_q(f, 15, 0, 0);
	assert_int_equal(STEP(f, 0x48, 0x0f, 0xae, 0x0b), NO_FAULT); /* fxrstor64 */
	assert_int_equal(q(f, 15, 0), 42);
	*(uint32_t *)(f->ram + 0x2018) = 0xffffffff;
	assert_int_equal(STEP(f, 0x48, 0x0f, 0xae, 0x0b), EXC_GP);
	f->cpu->gpr[RBX] = 0x2008;
	assert_int_equal(STEP(f, 0x48, 0x0f, 0xae, 0x03), EXC_GP);
}

static void test_xsave(void **state)
{
	struct fixture *f = *state;
	uint64_t *header = (uint64_t *)(f->ram + 0x2200);

	if (!f->isa.avx)
		skip();
	f->cpu->gpr[RBX] = 0x2000;
	f->cpu->gpr[RAX] = 7;
	f->cpu->gpr[RDX] = 0;
	f->cpu->gpr[RCX] = 1;
	assert_int_equal(STEP(f, 0xdb, 0xe3), NO_FAULT);
	assert_int_equal(STEP(f, 0x0f, 0x01, 0xd0), NO_FAULT); /* xgetbv(1) */
	assert_int_equal(f->cpu->gpr[RAX], 0);
	f->cpu->gpr[RAX] = 7;
	set_q(f, 5, 3, 99); /* upper half only: AVX in use, SSE not */
	assert_int_equal(STEP(f, 0x48, 0x0f, 0xae, 0x23), NO_FAULT); /* xsave64 [rbx] */
	assert_int_equal(header[0], 4);
	assert_int_equal(header[1], 0);
	assert_int_equal(*(uint64_t *)(f->ram + 0x2000 + 576 + 5 * 16 + 8), 99);
	memset(f->cpu->vec.ymm, 0xff, sizeof(f->cpu->vec.ymm));
	assert_int_equal(STEP(f, 0x48, 0x0f, 0xae, 0x2b), NO_FAULT); /* xrstor64 */
	assert_int_equal(q(f, 5, 3), 99);
	assert_int_equal(q(f, 5, 0), 0);
	/* Compacted. */
	assert_int_equal(STEP(f, 0x48, 0x0f, 0xc7, 0x23), NO_FAULT); /* xsavec64 */
	assert_int_equal(header[0], 4);
	assert_int_equal(header[1], 0x8000000000000007);
	assert_int_equal(STEP(f, 0x48, 0x0f, 0xae, 0x2b), NO_FAULT);
	assert_int_equal(q(f, 5, 3), 99);
	/* Bad headers. */
	header[0] = 0x10;
	assert_int_equal(STEP(f, 0x48, 0x0f, 0xae, 0x2b), EXC_GP);
	header[0] = 4;
	header[1] = 0x8000000000000003;
	assert_int_equal(STEP(f, 0x48, 0x0f, 0xae, 0x2b), EXC_GP);
	header[1] = 1;
	assert_int_equal(STEP(f, 0x48, 0x0f, 0xae, 0x2b), EXC_GP);
	/* xsetbv: AVX needs SSE; x87 is always on; ring 0 only. */
	f->cpu->gpr[RCX] = 0;
	f->cpu->gpr[RAX] = 5;
	assert_int_equal(STEP(f, 0x0f, 0x01, 0xd1), EXC_GP);
	f->cpu->gpr[RAX] = 3;
	assert_int_equal(STEP(f, 0x0f, 0x01, 0xd1), NO_FAULT);
	assert_int_equal(f->cpu->xcr0, 3);
	f->cpu->cpl = 3;
	assert_int_equal(STEP(f, 0x0f, 0x01, 0xd1), EXC_GP);
}

#define TEST(name) cmocka_unit_test_setup_teardown(name, setup, teardown)

int main(void)
{
	const struct CMUnitTest tests[] = {
		TEST(test_legacy_keeps_upper),
		TEST(test_vex_zeroes_upper),
		TEST(test_one_stub_for_all_registers),
		TEST(test_memory_and_alignment),
		TEST(test_gpr_operands),
		TEST(test_flags),
		TEST(test_mxcsr),
		TEST(test_underflow_unmasked),
		TEST(test_unavailable),
		TEST(test_not_in_the_model),
		TEST(test_x87),
		TEST(test_x87_pending),
		TEST(test_mmx),
		TEST(test_masked_moves),
		TEST(test_fxsave),
		TEST(test_xsave),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
