/*
 * The reference interpreter: runs one struct cpu. The oracle for every other engine, and the one
 * that can stop between any two instructions.
 */
#ifndef ENGINE_INTERP_INTERP_H
#define ENGINE_INTERP_INTERP_H

#include <stdio.h>

#include "src/x86/cpu.h"

struct interp;
/* What the CPUs of a guest share: the code cache. */
struct interp_vm;

enum interp_exit {
	INTERP_BUDGET,	  /* about max_insns instructions were run */
	INTERP_REQUEST,	  /* *requests became non-zero */
	INTERP_YIELD,	  /* an instruction asked for a safepoint (MMIO, code written, window) */
	INTERP_PAUSE,	  /* PAUSE was executed */
	INTERP_HALT,	  /* HLT; rip is behind it */
	INTERP_SHUTDOWN,  /* triple fault */
	INTERP_DIFFERS,	  /* check_every: compiled code did something wrong; it was logged */
	INTERP_EXCEPTION, /* stop_on_exception: cpu->exc was raised at rip and not delivered */
};

struct interp_config {
	struct interp_vm *vm;	  /* NULL: the CPU is alone and has its own */
	unsigned self;		  /* number of this CPU's shootdown queue in its gmem, ~0u: none */
	const uint32_t *requests; /* looked at between blocks; may be NULL */
	size_t cache_bytes;	  /* of decoded code, and as many of compiled; 0: a default */
	bool stop_on_exception;
	bool translate;		  /* compile blocks that run often (64-bit code) */
	uint32_t translate_after; /* runs before that; 0: a default */
	/*
	 * Compiled code does not count instructions: it runs until *requests is set and
	 * cpu->bt.stack_limit is ~0, max_insns or not.
	 */
	bool until_kicked;
	/*
	 * Check each so-manieth run of compiled code against the interpreter (src/engine/check); 0:
	 * none. The CPU must be the only one of its guest. Compiled code then returns after each
	 * unit.
	 */
	uint32_t check_every;
	FILE *bt_log, *perf_map;   /* see bt.h; or NULL */
	bool exact_flags, gdb_jit; /* see struct bt_options */
};

/*
 * cfg: cache_bytes, translate, check_every, exact_flags, gdb_jit are those of all its CPUs. Each
 * CPU's queue is among those of the gmem by the time it runs, and gets a drain whenever *requests
 * was set. Destroyed after its CPUs.
 */
int interp_vm_create(struct interp_vm **vm, struct gmem *gm, const struct interp_config *cfg);
void interp_vm_destroy(struct interp_vm *vm);

/* With cfg->translate each thread that calls interp_run() first calls interp_enter_thread(). */
int interp_create(struct interp **out, struct cpu *cpu, const struct interp_config *cfg);
void interp_destroy(struct interp *in);
/* What checks the CPU, or NULL; for tests. */
struct check *interp_check(struct interp *in);
void interp_enter_thread(struct interp *in);

/*
 * Owner thread. Delivers what is pending in the CPU, then runs until one of the exits. Stops after
 * exactly max_insns instructions if exact is set, else after the block that reaches it.
 */
enum interp_exit interp_run(struct interp *in, uint64_t max_insns, bool exact);

/*
 * Owner thread, between runs: the interrupt or NMI is delivered first thing in the next run. The
 * caller has checked RFLAGS.IF and interp_interruptible().
 */
void interp_inject(struct interp *in, uint8_t vector);
bool interp_interruptible(const struct interp *in);

/* Owner thread, from the shootdown queue. */
void interp_drop_code(struct interp *in, gfn_t gfn);
void interp_forget_code(struct interp *in);
/* The same when the queue has overflowed. */
void interp_drop_stale(struct interp *in);
/* Owner thread, if memory was changed by means that gmem.h knows nothing of. */
void interp_drop_all(struct interp *in);

#endif
