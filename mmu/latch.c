#include "mmu/latch.h"

#include <sys/random.h>

#define UPPER 1
#define LOWER 0

/* Tags of neighbouring numbers are at least 2^49 apart, wherever in their range they lie. */
#define SPACING (1ull << (64 - LATCH_BITS))
#define ROOM	(SPACING - (1ull << 49))

void latches_init(struct latches *l)
{
	char *p = (char *)l->number;
	size_t have = 0;

	while (have < sizeof(l->number))
		have += MAX(getrandom(p + have, sizeof(l->number) - have, 0), 0);
	/* The first keeps its distance from 0 by its place, the last by ROOM. */
	for (unsigned n = 1; n < LATCH_NUMBERS; n++)
		l->number[n] = n * SPACING + (l->number[n] % ROOM & PAGE_MASK);
}

static void take_lower(struct latches *l, uint16_t pcid)
{
	l->pcid[pcid] = l->next++;
	l->tag[LOWER] = l->number[l->pcid[pcid]];
}

static void take_upper(struct latches *l)
{
	l->tag[UPPER] = l->number[l->next++];
	l->filled[UPPER] = false;
}

static void clear_half(struct latches *l, unsigned half)
{
	for (unsigned n = 0; n < ARRAY_SIZE(l->touched[half]); n++)
		if (l->touched[half][n])
			memset(&l->latch[half][n * LATCH_PIECE], 0,
			       LATCH_PIECE * sizeof(struct latch));
	memset(l->touched[half], 0, sizeof(l->touched[half]));
}

void latches_clear(struct latches *l, uint16_t pcid)
{
	clear_half(l, UPPER);
	clear_half(l, LOWER);
	memset(l->pcid, 0, sizeof(l->pcid));
	l->stored = false;
	l->filled[LOWER] = false;
	l->next = l->oldest = 1;
	take_upper(l);
	take_lower(l, pcid);
}

/* Whether there are numbers for both halves. */
static bool numbers_left(struct latches *l, uint16_t pcid)
{
	if (l->next + 2u <= LATCH_NUMBERS)
		return true;
	latches_clear(l, pcid);
	return false;
}

void latches_renew_upper(struct latches *l, uint16_t pcid)
{
	if (numbers_left(l, pcid))
		take_upper(l);
}

void latches_renew_lower(struct latches *l, uint16_t pcid)
{
	if (numbers_left(l, pcid))
		take_lower(l, pcid);
}

void latches_use_lower(struct latches *l, uint16_t pcid)
{
	if (l->pcid[pcid] && l->pcid[pcid] >= l->oldest)
		l->tag[LOWER] = l->number[l->pcid[pcid]];
	else
		latches_renew_lower(l, pcid);
}

static void renew_all_lower(struct latches *l, uint16_t pcid)
{
	l->oldest = l->next;
	l->filled[LOWER] = false;
	take_lower(l, pcid);
}

void latches_page_changed(struct latches *l, uint16_t pcid, bool upper)
{
	/* INVLPGs come in rows. */
	if (!l->filled[upper] || !numbers_left(l, pcid))
		return;
	if (upper)
		take_upper(l);
	else
		renew_all_lower(l, pcid);
}

void latches_protect(struct latches *l, uint16_t pcid)
{
	/* New code comes page by page. */
	if (!l->stored || !numbers_left(l, pcid))
		return;
	take_upper(l);
	renew_all_lower(l, pcid);
	l->stored = false;
}
