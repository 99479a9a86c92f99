#include "mmu/tlb.h"

#define UPPER 1
#define LOWER 0

#define VPN_MASK ((1ull << TLB_VPN_BITS) - 1)

/* --- the second level ------------------------------------------------------------------------- */

/*
 * Of the first level, any entry of the frame at this index loses the right, for to drop too much is
 * always allowed.
 */
void tlb2_revoke(struct tlb *tlb, struct tlb2_entry *e)
{
	unsigned n = e->key % TLB_SIZE;

	if (e->prev)
		tlb2_at(tlb, e->prev)->next = e->next;
	else
		*tlb2_chain(tlb, e->gfn) = e->next;
	if (e->next)
		tlb2_at(tlb, e->next)->prev = e->prev;
	e->allow &= ~TLB_WRITES;
	for (unsigned c = 0; c < TLB_ALIGN; c++)
		if (tlb->e[c][n].gfn == e->gfn)
			tlb->e[c][n].wtag = TLB_INVALID;
}

/* Whatever the address space: INVLPG reaches global pages of all of them, INVPCID any. */
static void flush2_page(struct tlb *tlb, gva_t gva)
{
	struct tlb2_entry *e = tlb2_set(tlb, gva);

	for (unsigned w = 0; w < TLB2_WAYS; w++) {
		if ((e[w].key ^ gva >> PAGE_SHIFT) & VPN_MASK)
			continue;
		if (e[w].allow & TLB_WRITES)
			tlb2_revoke(tlb, &e[w]);
		e[w].key = 0;
		e[w].allow = 0;
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

/* The first level starts anew, for its numbers have run out; both halves are numbered again. */
static void restart_asids(struct tlb *tlb)
{
	/* All but TLB_ALIGN, which is never filled. */
	memset(tlb->e, 0, TLB_ALIGN * sizeof(tlb->e[0]));
	memset(tlb->i, 0, sizeof(tlb->i));
	memset(tlb->pcid_asid, 0, sizeof(tlb->pcid_asid));
	code_changed(tlb);
	tlb->next_asid = 1;
	tlb->tag[UPPER] = tlb->next_asid++;
	tlb->pcid_asid[tlb->pcid] = tlb->next_asid++;
	tlb->tag[LOWER] = tlb->pcid_asid[tlb->pcid];
	/* What latches hold stays true. */
	settle_latches(tlb);
}

/* The second level as well. */
static void restart_spaces(struct tlb *tlb)
{
	restart_asids(tlb);
	memset(tlb->e2, 0, sizeof(tlb->e2));
	memset(tlb->chain, 0, sizeof(tlb->chain));
	memset(tlb->pcid_space, 0, sizeof(tlb->pcid_space));
	tlb->next_space = tlb->oldest_space = 1;
	tlb->space[UPPER] = (uint64_t)tlb->next_space++ << TLB_VPN_BITS;
	tlb->pcid_space[tlb->pcid] = tlb->next_space++;
	tlb->space[LOWER] = (uint64_t)tlb->pcid_space[tlb->pcid] << TLB_VPN_BITS;
	tlb->upper_nonglobal = false;
	tlb_clear_latches(tlb);
}

/* Numbers that no entry carries. A new space is asked for first: it may restart both. */
static uint32_t new_space(struct tlb *tlb)
{
	if (tlb->next_space > TLB_MAX_SPACE)
		restart_spaces(tlb);
	return tlb->next_space++;
}

static uint16_t new_asid(struct tlb *tlb)
{
	if (tlb->next_asid > TLB_MAX_ASID)
		restart_asids(tlb);
	return tlb->next_asid++;
}

static void renew_upper(struct tlb *tlb)
{
	tlb->space[UPPER] = (uint64_t)new_space(tlb) << TLB_VPN_BITS;
	tlb->tag[UPPER] = new_asid(tlb);
	tlb->upper_nonglobal = false;
	latches_renew_upper(&tlb->latches, tlb->pcid);
	settle_latches(tlb);
}

/* Makes the space of the current PCID current, with a number of the first level. */
static void use_lower(struct tlb *tlb)
{
	if (!tlb->pcid_asid[tlb->pcid])
		tlb->pcid_asid[tlb->pcid] = new_asid(tlb);
	tlb->tag[LOWER] = tlb->pcid_asid[tlb->pcid];
	tlb->space[LOWER] = (uint64_t)tlb->pcid_space[tlb->pcid] << TLB_VPN_BITS;
	latches_use_lower(&tlb->latches, tlb->pcid);
	settle_latches(tlb);
}

static void renew_lower(struct tlb *tlb)
{
	tlb->pcid_space[tlb->pcid] = new_space(tlb);
	tlb->pcid_asid[tlb->pcid] = 0;
	latches_renew_lower(&tlb->latches, tlb->pcid);
	use_lower(tlb);
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
	tlb->next_space = 1;
	tlb->next_asid = 1;
	latches_init(&tlb->latches);
	latches_clear(&tlb->latches, tlb->pcid);
	tlb_flush_all(tlb);
}

void tlb_flush_all(struct tlb *tlb)
{
	/* Forgets the spaces of all PCIDs. */
	tlb->oldest_space = tlb->next_space;
	renew_upper(tlb);
	renew_lower(tlb);
	psc_flush(&tlb->psc);
	forget_large(tlb);
	code_changed(tlb);
}

/* Non-global pages of the upper half belong to one address space only. */
static void drop_upper_nonglobal(struct tlb *tlb)
{
	if (!tlb->upper_nonglobal)
		return;
	renew_upper(tlb);
	code_changed(tlb);
}

void tlb_switch(struct tlb *tlb, uint16_t pcid, bool keep)
{
	tlb->pcid = pcid;
	psc_set_pcid(&tlb->psc, pcid);
	if (keep && tlb->pcid_space[pcid] >= tlb->oldest_space) {
		use_lower(tlb);
	} else {
		renew_lower(tlb);
		psc_flush(&tlb->psc);
	}
	drop_upper_nonglobal(tlb);
}

void tlb_flush_pcid(struct tlb *tlb, uint16_t pcid)
{
	tlb->pcid_space[pcid] = 0;
	if (pcid == tlb->pcid)
		renew_lower(tlb);
	psc_flush(&tlb->psc);
	drop_upper_nonglobal(tlb);
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
	struct itlb_entry *ie = &tlb->i[(gva >> PAGE_SHIFT) % ITLB_SIZE];

	flush2_page(tlb, gva);
	for (unsigned c = 0; c < TLB_ALIGN; c++) {
		struct tlb_entry *e = tlb_entry(tlb, c, gva);

		/* Whatever the address space: dropping too much is always allowed. */
		if (((e->rtag ^ gva) & PAGE_MASK) == 0 || ((e->wtag ^ gva) & PAGE_MASK) == 0)
			e->rtag = e->wtag = TLB_INVALID;
	}
	if (((ie->tag ^ gva) & PAGE_MASK) == 0)
		ie->tag = TLB_INVALID;
	if (tlb->exec_pages[b / 64] >> (b % 64) & 1)
		code_changed(tlb);
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
	uint16_t next = *tlb2_chain(tlb, gfn);

	while (next) {
		struct tlb2_entry *e = tlb2_at(tlb, next);

		next = e->next;
		if (e->gfn == gfn)
			tlb2_revoke(tlb, e);
	}
	latches_protect(&tlb->latches, tlb->pcid, gfn);
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

const struct itlb_entry *tlb_fetch_lookup(struct tlb *tlb, gva_t gva, bool user)
{
	const struct itlb_entry *e = &tlb->i[(gva >> PAGE_SHIFT) % ITLB_SIZE];
	unsigned b = exec_bit(gva);

	if (e->tag != tlb_tag(tlb, gva) || e->user != user)
		return NULL;
	/* The entry may be older than this code_gen. */
	tlb->exec_pages[b / 64] |= 1ull << (b % 64);
	return e;
}

const struct itlb_entry *tlb_fetch_copy(struct tlb *tlb, gva_t gva, bool user,
					const struct tlb2_entry *from)
{
	struct itlb_entry *e = &tlb->i[(gva >> PAGE_SHIFT) % ITLB_SIZE];
	unsigned b = exec_bit(gva);

	tlb->exec_pages[b / 64] |= 1ull << (b % 64);
	e->tag = tlb_tag(tlb, gva);
	e->gfn = from->gfn;
	e->hva = (gva & PAGE_MASK) + from->addend;
	e->user = user;
	return e;
}
