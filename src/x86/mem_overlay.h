/*
 * What a CPU whose stores must not happen sees of memory: with cpu->overlay set, loads and stores
 * go here, word by word, and guest memory stays as it is (but for accessed and dirty bits of page
 * tables, which a walk sets as it would have anyway). The CPU's TLB stays empty. For one thread.
 */
#ifndef X86_MEM_OVERLAY_H
#define X86_MEM_OVERLAY_H

#include "src/base/types.h"

#define OVERLAY_HASH  2048u
#define OVERLAY_WORDS 1024u

struct overlay_word {
	gpa_t gpa;	  /* a multiple of 8 */
	const void *host; /* where memory has it */
	uint64_t seen;	  /* memory, at the first access */
	uint64_t now;	  /* with what was stored since */
	uint8_t loaded;	  /* bit n: byte n was loaded from memory */
	uint8_t stored;	  /* bit n: byte n was stored to */
	uint16_t hash;
};

struct mem_overlay {
	unsigned n;
	bool full; /* something was lost since overlay_clear() */
	struct overlay_word word[OVERLAY_WORDS];
	uint16_t index[OVERLAY_HASH]; /* of a word, + 1 */
};

void overlay_clear(struct mem_overlay *o);
/* To the memory that was there at first, for doing again some of what was done. */
void overlay_rewind(struct mem_overlay *o);
/* [gpa, gpa + len) lies in one page, at host. */
void overlay_load(struct mem_overlay *o, gpa_t gpa, const void *host, void *buf, unsigned len);
void overlay_store(struct mem_overlay *o, gpa_t gpa, const void *host, const void *buf,
		   unsigned len);

/* Eight bytes of memory as they are now. */
static inline uint64_t overlay_memory(const struct overlay_word *w)
{
	return *(const volatile uint64_t *)w->host;
}

/* All bits of the bytes in a byte mask. */
static inline uint64_t overlay_bits(uint8_t mask)
{
	uint64_t bits = 0;

	for (unsigned n = 0; n < 8; n++)
		if (mask & 1u << n)
			bits |= 0xffull << 8 * n;
	return bits;
}

#endif
