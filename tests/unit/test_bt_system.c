/*
 * System instructions in compiled code.
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>

#include "src/base/atomic.h"
#include "tests/unit/bt_scenario.h"

/* --- SYSCALL, SYSRET ------------------------------------------------------------------------ */

CODE(user, "1: add %eax, %ebx; call 2f; adc %r8d, %r9d; pushfq; pop %r8; xor %r8, %r9\n"
	   "dec %r12d; jnz 1b; pushfq; pop %rsi; ud2\n"
	   "2: cmp %eax, %ebx; syscall; sbb %edx, %eax; ret")
CODE(kernel, "add %r11, %r13; xor %rcx, %r14; lea 1(%rbx), %ebx; call 1f; sysretq\n"
	     "1: mov %cs, %ebp; add %rbp, %r15; mov %ss, %ebp; add %rbp, %r15; ret")

static void any_mode(struct guest_cpu *g, unsigned round)
{
	static const uint64_t masks[] = {0, ~0ull, FLAG_CF | FLAG_OF, 0x257fd5, FLAG_ZF | FLAG_IF};
	static const uint64_t stars[] = {0x0018000800000000ull, 0xfff7fffc00000000ull,
					 0x0023001000000000ull};
	struct cpu *c = g->cpu;

	set_cpl(c, round & 2 ? 3 : 0);
	c->sfmask = masks[round % 5];
	c->star = stars[round % 3];
	if (round & 8)
		c->rflags |= FLAG_AC | FLAG_ID;
	if (round & 16)
		c->cr0 |= CR0_AM;
}
SCENARIO(syscall, user, any_mode, KERNEL(kernel))

static void disabled(struct guest_cpu *g, unsigned round)
{
	any_mode(g, round);
	if (round % 3 == 0)
		g->cpu->efer &= ~(uint64_t)EFER_SCE;
}
SCENARIO(syscall_disabled, user, disabled, KERNEL(kernel))

CODE(stepping, "sub $1, %r12d; jns 1f; or $0x100, %r11d; 1: sysretq")
SCENARIO(sysret_stepping, user, any_mode, KERNEL(stepping))

/* At last the kernel returns to where user code would: that then has the kernel's rights. */
CODE(user_calls, "mov %rdi, %rbx; 1: call 2f; mov (%rbx), %rdx; mov %cs, %eax; mov %rax, (%rdi)\n"
		 "test $3, %al; jnz 1b; mov %cr0, %rbp; ud2; 2: inc %r9d; syscall; ret")
CODE(kernel_returns, "lea 0x1000(%rdi), %rax; dec %r12d; cmovz %rax, %rbx; jz 1f; sysretq; 1: ret")

static void kernel_page(struct guest_cpu *g, unsigned round)
{
	any_mode(g, round);
	g->pt[(DATA_GPA >> PAGE_SHIFT) + 1] &= ~(uint64_t)PTE_U;
}
SCENARIO(return_across, user_calls, kernel_page, KERNEL(kernel_returns))

/*
 * The kernel drops all expected returns, and RAX, which is stored where the last one was, looks
 * like it.
 */
CODE(user_waits, "lea 3f(%rip), %r13; neg %r13; 1: call 2f; 3: dec %r12d; jnz 1b; ud2\n"
		 "2: syscall; ret")
CODE(kernel_drops, "lea 1f(%rip), %rax; push %rax; ret; 1: mov %r13, %rax; mov %rax, %r8; sysretq")
SCENARIO(returns_dropped, user_waits, any_mode, KERNEL(kernel_drops))

/* The kernel turns alignment checks on and off; at last an access in the caller is not aligned. */
CODE(user_aligns, "mov %rdi, %rdx; 1: call 2f; mov (%rdx), %rax; add %rax, %rbx; jmp 1b\n"
		  "2: syscall; ret")
CODE(kernel_aligns, "xor $0x40000, %r11d; lea 1(%rdi), %rbp; dec %r12d; cmovz %rbp, %rdx; sysretq")

static void may_align(struct guest_cpu *g, unsigned round)
{
	set_cpl(g->cpu, 3);
	g->cpu->cr0 |= CR0_AM;
	g->cpu->gpr[R12] = 9;
}
SCENARIO(alignment, user_aligns, may_align, KERNEL(kernel_aligns))

/* More returns in the kernel than calls, and then a SYSRET: user code's own are still right. */
CODE(user_deep, "1: call 2f; inc %ebx; dec %r12d; jnz 1b; pushfq; pop %rsi; ud2\n"
		"2: call 3f; inc %edx; ret; 3: inc %r9d; syscall; add %eax, %ebp; ret")
CODE(kernel_deep,
     "mov %rcx, %r8; lea 2f(%rip), %rax; push %rax; lea 1f(%rip), %rax; push %rax; ret\n"
     "1: test $1, %r12d; jz 3f; ret; 3: pop %rax; 2: mov %r8, %rcx; sysretq")
SCENARIO(returns_outlive, user_deep, any_mode, KERNEL(kernel_deep))

/*
 * The kernel drops its own calls and returns to where user code would: no further than to what it
 * called itself is looked. What is there then has the kernel's rights.
 */
CODE(kernel_skips, "lea 0x1000(%rdi), %rax; dec %r12d; cmovz %rax, %rbx; jz 1f; sysretq\n"
		   "1: call 2f; 2: call 3f; 3: lea 16(%rsp), %rsp; ret")
SCENARIO(skips_to_user, user_calls, kernel_page, KERNEL(kernel_skips))

/* The interpreter takes a PAUSE over deep in a system call: the returns of both are still there. */
CODE(kernel_pauses, "call 1f; inc %r10d; sysretq; 1: call 2f; inc %r13d; ret; 2: pause; ret")
SCENARIO(pause_in_kernel, user_deep, kernel_page, KERNEL(kernel_pauses))

/* ... or they lie too deep. */
CODE(kernel_nests, "mov $40, %r8d; call 1f; inc %r10d; sysretq\n"
		   "1: dec %r8d; jz 2f; call 1b; inc %r13d; ret; 2: pause; ret")
SCENARIO(pause_deep_in_kernel, user_deep, kernel_page, KERNEL(kernel_nests))

/* --- IRET ----------------------------------------------------------------------------------- */

