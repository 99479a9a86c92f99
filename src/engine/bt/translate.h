/*
 * What the passes of the translator share: one unit on its way to host code. A unit is a trace of
 * blocks of one page: entered at the first, it leaves behind the last or by a jump in between.
 *
 *   unit.c     which blocks, decoded with all operands
 *   plan.c     how each instruction will be emitted, and what it does to registers and memory
 *   flags.c    which arithmetic flags matter where
 *   groups.c   which memory accesses share one check, and where that stands
 *   checks.c   the checks
 *   memory.c, native.c, control.c, ...   host code
 *   strip.c, strip_head.c   a second copy of a loop, with fewer checks
 */
#ifndef ENGINE_BT_TRANSLATE_H
#define ENGINE_BT_TRANSLATE_H

#include "src/engine/bt/bt_int.h"

/* The six arithmetic flags, in Zydis's and the processor's bit positions. */
#define ARITH_FLAGS FLAGS_ARITH

#define UNIT_MAX_BLOCKS 8
#define UNIT_MAX_INSNS	96
#define MAX_GROUPS	(2 * UNIT_MAX_INSNS)
#define NO_GROUP	0xffff
#define NO_REG		0xff
#define ADDEND_SLOTS	CPU_BT_ADDENDS

_Static_assert(UNIT_MAX_INSNS >= BLOCK_MAX_INSNS, "one block always fits");

struct tr;
struct tr_insn;

/* A register operand that is spelled out in the encoding; vector registers keep their number. */
struct reg_operand {
	uint8_t guest, host;
	bool present, high8, in_memory;
	bool read, write; /* the register's old value matters; it changes */
};

/* Where an encoding may name a register. */
enum shape_place { AT_REG, AT_RM, AT_OPCODE, AT_VVVV, SHAPE_PLACES };

/* Where the encoding names registers and memory. */
struct shape {
	struct reg_operand reg[SHAPE_PLACES];
	uint8_t prefixes; /* bytes before REX, VEX or opcode */
	uint8_t opcode;	  /* first opcode byte */
	bool low8;	  /* an 8-bit operand whose host register needs a REX prefix to be named */
	bool mem;	  /* acc[0] is the ModRM.rm operand */
};

/* One access to guest memory by an address that is known when its instruction starts. */
struct tr_access {
	const ZydisDecodedOperandMem *m;
	uint8_t len;
	uint8_t align; /* the address must be a multiple of it; 0: any */
	bool write;
	bool unsure; /* the instruction may access something else instead */
	uint16_t group;
};

/* What follows the last instruction of a block of the unit. */
enum tr_follow { FOLLOW_NOTHING, FOLLOW_NEXT, FOLLOW_TARGET };

/* One guest instruction. */
struct tr_insn {
	ZydisDecodedInstruction zi;
	ZydisDecodedOperand op[ZYDIS_MAX_OPERAND_COUNT];
	const uint8_t *bytes;
	const struct block *block;
	const struct insn *insn; /* the interpreter's form; two slots for a vector instruction */
	void (*emit)(struct tr *t, struct tr_insn *in); /* NULL: handed to its handler */
	struct shape shape;
	struct tr_access acc[2];
	uint8_t naccs;
	bool ends;	     /* control does not reach what is behind the instruction */
	bool x87;	     /* needs the x87 state, be it as MMX registers */
	bool x87_data;	     /* ... and sets the pointers to the last instruction and its operand */
	bool checks;	     /* in a unit that needs the x87 state: some check stands before it */
	bool may_leave;	     /* its host code may give up */
	bool barrier;	     /* no check holds behind it */
	bool flags_anywhere; /* counts as reading flags, but needs none in the host's */
	bool rsp_behind;     /* RSP may lag behind: see tr_move_rsp() */
	enum tr_follow follow;
	uint32_t live_in;		 /* flags whose value before the instruction matters */
	uint32_t live_out;		 /* ... and behind it */
	uint32_t flag_reads, flag_kills; /* what it reads, and surely overwrites */
	uint32_t flag_touches;		 /* ... and may overwrite */
	uint16_t off;			 /* in the page */
	uint8_t *host;			 /* its host code */
};

