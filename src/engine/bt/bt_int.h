/* What the files of the translator share. */
#ifndef ENGINE_BT_BT_INT_H
#define ENGINE_BT_BT_INT_H

#include "src/engine/bt/bt.h"
#include "src/engine/bt/emit.h"
#include "src/engine/bt/gdb_jit.h"
#include "src/x86/hostisa.h"

/*
 * Guest registers live in the host registers of the same name, but for four: guest RSP is in host
 * R15; guest R10, R11 and R15 are in memory, since host R10 and R11 are scratch. Host RSP is the
 * host's stack, whose top is the shadow of the guest's return addresses.
 */
#define H_GUEST_RSP H_R15
#define SCRATCH0    H_R10
#define SCRATCH1    H_R11
#define IN_MEMORY   0xff

static inline unsigned host_reg_of(unsigned guest)
{
	switch (guest) {
	case RSP: return H_GUEST_RSP;
	case R10:
	case R11:
	case R15: return IN_MEMORY;
	default: return guest;
	}
}

/* The last bit of the sets in struct block that are by place: of all behind it, too. */
#define BT_LAST_PLACE 63u

#define CPU_OFF(field) offsetof(struct cpu, field)
#define GPR_OFF(r)     (CPU_OFF(gpr) + 8 * (r))

/*
 * An instruction that compiled code hands to the interpreter's handler. The handler ends by calling
 * slot[n]'s successor, which returns to us.
 */
struct bt_site {
	struct insn slot[3];
	uint32_t block_off; /* of the block in its page: the handler needs REG_PC */
	int32_t undo_rsp;   /* what takes back an indirect branch's change of RSP */
	/* Of an instruction of unit->by_hand, else NULL; its bit there. */
	struct block *unit;
	uint8_t place;
	uint32_t plain; /* *so often it has not accessed a device since it last did */
	bool x87;	/* later instructions of the unit need the x87 state, if it was loaded */
};

/*
 * A check of guest addresses in compiled code, or another point from which the interpreter can go
 * on: with slot of its block, to the block's end.
 */
struct bt_check {
	const struct block *block;
	struct block *unit; /* the block that was translated */
	const uint8_t *retry;
	uint32_t block_off;
	uint16_t slot;
	uint16_t span; /* distance between the first and the last byte checked */
	uint8_t align; /* the address at align_off must be a multiple of it; 0: any */
	uint8_t align_off;
	uint8_t vec_level; /* of a check of the vector registers */
	bool x87;	   /* a check of the x87 state */
	bool write;	   /* stores are among the accesses */
	bool fill_write;   /* the instruction at slot stores: the fill may set the dirty bit */
	bool alone;	   /* the instruction at slot makes one access, at byte `access` */
	uint16_t access;
	bool any_half;	/* addresses may be in the half that the code is not in */
	bool narrow;	/* the accesses are as close together as accesses of one check get */
	uint8_t place;	/* of the group: its bit in the block's sets */
	uint32_t count; /* not of a check: where the runs of the unit are counted */
};

/*
 * A jump at the end of a unit that may be patched to go straight to the next one, in the same page:
 * they are dropped together.
 */
struct bt_exit {
	uint8_t *jump;		  /* displacement, in the writable mapping, not across a quadword */
	const struct block *unit; /* that it belongs to */
	gpa_t gpa;		  /* of the block that may follow, and its key */
	uint32_t key;
	bool mem; /* flags are in cpu->bt.flags */
	bool joined;
	uint8_t *out;	      /* displacement of the jump to where that is found out, likewise */
	struct bt_exit *next; /* in the list of the block it was joined to */
};

/*
 * A direct branch to another page: when a VCPU has come to its target the host's jump leads there,
 * and is taken if the VCPU's latch of the branch is of the page and tag in use. Whoever fills that
 * latch has looked the target up, and found that the jump leads to just that code. Lock of the code
 * cache held, it is patched to other code of the same living block: who has filled its latch comes
 * to that, then.
 */
