/*
 * x87 and MMX in compiled code against the interpreter: all that the guest can see of their state,
 * the pointers to the last instruction and its operand among it, and where faults come.
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>

#include "src/x86/vec.h"
#include "tests/unit/guest_cpu.h"

#define MAX_INSNS	     100000
#define RUNS		     8 /* of the same code: the first ones interpret it */
#define FS_BASE		     (DATA_GPA + 0x800)
#define SAVE_GPA	     (DATA_GPA + 0x1000)
#define PAGE_GONE	     (DATA_GPA + 0x4000)
#define OPCODE(first, modrm) (((first)&7) << 8 | (modrm))

struct pair {
	struct guest_cpu *interp, *bt;
};

static void prepare(struct guest_cpu *g, bool translate)
{
	if (translate)
		guest_cpu_translate(g, false);
	g->pt[PAGE_GONE >> PAGE_SHIFT] = 0;
}

static int setup(void **state)
{
	struct pair *p = malloc(sizeof(*p));

	p->interp = guest_cpu_create(true);
	prepare(p->interp, false);
	p->bt = guest_cpu_create(true);
	prepare(p->bt, true);
	*state = p;
	return 0;
}

static int teardown(void **state)
{
	struct pair *p = *state;

	guest_cpu_destroy(p->bt);
	guest_cpu_destroy(p->interp);
	free(p);
	return 0;
}

/* The same start each time, but that n differs: RBX data, RDI room to save state, R10 index. */
static void start(struct guest_cpu *g, unsigned n)
{
	struct cpu *c = g->cpu;
	const double numbers[] = {1.5 + n, -0.3, 1e300, 7.0};
	const uint64_t gone = PAGE_GONE;

	for (unsigned r = RAX; r <= R15; r++)
		c->gpr[r] = r + n;
	c->gpr[RSP] = STACK_TOP;
	c->gpr[RBX] = DATA_GPA;
	c->gpr[RDI] = SAVE_GPA;
	c->gpr[R10] = 2;
	c->seg[SEG_FS].base = FS_BASE;
	c->cr0 = CR0_PE | CR0_PG | CR0_WP | CR0_NE | CR0_MP;
	c->cr4 |= CR4_OSFXSR | CR4_OSXSAVE;
	c->xcr0 = 7;
	c->rip = CODE_GPA;
	c->exc_pending = false;
	c->event = 0;
	vec_reset(&c->vec);
	c->vec.fx[0] = 0x7f;
	c->vec.fx[1] = 0x03;
	c->vec.fx[FX_FTW] = 0;
	memset(g->ram + DATA_GPA, 0, 0x2000);
	memcpy(g->ram + DATA_GPA, numbers, sizeof(numbers));
	memcpy(g->ram + DATA_GPA + 0x58, &gone, sizeof(gone));
	memcpy(g->ram + FS_BASE, numbers, sizeof(numbers));
}

static void compare(const struct pair *p)
{
	const struct cpu *i = p->interp->cpu, *b = p->bt->cpu;

	assert_int_equal(i->exc.vector, b->exc.vector);
	assert_int_equal(i->rip, b->rip);
	assert_memory_equal(i->gpr, b->gpr, 16 * 8);
	assert_memory_equal(i->vec.fx, b->vec.fx, FX_MXCSR);
	for (unsigned n = 0; n < 8; n++)
		assert_memory_equal(i->vec.fx + FX_ST + 16 * n, b->vec.fx + FX_ST + 16 * n, 10);
	assert_memory_equal(i->vec.ymm, b->vec.ymm, sizeof(i->vec.ymm));
	assert_int_equal(i->vec.mxcsr, b->vec.mxcsr);
	assert_memory_equal(p->interp->ram + DATA_GPA, p->bt->ram + DATA_GPA, 0x2000);
}

/* Runs the code at CODE_GPA several times on both, until the exception that it ends by. */
static void run(const struct pair *p, uint8_t vector)
{
	struct guest_cpu *both[] = {p->interp, p->bt};

	p->bt->cpu->bt.x87_page = 0;
	for (unsigned n = 0; n < RUNS; n++) {
		for (unsigned k = 0; k < 2; k++) {
			start(both[k], n);
			assert_int_equal(guest_cpu_run(both[k], MAX_INSNS, false),
					 INTERP_EXCEPTION);
			assert_int_equal(both[k]->cpu->exc.vector, vector);
		}
		compare(p);
	}
	/* Set when the state was loaded into the host's registers, and never to zero then. */
	assert_int_equal(p->bt->cpu->bt.x87_page, CODE_GPA);
}

