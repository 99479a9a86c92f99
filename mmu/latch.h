/*
 * Latches: each check of a memory access in compiled code remembers the page that it saw last, and
 * where that lies in the host. One array for each VCPU, written and read only by the VCPU's thread.
 * A latch is filled from an entry of the TLB's first level, for one context and kind of access; it
 * holds more than that level then, since entries come and go.
 *
 * A latch is compared with an address plus the tag of its address space: one range check finds
 * whether the page, the address space and the time since the last flush are the same. Tags are
 * numbered; each lies at least 2^49 from all others and from 0, and canonical addresses of one half
 * or of both are less than 2^48 apart. So no canonical address matches a latch that was filled
 * under another tag, nor one that was never filled.
 * An address that is not canonical might: it would be one secret distance of 2^41 away, and the
 * host's access then be to an address that is not canonical either.
 *
 * To flush is to take a new tag: one for the lower half of each PCID, and one for the upper half.
 *
 * Direct branches have one as well, half of a latch, which is filled under another kind of tag: see
 * engine/interp/block.h.
 */
#ifndef MMU_LATCH_H
#define MMU_LATCH_H

#include "src/base/types.h"

#define LATCHES	      1048576u /* for code in each half of addresses */
#define NO_LATCH      ~0u
#define LATCH_PIECE   256u /* latches cleared together */
#define LATCH_BITS    10
#define LATCH_NUMBERS (1u << LATCH_BITS)
#define LATCH_PCIDS   4096u

struct latch {
	uint64_t base;	 /* page address + tag */
	uint64_t addend; /* host address - guest virtual address */
};

struct latches {
	uint64_t tag[2];   /* in use: [0] lower half, [1] upper half */
	uint64_t delta[2]; /* tag[] less the TLB's tag[], which latches are filled from */
	/* Set by compiled code: a latch was filled under the half's tags. */
	uint8_t filled[2];
	uint8_t stored;		    /* also: one that allows stores, since all were renewed */
	uint16_t next;		    /* number of the next tag; those before are taken */
	uint16_t oldest;	    /* lower half: numbers below it were flushed */
	uint16_t pcid[LATCH_PCIDS]; /* number of the lower half's tag; 0: none */
	uint64_t number[LATCH_NUMBERS];
	/* By the half that the code is in, as tag[]. Set by compiled code: one of a piece was
	 * filled. */
	uint8_t touched[2][LATCHES / LATCH_PIECE] __attribute__((aligned(PAGE_SIZE)));
	struct latch latch[2][LATCHES];
};

/*
 * A few latches are shared by accesses to the stack, which mostly go to the same page wherever they
 * are: by code of the same page, and by no two groups of one unit. n: less than LATCH_STACK.
 */
#define LATCH_STACK	  8u
#define LATCH_STACK_PAGES 64u
#define LATCHES_STACK	  (2 * LATCH_STACK * LATCH_STACK_PAGES)

/* Latches are numbered through both halves. */
static inline uint32_t latch_number(bool upper, uint32_t n)
{
	return upper * LATCHES + n;
}
static inline uint32_t latch_of_stack(bool upper, bool write, uint64_t code_page, unsigned n)
{
	return latch_number(upper, (code_page % LATCH_STACK_PAGES * 2 + write) * LATCH_STACK + n);
}

/* Zeroed memory in. */
void latches_init(struct latches *l);
/*
 * Each takes the current PCID, whose tag is in use afterwards. All keep delta[] to the caller.
 * clear: all latches, whoever uses them from now on; also when numbers have run out.
 */
void latches_clear(struct latches *l, uint16_t pcid);
void latches_renew_upper(struct latches *l, uint16_t pcid);
void latches_renew_lower(struct latches *l, uint16_t pcid);
void latches_use_lower(struct latches *l, uint16_t pcid);
/* A page of one half changed, in whatever address space. */
void latches_page_changed(struct latches *l, uint16_t pcid, bool upper);
/* The right to store to some frame was taken away. */
void latches_protect(struct latches *l, uint16_t pcid);

#endif
