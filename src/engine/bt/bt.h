/*
 * The binary translator: the second tier behind the interpreter. A block that has been interpreted
 * often enough is compiled to host code; what the compiler does not know is done by the
 * interpreter's handler, called from the compiled block. See docs/bt.md.
 *
 * One struct bt per VCPU, used by its thread only. That thread's GS base points to its struct cpu.
 */
#ifndef ENGINE_BT_BT_H
#define ENGINE_BT_BT_H

#include "src/engine/interp/block.h"

struct bt;

int bt_create(struct bt **bt, struct cpu *cpu);
void bt_destroy(struct bt *bt);

/* Before the first bt_run() on a thread: points GS at the CPU. */
void bt_enter_thread(struct cpu *cpu);

/* Compiles a kept block; b->native is set if that worked. Returns false if the code buffer is full.
 */
bool bt_translate(struct bt *bt, struct block *b);
/* Drops all compiled code; the caller has dropped or will re-create all blocks. */
void bt_flush(struct bt *bt);

/*
 * Runs compiled code from b at cpu->rip until it leaves it, at most about max_insns instructions.
 * State is in struct cpu before and after. Faults unwind as in the interpreter, with
 * bt_fault_insns() telling how many counted instructions were not completed.
 */
void bt_run(struct bt *bt, struct block_cache *bc, const struct block *b, uint32_t max_insns);
/* If compiled code was left by an exit to this very block, joins the two. */
void bt_link(struct bt *bt, const struct block *next);
void bt_unlink(struct bt *bt);
/* At the landing of a fault inside bt_run(): corrects the instruction count. */
void bt_landed(struct bt *bt);
bool bt_running(const struct bt *bt);

#endif