#define LOAD(p, name)                                        \
	do {                                                 \
		guest_cpu_load((p)->interp, CODE_GPA, name); \
		guest_cpu_load((p)->bt, CODE_GPA, name);     \
	} while (0)

static uint64_t field(const struct pair *p, unsigned off, unsigned len)
{
	uint64_t v = 0;

	memcpy(&v, p->bt->cpu->vec.fx + off, len);
	return v;
}

static void assert_pointers(const struct pair *p, uint16_t fop, unsigned off, uint64_t fdp)
{
	assert_int_equal(field(p, FX_FOP, 2), fop);
	assert_int_equal(field(p, FX_FIP, 8), CODE_GPA + off);
	assert_int_equal(field(p, FX_FDP, 8), fdp);
}

/* --- pointers ------------------------------------------------------------------------------ */

CODE(last, "fldl 8(%rbx); fldl (%rbx,%r10,8); fmul %st(1); fstps 0x40(%rbx); fxch\n"
	   ".globl last_at\nlast_at: fld1; fnstsw 0x50(%rbx); fnop; fincstp; fwait; ud2")
extern const uint8_t last_at[];

/* What only controls leaves them alone. */
static void test_last_instruction(void **state)
{
	struct pair *p = *state;

	LOAD(p, last);
	run(p, EXC_UD);
	assert_pointers(p, OPCODE(0xd9, 0xe8), last_at - last_code, DATA_GPA + 0x40);
}

CODE(prefixed, "fldl 1f(%rip)\n"
	       ".globl prefixed_at\nprefixed_at: fadds %fs:0x10; ud2; .balign 8\n1: .double 2.5")
extern const uint8_t prefixed_at[];

/* The operand's offset is without the segment's base; the instruction starts with its prefixes. */
static void test_segment_offset(void **state)
{
	struct pair *p = *state;

	LOAD(p, prefixed);
	run(p, EXC_UD);
	assert_pointers(p, OPCODE(0xd8, 0x04), prefixed_at - prefixed_code, 0x10);
}

CODE(faulting, "fldl (%rbx)\n"
	       ".globl faulting_at\nfaulting_at: fdivl 8(%rbx); mov 0x58(%rbx), %rdx\n"
	       "fldl (%rdx); fld1; ud2")
extern const uint8_t faulting_at[];

/* A fault leaves those of the instruction before; its address is known only behind that. */
static void test_pointers_at_fault(void **state)
{
	struct pair *p = *state;

	LOAD(p, faulting);
	run(p, EXC_PF);
	assert_pointers(p, OPCODE(0xdc, 0x73), faulting_at - faulting_code, DATA_GPA + 8);
}

/* Every way to see them between instructions; reading CR0 is handed over, and ends nothing. */
CODE(seen, "fldl (%rbx); fnstenv (%rdi); fsqrt; fnstenv 0x20(%rdi); fldcw 2f(%rip)\n"
	   "fmull 0x10(%rbx); mov %cr0, %rax\n"
	   "fnstenv 0x40(%rdi); fldpi; fnsave 0x60(%rdi); fldl 8(%rbx); fxsave64 0x200(%rdi)\n"
	   "fldenv (%rdi); fnstenv 0x400(%rdi); fld1; fxrstor64 0x200(%rdi); fxsave64 0x600(%rdi)\n"
	   "ud2; .balign 4\n2: .word 0xb7f")

static void test_environment(void **state)
{
	struct pair *p = *state;

	LOAD(p, seen);
	run(p, EXC_UD);
}

/* A side exit, a loop and another page between instruction and look. */
CODE(far_look,
     "mov $5, %ecx; fldz\n1: fld1; faddp; dec %ecx; jnz 1b; test %esi, %esi; jz 2f\n"
     ".globl far_look_at\nfar_look_at: fchs; jmp 3f\n2: ud2; .org far_look_code + 4096\n3: ud2")
