/*
 * The architectural state of one processor and what its instructions need: registers, lazily kept
 * flags, the software TLB, and hooks to the world outside (bus, APIC, clock).
 *
 * Everything here belongs to the VCPU's own thread. Functions that can fault do not return then:
 * they record the exception and jump back to the run loop (cpu_unwind()), so an instruction changes
 * registers only after its last access that can fault. cpu->cur must point to the instruction being
 * executed before anything that can fault is called; rip then tells its address exactly.
 */
#ifndef X86_CPU_H
#define X86_CPU_H

#include <setjmp.h>

#include "mmu/gmem.h"
#include "mmu/tlb.h"
#include "src/base/atomic.h"
#include "src/base/clock.h"
#include "src/base/huge.h"
#include "src/base/stats.h"
#include "src/base/types.h"
#include "src/x86/arch.h"

enum gpr_index {
	RAX,
	RCX,
	RDX,
	RBX,
	RSP,
	RBP,
	RSI,
	RDI,
	R8,
	R9,
	R10,
	R11,
	R12,
	R13,
	R14,
	R15,
	REG_ZERO, /* always 0: stands for "no base" and "no index" */
	REG_PC,	  /* address of the first instruction of the block being run */
	GPR_SLOTS,
};

enum seg_index {
	SEG_ES,
	SEG_CS,
	SEG_SS,
	SEG_DS,
	SEG_FS,
	SEG_GS,
	SEG_NONE,
	SEG_LDTR,
	SEG_TR,
	SEG_COUNT
};

#define JUMP_CACHE (1u << 15)

/*
 * rip -> block, while the virtual-to-physical mapping that led there stands: see interp/block.h. An
 * entry that loses its place to another goes to the neighbouring one.
 */
struct jump_entry {
	uint64_t rip;
	uint64_t key;
	struct block *block;
	void *native; /* the block's far_native, or the cache's no_native */
};

_Static_assert(sizeof(struct jump_entry) == 32, "compiled code indexes the jump cache");

struct seg {
	uint64_t base;
	uint32_t limit; /* in bytes, granularity applied */
	uint16_t sel;
	uint16_t attr; /* SEG_*; 0: null or not present */
};

struct dtable {
	uint64_t base;
	uint16_t limit;
};

/*
 * x87, SSE and AVX registers. fx is an FXSAVE64 image of which only the x87 part (bytes 0-159,
 * MXCSR excepted) is live; ymm holds the 16 vector registers, XMM in the low half.
 */
struct vec_state {
	uint8_t ymm[16][32] __attribute__((aligned(64)));
	uint8_t fx[512] __attribute__((aligned(64)));
	uint32_t mxcsr;
};

struct cpu;
struct insn;
struct vec_cache;

/*
 * The world outside, filled in by the VCPU (smp/) or a test harness. Called on the CPU's thread.
 * The CPU goes on behind an access to a device: what it has to notice kicks it, or sets
 * CPU_EVENT_YIELD.
 */
struct cpu_ops {
	void (*mmio_read)(struct cpu *cpu, gpa_t gpa, void *data, unsigned len);
	void (*mmio_write)(struct cpu *cpu, gpa_t gpa, const void *data, unsigned len);
	void (*pio_read)(struct cpu *cpu, uint16_t port, void *data, unsigned len);
	void (*pio_write)(struct cpu *cpu, uint16_t port, const void *data, unsigned len);
	/* MSRs that are not the core's own (APIC, paravirtual). 0, or -EINVAL for #GP. */
	int (*rdmsr)(struct cpu *cpu, uint32_t msr, uint64_t *value);
	int (*wrmsr)(struct cpu *cpu, uint32_t msr, uint64_t value);
	uint8_t (*get_cr8)(struct cpu *cpu);
	void (*set_cr8)(struct cpu *cpu, uint8_t value);
	uint64_t (*rdtsc)(struct cpu *cpu);
	void (*move_tsc)(struct cpu *cpu, uint64_t delta); /* modulo 2^64 */
	/* KVM-style hypercall; the result goes to RAX. */
	uint64_t (*hypercall)(struct cpu *cpu, uint64_t nr, const uint64_t arg[4]);
	/* Fills the four registers (EAX, EBX, ECX, EDX) for a leaf. */
	void (*cpuid)(struct cpu *cpu, uint32_t leaf, uint32_t subleaf, uint32_t out[4]);
};

