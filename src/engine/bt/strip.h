/*
 * A strip of a loop: strip.c plans it and emits the copy, strip_head.c the head. Both write to the
 * unit's own code, within one translation.
 */
#ifndef ENGINE_BT_STRIP_H
#define ENGINE_BT_STRIP_H

#include "src/engine/bt/translate.h"

struct strip {
	const uint8_t *head;
	const uint8_t *again; /* the head, from a copy that has not given registers back */
	const uint8_t *undo;  /* gives registers back, and goes to the first copy */
	int counter;	      /* a register that tells rounds apart, or -1 */
	int64_t stride;	      /* by which it moves */
	/*
	 * Nothing in the copy leaves it, but at its end: no check, no jump, and nothing that
	 * may_leave. Then it keeps the borrowed registers: the first one holds the bound, which is
	 * the counter's value at the strip's end, the others hold addends.
	 */
	bool closed;
	/*
	 * Closed, and the loop is left when this instruction finds the counter equal to something
	 * that does not move: the bound is no further than that, and the comparison stands behind
	 * the strip. Or NULL.
	 */
	struct tr_insn *compare;
	uint8_t limit;			    /* which of its operands does not move */
	bool limited;			    /* in the head: some group has limited the rounds */
	uint8_t borrowed[1 + CPU_BT_STRIP]; /* guest registers */
	unsigned nborrowed;
};

/*
 * m: the group's first byte in the first round, and how far it gets in one round, if its page can
 * be looked up ahead.
 */
bool strip_moves_evenly(const struct tr *t, const struct tr_group *g, ZydisDecodedOperandMem *m,
			int64_t *stride);
/*
 * Whether the group is a table of at most a page whose elements do not cross pages if the first
 * one is aligned; m: that one.
 */
bool strip_is_table(const struct tr *t, const struct tr_group *g, ZydisDecodedOperandMem *m);
/* How many bytes the accesses of a table are apart at most. */
int64_t strip_reach(const struct tr_group *g);
/* Loads what was borrowed. */
void strip_undo(struct tr *t, const struct strip *s);

/* strip_head.c: sets head and again. */
void strip_emit_head(struct tr *t, struct strip *s);

#endif