/* Code and data of both levels, and two descriptors that scenarios choose. */
#define CODE0	0x08
#define DATA0	0x10
#define DATA3	0x1b
#define CODE3	0x23
#define OTHER	0x28
#define OTHER3	0x2b
#define ANOTHER 0x30

#define DESC_CODE64	0x00af9b000000ffffull
#define DESC_DATA	0x00cf93000000ffffull
#define DESC_CODE32	0x00cf9b000000ffffull
#define DESC_DPL(n)	((uint64_t)(n) << 45)
#define DESC_ACCESSED	(1ull << 40)
#define DESC_RW		(1ull << 41)
#define DESC_CONFORMING (1ull << 42)
#define DESC_EXECUTABLE (1ull << 43)
#define DESC_PRESENT	(1ull << 47)
#define DESC_BASE	(0x123ull << 16)

/* In the data that is compared. */
static uint64_t *gdt(struct guest_cpu *g)
{
	uint64_t *t = (uint64_t *)(g->ram + DATA_GPA);

	memset(t, 0, 64);
	t[CODE0 / 8] = DESC_CODE64;
	t[DATA0 / 8] = DESC_DATA;
	t[DATA3 / 8] = DESC_DATA | DESC_DPL(3);
	t[CODE3 / 8] = DESC_CODE64 | DESC_DPL(3);
	/* Beyond the limit. */
	t[8] = DESC_CODE64;
	t[9] = DESC_DATA;
	g->cpu->gdtr = (struct dtable){.base = DATA_GPA, .limit = 63};
	return t;
}

/* What the kernel's code expects of returns is not what user code may find that it goes to by hand.
 */
CODE(far_out,
     "call 1f; mov %cr0, %rbp; ud2\n"
     "1: mov %rsp, %rax; push $0x1b; push %rax; push $0x23; lea 2f(%rip), %rdx; push %rdx\n"
     "lretq; 2: inc %ebx; ret")

static void outward(struct guest_cpu *g, unsigned round)
{
	gdt(g);
}
SCENARIO(far_out, far_out, outward)

/* To label 2 with RSP in RBP, and back to label 1 by SYSCALL. */
CODE(iret, "1: mov %rsp, %r15; mov (%rdi), %rax; push %r9; push %rbp; push %r13; push %r8; lea "
	   "2f(%rip), %rax\n"
	   "push %rax; lea (%rbx, %rdx), %rbx; iretq\n"
	   "2: pushfq; pop %rsi; add %rsi, %r10; mov %cs, %eax; add %rax, %rdx; mov %ss, %eax\n"
	   "add %rax, %rdx; add %rsp, %rdx; dec %r12d; jz 3f; syscall; 3: ud2")
CODE(to_iret, "mov %r15, %rsp; mov $0x10000, %eax; jmp *%rax")

static void iret_frame(struct guest_cpu *g, uint64_t cs, uint64_t flags, uint64_t rsp, uint64_t ss)
{
	struct cpu *c = g->cpu;

	c->gpr[R8] = cs;
	c->gpr[R13] = flags;
	c->gpr[RBP] = rsp;
	c->gpr[R9] = ss;
}

static const uint32_t iret_values[] = {
	FLAG_ONE,
	FLAGS_ARITH | FLAG_IF,
	FLAG_AC | FLAG_ID | FLAG_CF,
	FLAG_DF | FLAG_RF | FLAG_IOPL | FLAG_OF,
	FLAG_RF | FLAG_IF,
	FLAG_NT | FLAG_ZF,
	FLAG_TF | FLAG_SF,
	~0u & ~(FLAG_TF | FLAG_NT),
};

static void any_iret(struct guest_cpu *g, unsigned round)
{
	struct cpu *c = g->cpu;
	bool user = round & 8;
	uint64_t ss = user ? DATA3 : round & 16 ? 0 : DATA0;

	gdt(g);
	/* What the selectors have above 16 bits does not count. */
	iret_frame(g, 0xabcd0000ull | (user ? CODE3 : CODE0), iret_values[round % 8],
		   STACK_TOP - 0x100 + round % 3, round & 32 ? ss | ~0xffffull : ss);
	for (unsigned s = SEG_DS; s <= SEG_GS; s++)
		if (round % 3 == s % 3)
			c->seg[s].attr |= SEG_DPL;
	if (round % 5 == 1)
		c->cr0 |= CR0_AM;
	if (round % 5 == 2)
		c->cr4 |= CR4_SMAP;
}
SCENARIO(iret, iret, any_iret, KERNEL(to_iret))

/*
 * Selectors and descriptors of all kinds; the target only stops. The table is read before, for what
 * the TLB has not is left to the handler.
 */
CODE(iret_once, "mov (%rdi), %rsi; push %r9; push %rbp; push %r13; push %r8; push %rbx; add %eax, "
		"%eax; iretq; ud2")
#define IRET_ONCE_END (CODE_GPA + (uint32_t)(iret_once_end - iret_once_code) - 2)

struct odd_iret {
	uint64_t other, another; /* descriptors */
	uint16_t cs, ss;
};