struct bt_far {
	uint8_t *jump;	     /* displacement, in the writable mapping, not across a quadword */
	const uint8_t *next; /* executable address behind it */
	gpa_t gpa;	     /* of the block that it leads to, once and for all; or NO_FAR_GPA */
	uint32_t key;	     /* of that */
	uint32_t latch;	     /* its offset among latches */
	const void *refused; /* code of another block, which a VCPU came to */
};
#define NO_FAR_GPA ~0ull

/* Lock of the code cache held: the jump leads to the block's code from now on. */
static inline void bt_join(const struct emit *e, struct bt_exit *x, const struct block *next)
{
	e_repatch(x->jump, (uint8_t *)(x->mem ? next->far_native : next->native) - e->to_exec);
}

/* What changes the mode in place. */
enum bt_mode { BT_SYSCALL, BT_SYSRET, BT_IRET, BT_MODES };

/*
 * Code that all compiled code shares, writable addresses. Of those with two, the second is for
 * flags that are in cpu->bt.flags already.
 */
struct bt_stubs {
	struct emit e;
	struct host_isa isa;
	struct gdb_jit *gdb_jit;  /* or NULL */
	bool single, exact_flags; /* see struct bt_options */
	uint64_t published;	  /* units so far; written under the code cache's lock */
	uint8_t *leave[2], *step[2], *chain[2], *elsewhere[2], *miss[2], *rest[2], *vec_enter[2];
	uint8_t *ran;	  /* jumped to with the struct bt_check of a count of runs in SCRATCH0 */
	uint8_t *entered; /* in enter: where cpu->bt.host_rsp is set */
	uint8_t *enter, *handed_over, *second, *not_cached, *no_native, *ret_miss, *underflow;
	uint8_t *vec_save, *vec_load, *x87_save, *x87_load;
	uint8_t *mode[BT_MODES];
	uint8_t *mode_left;
	/* Where to go on when a fault was delivered, from user code and from the kernel's. */
	uint8_t *fault_user, *fault_kernel;
	uint8_t *branch_fill; /* where a direct branch to another page goes whose latch failed */
	/*
	 * stubs_tlb.c: called behind a compare that failed, with the tag it was for in SCRATCH0,
	 * that of the group's last byte, and in SCRATCH1 the offset of the first level's entry in
	 * its array, that of the first byte. CF is clear if the entry was filled, and the addend is
	 * in SCRATCH1. Clobbers both and the flags.
	 */
	uint8_t *refill[TLB_ALIGN][TLB_KINDS];
	/*
	 * The same file: called with the addresses of the group's last byte in SCRATCH0 and of the
	 * first in SCRATCH1, of the lower or the upper half, and the offset of the check's latch
	 * in cpu->bt.latch. CF is clear if that was filled. Clobbers both and the flags.
	 */
	uint8_t *latch_fill[TLB_ALIGN][TLB_KINDS][2];
	/*
	 * stubs_string.c: REP MOVS [0] and REP STOS [1] of operands of 1 << n bytes. CF is clear
	 * if it was done, else nothing was. Clobbers the flags and both scratch registers.
	 */
	uint8_t *string[TLB_ALIGN][2][4];
};

struct bt_space;

struct bt {
	struct cpu *cpu;
	struct block_cache *bc;
	struct bt_stubs *stubs;
	struct emit e;	  /* what runs; in the room of bc */
	struct emit cold; /* what seldom runs: kept apart, so that caches hold more of the rest */
	uint64_t fills_start;	       /* when cpu->bt.fills was set, by the host's clock */
	struct block *redo;	       /* unit to compile again, with other choices */
	const struct bt_check *missed; /* of the last bt_miss(), if there is no page to be had */
	const struct block *refreshed; /* the last unit whose former code was forgotten */
	struct bt_space *tr_space;     /* work space of one translation */
	ZydisDecoder decoder;
	uint32_t hot;	      /* how often a block was interpreted that is worth following */
	FILE *log, *perf_map; /* see struct bt_config */
	struct gdb_jit_cpu gdb_cpu;
	uint32_t slice;	    /* instructions granted to this run */
	bool counted;	    /* compiled code counts instructions, and stops after a slice */
	bool deliver;	    /* page faults, without the run loop */
	bool running;	    /* compiled code is on the stack */
	uint64_t huge_next; /* when latches are next looked at for huge[], by the host's clock */
	uint8_t huge[2];    /* pieces of latches in huge pages, as bits, by the code's half */
	bool in_cpu;	    /* the block was left by a handler: flags are in struct cpu */
};

