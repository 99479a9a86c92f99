#include "mmu/tlb.h"

#define UPPER 1
#define LOWER 0

/* --- the second level ------------------------------------------------------------------------- */

static struct tlb2_entry *at(struct tlb *tlb, uint32_t index_plus_1)
{
	return &tlb->e2[index_plus_1 - 1];
}

static uint32_t *chain(struct tlb *tlb, gfn_t gfn)
{
	return &tlb->chain[gfn % TLB2_CHAINS];
}

void tlb2_chain_up(struct tlb *tlb, const struct tlb2_entry *e)
{
	struct tlb2_frame *f = tlb2_frame(tlb, e);
	uint32_t *head = chain(tlb, f->gfn);

	f->next = *head;
	f->prev = 0;
	if (*head)
		tlb->frame[*head - 1].prev = f - tlb->frame + 1;
	*head = f - tlb->frame + 1;
}

/*
 * Of the first level, any entry of this index with the same distance to its host page loses the
 * right, for to drop too much is always allowed.
 */
void tlb2_revoke(struct tlb *tlb, struct tlb2_entry *e)
{
	struct tlb2_frame *f = tlb2_frame(tlb, e);
	unsigned n = tlb_index(e->tag);

	if (f->prev)
		tlb->frame[f->prev - 1].next = f->next;
	else
		*chain(tlb, f->gfn) = f->next;
	if (f->next)
		tlb->frame[f->next - 1].prev = f->prev;
	e->where &= ~(uint64_t)TLB_WRITES;
	for (unsigned c = 0; c < TLB_ALIGN; c++)
		if (tlb->e[c][TLB_STORES][n].addend == tlb2_addend(e))
			tlb->e[c][TLB_STORES][n].tag = TLB_INVALID;
}

/* Empty, or of a number that was flushed. */
static bool out_of_use(const struct tlb *tlb, const struct tlb2_entry *e)
{
	uint64_t asid = e->tag & ~PAGE_MASK;

	return !(tlb->live[asid / 64] >> (asid % 64) & 1);
}

struct tlb2_entry *tlb2_victim(struct tlb *tlb, gva_t gva)
{
	unsigned n = tlb2_index(gva);

	if (likely(out_of_use(tlb, &tlb->e2[n])))
		return &tlb->e2[n];
	for (unsigned way = 1; way < TLB2_WAYS; way++)
		if (out_of_use(tlb, &tlb->e2[tlb2_other(n, way)]))
			return &tlb->e2[tlb2_other(n, way)];
	return &tlb->e2[tlb2_other(n, tlb->victim++ % TLB2_WAYS)];
}

/* Whatever the address space: INVLPG reaches global pages of all of them, INVPCID any. */
static void flush2_page(struct tlb *tlb, gva_t gva)
{
	unsigned n = tlb2_index(gva);

	for (unsigned way = 0; way < TLB2_WAYS; way++) {
		struct tlb2_entry *e = &tlb->e2[tlb2_other(n, way)];

		if ((e->tag ^ gva) & PAGE_MASK)
			continue;
		if (e->where & TLB_WRITES)
			tlb2_revoke(tlb, e);
		e->tag = TLB_INVALID;
		e->where = 0;
	}
}

/* --- latches: see latch.h --------------------------------------------------------------------- */

/* After a change of either's tags. */
static void settle_latches(struct tlb *tlb)
{
	struct latches *l = &tlb->latches;

	l->delta[LOWER] = l->tag[LOWER] - tlb->tag[LOWER];
	l->delta[UPPER] = l->tag[UPPER] - tlb->tag[UPPER];
}

void tlb_clear_latches(struct tlb *tlb)
{
	latches_clear(&tlb->latches, tlb->pcid);
	settle_latches(tlb);
}

/* --- numbers of address spaces ---------------------------------------------------------------- */

static void code_changed(struct tlb *tlb)
{
	tlb->code_gen++;
	memset(tlb->exec_pages, 0, sizeof(tlb->exec_pages));
}

