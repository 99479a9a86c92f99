/*
 * Lockstep checking: each run of compiled code is done beforehand by the interpreter's handlers on
 * a second CPU, whose stores go to an overlay, and afterwards all that the guest can see must be
 * the same: registers, the exception raised, and every byte that the interpreter stored. What
 * compiled code stores beyond that is not noticed here.
 *
 * A run is not checked if it talks to a device, reads a clock or draws a random number, if a device
 * changed what it loaded meanwhile, or if compiled code left between two iterations of a repeated
 * instruction. Nor are differences held against code that reads flags that it left undefined, or
 * that stores to its own page.
 *
 * Owner thread only. One VCPU: others would change memory between the two.
 */
#ifndef ENGINE_CHECK_CHECK_H
#define ENGINE_CHECK_CHECK_H

#include "src/engine/interp/block.h"

struct check;

/* every: check each so-manieth run. exact_flags: also flags that nothing reads any more. */
int check_create(struct check **out, struct cpu *cpu, uint32_t every, bool exact_flags);
void check_destroy(struct check *k);

/* Code was dropped. */
void check_forget(struct check *k);

/* Before compiled code of block b, whose unit is known, runs on the CPU at cpu->rip. */
void check_begin(struct check *k, const struct block *b);
/*
 * After it has, faults landed: false if there is a difference, which has been logged. True if there
 * was no check_begin().
 */
bool check_end(struct check *k);

/* The text of the last report, "" if there is none. */
const char *check_report(const struct check *k);
/* For tests of the checker: the CPU that the interpreter runs on, between begin and end. */
struct cpu *check_twin(struct check *k);

#endif