static const struct odd_iret odd_irets[] = {
	{0, 0, CODE0, DATA0},
	{0, 0, 0, DATA0},
	{0, 0, 3, DATA0},
	{0, 0, CODE0 | 4, DATA0},
	{0, 0, 0x40, DATA0},
	{DESC_CODE64 & ~DESC_PRESENT, 0, OTHER, DATA0},
	{DESC_CODE64 & ~DESC_ACCESSED, 0, OTHER, DATA0},
	{DESC_CODE64 | DESC_CONFORMING, 0, OTHER, DATA0},
	{DESC_CODE64 | DESC_CONFORMING, 0, OTHER3, DATA3},
	{DESC_CODE64 | DESC_DPL(3) | DESC_BASE, 0, OTHER3, DATA3},
	{DESC_CODE64 | 1ull << 54, 0, OTHER, DATA0},
	{DESC_CODE32, 0, OTHER, DATA0},
	{DESC_CODE32 | DESC_DPL(3), 0, OTHER3, DATA3},
	{DESC_CODE64 & ~(1ull << 44), 0, OTHER, DATA0},
	{DESC_CODE64 & ~DESC_EXECUTABLE, 0, OTHER, DATA0},
	{DESC_CODE64 | DESC_DPL(1), 0, OTHER | 1, 1},
	{DESC_CODE64 | DESC_DPL(1), DESC_DATA | DESC_DPL(1), OTHER | 1, ANOTHER | 1},
	{0, 0, CODE0 | 3, DATA3},
	{0, 0, CODE3 & ~3, DATA0},
	{0, 0, DATA0, DATA0},
	{0, 0, CODE3, 0},
	{0, 0, CODE3, 3},
	{0, 0, CODE0, 3},
	{0, 0, CODE0, DATA3},
	{0, 0, CODE3, DATA0},
	{0, 0, CODE3, CODE3},
	{0, 0, CODE0, DATA0 | 4},
	{0, 0, CODE0, 0x48},
	{0, DESC_DATA & ~DESC_PRESENT, CODE0, ANOTHER},
	{0, DESC_DATA & ~DESC_ACCESSED, CODE0, ANOTHER},
	{0, DESC_DATA & ~DESC_RW, CODE0, ANOTHER},
	{0, DESC_DATA | DESC_DPL(3), CODE0, ANOTHER},
	{0, DESC_DATA | DESC_DPL(3) | DESC_BASE, CODE3, ANOTHER | 3},
	{0, DESC_DATA & ~(1ull << 44), CODE0, ANOTHER},
};

static void odd_iret(struct guest_cpu *g, unsigned round)
{
	const struct odd_iret *o = &odd_irets[round % ARRAY_SIZE(odd_irets)];
	uint64_t *t = gdt(g);

	t[OTHER / 8] = o->other;
	t[ANOTHER / 8] = o->another;
	iret_frame(g, o->cs, FLAG_ONE | FLAG_CF | FLAG_IF, DATA_GPA + 8, o->ss);
	g->cpu->gpr[RBX] = IRET_ONCE_END;
}
SCENARIO(iret_odd, iret_once, odd_iret)

/* Where no frame, no descriptor and no target is. */
CODE(iret_at, "jmp 1f; ud2; 1: mov (%rdi), %rsi; mov %rbp, %rsp; iretq")
#define FRAME_GPA (DATA_GPA + 0x2000)

static void odd_frame(struct guest_cpu *g, unsigned round)
{
	static const uint64_t rips[] = {CODE_GPA + 2, 1ull << 47, ~0ull << 47, CODE_GPA + 2};
	uint64_t frame[] = {rips[round % 4], CODE0, FLAG_ONE, 1ull << 47, DATA0};
	unsigned off = round & 16 ? 0x1000 - 8 * (round % 6) : 8 * (round % 6);
	struct cpu *c = g->cpu;

	gdt(g);
	c->gpr[RBP] = FRAME_GPA + off;
	memcpy(g->ram + FRAME_GPA + off, frame, sizeof(frame));
	if (round & 4)
		g->pt[(FRAME_GPA >> PAGE_SHIFT) + 1] = 0;
	if (round % 8 == 3)
		g->pt[FRAME_GPA >> PAGE_SHIFT] = 0;
	if (round % 8 == 7) {
		g->pt[DATA_GPA >> PAGE_SHIFT] = 0;
		c->gpr[RDI] = CODE_GPA;
	}
	if (round & 8)
		c->rflags |= FLAG_NT;
	if (round % 16 == 5)
		c->gpr[RBP] = 1ull << 63;
}
SCENARIO(iret_frame, iret_at, odd_frame)

/* Interrupts that wait are taken at once, and NMIs are allowed again. */
static void waiting(struct guest_cpu *g, unsigned round)
{
	any_iret(g, round & ~7u);
	g->cpu->gpr[R13] = round & 2 ? FLAG_IF : 0;
	g->cpu->gpr[RBX] = IRET_ONCE_END;
	g->cpu->rflags &= ~FLAG_IF;
	g->cpu->nmi_blocked = round & 1;
	if (round & 4)
		g->cpu->event |= CPU_EVENT_WINDOW;
}
SCENARIO(iret_waiting, iret_once, waiting, .once = true)

/* From here on as SYSRET is tested above, with the kernel on the user's stack. */
#define IRET "mov %rsp, %rax; push $0x1b; push %rax; push %r11; push $0x23; push %rcx; iretq\n"

static void kernel_page_iret(struct guest_cpu *g, unsigned round)
{
	kernel_page(g, round);
	gdt(g);
	set_cpl(g->cpu, 3);
	/* User code stores to the data, where the table is. */
	g->cpu->gpr[RDI] = DATA_GPA + 64;
}
CODE(kernel_irets, "lea 0xfc0(%rdi), %rax; dec %r12d; cmovz %rax, %rbx; jz 1f\n" IRET "1: ret")
SCENARIO(iret_across, user_calls, kernel_page_iret, KERNEL(kernel_irets))

/* At last to where user code would go on, but as the kernel. */
CODE(irets_inward,
     "dec %r12d; jz 1f\n" IRET "1: lea 0xfc0(%rdi), %rbx; mov %rsp, %rax; push $0x10; push %rax\n"
     "push %r11; push $8; push %rcx; iretq")
SCENARIO(iret_inward, user_calls, kernel_page_iret, KERNEL(irets_inward))

/* The kernel leaves from within a call, and user code returns to where that would have. */
CODE(user_follows, "1: syscall; test %r12d, %r12d; jnz 1b; push %r13; ret")
CODE(leaves_in_call, "lea 2f(%rip), %r13; call 1f; 2: inc %r14d; mov %cr0, %rbp\n" IRET
		     "1: dec %r12d; jz 3f; ret; 3: " IRET)
SCENARIO(iret_in_call, user_follows, kernel_page_iret, KERNEL(leaves_in_call))

static void with_gdt(struct guest_cpu *g, unsigned round)
{
	any_mode(g, round);
	gdt(g);
}
CODE(iret_drops, "lea 1f(%rip), %rax; push %rax; ret; 1: " IRET)
CODE(user_compares,
     "lea 3f(%rip), %r13; 1: call 2f; 3: dec %r12d; jnz 1b; ud2\n"
     "2: cmp %eax, %ebx; syscall; adc %eax, %ebp; pushfq; pop %r8; add %r8, %r9; ret")