/* stubs.c */
void bt_emit_stubs(struct bt_stubs *s);
/*
 * Calls fn(cpu, SCRATCH0), which uses no vector registers: SCRATCH1 = what it returns. Only general
 * registers are stored, to struct cpu, and only those that it may clobber. RSP is as between units.
 */
void bt_emit_quick_call(const struct bt_stubs *s, struct emit *e, void *fn);
/* stubs_jump.c */
void bt_emit_jump_stubs(struct bt_stubs *s);
/*
 * To the target in SCRATCH0 through the jump cache; the flags go to cpu->bt.flags unless they are
 * there. Emits jumps out for when it is not where it belongs.
 */
void bt_emit_lookup(const struct bt_stubs *s, struct emit *e, bool flags_mem, uint8_t *miss[2]);
/* Where those jumps lead: on by the other place, and beyond. branch: its site, or NULL if direct.
 */
void bt_emit_lookup_miss(const struct bt_stubs *s, struct emit *e, uint8_t *miss[2],
			 const struct bt_site *branch);
/* What of the guest's vector registers is in the host's: cpu->bt.vec_level. */
#define BT_VEC_SSE 1 /* XMM0-15 and MXCSR, as SSE instructions may use them */
#define BT_VEC_AVX 2 /* YMM0-15, as AVX instructions may */

/* stubs_vec.c */
void bt_emit_vec_stubs(struct bt_stubs *s);
/*
 * Before C code that may use vector or x87 registers: saves the guest's if they are in the host's.
 * Clobbers RAX.
 */
void bt_emit_save_vectors(const struct bt_stubs *s, struct emit *e);
/* What vec_was and x87_was say is loaded again. Clobbers RAX. */
void bt_emit_load_vectors(const struct bt_stubs *s, struct emit *e);
/* stubs_tlb.c */
void bt_emit_refill_stubs(struct bt_stubs *s);
/*
 * SCRATCH1 = the addend of the page of bytes, the address of the first of which is there and that
 * of the last in SCRATCH0: the entry is of the one's page, the tag of the other's. half: that of
 * the addresses. Clobbers both and the flags. Returns the jump that is taken if it is not there.
 */
#define BT_ANY_HALF 2
uint8_t *bt_emit_first_level(struct emit *e, enum tlb_ctx ctx, enum tlb_kind kind, unsigned half);
/* The same with the first byte's address shifted or rotated right by so much already. */
#define BT_INDEX_SHIFT (PAGE_SHIFT - 4)
uint8_t *bt_emit_shifted_level(struct emit *e, enum tlb_ctx ctx, enum tlb_kind kind, unsigned half);
/* stubs_string.c */
void bt_emit_string_stubs(struct bt_stubs *s);

/* slow.c: called by stubs, with the vector registers and the x87 state in struct cpu. */
enum bt_step { BT_STEP_LEAVE, BT_STEP_ON };
/* LEAVE: state is in struct cpu. ON: what vec_was and x87_was say is to be loaded again. */
enum bt_step bt_step(struct cpu *cpu, struct bt_site *site);
/* Whether vector or x87 registers may be loaded for the check: where to go on then, or NULL. */
const uint8_t *bt_vec_enter(struct cpu *cpu, const struct bt_check *check);
/* Interprets from the check's instruction to the end of its block. */
void bt_rest(struct cpu *cpu, const struct bt_check *check);
/*
 * miss.c: called with guest vector registers in the host's; it and all it calls use none.
 * Makes the check at address lo pass if that is possible: where to go on, or NULL.
 */