extern const uint8_t far_look_at[];

static void test_pointers_across_pages(void **state)
{
	struct pair *p = *state;

	LOAD(p, far_look);
	run(p, EXC_UD);
	assert_int_equal(p->bt->cpu->rip >> PAGE_SHIFT, (CODE_GPA >> PAGE_SHIFT) + 1);
	assert_pointers(p, OPCODE(0xd9, 0xe0), far_look_at - far_look_code, 0);
}

/* The branch out comes between two that set them: rarely taken, so that both are in one unit. */
CODE(side_exit, "mov $9, %ecx; fldpi\n"
		"1: .globl side_exit_at\nside_exit_at: fchs; dec %ecx; jz 2f; fabs; jmp 1b\n2: ud2")
extern const uint8_t side_exit_at[];

static void test_pointers_at_side_exit(void **state)
{
	struct pair *p = *state;

	LOAD(p, side_exit);
	run(p, EXC_UD);
	assert_pointers(p, OPCODE(0xd9, 0xe0), side_exit_at - side_exit_code, 0);
}

/* --- other contexts ------------------------------------------------------------------------ */

/* Two contexts in turn: each has its own stack, control word and pointers. */
CODE(switched,
     "fldl (%rbx); fld1; fxsave64 (%rdi); fninit; fldpi; fldcw 9f(%rip); fxsave64 0x200(%rdi)\n"
     "mov $6, %ecx\n"
     "1: fxrstor64 (%rdi); faddl 8(%rbx); fxsave64 (%rdi)\n"
     "fxrstor64 0x200(%rdi); fmull 0x18(%rbx); fld %st(0); fistpll 0x80(%rbx)\n"
     "fxsave64 0x200(%rdi); dec %ecx; jnz 1b\n"
     "ud2; .balign 4\n9: .word 0xf7f")

static void test_fxsave_contexts(void **state)
{
	struct pair *p = *state;

	LOAD(p, switched);
	run(p, EXC_UD);
}

CODE(xswitched, "xor %edx, %edx; fldl (%rbx); movsd (%rbx), %xmm1; mov $7, %eax; xsave64 (%rdi)\n"
		"fldpi; cvtsi2sd %ebx, %xmm1; xsave64 0x400(%rdi); mov $6, %ecx\n"
		"1: xrstor64 (%rdi); fsqrt; addsd %xmm1, %xmm1; xsave64 (%rdi)\n"
		"xrstor64 0x400(%rdi); faddl 8(%rbx); mulsd %xmm1, %xmm1; xsave64 0x400(%rdi)\n"
		"dec %ecx; jnz 1b; ud2")

/* With vector registers live, too. */
static void test_xsave_contexts(void **state)
{
	struct pair *p = *state;

	LOAD(p, xswitched);
	run(p, EXC_UD);
}

CODE(mmx, "movq (%rbx), %mm0; movq 8(%rbx), %mm7; paddd %mm7, %mm0; movd %r10d, %mm1\n"
	  "psllq %mm1, %mm7; pmovmskb %mm7, %r11d; cvtps2pd (%rbx), %xmm3; movq2dq %mm0, %xmm4\n"
	  "cvtpi2ps %mm7, %xmm5; movdq2q %xmm3, %mm2; pshufb %mm0, %mm2; movq %mm2, 0x40(%rbx)\n"
	  "fxsave64 (%rdi); emms; fldl (%rbx); movq %mm7, %mm3; ud2")

static void test_mmx(void **state)
{
	struct pair *p = *state;

	LOAD(p, mmx);
	run(p, EXC_UD);
	/* TOP is 0 and all registers are in use. */
	assert_int_equal(field(p, FX_FSW, 2) & FSW_TOP, 0);
	assert_int_equal(field(p, FX_FTW, 1), 0xff);
}

/* --- exceptions ---------------------------------------------------------------------------- */

CODE(switch_off, "fldl (%rbx); fld1; mov %cr0, %rax; or $8, %rax; mov %rax, %cr0\n"
		 ".globl switch_off_at\nswitch_off_at: faddp; ud2")
extern const uint8_t switch_off_at[];