SCENARIO(iret_drops, user_compares, with_gdt, KERNEL(iret_drops))
CODE(iret_keeps, "lea 1(%rbx), %ebx; call 1f; " IRET "1: add %ecx, %r14d; ret")
SCENARIO(iret_keeps, user_deep, with_gdt, KERNEL(iret_keeps))

static void may_align_iret(struct guest_cpu *g, unsigned round)
{
	may_align(g, round);
	gdt(g);
}
CODE(iret_aligns, "xor $0x40000, %r11d; lea 1(%rdi), %rbp; dec %r12d; cmovz %rbp, %rdx\n" IRET)
SCENARIO(iret_alignment, user_aligns, may_align_iret, KERNEL(iret_aligns))

/* --- page faults ---------------------------------------------------------------------------- */

/* All that a delivery reads and stores lies in one page, which the code reads and stores to. */
#define FAULT_IDT   (DATA_GPA + 0x100)
#define FAULT_TSS   (DATA_GPA + 0x300)
#define FAULT_PAGE  (DATA_GPA + 0x1000)
#define FAULT_STACK (DATA_GPA + 0xc00) /* RSP0; the ISTs' are 64 bytes apart, above */
#define LAST_GPA    (KERNEL_GPA + 0x800)

/*
 * Each access that may fault is followed by the label that RBP holds, where the handler goes on.
 * Those that are reached through calls have expected returns around them. Behind one that would
 * have set flags they are set anew: before it they were dead.
 */
CODE(faults,
     "mov (%r14), %rax; mov %rax, (%r14); movaps %xmm0, %xmm1\n"
     "1: lea 2f(%rip), %rbp; add %eax, %ebx; mov %eax, (%rdi); 2: adc %ecx, %edx\n"
     "lea 3f(%rip), %rbp; add 24(%rdi), %rax; 3: call 7f; lea 4f(%rip), %rbp; addl $5, -8(%rdi)\n"
     "4: lea 5f(%rip), %rbp; mov 4(%rdi), %ecx; mov %ecx, 40(%rdi); 5: lea 6f(%rip), %rbp\n"
     "movups %xmm1, 3(%rdi); 6: lea 8f(%rip), %rbp; call *-8(%rdi); 8: sub $1, %r13d; jnz 1b; hlt\n"
     "7: lea 9f(%rip), %rbp; push %rbx; push %rsi; cmp 16(%rdi, %r8), %rdx; 9: pop %rsi; pop %rax\n"
     "add %eax, %ebx; ret")

/* Sums up what it sees, but for arithmetic flags, which may be dead. */
CODE(on_fault,
     "pop %r9; add %r9, %r10; mov %cr2, %r9; add %r9, %r10; rol $7, %r10; add (%rsp), %r10\n"
     "rol $7, %r10; add 8(%rsp), %r10; mov 16(%rsp), %r9; and $~0x8d5, %r9; add %r9, %r10\n"
     "rol $7, %r10; add 24(%rsp), %r10; add 32(%rsp), %r10; add %rsp, %r10; pushfq; pop %r9\n"
     "and $~0x8d5, %r9; rol $7, %r10; add %r9, %r10; mov %cs, %r9d; add %r9, %r10; mov %ss, %r9d\n"
     "add %r9, %r10; dec %r12d; jz 1f; mov %rbp, (%rsp); iretq; 1: hlt")
CODE(on_other,
     "cmp %rsp, %rsp; mov (%rsp), %r8; mov 8(%rsp), %r9; mov 16(%rsp), %r11; mov %rsp, %rbp; hlt")

static void set_gate(struct guest_cpu *g, unsigned vector, uint64_t to, uint64_t rest)
{
	uint64_t *gate = (uint64_t *)(g->ram + FAULT_IDT + 16 * vector);

	gate[0] = (to & 0xffff) | (to & 0xffff0000) << 32 | rest;
	gate[1] = to >> 32;
}

#define GATE(type, sel, ist) \
	((uint64_t)(type) << 40 | (uint64_t)(ist) << 32 | (uint64_t)(sel) << 16)
#define INTERRUPT_GATE 0x8e
#define TRAP_GATE      0x8f

static void fault_tables(struct guest_cpu *g)
{
	struct cpu *c = g->cpu;
	uint8_t *tss = g->ram + FAULT_TSS;

	gdt(g);
	/* A check for loads and stores need not wait for the first store. */
	for (unsigned n = 0; n < RAM_SIZE / PAGE_SIZE; n++)
		g->pt[n] |= PTE_A | PTE_D;
	memset(g->ram + FAULT_IDT, 0, 512);
	for (unsigned v = EXC_DF; v <= EXC_AC; v++)
		set_gate(g, v, LAST_GPA, GATE(INTERRUPT_GATE, CODE0, 7));
	set_gate(g, EXC_PF, KERNEL_GPA, GATE(INTERRUPT_GATE, CODE0, 0));
	c->idtr = (struct dtable){.base = FAULT_IDT, .limit = 511};
	for (unsigned n = 0; n < 8; n++)
		memcpy(tss + (n ? 0x24 + 8 * (n - 1) : 4), &(uint64_t){FAULT_STACK + 64 * n}, 8);
	c->seg[SEG_TR] = (struct seg){.base = FAULT_TSS, .limit = 0x67, .attr = SEG_P | 0xb};
	memcpy(g->ram + LAST_GPA, on_other_code, on_other_end - on_other_code);
}