const uint8_t *bt_miss(struct cpu *cpu, const struct bt_check *check, gva_t lo);
/*
 * The same file. The check failed for an access to a device; an instruction of by_hand was run, and
 * did that or did not.
 */
void bt_note_device(struct bt *bt, const struct bt_check *check);
void bt_note_by_hand(struct bt *bt, struct bt_site *site, bool device);

/*
 * The same file, called as bt_miss() is: a unit that runs seldom has run BT_RUNS times, which is
 * when a byte is full.
 */
#define BT_RUNS 256
const uint8_t *bt_ran(struct cpu *cpu, const struct bt_check *check);

/*
 * mode.c: called as bt_miss() is. The compiled code for cpu->rip, or NULL; the mode is what it was.
 */
const void *bt_find(struct cpu *cpu);
/*
 * SYSCALL, SYSRET to 64-bit code, and IRET between such code, for which RSP is in struct cpu: where
 * to go on, or NULL for the handler to do it.
 */
const void *bt_syscall(struct cpu *cpu, const struct bt_site *site);
const void *bt_sysret(struct cpu *cpu, const struct bt_site *site);
const void *bt_iret(struct cpu *cpu, const struct bt_site *site);
/*
 * The only access of the check's instruction, to address gva, failed; all registers are in struct
 * cpu. If it is a page fault and can be delivered here: where to go on, with what is in struct cpu
 * then; else NULL.
 */
const void *bt_fault(struct cpu *cpu, const struct bt_check *check, gva_t gva);

/*
 * Called first by what compiled code calls or leaves to: it may be another VCPU's code, reached by
 * a jump that was patched. Pairs with publish(). A processor sees things in order anyway; the
 * compiler and the thread sanitizer know nothing of jumps.
 */
static inline struct bt *bt_of_code(const struct cpu *c)
{
	struct bt *bt = c->bt.owner;

	(void)atomic_load_acquire(&bt->stubs->published);
	return bt;
}

/* Arithmetic flags to AH (as LAHF) and AL (OF), and back. */
static inline uint16_t bt_flags_word(uint64_t f)
{
	return (f & (FLAGS_ARITH & 0xff)) << 8 | FLAG_ONE << 8 | (f & FLAG_OF ? 1 : 0);
}

static inline uint64_t bt_flags_arith(uint16_t ax)
{
	return (ax >> 8 & FLAGS_ARITH) | (ax & 1 ? FLAG_OF : 0);
}

static inline uint16_t bt_flags_pack(const struct cpu *c)
{
	return bt_flags_word(flags_get(c));
}

static inline void bt_flags_unpack(struct cpu *c, uint16_t ax)
{
	flags_set_arith(c, bt_flags_arith(ax));
}

/*
 * Sets what compiled code needs to know to run from cpu->rip on, but for the flags. Code tags are
 * settled, and branches must not be over (block.h).
 */
static inline void bt_enter_place(struct bt *bt)
{
	struct cpu *c = bt->cpu;

	c->bt.page = c->rip & PAGE_MASK;
	c->bt.lower_tag = c->tlb.code_tag[0];
	c->bt.key = block_jump_key(bt->bc, c->rip, 0);
	c->bt.salt = block_jump_salt(c, c->rip);
	c->bt.branch_tag = block_branch_tag(bt->bc, c->rip);
}

/*
 * Whether returns that compiled code expected when it last ran may be expected at cpu->rip: mode,
 * address spaces and generations of code are the same. The key has no number of the lower half if
 * the kernel's code is in the upper one, and the upper half's changes with the generation. To be
 * asked before bt_enter_place().
 */
static inline bool bt_same_place(const struct bt *bt)
{
	const struct cpu *c = bt->cpu;

	return c->bt.key == block_jump_key(bt->bc, c->rip, 0) &&
	       c->bt.lower_tag == c->tlb.code_tag[0];
}

