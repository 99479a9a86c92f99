/*
 * Programs: random code of several functions and many blocks, with loops, calls and tables, that
 * comes to an end whatever its instructions compute. It is a list of items (one or a few
 * instructions each) of which any may be left out, so that a failure can be shrunk.
 *
 * Two rules keep the sides comparable. Where control may come from elsewhere (a label) and where it
 * may go elsewhere, no flag is undefined but AF, which few instructions read. And what goes
 * backwards burns fuel: R13 counts down, and at zero the way back is not taken.
 */
#ifndef DIFF_PROG_H
#define DIFF_PROG_H

#include "tests/diff/gen.h"

#define PROG_ITEMS  400
#define PROG_LABELS 256
#define PROG_BYTES  48 /* of an item */
#define PROG_REFS   4
#define PROG_TABLE  256 /* entries that hold labels; as many pointers to data follow */

enum prog_kind {
	PROG_FLOW,   /* calls, returns, tables, loops, stacks */
	PROG_MEMORY, /* groups of accesses that straddle pages */
	PROG_FLAGS,  /* flags that live long */
	PROG_VECTOR, /* x87, SSE, AVX and their control registers */
	PROG_STRING, /* string instructions and locked ones */
	PROG_SMC,    /* stores into code */
	PROG_MIXED,
	PROG_KINDS,
};

extern const char *const prog_kind_names[PROG_KINDS];

enum prog_ref_kind {
	REF_REL8,
	REF_REL32,
	REF_ABS32,
	REF_PATCH, /* RIP-relative address of the label's item, whose bytes are stored to */
	REF_DATA,  /* RIP-relative address of something that is no label */
};

struct prog_ref {
	uint8_t at;  /* of the field in the item */
	uint8_t end; /* of its instruction */
	uint8_t kind;
	uint32_t to; /* label, or address */
	uint32_t add;
};

struct prog_item {
	uint8_t bytes[PROG_BYTES];
	uint8_t len, nrefs;
	struct prog_ref ref[PROG_REFS];
	uint32_t tested, undefined, defined; /* RFLAGS bits, over all its instructions */
	uint16_t place;			     /* least offset in the code, or 0 */
	bool label;			     /* control may come from elsewhere */
	bool leaves;			     /* control may go to a label */
	bool ends;			     /* ... and never to what follows */
	unsigned open;			     /* of its instructions: OPEN_* */
	bool fragile; /* no instruction of it may be left out: a fault ends the program */
	bool dropped;
};

struct program {
	unsigned count, labels, nstates;
	struct prog_item item[PROG_ITEMS];
	uint16_t label_item[PROG_LABELS];
	unsigned ntable;
	uint16_t table[PROG_TABLE]; /* labels */
	struct diff_state init[2];
	struct guest_pace pace;
	bool patches;
	/* Of the last layout. */
	uint16_t offset[PROG_ITEMS + 1];
};

struct prog_options {
	enum prog_kind kind;
	unsigned len; /* about how many statements in the main part */
	/*
	 * A store may change which flags an instruction reads. Not on the translator without exact
	 * flags, which lets go of flags that the code as it is does not read: docs/bt.md.
	 */
	bool patch_readers;
};

/* --- prog.c --------------------------------------------------------------------------------- */

void prog_generate(struct program *p, uint64_t seed, const struct prog_options *opt);

/* --- prog_item.c ---------------------------------------------------------------------------- */

/* Whether both sides must agree on it still, with what has been dropped. */
bool prog_valid(const struct program *p);
void prog_layout(struct program *p, struct diff_image *image);
/* The item at a code address, or -1; *undefined: flags that may be undefined there. */
int prog_item_at(const struct program *p, uint64_t rip, uint32_t *undefined);

/* --- prog_run.c ----------------------------------------------------------------------------- */

struct prog_run {
	struct prog_options gen;
	uint64_t seed, count;
	bool keep_going, verbose, bt, exact_flags;
};

/* As diff_run's main: true if there was no difference. Prints a summary. */
bool prog_run_all(struct guest *g, const struct prog_run *cfg);

#endif
