/*
 * The binary translator: the second tier behind the interpreter. A block that has been interpreted
 * often enough is compiled to host code; what the compiler does not know is done by the
 * interpreter's handler, called from the compiled block. See docs/bt.md.
 *
 * One struct bt per VCPU, used by its thread only. That thread's GS base points to its struct cpu.
 * Compiled code and the stubs that it calls are the same for all VCPUs.
 */
#ifndef ENGINE_BT_BT_H
#define ENGINE_BT_BT_H

#include <stdio.h>

#include "src/engine/interp/block.h"

struct bt;
struct bt_stubs;

/* How all VCPUs of a guest compile. */
struct bt_options {
	bool single;	  /* compiled code returns after each unit (lockstep checking) */
	bool exact_flags; /* also where only the frame of a fault or interrupt shows them */
	bool gdb_jit;	  /* gdb is told of compiled code (gdb_jit.h) */
};

/* In the code cache, before any VCPU uses it. */
int bt_stubs_create(struct bt_stubs **stubs, struct code_cache *code, const struct bt_options *opt);
void bt_stubs_destroy(struct bt_stubs *stubs);

struct bt_config {
	struct bt_stubs *stubs;
	uint32_t hot; /* runs after which a block is worth following when a unit is formed */
	bool counted; /* count instructions: bt_run() ends after about max_insns of them */
	bool deliver; /* page faults may be delivered without unwinding */
	/* May be NULL; several VCPUs may write to one. */
	FILE *log;	/* gets guest and host code of each unit, side by side */
	FILE *perf_map; /* gets a line for each unit: address, size, name */
};

int bt_create(struct bt **bt, struct block_cache *bc, const struct bt_config *cfg);
void bt_destroy(struct bt *bt);

/* Before the first bt_run() on a thread: points GS at the CPU. */
void bt_enter_thread(struct bt *bt);

/*
 * Compiles a kept block; b->native is set if that worked, here or on another VCPU. False: the code
 * cache has no room now.
 */
bool bt_translate(struct bt *bt, struct block *b);

/*
 * Takes back a kick (cpu->bt.stack_limit). The caller then looks at what it may have been kicked
 * for, before it calls bt_run().
 */
void bt_unkick(struct bt *bt);
/*
 * Runs compiled code from b at cpu->rip until it leaves it: for a kick, for something that the
 * interpreter has to do, or after about max_insns instructions if they are counted. State is in
 * struct cpu before and after. Faults unwind as in the interpreter.
 */
void bt_run(struct bt *bt, const struct block *b, uint32_t max_insns);
/* If compiled code was left by an exit to this very block, joins the two. */
void bt_link(struct bt *bt, struct block *next);
/* After blocks were forgotten. */
void bt_unlink(struct bt *bt);
/* At the landing of a fault inside bt_run(). */
void bt_landed(struct bt *bt);
bool bt_running(const struct bt *bt);
/* Before the thread does something else: debuggers see what was compiled. */
void bt_show(struct bt *bt);

#endif