static void faulting(struct guest_cpu *g, unsigned round)
{
	struct cpu *c = g->cpu;
	uint64_t *pte = &g->pt[FAULT_PAGE >> PAGE_SHIFT];

	fault_tables(g);
	set_cpl(c, round & 1 ? 3 : 0);
	if (c->cpl) {
		c->seg[SEG_CS].sel = CODE3;
		c->seg[SEG_SS].sel = DATA3;
	}
	c->cr4 |= CR4_OSFXSR;
	c->vec.mxcsr = MXCSR_INIT;
	/* Below what is compared: there are frames. */
	c->gpr[RSP] = STACK_TOP - 0x400;
	c->gpr[R14] = DATA_GPA + 0x800;
	c->gpr[RDI] = FAULT_PAGE + 0x100;
	c->gpr[R8] = 0;
	c->gpr[R10] = 0;
	c->gpr[R12] = 100;
	c->gpr[R13] = 4;
	memset(g->ram + FAULT_PAGE, 0, PAGE_SIZE);
	*(uint64_t *)(g->ram + FAULT_PAGE + 0x100 - 8) = 1ull << 47;
	switch (round / 2 % 6) {
	case 0: *pte &= ~(uint64_t)PTE_P; break;
	case 1: *pte &= ~(uint64_t)PTE_W; break;
	case 2: *pte |= 1ull << 51; break;
	case 3: *pte &= ~(uint64_t)PTE_U; break;
	case 4: c->gpr[RDI] = FAULT_PAGE; break;
	case 5:
		g->pt[(FAULT_PAGE >> PAGE_SHIFT) + 1] = 0;
		c->gpr[RDI] = FAULT_PAGE + 0xffe;
		break;
	}
	if (round % 5 == 1)
		c->rflags |= FLAG_AC | FLAG_NT | FLAG_DF;
	if (round % 5 == 2)
		c->rflags |= FLAG_AC, c->cr0 |= CR0_AM;
	if (round % 7 == 3)
		c->gpr[R12] = 3;
}
SCENARIO(faults, faults, faulting, KERNEL(on_fault), .deliver = true)

/* Deliveries that are not the common ones. All that they need is in the TLB. */
CODE(fault_once, "push %rax; mov (%r14), %rax; mov %rax, (%r14); movaps %xmm0, %xmm1; pop %rax\n"
		 "lea 2f(%rip), %rbp; mov (%rdi), %eax; 2: cmp %eax, %ebx; lea 3f(%rip), %rbp\n"
		 "mov %ecx, 16(%rdi); 3: cmp %eax, %ebx; hlt")

static void odd_delivery(struct guest_cpu *g, unsigned round)
{
	struct cpu *c = g->cpu;
	uint64_t *t, to = KERNEL_GPA;
	unsigned type = INTERRUPT_GATE, sel = CODE0, ist = 0;

	faulting(g, round & 1);
	t = (uint64_t *)(g->ram + DATA_GPA);
	switch (round / 2) {
	case 0: type = TRAP_GATE; break;
	case 1: ist = 3; break;
	case 2: type = 0x0e; break;
	case 3: type = 0x8c; break;
	case 4: type = 0x9e; break;
	case 5: sel = 0; break;
	case 6: sel = CODE3; break;
	case 7: sel = CODE0 | 3; break;
	case 8: sel = DATA0; break;
	case 9: sel = OTHER, t[OTHER / 8] = DESC_CODE64 | DESC_CONFORMING; break;
	case 10: sel = OTHER, t[OTHER / 8] = DESC_CODE64 & ~DESC_ACCESSED; break;
	case 11: sel = OTHER, t[OTHER / 8] = DESC_CODE32; break;
	case 12: sel = OTHER, t[OTHER / 8] = DESC_CODE64 & ~DESC_PRESENT; break;
	case 13: sel = OTHER, t[OTHER / 8] = DESC_CODE64 | DESC_DPL(1); break;
	case 14: to = 1ull << 47; break;
	case 15: c->idtr.limit = 16 * EXC_PF + 14; break;
	case 16: c->seg[SEG_TR].limit = 4 + 6; break;
	case 17: ist = 1, c->seg[SEG_TR].limit = 0x24 + 6; break;
	case 18: memcpy(g->ram + FAULT_TSS + 4, &(uint64_t){FAULT_PAGE + 32}, 8); break;
	case 19: memcpy(g->ram + FAULT_TSS + 4, &(uint64_t){FAULT_STACK + 7}, 8); break;
	case 20: memcpy(g->ram + FAULT_TSS + 4, &(uint64_t){1ull << 63}, 8); break;
	case 21: c->event |= CPU_EVENT_WINDOW; break;
	case 22: c->gpr[RSP] -= 5; break;
	case 23: c->cr4 |= CR4_SMAP, c->rflags |= FLAG_AC; break;
	case 24: c->gpr[RDI] = 1ull << 47; break;
	case 25: c->gpr[RDI]++, c->cr0 |= CR0_AM, c->rflags |= FLAG_AC; break;
	}
	set_gate(g, EXC_PF, to, GATE(type, sel, ist));
}
SCENARIO(fault_odd, fault_once, odd_delivery, KERNEL(on_fault), .deliver = true)

/* At last the handler returns to where user code would: that then has the kernel's rights. */
CODE(user_faults, "mov %rdi, %rbx; sub $0x1100, %rbx; 1: call 2f; mov (%rbx), %rdx; mov %cs, %eax\n"
		  "test $3, %al; jnz 1b; hlt\n"
		  "2: lea 4f(%rip), %rbp; mov (%rdi), %eax; 4: cmp %eax, %ebx; ret")
CODE(fault_returns,
     "add $8, %rsp; dec %r12d; jz 1f; mov %rbp, (%rsp); iretq\n"
     "1: lea -0x2100(%rdi), %rbx; mov 24(%rsp), %rax; mov (%rax), %rax; push %rax; ret")

static void fault_kernel_page(struct guest_cpu *g, unsigned round)
{
	faulting(g, 1);
	set_gate(g, EXC_PF, KERNEL_GPA, GATE(INTERRUPT_GATE, CODE0, 0));
	g->pt[(DATA_GPA >> PAGE_SHIFT) - 1] &= ~(uint64_t)PTE_U;
	g->cpu->gpr[R12] = 3 + round % 5;
}
SCENARIO(fault_across, user_faults, fault_kernel_page, KERNEL(fault_returns), .deliver = true)

/* The same from CPL 1, where POPF leaves IF alone, when the call has returned before. */
CODE(ring1_faults, "1: call 2f; push $0x202; popfq; mov %cs, %eax; test $3, %al; jnz 1b; hlt\n"
		   "2: dec %r13d; js 5f; ret\n"
		   "5: lea 4f(%rip), %rbp; mov (%rdi), %eax; 4: cmp %eax, %ebx; ret")