static void clear_block(struct tlb *tlb, unsigned block)
{
	struct tlb2_entry *e = &tlb->e2[block * TLB2_BLOCK];

	for (unsigned n = 0; n < TLB2_BLOCK; n++) {
		if (e[n].where & TLB_WRITES)
			*chain(tlb, tlb2_frame(tlb, &e[n])->gfn) = 0;
		e[n] = (struct tlb2_entry){0};
	}
}

/* The lower half's is to be found anew. */
static void unsettle_code(struct tlb *tlb)
{
	tlb->code_tag[LOWER] = 0;
}

/* Before a code map may be begun: what carries tags of former ones goes when they come again. */
static void spare_code_tag(struct tlb *tlb)
{
	if (likely(!code_maps_over(&tlb->maps)))
		return;
	code_maps_forget(&tlb->maps);
	tlb->code_gen++;
}

struct code_maps *tlb_search_code(struct tlb *tlb, uint64_t root)
{
	spare_code_tag(tlb);
	code_maps_search(&tlb->maps, tlb->pcid, root);
	return &tlb->maps;
}

void tlb_settle_code(struct tlb *tlb)
{
	tlb->code_tag[LOWER] = code_maps_tag(&tlb->maps);
}

/* The number that stood for an address space is was. 0 stands for none, and is never live. */
static uint16_t replace_asid(struct tlb *tlb, uint16_t was, uint16_t asid)
{
	tlb->live[was / 64] &= ~(1ull << (was % 64));
	tlb->live[asid / 64] |= 1ull << (asid % 64);
	tlb->live[0] &= ~1ull;
	return asid;
}

/* All starts anew, for the numbers have run out; both halves are numbered again. */
static void restart(struct tlb *tlb)
{
	/* All but TLB_ALIGN, which is never filled. */
	memset(tlb->e, 0, TLB_ALIGN * sizeof(tlb->e[0]));
	memset(tlb->i, 0, sizeof(tlb->i));
	for (unsigned n = 0; n < TLB2_SIZE / TLB2_BLOCK; n++)
		if (tlb->used[n / 64] >> n % 64 & 1)
			clear_block(tlb, n);
	memset(tlb->used, 0, sizeof(tlb->used));
	memset(tlb->pcid_asid, 0, sizeof(tlb->pcid_asid));
	code_changed(tlb);
	memset(tlb->live, 0, sizeof(tlb->live));
	tlb->next_asid = tlb->oldest_asid = 1;
	tlb->tag[UPPER] = tlb->code_tag[UPPER] = replace_asid(tlb, 0, tlb->next_asid++);
	tlb->pcid_asid[tlb->pcid] = replace_asid(tlb, 0, tlb->next_asid++);
	tlb->tag[LOWER] = tlb->pcid_asid[tlb->pcid];
	tlb->own = (struct tlb_own){0};
	/* What latches hold stays true. */
	settle_latches(tlb);
}

/* A number that no entry carries. May number all anew, so it is asked before what it replaces. */
static uint16_t new_asid(struct tlb *tlb)
{
	if (tlb->next_asid > TLB_MAX_ASID)
		restart(tlb);
	return tlb->next_asid++;
}

static void renew_upper(struct tlb *tlb)
{
	uint16_t asid = new_asid(tlb);

	tlb->tag[UPPER] = tlb->code_tag[UPPER] = replace_asid(tlb, tlb->tag[UPPER], asid);
	tlb->own = (struct tlb_own){0};
	latches_renew_upper(&tlb->latches, tlb->pcid);
	settle_latches(tlb);
}

static void renew_lower(struct tlb *tlb)
{
	uint16_t asid = new_asid(tlb);

	tlb->pcid_asid[tlb->pcid] = replace_asid(tlb, tlb->pcid_asid[tlb->pcid], asid);
	tlb->tag[LOWER] = tlb->pcid_asid[tlb->pcid];
	code_maps_flush(&tlb->maps, tlb->pcid);
	unsettle_code(tlb);
	latches_renew_lower(&tlb->latches, tlb->pcid);
	settle_latches(tlb);
}

/* --- flushes ---------------------------------------------------------------------------------- */

static void forget_large(struct tlb *tlb)
{
	memset(tlb->large, 0, sizeof(tlb->large));
	tlb->giga_lo[LOWER] = tlb->giga_lo[UPPER] = ~0ull;
	tlb->giga_hi[LOWER] = tlb->giga_hi[UPPER] = 0;
}

