/* What the files of the translator share. */
#ifndef ENGINE_BT_BT_INT_H
#define ENGINE_BT_BT_INT_H

#include "src/engine/bt/bt.h"
#include "src/engine/bt/emit.h"
#include "src/x86/hostisa.h"

/*
 * Guest registers live in the host registers of the same name, but for four: guest RSP is in host
 * R15; guest R10, R11 and R15 are in memory, since host R10 and R11 are scratch. Host RSP is the
 * host's stack.
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

#define CPU_OFF(field) offsetof(struct cpu, field)
#define GPR_OFF(r)     (CPU_OFF(gpr) + 8 * (r))

/*
 * An instruction that compiled code hands to the interpreter's handler: always, or when its fast
 * path does not apply. The handler ends by calling slot[n]'s successor, which returns to us.
 */
struct bt_site {
	struct insn slot[3];
	uint32_t block_off; /* of the block in its page: the handler needs REG_PC */
	uint16_t behind;    /* instructions of the block behind this one */
	int32_t undo_rsp;   /* what takes back an indirect branch's change of RSP */
};

/* A jump at the end of a block that may be patched to go straight to the next block. */
struct bt_exit {
	uint8_t *jump; /* displacement, in the writable mapping */
	gpa_t gpa;     /* of the block that may follow, and its key */
	uint32_t key;
};

struct bt_space;

struct bt {
	struct cpu *cpu;
	uint8_t *rw, *rx; /* two mappings of the code buffer */
	size_t size;
	struct emit e;	  /* what runs */
	struct emit cold; /* what seldom runs: kept apart, so that caches hold more of the rest */
	uint8_t *first;	  /* end of the common stubs, where block code starts */
	char *meta;	  /* sites and exits */
	size_t meta_size, meta_used;
	const struct bt_site *site; /* being run by a handler */
	struct bt_space *tr_space;  /* work space of one translation */
	ZydisDecoder decoder;
	struct host_isa isa;
	uint32_t slice; /* instructions granted to this run */
	bool running;	/* compiled code is on the stack */
	bool in_cpu;	/* the block was left by a handler: flags are in struct cpu */
	/* Common stubs, writable addresses. */
	uint8_t *enter, *leave, *step, *chain, *lookup;
};

/* stubs.c */
void bt_emit_stubs(struct bt *bt);
void *bt_meta_alloc(struct bt *bt, size_t size);
/* Called by the step stub. False: the block is to be left, state is in struct cpu. */
bool bt_step(struct cpu *cpu, struct bt_site *site);

/* Saves and restores the arithmetic flags around code that clobbers them; uses host RAX. */
static inline void emit_save_flags(struct emit *e)
{
	e_store(e, H_RAX, CPU_OFF(bt.rax));
	e8(e, 0x9f);			       /* lahf */
	e8(e, 0x0f), e8(e, 0x90), e8(e, 0xc0); /* seto al */
}

static inline void emit_restore_flags(struct emit *e)
{
	e8(e, 0x04), e8(e, 0x7f); /* add al, 0x7f: sets OF if al is 1 */
	e8(e, 0x9e);		  /* sahf */
	e_load(e, H_RAX, CPU_OFF(bt.rax));
}

#endif