static void ring1(struct guest_cpu *g, unsigned round)
{
	struct cpu *c = g->cpu;
	uint64_t *t = (uint64_t *)(g->ram + DATA_GPA);

	fault_kernel_page(g, round);
	set_cpl(c, 1);
	t[OTHER / 8] = DESC_CODE64 | DESC_DPL(1);
	t[ANOTHER / 8] = DESC_DATA | DESC_DPL(1);
	c->seg[SEG_CS].sel = OTHER | 1;
	c->seg[SEG_SS].sel = ANOTHER | 1;
	c->rflags &= ~FLAG_IF;
}
SCENARIO(fault_ring1, ring1_faults, ring1, KERNEL(fault_returns), .deliver = true)

/* A table that has to be told of an access, with code in it, is no fault. */
CODE(code_in_table,
     "call *%r15; mov (%r14), %rax; mov %rax, (%r14); lea 2f(%rip), %rbp\n"
     "mov (%rdi), %eax; 2: cmp %eax, %ebx; call *%r15; dec %r13d; jnz 1f; hlt; 1: hlt")

static void table_code(struct guest_cpu *g, unsigned round)
{
	faulting(g, round & 1);
	g->pt[FAULT_PAGE >> PAGE_SHIFT] = FAULT_PAGE | PTE_P | PTE_U;
	g->pt[300] = 0xc3;
	g->cpu->gpr[R15] = TABLES_GPA + 0x3000 + 300 * 8;
	g->cpu->gpr[R13] = 1;
}
SCENARIO(fault_table, code_in_table, table_code, KERNEL(on_fault), .deliver = true)

/* The page of the operand is not there, or that of a bit far away. */
CODE(bit_faults, "mov (%r14), %rax; mov %rax, (%r14); 1: lea 2f(%rip), %rbp\n"
		 "2: add $0x8001, %rcx; sub $1, %r13d; jnz 1b; hlt")

static void faulting_bit(struct guest_cpu *g, unsigned round)
{
	faulting(g, round & 1);
	g->cpu->gpr[RCX] = round & 2 ? 3 : -0x8000 + (int64_t)round;
}
SCENARIO(fault_bit, bit_faults, faulting_bit, KERNEL(on_fault), .deliver = true)

/* --- STAC, CLAC ----------------------------------------------------------------------------- */

CODE(smap, "1: call 2f; mov (%rdi), %eax; call 4f; add %eax, %ebx; call 3f; pushfq; pop %rdx\n"
	   "call 5f; dec %r12d; jnz 1b; mov (%rdi), %eax; pushfq; pop %rsi; ud2\n"
	   "2: cmp %eax, %ebx; stac; adc %r8d, %r8d; ret\n"
	   "3: clac; ret\n"
	   "4: mov 8(%rdi), %rbp; clac; stac; ret\n"
	   "5: stac; call 6f; clac; ret; 6: add %ebx, 16(%rdi); ret")

static void smap_on(struct guest_cpu *g, unsigned round)
{
	struct cpu *c = g->cpu;

	for (unsigned n = 0; n < 512; n++)
		if (n != DATA_GPA >> PAGE_SHIFT)
			g->pt[n] &= ~(uint64_t)PTE_U;
	if (round % 4 != 3)
		c->cr4 |= CR4_SMAP;
	if (round & 8)
		c->rflags |= FLAG_AC;
}
SCENARIO(smap, smap, smap_on)

static void not_kernel(struct guest_cpu *g, unsigned round)
{
	set_cpl(g->cpu, round & 1 ? 3 : 0);
}
SCENARIO(stac_user, smap, not_kernel)

/* By turns the callee sets AC and its caller needs that. */
CODE(smap_turns, "lea 2f(%rip), %rdx; lea 3f(%rip), %rcx; mov $0x21000, %r8d\n"
		 "1: call *%rdx; mov (%r8), %ebx; clac; xchg %rdx, %rcx; xchg %rdi, %r8\n"
		 "dec %r12d; jnz 1b; mov (%rdi), %ebp; ud2\n"
		 "2: inc %r9d; ret; 3: inc %r9d; stac; ret")

static void turns(struct guest_cpu *g, unsigned round)
{
	smap_on(g, round);
	g->cpu->gpr[R12] = 8;
}
SCENARIO(smap_turns, smap_turns, turns)

/* --- STI, CLI ------------------------------------------------------------------------------- */

static void window(struct guest_cpu *g, unsigned round)
{
	g->cpu->rflags &= ~FLAG_IF;
	if (round % 3)
		g->cpu->event |= CPU_EVENT_WINDOW;
}

CODE(sti, "1: cli; inc %eax; sti; inc %ebx; inc %edx; dec %r12d; jnz 1b; pushfq; pop %rsi; ud2")
SCENARIO(sti, sti, window, .once = true)

CODE(sti_twice, "1: cli; add %eax, %ebx; sti; sti; adc %ebx, %edx; cli; dec %r12d; jnz 1b; pushfq; "
		"pop %rsi; ud2")
SCENARIO(sti_twice, sti_twice, window, .once = true)

CODE(sti_halt, "1: cli; inc %eax; sti; hlt; inc %edx; pushfq; pop %rsi; ud2")
SCENARIO(sti_halt, sti_halt, window, .once = true)

/* The last of a block of the greatest length. */
CODE(sti_last, "1: .rept 47; nop; .endr; sti; inc %ebx; inc %edx; cli; dec %r12d; jnz 1b; pushfq; "
	       "pop %rsi; ud2")
SCENARIO(sti_last, sti_last, window, .once = true)

/* ... and of a page. */
CODE(sti_page,
     "jmp 1f; .skip 4088, 0x90; 1: inc %eax; sti; inc %ebx; inc %edx; pushfq; pop %rsi; ud2")

SCENARIO(sti_page, sti_page, window, .once = true)

/* What RDTSC asks posts a request: nobody looks at that between STI and the next instruction. */
CODE(sti_request, ".rept 45; nop; .endr; cli; rdtsc; sti; inc %ebx; inc %edx; jmp .")

static struct guest_cpu *requested;

static uint64_t request(struct cpu *cpu)
{
	requested->requests = 1;
	atomic_store_seq(&cpu->bt.stack_limit, ~0ull);
	return 0;
}