/* What the run loop must do before the next instruction; see cpu->event. */
#define CPU_EVENT_SHADOW     (1u << 0) /* interrupts are blocked for one instruction (STI, MOV SS) */
#define CPU_EVENT_SS_SHADOW  (1u << 1)	/* ... and so are debug traps and NMIs (MOV SS, POP SS) */
#define CPU_EVENT_HALT	     (1u << 2)	/* HLT was executed */
#define CPU_EVENT_SHUTDOWN   (1u << 3)	/* triple fault */
#define CPU_EVENT_TF	     (1u << 4)	/* a single-step trap is due after this instruction */
#define CPU_EVENT_DATA_BP    (1u << 5)	/* a data breakpoint matched; dr6_pending says which */
#define CPU_EVENT_EXC	     (1u << 7)	/* an exception waits for delivery */
#define CPU_EVENT_WINDOW     (1u << 8)	/* stop when an interrupt could be taken */
#define CPU_EVENT_YIELD	     (1u << 6)	/* leave the block: something to look at */
#define CPU_EVENT_PAUSE	     (1u << 9)	/* PAUSE was executed */
#define CPU_EVENT_NMI_WINDOW (1u << 10) /* stop when an NMI could be taken */

struct cpu_exception {
	uint8_t vector;
	uint8_t kind; /* enum exc_kind */
	bool has_error;
	bool privileged; /* software interrupt not checked against the gate's DPL (INT1) */
	uint32_t error;
	uint64_t cr2;
};

#define CPU_BT_ADDENDS 16
#define CPU_BT_STRIP   8  /* ... of a loop */
#define CPU_BT_KEPT    32 /* returns */
#define CPU_BT_TABLES  4
#define CPU_BT_COUNTS  262144u /* of runs of code */

/* A table that a loop reads: where its second page begins, the addends of both. */
struct cpu_bt_table {
	uint64_t second, addend[2];
};

struct cpu {
	uint64_t gpr[GPR_SLOTS];
	/*
	 * Lazy flags. ZF: zero == 0. SF: bit 63 of sign. PF: even parity of the low byte of sign.
	 * CF: bit 63 of carry; OF: bit 63 xor bit 62 of carry; AF: bit 3 of carry.
	 */
	uint64_t fl_zero;
	uint64_t fl_sign;
	uint64_t fl_carry;
	struct tlb_entry (*tlb_cur)[TLB_SIZE]; /* the arrays of the current access context */
	const struct insn *cur;		       /* set before anything that can fault */
	const struct insn *uncount; /* the engine's: the block was left at this instruction */
	struct seg seg[SEG_COUNT];
	uint32_t rflags; /* all but the arithmetic flags */
	uint32_t event;	 /* CPU_EVENT_*: non-zero sends the run loop to its slow path */
	uint8_t cpl;
	uint8_t ctx;  /* enum tlb_ctx of accesses, tlb_cur's number */
	uint64_t rip; /* between blocks: the next instruction */

	uint64_t cr0, cr2, cr3, cr4, efer, xcr0;
	uint64_t dr[4], dr6, dr7;
	uint64_t dr6_pending;
	uint64_t pdpte[4]; /* PAE paging: loaded with CR3 */
	struct dtable gdtr, idtr;
	uint64_t star, lstar, cstar, sfmask, kernel_gs_base, tsc_aux;
	uint64_t sysenter_cs, sysenter_esp, sysenter_eip;
	uint64_t pat, mtrr_deftype, mtrr_fix[11], mtrr_var[16], misc_enable, mcg_status;
	uint64_t tsc_adjust, hwcr, syscfg;
	struct vec_state vec;

	bool nmi_blocked;
	bool delivering;  /* inside the delivery of exc */
	bool exc_pending; /* exc waits for delivery */
	bool no_step;	  /* the instruction takes no single-step trap, though TF was set */
	struct cpu_exception exc;
	struct cpu_exception next_exc; /* just raised, not yet combined with exc */
	jmp_buf *unwind;	       /* where a fault jumps to */
	uint64_t last_rip;	       /* for register dumps */