/* What is known of a register: a numbered value plus a constant. */
struct tr_value {
	uint32_t root;
	uint32_t below; /* the numbered value is less than this; 0: not known */
	int64_t delta;
};

/* The base of accesses relative to RIP. */
#define CODE_PAGE ~0u

/* What of an address a register has that has a group's addend. */
enum tr_fold { FOLD_NOTHING, FOLD_INDEX, FOLD_BASE };

/* Accesses relative to one base, checked together: see groups.c. */
struct tr_group {
	uint32_t base, index; /* values, by number; 0: none, CODE_PAGE: the code's page */
	uint32_t below;	      /* the index is; 0: not known */
	uint8_t scale, seg;
	int64_t lo, hi; /* range of bytes, relative to the values; hi is the last byte */
	bool write;
	bool stack;	      /* relative to RSP */
	uint8_t align;	      /* the address at align_at must be a multiple of it; 0: any */
	int64_t align_at;     /* relative to the values */
	uint16_t check_at;    /* instruction before which the check stands */
	uint16_t first, last; /* instructions that access */
	uint8_t place;	      /* the group's bit in sets of the block */
	bool narrow;	      /* what belongs to it lies close together */
	const struct tr_access *check; /* the access by whose registers the check computes */
	int64_t check_disp;	       /* its displacement, relative to the values */
	int64_t check_by; /* by how much its address is larger there than at the check */
	uint32_t latch;	  /* that holds the page and the addend; or NO_LATCH: there is none */
	uint8_t slot;	  /* then, where the addend is kept: index in cpu->bt.addend */
	bool kept;	  /* there */
	bool fixed;	  /* the latch is of the code's page: see emit_fixed_check() */
	bool ahead;	  /* checked before a strip of the loop: strip.c */
	uint8_t reg;	  /* then, the host register that has the addend, or NO_REG */
	uint8_t fold;	  /* then, what else is in there: enum tr_fold */
	uint8_t table;	  /* 1 + index in cpu->bt.table, filled before a strip; or 0 */
};

/* Offset of a field of a latch in struct cpu. */
#define TR_LATCH(n, field) \
	(CPU_OFF(tlb.latches.latch) + (n) * sizeof(struct latch) + offsetof(struct latch, field))

enum slow_kind {
	SLOW_MISS,  /* the check of group g */
	SLOW_ENTER, /* the check of vector or x87 registers */
	SLOW_REST,  /* the interpreter is to take over */
	SLOW_STEP,  /* its handler is to do the instruction; then on at retry */
};

/* A way out of line. */
struct tr_slow {
	enum slow_kind kind;
	uint8_t *from;	/* displacement of the jump to here; of a check: of one of a latch */
	uint8_t *retry; /* start of the check; of a latch's: of the look-up behind it */
	/* Of a check: */
	uint8_t *miss[2]; /* displacements of the jumps to bt_miss() */
	uint8_t nmiss;
	uint8_t *other; /* displacement of that for a page that is not in the first level */
	uint8_t *have;	/* where the page is known, and its addend in SCRATCH1 */
	uint8_t *done;	/* where the latch holds it */
	const struct tr_group *g;
	const struct tr_insn *at;
	uint8_t vec_level; /* what registers are checked */
	bool x87;
	bool mem; /* flags are in cpu->bt.flags */
};

/* A jump that leaves the unit for an address of its page. */
struct tr_exit {
	uint8_t *from;	 /* displacement to patch to the stub, and later to the block */
	uint32_t target; /* offset in the page */
	uint32_t key;	 /* of the block there */
	bool mem;	 /* flags are in cpu->bt.flags */
};

/*
 * A branch to another page that goes on out of line: a direct jump all of it, a direct call if its
 * latch failed, an indirect call (which must come from the call instruction) to look up its target.
 */
struct tr_far {
	uint8_t *from;
	uint8_t *ret;		/* of a direct call: the host's return address */
	int32_t target;		/* relative to the page; unless the address is in cpu->rip */
	struct bt_far *far;	/* or NULL: the target is looked up */
	bool emitted;		/* the branch is, and `from` is where its latch failed */
	bool mem;		/* flags are in cpu->bt.flags */
	struct bt_site *branch; /* of an indirect call */
};