static void test_sti_request(void **state)
{
	static const struct cpu_ops posting = {.rdtsc = request};
	static const struct scenario s = {.code = sti_request_code};
	struct guest_cpu *g = create(true, false);
	struct cpu *c = g->cpu;

	requested = g;
	c->ops = &posting;
	guest_cpu_load(g, CODE_GPA, sti_request);
	for (unsigned n = 0; n < ROUNDS; n++) {
		begin(g, &s, n);
		/* The STI is the last of its block, or not. */
		c->rip = CODE_GPA + n % 4;
		c->gpr[RBX] = 0;
		shootdown_drain(&g->queue, &g->sink);
		assert_int_equal(interp_run(g->in, MAX_INSNS, false), INTERP_REQUEST);
		if (!(c->event & CPU_EVENT_SHADOW))
			assert_int_equal(c->gpr[RBX], 1);
		g->requests = 0;
	}
	assert_true(g->stats.blocks_compiled > 0);
	guest_cpu_destroy(g);
}

static void iopl(struct guest_cpu *g, unsigned round)
{
	set_cpl(g->cpu, 3);
	window(g, round);
	if (round & 4)
		g->cpu->rflags |= FLAG_IOPL;
}
SCENARIO(sti_user, sti, iopl, .once = true)

/* --- POPF, CLD, STD ------------------------------------------------------------------------- */

CODE(popf,
     "1: push %r13; push %r14; add %eax, %ebx; popfq; adc %ecx, %edx; pushfq; pop %r8\n"
     "xor %r8, %r9; neg %r9d; popfq; jc 2f; jo 3f; inc %ebp; 2: inc %ebx; 3: pushfq; pop %r10\n"
     "add %r10, %r11; ror $3, %r13d; and %r15d, %r13d; popfw; dec %r12d; jnz 1b\n"
     "pushfq; pop %rsi; ud2")

static void any_popf(struct guest_cpu *g, unsigned round)
{
	static const uint32_t more[] = {0,
					FLAG_NT,
					FLAG_ID | FLAG_DF,
					FLAG_AC,
					FLAG_IOPL | FLAG_IF,
					FLAG_RF | FLAG_VM,
					FLAG_TF,
					~0u & ~FLAG_TF};
	struct cpu *c = g->cpu;

	set_cpl(c, round & 8 ? 3 : round % 7 == 6 ? 1 : 0);
	c->gpr[R13] = c->gpr[RAX] & FLAGS_ARITH;
	c->gpr[R14] = (c->gpr[RBX] & FLAGS_ARITH) | more[round % 8];
	c->gpr[R15] = FLAGS_ARITH | FLAG_IF | FLAG_DF;
	if (round & 16)
		c->rflags |= FLAG_IOPL;
	if (round % 3 == 1)
		c->rflags |= FLAG_AC | FLAG_ID | FLAG_NT;
	if (round % 5 == 1)
		c->cr4 |= CR4_SMAP;
	if (round % 5 == 2)
		c->cr0 |= CR0_AM;
	memset(g->ram + STACK_TOP, 0, 64);
}
SCENARIO(popf, popf, any_popf)

CODE(popf_waits, "1: push %r13; cli; inc %eax; popfq; inc %ebx; inc %edx; dec %r12d; jnz 1b; ud2")

static void popf_window(struct guest_cpu *g, unsigned round)
{
	window(g, round);
	g->cpu->gpr[R13] = round & 2 ? FLAG_IF : FLAG_CF;
}
SCENARIO(popf_waits, popf_waits, popf_window, .once = true)

CODE(popf_at, "add %eax, %ebx; pushfq; pop %r8; mov %rbp, %rsp; popfq; pushfq; pop %rsi; ud2")

static void popf_stack(struct guest_cpu *g, unsigned round)
{
	static const uint64_t at[] = {DATA_GPA, DATA_GPA + 0xffc, DATA_GPA + 0x1000, 1ull << 63};

	g->cpu->gpr[RBP] = at[round % 4];
	*(uint64_t *)(g->ram + DATA_GPA) = FLAG_CF | FLAG_IF;
	if (round & 4)
		g->pt[(DATA_GPA >> PAGE_SHIFT) + 1] = 0;
}
SCENARIO(popf_stack, popf_at, popf_stack)

static void any_flags(struct guest_cpu *g, unsigned round)
{
	static const uint32_t flags[] = {FLAG_DF, FLAG_IOPL, FLAG_NT | FLAG_AC, FLAG_ID};

	set_cpl(g->cpu, round & 4 ? 3 : 0);
	g->cpu->rflags |= flags[round % 4];
}

CODE(direction,
     "1: lea 16(%rdi), %rsi; cmp %eax, %ebx; std; adc %ecx, %edx; pushfq; pop %r8; lodsb\n"
     "sub %eax, %ebp; cld; sbb %r8, %r9; lodsw; pushfq; pop %r10; add %rsi, %r11\n"
     "dec %r12d; jnz 1b; ud2")
SCENARIO(direction, direction, any_flags)

/* --- flags, registers, time ----------------------------------------------------------------- */

CODE(pushf, "1: add %eax, %ebx; pushfq; pop %r8; xor %r8, %r9; cmp %r8, %rax; mov %rax, (%rdi)\n"
	    "pushfq; adc %ecx, %edx; pushfq; pop %r10; add %r10, %r13; pop %r11; sbb %r11, %r14\n"
	    "neg %r9d; pushfq; jc 2f; inc %ebp; 2: pop 8(%rdi); pushfw; pop %si\n"
	    "dec %r12d; jnz 1b; pushfq; pop %rsi; ud2")

SCENARIO(pushf, pushf, any_flags)

CODE(mov_cr, "add %eax, %ebx; mov %cr0, %rax; mov %cr2, %r8; mov %cr3, %r10; mov %cr4, %r15\n"
	     "mov %cr2, %r11; adc %r10, %r11; mov %cr3, %rbp; pushfq; pop %rsi; ud2")

static void fault_address(struct guest_cpu *g, unsigned round)
{
	set_cpl(g->cpu, round % 4 == 3 ? 3 : 0);
	g->cpu->cr2 = round * 0x123456789abcull;
}
SCENARIO(mov_cr, mov_cr, fault_address)

CODE(rdtsc, "add %eax, %ebx; rdtsc; adc %eax, %ebx; mov %rdx, %r8; mov $-1, %rcx; rdtscp\n"
	    "adc %rdx, %r8; xor %rcx, %r9; pushfq; pop %rsi; ud2")