static inline void bt_enter_block(struct bt *bt)
{
	mem_settle_code(bt->cpu, bt->cpu->rip);
	if (block_branches_over(bt->bc))
		block_clear_branches(bt->bc);
	bt_enter_place(bt);
	bt->cpu->bt.flags = bt_flags_pack(bt->cpu);
}

/*
 * The shadow stack holds guest return addresses with the host's above. What lies below a barrier
 * belongs to another mode. A return that matches one finds its target as if it matched nothing.
 * Nobody knows then which instruction it was, so if it is not to a canonical address the fault is
 * that of the next fetch.
 */
#define SHADOW_BARRIER	  0ull	       /* a return to 0 */
#define SHADOW_AC_BARRIER (~0ull >> 1) /* ... before STAC: no return of code */
void bt_emit_barrier(const struct bt_stubs *s, struct emit *e, uint64_t barrier);
static inline void bt_emit_forget_user(struct emit *e)
{
	e_code(e, 0x65, 0x48, 0xc7); /* mov qword gs:[user_rsp], imm32 */
	e_field(e, 0, CPU_OFF(bt.user_rsp), 4);
	e32(e, 0);
}

/* Notes that the latch was filled whose offset among them is in reg, which goes with the flags. */
static inline void bt_emit_touched(struct emit *e, unsigned reg)
{
	_Static_assert(LATCH_PIECE * sizeof(struct latch) == 1 << 12, "latches in a piece");
	e_code(e, 0x48 | reg >> 3, 0xc1, 0xe8 | (reg & 7), 12);	  /* shr reg, 12 */
	e_code(e, 0x65, 0x40 | reg >> 3, 0xc6, 0x80 | (reg & 7)); /* mov byte */
	e32(e, CPU_OFF(tlb.latches.touched)), e8(e, 1);		  /* ... gs:[reg + touched], 1 */
}

/* Returns the jump taken if somebody wants the VCPU, or the shadow stack is full. */
static inline uint8_t *bt_emit_wanted(struct emit *e)
{
	e_gs(e, true, 0x3b, H_RSP, CPU_OFF(bt.stack_limit)); /* cmp rsp, gs:[limit] */
	return e_jcc(e, CC_B);
}

/* Returns the jump taken unless the vector registers are in the host's, for such instructions. */
static inline uint8_t *bt_emit_vec_below(struct emit *e, unsigned level)
{
	e_code(e, 0x65, 0x80); /* cmp byte gs:[level], imm8 */
	e_field(e, 7, CPU_OFF(bt.vec_level), 1);
	e8(e, level);
	return e_jcc(e, CC_B);
}

/* Forgets all returns; flags stay. */
static inline void bt_emit_shadow_reset(struct emit *e)
{
	e_load(e, H_RSP, CPU_OFF(bt.host_rsp));
	bt_emit_forget_user(e);
}

/* The host's arithmetic flags to cpu->bt.flags and back; tmp: a scratch register. */
static inline void bt_emit_flags_save(struct emit *e, unsigned tmp)
{
	e_mov_rr(e, tmp, H_RAX);
	e_code(e, 0x9f, 0x0f, 0x90, 0xc0); /* lahf; seto al */
	e_store16(e, H_RAX, CPU_OFF(bt.flags));
	e_mov_rr(e, H_RAX, tmp);
}

/* Clobbers RAX. */
static inline void bt_emit_flags_load(struct emit *e)
{
	e_code(e, 0x65, 0x0f, 0xb7); /* movzx eax, word gs:[flags] */
	e_field(e, H_RAX, CPU_OFF(bt.flags), 0);
	e_code(e, 0x04, 0x7f, 0x9e); /* add al, 0x7f: sets OF if al is 1; sahf */
}

static inline void bt_emit_flags_restore(struct emit *e, unsigned tmp)
{
	e_mov_rr(e, tmp, H_RAX);
	bt_emit_flags_load(e);
	e_mov_rr(e, H_RAX, tmp);
}

#endif