/* A look-up's ways out: see bt_emit_lookup(). */
struct tr_lookup {
	uint8_t *miss[2];
	struct bt_site *branch;
};

struct tr {
	struct bt *bt;
	struct emit *e;
	struct block *b; /* the first */
	const struct block *block[UNIT_MAX_BLOCKS];
	unsigned nblocks, n;
	const struct block_unit *unit; /* for those who check, or NULL */
	struct tr_insn in[UNIT_MAX_INSNS];
	struct tr_group group[MAX_GROUPS];
	unsigned ngroups;
	struct tr_slow slow[2 * MAX_GROUPS + 2 * UNIT_MAX_INSNS];
	unsigned nslow;
	struct tr_exit exit[2 * UNIT_MAX_BLOCKS];
	unsigned nexits;
	uint8_t *back[4 * UNIT_MAX_BLOCKS]; /* of those, jumps back to the unit's top */
	unsigned nback;
	struct tr_far far[2 * UNIT_MAX_BLOCKS];
	unsigned nfar;
	struct tr_lookup lookup[3 * UNIT_MAX_BLOCKS];
	unsigned nlookups;
	uint8_t *ret_from; /* jump of a return that was not expected, and the return's site */
	struct bt_site *ret_site;
	struct tr_value reg_values[UNIT_MAX_INSNS + 1][16]; /* groups.c */
	unsigned nstack;				    /* groups with a latch of the stack */
	unsigned at;					    /* the instruction being emitted */
	unsigned next_group;				    /* whose check is to be emitted next */
	unsigned addend; /* the group whose addend is in SCRATCH1, or NO_GROUP */
	int32_t rsp_lag; /* guest RSP less the host register for it */
	/* What SCRATCH0 holds, unless code was emitted behind held_at: see tr_held(). */
	unsigned held;
	const uint8_t *held_at;
	unsigned ctx;	    /* enum tlb_ctx */
	bool upper;	    /* the code is in the upper half of addresses */
	bool any_half;	    /* data may be in the other half */
	bool seldom;	    /* the unit runs so seldom that its checks have no latches */
	uint64_t by_hand;   /* what the block's was when it started */
	uint32_t exit_key;  /* of blocks that exits lead to */
	unsigned vec_level; /* what vector instructions of the unit need: BT_VEC_*, 0: there are
			       none */
	unsigned vec_at;    /* instruction before which that is checked */
	bool x87;	    /* some instruction needs the x87 state */
	bool x87_paged;	    /* cpu->bt.x87_page is the unit's page */
	unsigned x87_at;    /* instruction before which that is checked */
	bool polls;	    /* the unit may be part of a cycle */
	/*
	 * Where the flags are, where they matter: in the host's, or as bt_flags_pack() has them in
	 * cpu->bt.flags.
	 */
	bool flags_mem;
	bool failed;
	bool strip;	/* the unit is entered at a strip's head */
	uint8_t *entry; /* host code of the unit */
	uint8_t *entry_near,
		*entry_far;	/* ... entered with flags in the host's or in cpu->bt.flags */
	struct bt_site no_site; /* stand for what there was no room for; failed is set */
	struct bt_check no_check;
};

/* Kept with the struct bt: too large for the stack. */
struct bt_space {
	struct tr tr;
};

/* unit.c: false if the bytes do not match the interpreter's decoding. */
bool tr_unit(struct tr *t, struct block *b);
/* Offset in the page (or beyond it) of what a direct branch goes to. */
int64_t tr_target(const struct tr_insn *in);
static inline int64_t tr_next(const struct tr_insn *in)
{
	return (int64_t)in->off + in->zi.length;
}