	/* The binary translator's; compiled code reaches it through GS. */
	struct {
		struct cpu *self;
		uint64_t host_rsp; /* base of the shadow stack of return addresses */
		uint64_t user_rsp; /* its top when SYSCALL was executed, or 0: it is gone */
		/* Its lowest pointer; ~0, set by any thread: reach a safepoint soon. */
		uint64_t stack_limit;
		/* What was on the shadow stack when compiled code was left: kept_bytes of it. */
		uint64_t kept[2 * CPU_BT_KEPT];
		uint64_t kept_bytes;
		uint64_t kept_user; /* distance of user_rsp from its lowest, or anything larger */
		uint64_t lower_tag; /* tlb.code_tag[0] when code was last entered or changed the
				       mode */
		bool other_place;   /* what the shadow stack predicts is not of where to go on */
		uint64_t addend[CPU_BT_ADDENDS + CPU_BT_STRIP]; /* of accesses that were checked */
		struct cpu_bt_table table[CPU_BT_TABLES];
		uint64_t bound;	     /* what a register of a loop holds when its strip ends */
		const void *go_on;   /* where to go on in compiled code after C code, or NULL */
		const void *check;   /* struct bt_check that failed */
		const void *site;    /* struct bt_site of a change of mode */
		uint32_t vec_level;  /* BT_VEC_*: what of vec is in the host's registers */
		uint32_t vec_was;    /* what was, before it was saved */
		uint32_t host_mxcsr; /* the monitor's own */
		uint32_t x87_live; /* vec's x87 state is in the host's registers, but for pointers:
				    */
		uint32_t x87_was;  /* was, before it was saved */
		uint32_t x87_ip;   /* FOP << 12 | the last instruction's offset in its page */
		uint64_t x87_page; /* ... and the page */
		uint64_t x87_fdp;  /* offset of the last memory operand in its segment */
		uint16_t x87_cw;   /* operand of an FLDCW */
		uint64_t page;	   /* linear address of the page the running block starts in */
		uint64_t key;  /* of the jump cache, for the half of addresses that code lies in */
		uint64_t salt; /* of the jump cache's index, for the same half: 32 bits */
		uint64_t branch_tag; /* of latches of branches, for the same half */
		uint32_t latch;	     /* to be filled: its offset among them */
		void *far;	     /* struct bt_far of the branch whose latch failed */
		void *far_exit;	     /* struct bt_far by which it was left, or NULL */
		uint64_t far_rip;    /* ... to where */
		void *branch;	/* struct bt_site of the indirect branch being looked up, or NULL */
		void *exit;	/* struct bt_exit by which compiled code was left, or NULL */
		uint16_t flags; /* AH and AL as by LAHF and SETO AL; with what follows, 32 bits */
		uint16_t no_flags;
		bool next;    /* a handler reached the end of its site */
		int32_t left; /* instructions before the next safepoint */
		/* The guest's TSC by the host's; mult is 0 where cpu_ops.rdtsc has to be asked. */
		struct clock_scale tsc;
		int32_t fills; /* of latches, before the next is looked at */
		void *owner;   /* struct bt */
	} bt;

	const struct cpu_ops *ops;
	struct gmem *gmem;
	struct stats *stats;
	struct vec_cache *vec_cache;
	struct mem_overlay *overlay; /* not NULL: memory is only looked at (mem_overlay.h) */
	gpa_t rmw_gpa[2];	     /* of both pages of the operand of mem_rmw_ptr() */
	uint8_t vec_buf[64]
		__attribute__((aligned(64))); /* memory operand of a vector instruction */
	/* When counts of runs were last full, in units of code_now(). */
	uint32_t bt_counted[CPU_BT_COUNTS];
	/* Up to the latches: what compiled code reads, apart, for huge pages. */
	struct jump_entry jump[JUMP_CACHE] __attribute__((aligned(PAGE_SIZE)));
	/* Runs of units that run seldom, modulo 256, by code_alloc_count()'s number. */
	uint8_t bt_count[CPU_BT_COUNTS];
	struct tlb tlb;
};

/* Zeroed memory of that size for what begins with a struct cpu; NULL: there is none. */
struct cpu *cpu_alloc(size_t size);
void cpu_free(struct cpu *cpu, size_t size);
/*
 * Has the kernel put what compiled code reads into huge pages (base/huge.h), by the VCPU's thread:
 * the jump cache and the software TLB; and latches of one half from the n-th, a huge page's first.
 */
void cpu_huge_caches(struct cpu *cpu);
void cpu_huge_latches(struct cpu *cpu, bool upper, uint32_t n);
#define CPU_HUGE_LATCHES (HUGE_PAGE / sizeof(struct latch)) /* at once */

/* Zeroed memory in, power-on state out. ops, gmem, stats must be set by the caller before it runs.
 */