static void test_task_switched(void **state)
{
	struct pair *p = *state;

	LOAD(p, switch_off);
	run(p, EXC_NM);
	assert_int_equal(p->bt->cpu->rip, CODE_GPA + (switch_off_at - switch_off_code));
}

CODE(unmask, "fldl (%rbx); fldz; fnstcw (%rdi); fldcw (%rdi); fldcw 1f(%rip); fdivr %st(1)\n"
	     "mov $1, %eax; fnstsw %ax\n"
	     ".globl unmask_at\nunmask_at: fld1; ud2; .balign 4\n1: .word 0x37b")
extern const uint8_t unmask_at[];

/* A division by zero stays pending until the next instruction that waits. */
static void test_unmasked(void **state)
{
	struct pair *p = *state;

	LOAD(p, unmask);
	run(p, EXC_MF);
	assert_int_equal(p->bt->cpu->rip, CODE_GPA + (unmask_at - unmask_code));
	assert_true(p->bt->cpu->gpr[RAX] & FSW_ES);
}

/*
 * In one unit with a single check of memory: the word unmasks division by zero, which RAX and the
 * pointers tell of, with flags that matter on both sides.
 */
CODE(unmask_in,
     "movw $0x37b, 0x20(%rbx); mov $0x1234, %eax; stc; fldl (%rbx); fldz; fldcw 0x20(%rbx)\n"
     ".globl unmask_in_by\nunmask_in_by: fdivr %st(1); adc $0, %eax\n"
     ".globl unmask_in_at\nunmask_in_at: faddl 8(%rbx); ud2")
extern const uint8_t unmask_in_by[], unmask_in_at[];

static void test_unmasked_in_unit(void **state)
{
	struct pair *p = *state;

	LOAD(p, unmask_in);
	run(p, EXC_MF);
	assert_int_equal(p->bt->cpu->rip, CODE_GPA + (unmask_in_at - unmask_in_code));
	assert_int_equal(p->bt->cpu->gpr[RAX], 0x1235);
	assert_pointers(p, OPCODE(0xd8, 0xf9), unmask_in_by - unmask_in_code, DATA_GPA);
}

/* The same by an instruction that is handed over, and ends nothing. */
CODE(unmask_env, "fldl (%rbx); fldz; fnstenv (%rdi); movb $0x7b, (%rdi); fldenv (%rdi)\n"
		 "fdivr %st(1)\n"
		 ".globl unmask_env_at\nunmask_env_at: fld1; ud2")
extern const uint8_t unmask_env_at[];

static void test_unmasked_by_handler(void **state)
{
	struct pair *p = *state;

	LOAD(p, unmask_env);
	run(p, EXC_MF);
	assert_int_equal(p->bt->cpu->rip, CODE_GPA + (unmask_env_at - unmask_env_code));
}

/* A masked exception only sets its flag, and the comparison's results are in the CPU's flags. */
CODE(masked,
     "fldz; fld1; fdivp; fldl 0x10(%rbx); fmul %st(0), %st; fsqrt; fcomi %st(1), %st\n"
     "setb %cl; setp %ch; fcmovb %st(1), %st; fnstsw %ax; stc; fldcw 1f(%rip); adc $0, %edx\n"
     "fistl 0x40(%rbx); fistpll 0x48(%rbx); fldt (%rbx); fbstp 0x60(%rbx); ud2\n"
     ".balign 4\n1: .word 0xe7f")

static void test_masked(void **state)
{
	struct pair *p = *state;

	LOAD(p, masked);
	run(p, EXC_UD);
	assert_int_equal(p->bt->cpu->gpr[RAX] & X87_EXCEPTIONS & 4, 4);
}

#define TEST(fn) cmocka_unit_test_setup_teardown(fn, setup, teardown)

int main(void)
{
	const struct CMUnitTest tests[] = {
		TEST(test_last_instruction),
		TEST(test_segment_offset),
		TEST(test_pointers_at_fault),
		TEST(test_environment),
		TEST(test_pointers_across_pages),
		TEST(test_fxsave_contexts),
		TEST(test_xsave_contexts),
		TEST(test_mmx),
		TEST(test_task_switched),
		TEST(test_unmasked),
		TEST(test_masked),
		TEST(test_unmasked_in_unit),
		TEST(test_unmasked_by_handler),
		TEST(test_pointers_at_side_exit),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
