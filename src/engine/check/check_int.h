/* What the parts of the checker share. */
#ifndef ENGINE_CHECK_CHECK_INT_H
#define ENGINE_CHECK_CHECK_INT_H

#include <Zydis/Zydis.h>

#include "src/engine/check/check.h"
#include "src/x86/mem_overlay.h"

#define CHECK_TRAIL  16u
#define CHECK_REPORT 6000 /* of a log line */
/* The part of struct cpu that holds the guest's state. */
#define CHECK_STATE offsetof(struct cpu, bt)

/* Not the guest's: that somebody waits for it to allow interrupts. */
#define CHECK_WINDOWS (CPU_EVENT_WINDOW | CPU_EVENT_NMI_WINDOW)

#define CHECK_EXCUSES 4096u

/* What check_flags_excused() found: the same until the code changes. */
struct check_excuse {
	const struct block_unit *unit;
	uint64_t rip, gen;
	unsigned nrun;
	uint32_t flags;
};

struct check {
	struct cpu *cpu;
	struct cpu *twin;   /* the same, run by the interpreter */
	struct stats stats; /* of the twin: nobody reads them */
	struct mem_overlay overlay;
	uint32_t every, wait; /* runs between two checks, and until the next */
	bool armed;
	bool exact_flags; /* dead flags are compared, too */
	const struct block_unit *unit;
	unsigned nrun; /* blocks of the unit that the twin began */
	uint8_t before[CHECK_STATE] __attribute__((aligned(64))); /* the CPU's state */
	struct insn part[BLOCK_MAX_SLOTS]; /* of a block that is to be left in the middle */
	uint64_t trail[CHECK_TRAIL];	   /* addresses of the last runs, in a ring */
	unsigned ntrail;
	uint64_t code_gen; /* changes with the code */
	struct check_excuse excuse[CHECK_EXCUSES];
	ZydisDecoder decoder;
	char report[CHECK_REPORT];
};

static inline const struct cpu *check_before(const struct check *k)
{
	/* Only the state is there. */
	return (const struct cpu *)k->before;
}

/* Linear address of the byte at off in the page of the unit. */
static inline uint64_t check_linear(const struct check *k, uint64_t off)
{
	return (check_before(k)->rip & PAGE_MASK) + off;
}

/* check_state.c: a part of the state that is compared as it lies in struct cpu. */
struct check_field {
	const char *name;
	uint32_t off, size;
};
extern const struct check_field check_fields[];
extern const unsigned check_nfields;
bool check_same_state(struct check *k);
bool check_same_memory(const struct check *k);
/* Arithmetic flags that differ and have to be the same. */
uint64_t check_flags_differ(struct check *k);

/* check_flags.c: arithmetic flags that need not be the same at the CPU's rip. */
uint64_t check_flags_excused(struct check *k);
/* Whether what was run read a flag that it had left undefined: then anything may differ. */
bool check_read_undefined(const struct check *k);

/* check_report.c */
void check_make_report(struct check *k);

#endif