/* plan.c */
void tr_plan(struct tr *t);
/* Whether instruction n is one of the block's by_hand. */
static inline bool tr_by_hand(const struct tr *t, unsigned n)
{
	return n < BT_LAST_PLACE && t->by_hand >> n & 1;
}
/* A conditional or unconditional near jump to a constant distance. */
bool tr_is_jcc(const struct tr_insn *in);
bool tr_is_jump(const struct tr_insn *in);
/* A near call of a constant distance. */
bool tr_is_call(const struct tr_insn *in);
/* native.c, control.c, ...: fill in emit, shape, acc if they know the instruction. */
bool tr_plan_native(struct tr *t, struct tr_insn *in);
bool tr_plan_control(struct tr *t, struct tr_insn *in);
bool tr_plan_vector(struct tr *t, struct tr_insn *in);
bool tr_plan_divide(struct tr_insn *in);
bool tr_plan_segment(struct tr *t, struct tr_insn *in);
bool tr_plan_system(struct tr *t, struct tr_insn *in);
bool tr_plan_string(struct tr *t, struct tr_insn *in);
bool tr_plan_x87(struct tr *t, struct tr_insn *in);
/* vector.c: where the check stands that instruction n needs, if it need be only once in a unit. */
unsigned tr_place_check(const struct tr *t, unsigned n);
/* Chooses vec_at; the check itself. */
void tr_place_vec_check(struct tr *t);
void tr_emit_vec_check(struct tr *t, struct tr_insn *at);
/* x87.c: after all other checks have their places, chooses x87_at; the check itself. */
void tr_place_x87_check(struct tr *t);
void tr_emit_x87_check(struct tr *t, struct tr_insn *at);
bool tr_has_mmx(const struct tr_insn *in);
/* Whether an instruction behind this one needs the x87 state. */
bool tr_x87_behind(const struct tr *t, const struct tr_insn *in);

/* rewrite.c: finds acc[0] and the register operands; false: not of a form that can be rewritten. */
bool tr_shape(struct tr_insn *in);
/* Emits the instruction as itself, with registers renamed and the memory operand replaced. */
void tr_rewrite(struct tr *t, struct tr_insn *in);

/* flags.c: fills in live_in and live_out of every instruction. */
void tr_flags(struct tr *t);
/* Before code that clobbers the host's flags, of which live matter; tmp: a scratch register. */
void tr_flags_clobber(struct tr *t, uint32_t live, unsigned tmp);
/* Before and after an instruction that is emitted as host code. */
void tr_flags_before(struct tr *t, const struct tr_insn *in);
void tr_flags_after(struct tr *t, const struct tr_insn *in);

/* groups.c: fills in the groups and the group of every access. */
void tr_groups(struct tr *t);

/* checks.c: the checks due before an instruction; what is out of line. */
void tr_checks(struct tr *t, struct tr_insn *in);
void tr_emit_slow(struct tr *t);
/*
 * A jump out of line on condition cc of an instruction that may_leave; not for checks. And where
 * the way of a SLOW_STEP comes back, with nothing in scratch registers.
 */
struct tr_slow *tr_slow_if(struct tr *t, const struct tr_insn *in, enum slow_kind kind,
			   unsigned cc);
void tr_slow_back(struct tr *t, struct tr_slow *s);

/* Offset of a field of a group's table in struct cpu. */
#define TR_TABLE(g, field)                                                    \
	(CPU_OFF(bt.table) + ((g)->table - 1) * sizeof(struct cpu_bt_table) + \
	 offsetof(struct cpu_bt_table, field))

/*
 * SCRATCH1 = the addend of a group whose first byte's address is there, and the last one's in
 * SCRATCH0, which becomes the tag; returns the jump that is taken if the first level has it not.
 */
uint8_t *tr_first_level(struct tr *t, const struct tr_group *g);
/* The same with SCRATCH1 as for bt_emit_shifted_level(). */
uint8_t *tr_shifted_level(struct tr *t, const struct tr_group *g);

/* strip.c: whether to try; the strip's head and copy of the loop, or NULL: there is no use. */
bool tr_has_strip(const struct tr *t);
const uint8_t *tr_emit_strip(struct tr *t);

/* memory.c */
/*
 * What SCRATCH0 holds here: the number of a guest register that is in memory, HELD_PAGE (the page
 * that the block is in), or NO_REG. Whoever emits code says what it holds behind that, or it holds
 * nothing.
 */