static void tsc_disabled(struct guest_cpu *g, unsigned round)
{
	struct cpu *c = g->cpu;

	set_cpl(c, round & 2 ? 3 : 0);
	c->tsc_aux = round * 7;
	if (round & 4)
		c->cr4 |= CR4_TSD;
}
SCENARIO(rdtsc_asked, rdtsc, tsc_disabled)

CODE(rdtscs,
     "mov $7, %ebx; cmp %ebx, %ebx; rdtsc; mov %eax, %esi; mov %edx, %edi; jne 1f; inc %ebx\n"
     "1: rdtscp; ud2")

/* Where the scale is known the host's counter is read, and twice is later. */
static void test_rdtsc_scaled(void **state)
{
	static const struct clock_scale scale = {1ull << 31, 12345, 1ull << 60};
	struct guest_cpu *g = create(true, false);
	struct cpu *c = g->cpu;

	guest_cpu_load(g, CODE_GPA, rdtscs);
	for (unsigned n = 0; n < ROUNDS; n++) {
		uint64_t from, first, second, to;

		guest_cpu_long_mode(g);
		set_cpl(c, n & 1 ? 3 : 0);
		c->exc_pending = false;
		c->event = 0;
		c->tsc_aux = n;
		c->bt.tsc = scale;
		from = clock_scaled(&scale, __builtin_ia32_rdtsc());
		shootdown_drain(&g->queue, &g->sink);
		assert_int_equal(guest_cpu_run(g, MAX_INSNS, false), INTERP_EXCEPTION);
		to = clock_scaled(&scale, __builtin_ia32_rdtsc());
		assert_int_equal(c->exc.vector, EXC_UD);
		assert_int_equal(c->gpr[RBX], 8);
		/* The first rounds may have been interpreted: that asks. */
		if (n < 8)
			continue;
		first = c->gpr[RDI] << 32 | c->gpr[RSI];
		second = c->gpr[RDX] << 32 | c->gpr[RAX];
		assert_int_equal(c->gpr[RCX], n);
		assert_in_range(first, from, to);
		assert_in_range(second, first, to);
	}
	guest_cpu_destroy(g);
}

/* --- segments ------------------------------------------------------------------------------- */

CODE(selectors, "mov %fs, %eax; mov %gs, %r10; add %r10, %rax; mov %ds, %r11d; add %r11, %rax\n"
		"mov %es, %r8; add %r8, %rax; mov %fs, %bx; mov %gs, 8(%rdi)\n"
		"lea 32(%rdi), %r15; mov $4, %r11d; mov %ds, (%r15); mov %gs, 6(%r15); mov %fs, "
		"12(%rdi, %r11)\n"
		"mov %es, 3(%r15, %r11, 2); mov %r11, %fs:(%rdi); mov %gs, %fs:20(%rdi); ud2")

static void any_selectors(struct guest_cpu *g, unsigned round)
{
	for (unsigned s = SEG_DS; s <= SEG_GS; s++)
		g->cpu->seg[s].sel = (round + 1) * s * 0x3579;
	g->cpu->seg[SEG_ES].sel = round * 0x1111;
}
SCENARIO(selectors, selectors, any_selectors)

/* What is checked relative to the old base is not relative to the new one. */
CODE(bases, "mov %fs:8(%r14), %rax; cmp %r8, %r9; wrfsbase %r13; adc %rax, %rbx\n"
	    "add %fs:8(%r14), %rbx; wrgsbase %r15; mov %gs:16(%r14), %rbp; wrfsbase %esi\n"
	    "rdfsbase %r10; rdgsbase %r11d; rdgsbase %rcx; cmp %r8, %r9; rdfsbase %edx\n"
	    "adc %rdx, %rbp; wrfsbase %rdi; ud2")

static void any_bases(struct guest_cpu *g, unsigned round)
{
	struct cpu *c = g->cpu;

	c->cr4 |= round % 5 == 4 ? 0 : CR4_FSGSBASE;
	for (unsigned n = 0; n < 64; n += 8)
		g->ram[DATA_GPA + n] = n + round;
	/* The second page lies elsewhere. */
	g->pt[(DATA_GPA >> PAGE_SHIFT) + 1] = (DATA_GPA + 5 * PAGE_SIZE) | PTE_P | PTE_W | PTE_U;
	memset(g->ram + DATA_GPA + 5 * PAGE_SIZE, round + 7, 64);
	c->seg[SEG_FS].base = DATA_GPA;
	c->gpr[R14] = 8;
	c->gpr[R13] = round % 7 == 3 ? 1ull << 47 : DATA_GPA + PAGE_SIZE + 16;
	c->gpr[R15] = round % 7 == 5 ? 1ull << 63 : DATA_GPA + 24;
}
SCENARIO(bases, bases, any_bases)

int main(void)
{
	const struct CMUnitTest tests[] = {
		TEST(syscall),
		TEST(syscall_disabled),
		TEST(sysret_stepping),
		TEST(return_across),
		TEST(returns_dropped),
		TEST(alignment),
		TEST(returns_outlive),
		TEST(skips_to_user),
		TEST(pause_in_kernel),
		TEST(pause_deep_in_kernel),
		TEST(far_out),
		TEST(iret),
		TEST(iret_odd),
		TEST(iret_frame),
		TEST(iret_waiting),
		TEST(iret_across),
		TEST(iret_inward),
		TEST(iret_in_call),
		TEST(iret_drops),
		TEST(iret_keeps),
		TEST(iret_alignment),
		TEST(faults),
		TEST(fault_odd),
		TEST(fault_across),
		TEST(fault_ring1),
		TEST(fault_table),
		TEST(fault_bit),
		TEST(smap),
		TEST(stac_user),
		TEST(smap_turns),
		TEST(sti),
		TEST(sti_twice),
		TEST(sti_halt),
		TEST(sti_last),
		TEST(sti_page),
		TEST(sti_request),
		TEST(sti_user),
		TEST(popf),
		TEST(popf_waits),
		TEST(popf_stack),
		TEST(direction),
		TEST(pushf),
		TEST(mov_cr),
		TEST(rdtsc_asked),
		TEST(rdtsc_scaled),
		TEST(selectors),
		TEST(bases),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