void tlb_init(struct tlb *tlb)
{
	tlb->next_asid = 1;
	latches_init(&tlb->latches);
	latches_clear(&tlb->latches, tlb->pcid);
	tlb_flush_all(tlb);
}

void tlb_flush_all(struct tlb *tlb)
{
	/* Forgets the numbers of all PCIDs. */
	tlb->oldest_asid = tlb->next_asid;
	memset(tlb->live, 0, sizeof(tlb->live));
	renew_upper(tlb);
	renew_lower(tlb);
	psc_flush(&tlb->psc);
	forget_large(tlb);
	code_maps_forget(&tlb->maps);
	code_changed(tlb);
}

static void flush_entries(struct tlb *tlb, gva_t gva)
{
	struct itlb_entry *ie = &tlb->i[(gva >> PAGE_SHIFT) % ITLB_SIZE];

	flush2_page(tlb, gva);
	for (unsigned c = 0; c < TLB_ALIGN; c++) {
		struct tlb_entry *l = &tlb->e[c][TLB_LOADS][tlb_index(gva)];
		struct tlb_entry *s = &tlb->e[c][TLB_STORES][tlb_index(gva)];

		/* Whatever the address space: dropping too much is always allowed. */
		if (((l->tag ^ gva) & PAGE_MASK) == 0)
			l->tag = TLB_INVALID;
		if (((s->tag ^ gva) & PAGE_MASK) == 0)
			s->tag = TLB_INVALID;
	}
	if (((ie->tag ^ gva) & PAGE_MASK) == 0)
		ie->tag = TLB_INVALID;
}

static void drop_own(struct tlb *tlb)
{
	struct tlb_own *own = &tlb->own;

	if (own->n > TLB_OWN_PAGES) {
		renew_upper(tlb);
		code_changed(tlb);
		return;
	}
	for (unsigned n = 0; n < own->n; n++)
		flush_entries(tlb, own->page[n]);
	if (own->fetched)
		code_changed(tlb);
	*own = (struct tlb_own){0};
}

void tlb_switch(struct tlb *tlb, uint16_t pcid, bool keep)
{
	tlb->pcid = pcid;
	psc_set_pcid(&tlb->psc, pcid);
	if (keep && tlb->pcid_asid[pcid] >= tlb->oldest_asid) {
		tlb->tag[LOWER] = tlb->pcid_asid[pcid];
		unsettle_code(tlb);
		latches_use_lower(&tlb->latches, pcid);
		settle_latches(tlb);
	} else {
		renew_lower(tlb);
		psc_flush(&tlb->psc);
	}
	drop_own(tlb);
}

void tlb_flush_pcid(struct tlb *tlb, uint16_t pcid)
{
	tlb->pcid_asid[pcid] = replace_asid(tlb, tlb->pcid_asid[pcid], 0);
	code_maps_flush(&tlb->maps, pcid);
	if (pcid == tlb->pcid)
		renew_lower(tlb);
	psc_flush(&tlb->psc);
	drop_own(tlb);
}

static unsigned bloom_hash(uint64_t page, unsigned bits)
{
	return (page * 0x9e3779b97f4a7c15ull) >> (64 - bits);
}

static unsigned exec_bit(gva_t gva)
{
	return bloom_hash(gva >> PAGE_SHIFT, 12);
}

static void flush_small_page(struct tlb *tlb, gva_t gva)
{
	unsigned b = exec_bit(gva);

	flush_entries(tlb, gva);
	if (!(gva >> 63)) {
		if (code_maps_flush_page(&tlb->maps, gva))
			unsettle_code(tlb);
	} else if (tlb->exec_pages[b / 64] >> (b % 64) & 1) {
		code_changed(tlb);
	}
}