#define HELD_PAGE 16
static inline unsigned tr_held(const struct tr *t)
{
	return t->held_at == t->e->p ? t->held : NO_REG;
}
static inline void tr_hold(struct tr *t, unsigned what)
{
	t->held = what;
	t->held_at = t->e->p;
}
/* Has it hold that. */
void tr_load_held(struct tr *t, unsigned what);
/* Whether an address can be computed in 64 bits by one LEA. */
bool tr_can_address(const struct tr_insn *in, const ZydisDecodedOperandMem *m);
/*
 * Host operand of an access whose group was checked; may use SCRATCH0 as base, and SCRATCH1. With
 * one_scratch only SCRATCH1. Says what SCRATCH0 holds.
 */
struct host_mem tr_operand(struct tr *t, const struct tr_insn *in, const struct tr_access *a,
			   bool one_scratch);
/* SCRATCH0 = the access's offset in its segment; keeps flags, may use SCRATCH1. */
void tr_offset(struct tr *t, const struct tr_insn *in, const struct tr_access *a);
/*
 * out, a scratch register, = linear address + more; flags stay. May use the other one, and does if
 * it needs both.
 */
void tr_address(struct tr *t, const struct tr_insn *in, const ZydisDecodedOperandMem *m,
		unsigned out, int64_t more);
bool tr_needs_both(const ZydisDecodedOperandMem *m);

/*
 * control.c: guest RSP moves; the host's register follows with the next instruction that is not
 * rsp_behind or that has a check, so that a run of PUSH or POP moves it once.
 */
#define TR_MAX_MOVE (1 << 29)
void tr_move_rsp(struct tr *t, int32_t by); /* at most so far up or down */
void tr_settle_rsp(struct tr *t);

/* leave.c: whether an offset is in the page. */
bool tr_in_page(int64_t off);
/* reg = the linear address of an offset in the page, or beyond. */
void tr_page_address(struct emit *e, unsigned reg, int32_t off);
/* To an offset, on a condition; a joined jump where that can be. */
#define TR_ALWAYS 16 /* jcc of an unconditional exit */
void tr_exit(struct tr *t, int64_t target, unsigned jcc);
/* The host's call, to an offset; to what cpu->rip says, branch being the instruction's site. */
void tr_call(struct tr *t, int64_t target);
void tr_call_looked_up(struct tr *t, struct bt_site *branch);
/* To the target in SCRATCH0; branch: the site of an indirect branch, or NULL. */
void tr_look_up(struct tr *t, struct bt_site *branch, bool flags_mem);
/* What is out of line of all these, and of returns. */
void tr_emit_far(struct tr *t);

/* translate.c */
/* Nothing is planned and nothing out of line. */
void tr_start_passes(struct tr *t);
struct bt_site *tr_site(struct tr *t, const struct tr_insn *in);
struct bt_check *tr_check(struct tr *t, const struct tr_insn *in);

/* The scale field of a SIB byte. */
static inline unsigned tr_scale(const ZydisDecodedOperandMem *m)
{
	return m->scale == 8 ? 3 : m->scale == 4 ? 2 : m->scale == 2 ? 1 : 0;
}

/* Guest register number (0-15), or -1 if the operand is no general register. AH to BH: 0-3. */
static inline int tr_gpr(ZydisRegister r)
{
	if (r >= ZYDIS_REGISTER_RAX && r <= ZYDIS_REGISTER_R15)
		return r - ZYDIS_REGISTER_RAX;
	if (r >= ZYDIS_REGISTER_EAX && r <= ZYDIS_REGISTER_R15D)
		return r - ZYDIS_REGISTER_EAX;
	if (r >= ZYDIS_REGISTER_AX && r <= ZYDIS_REGISTER_R15W)
		return r - ZYDIS_REGISTER_AX;
	if (r >= ZYDIS_REGISTER_AL && r <= ZYDIS_REGISTER_BL)
		return r - ZYDIS_REGISTER_AL;
	if (r >= ZYDIS_REGISTER_AH && r <= ZYDIS_REGISTER_BH)
		return r - ZYDIS_REGISTER_AH;
	if (r >= ZYDIS_REGISTER_SPL && r <= ZYDIS_REGISTER_DIL)
		return r - ZYDIS_REGISTER_SPL + RSP;
	if (r >= ZYDIS_REGISTER_R8B && r <= ZYDIS_REGISTER_R15B)
		return r - ZYDIS_REGISTER_R8B + R8;
	return -1;
}

#endif