int cpu_init(struct cpu *cpu);
void cpu_fini(struct cpu *cpu);
/* INIT or RESET state (SDM volume 3, table 10-1); cold also clears what INIT preserves. */
void cpu_reset(struct cpu *cpu, bool cold);
/* After any change of CPL, CR0.PG, CR4.SMAP or RFLAGS.AC: which TLB array is current. */
static inline void cpu_update_ctx(struct cpu *cpu)
{
	enum tlb_ctx ctx;

	if (cpu->cpl == 3)
		ctx = (cpu->rflags & FLAG_AC) && (cpu->cr0 & CR0_AM) ? TLB_ALIGN : TLB_USER;
	else if ((cpu->cr4 & CR4_SMAP) && !(cpu->rflags & FLAG_AC))
		ctx = TLB_SUPER;
	else
		ctx = TLB_SUPER_AC;
	cpu->ctx = ctx;
	cpu->tlb_cur = cpu->tlb.e[ctx];
}

/*
 * Compiled code returns at the next safepoint. Any thread, after it stored the reason; pairs with
 * bt_unkick(), after which the owner looks for reasons.
 */
static inline void cpu_kick(struct cpu *cpu)
{
	atomic_store_seq(&cpu->bt.stack_limit, ~0ull);
}

void cpu_dump(const struct cpu *cpu, char *buf, size_t size);

static inline bool cpu_long_mode(const struct cpu *cpu)
{
	return cpu->efer & EFER_LMA;
}

static inline bool cpu_code64(const struct cpu *cpu)
{
	return cpu_long_mode(cpu) && (cpu->seg[SEG_CS].attr & SEG_L);
}

static inline bool cpu_real_mode(const struct cpu *cpu)
{
	return !(cpu->cr0 & CR0_PE);
}

static inline bool gva_canonical(gva_t gva)
{
	return (uint64_t)((int64_t)(gva << 16) >> 16) == gva;
}

/* --- exceptions: none of these returns ---------------------------------------------------- */

_Noreturn void cpu_unwind(struct cpu *cpu);
_Noreturn void cpu_raise(struct cpu *cpu, uint8_t vector);
_Noreturn void cpu_raise_err(struct cpu *cpu, uint8_t vector, uint32_t error);
_Noreturn void cpu_raise_pf(struct cpu *cpu, gva_t gva, uint32_t error);
static inline _Noreturn void cpu_raise_gp(struct cpu *cpu)
{
	cpu_raise_err(cpu, EXC_GP, 0);
}
static inline _Noreturn void cpu_raise_ud(struct cpu *cpu)
{
	cpu_raise(cpu, EXC_UD);
}

/* --- flags -------------------------------------------------------------------------------- */

static inline bool flag_zf(const struct cpu *c)
{
	return c->fl_zero == 0;
}
static inline bool flag_sf(const struct cpu *c)
{
	return c->fl_sign >> 63;
}
static inline bool flag_cf(const struct cpu *c)
{
	return c->fl_carry >> 63;
}
static inline bool flag_of(const struct cpu *c)
{
	return (c->fl_carry ^ (c->fl_carry << 1)) >> 63;
}
static inline bool flag_af(const struct cpu *c)
{
	return c->fl_carry >> 3 & 1;
}
static inline bool flag_pf(const struct cpu *c)
{
	return !__builtin_parity(c->fl_sign & 0xff);
}

/* The whole RFLAGS register. */
static inline uint64_t flags_get(const struct cpu *c)
{
	return c->rflags | FLAG_ONE | (flag_cf(c) ? FLAG_CF : 0) | (flag_pf(c) ? FLAG_PF : 0) |
	       (flag_af(c) ? FLAG_AF : 0) | (flag_zf(c) ? FLAG_ZF : 0) |
	       (flag_sf(c) ? FLAG_SF : 0) | (flag_of(c) ? FLAG_OF : 0);
}

/* Only CF, PF, AF, ZF, SF, OF of value count. */
static inline void flags_set_arith(struct cpu *c, uint64_t f)
{
	bool cf = f & FLAG_CF, of = f & FLAG_OF;

	c->fl_zero = !(f & FLAG_ZF);
	/* The low byte 0 has even parity, 1 odd. */
	c->fl_sign = (f & FLAG_SF ? 1ull << 63 : 0) | (f & FLAG_PF ? 0 : 1);
	c->fl_carry = (cf ? 1ull << 63 : 0) | (cf != of ? 1ull << 62 : 0) | (f & FLAG_AF ? 8 : 0);
}

#endif