void tlb_flush_page(struct tlb *tlb, gva_t gva)
{
	unsigned b = bloom_hash(gva / MIB(2), TLB_LARGE_BITS);

	psc_flush(&tlb->psc);
	latches_page_changed(&tlb->latches, tlb->pcid, gva >> 63);
	settle_latches(tlb);
	if (gva >= tlb->giga_lo[gva >> 63] && gva <= tlb->giga_hi[gva >> 63]) {
		tlb_flush_all(tlb);
	} else if (tlb->large[b / 64] >> (b % 64) & 1) {
		gva &= ~(MIB(2) - 1);
		for (unsigned n = 0; n < MIB(2) / PAGE_SIZE; n++)
			flush_small_page(tlb, gva + n * PAGE_SIZE);
	} else {
		flush_small_page(tlb, gva);
	}
}

void tlb_protect_gfn(struct tlb *tlb, gfn_t gfn)
{
	uint32_t next = *chain(tlb, gfn);

	while (next) {
		struct tlb2_entry *e = at(tlb, next);
		const struct tlb2_frame *f = tlb2_frame(tlb, e);

		next = f->next;
		if (f->gfn == gfn)
			tlb2_revoke(tlb, e);
	}
	latches_protect(&tlb->latches, tlb->pcid);
	settle_latches(tlb);
}

/* --- filling ---------------------------------------------------------------------------------- */

void tlb_note_large(struct tlb *tlb, gva_t gva, uint64_t page_size)
{
	unsigned half = gva >> 63, b = bloom_hash(gva / MIB(2), TLB_LARGE_BITS);
	gva_t lo = gva & ~(page_size - 1);

	if (page_size == MIB(2)) {
		tlb->large[b / 64] |= 1ull << (b % 64);
		return;
	}
	tlb->giga_lo[half] = MIN(tlb->giga_lo[half], lo);
	tlb->giga_hi[half] = MAX(tlb->giga_hi[half], lo + page_size - 1);
}

void tlb_note_own(struct tlb *tlb, gva_t gva)
{
	struct tlb_own *own = &tlb->own;
	gva_t page = gva & PAGE_MASK, lo = own->span ? MIN(own->lo, page) : page;
	gva_t hi = own->span ? MAX(own->lo + own->span, page + PAGE_SIZE) : page + PAGE_SIZE;

	own->lo = lo;
	own->span = hi - lo;
	for (unsigned n = 0; n < MIN(own->n, TLB_OWN_PAGES); n++)
		if (own->page[n] == page)
			return;
	if (own->n < TLB_OWN_PAGES)
		own->page[own->n] = page;
	own->n = MIN(own->n, TLB_OWN_PAGES) + 1;
}

/* Without a map in use nothing is going to carry its number. */
static void note_lower_fetch(struct tlb *tlb, const struct itlb_entry *e)
{
	if (unlikely(!tlb->code_tag[LOWER]))
		return;
	spare_code_tag(tlb);
	code_maps_note(&tlb->maps, e->tag, e->user, e->gfn);
	tlb_settle_code(tlb);
}

static void note_fetch(struct tlb *tlb, gva_t gva, const struct itlb_entry *e)
{
	unsigned b = exec_bit(gva);

	if (!(gva >> 63)) {
		note_lower_fetch(tlb, e);
		return;
	}
	tlb->exec_pages[b / 64] |= 1ull << (b % 64);
	tlb->own.fetched |= gva - tlb->own.lo < tlb->own.span;
}

const struct itlb_entry *tlb_fetch_lookup(struct tlb *tlb, gva_t gva, bool user)
{
	const struct itlb_entry *e = &tlb->i[(gva >> PAGE_SHIFT) % ITLB_SIZE];

	if (e->tag != tlb_tag(tlb, gva) || e->user != user)
		return NULL;
	/* The entry may be older than this code_gen. */
	note_fetch(tlb, gva, e);
	return e;
}

const struct itlb_entry *tlb_fetch_copy(struct tlb *tlb, gva_t gva, bool user,
					const struct tlb2_entry *from)
{
	struct itlb_entry *e = &tlb->i[(gva >> PAGE_SHIFT) % ITLB_SIZE];

	e->tag = tlb_tag(tlb, gva);
	e->gfn = tlb2_frame(tlb, from)->gfn;
	e->hva = (gva & PAGE_MASK) + tlb2_addend(from);
	e->user = user;
	note_fetch(tlb, gva, e);
	return e;
}
