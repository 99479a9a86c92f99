#include "mmu/tlb.h"

#define UPPER 1
#define LOWER 0

static void invalidate_arrays(struct tlb *tlb)
{
	for (unsigned c = 0; c < TLB_NCTX; c++) {
		for (unsigned n = 0; n < TLB_SIZE; n++) {
			tlb->e[c][n].rtag = TLB_INVALID;
			tlb->e[c][n].wtag = TLB_INVALID;
		}
	}
	for (unsigned n = 0; n < ITLB_SIZE; n++)
		tlb->i[n].tag = TLB_INVALID;
	memset(tlb->pcid_asid, 0, sizeof(tlb->pcid_asid));
	tlb->next_asid = 1;
}

static void forget_large(struct tlb *tlb)
{
	tlb->large_lo[LOWER] = tlb->large_lo[UPPER] = ~0ull;
	tlb->large_hi[LOWER] = tlb->large_hi[UPPER] = 0;
}

static void code_changed(struct tlb *tlb)
{
	tlb->code_gen++;
	memset(tlb->exec_pages, 0, sizeof(tlb->exec_pages));
}

/* A number that no entry carries. Both halves are renumbered if the numbers have run out. */
static uint16_t new_asid(struct tlb *tlb)
{
	if (tlb->next_asid > TLB_MAX_ASID) {
		invalidate_arrays(tlb);
		code_changed(tlb);
		tlb->tag[UPPER] = tlb->next_asid++;
		tlb->upper_nonglobal = false;
		tlb->pcid_asid[tlb->pcid] = tlb->next_asid++;
		tlb->tag[LOWER] = tlb->pcid_asid[tlb->pcid];
	}
	return tlb->next_asid++;
}

void tlb_init(struct tlb *tlb)
{
	tlb->pcid = 0;
	tlb->next_asid = TLB_MAX_ASID + 1;
	forget_large(tlb);
	new_asid(tlb);
}

static void renew_upper(struct tlb *tlb)
{
	tlb->tag[UPPER] = new_asid(tlb);
	tlb->upper_nonglobal = false;
}

static void renew_lower(struct tlb *tlb, uint16_t pcid)
{
	uint16_t asid = new_asid(tlb);

	tlb->pcid_asid[pcid] = asid;
	tlb->tag[LOWER] = asid;
}

void tlb_flush_all(struct tlb *tlb)
{
	memset(tlb->pcid_asid, 0, sizeof(tlb->pcid_asid));
	renew_upper(tlb);
	renew_lower(tlb, tlb->pcid);
	forget_large(tlb);
	code_changed(tlb);
}

void tlb_switch(struct tlb *tlb, uint16_t pcid, bool keep)
{
	tlb->pcid = pcid;
	if (keep && tlb->pcid_asid[pcid])
		tlb->tag[LOWER] = tlb->pcid_asid[pcid];
	else
		renew_lower(tlb, pcid);
	/* Non-global pages of the upper half belong to one address space only. */
	if (tlb->upper_nonglobal) {
		renew_upper(tlb);
		code_changed(tlb);
	}
}

void tlb_flush_pcid(struct tlb *tlb, uint16_t pcid)
{
	tlb->pcid_asid[pcid] = 0;
	if (pcid == tlb->pcid)
		renew_lower(tlb, pcid);
	if (tlb->upper_nonglobal) {
		renew_upper(tlb);
		code_changed(tlb);
	}
}

static unsigned bloom_bit(gva_t gva)
{
	return ((gva >> PAGE_SHIFT) * 0x9e3779b97f4a7c15ull) >> (64 - 12);
}

void tlb_flush_page(struct tlb *tlb, gva_t gva)
{
	unsigned n = (gva >> PAGE_SHIFT) & (TLB_SIZE - 1), b = bloom_bit(gva);
	struct itlb_entry *ie = &tlb->i[(gva >> PAGE_SHIFT) & (ITLB_SIZE - 1)];

	if (gva >= tlb->large_lo[gva >> 63] && gva <= tlb->large_hi[gva >> 63]) {
		tlb_flush_all(tlb);
		return;
	}
	for (unsigned c = 0; c < TLB_NCTX; c++) {
		struct tlb_entry *e = &tlb->e[c][n];

		/* Whatever the address space: dropping too much is always allowed. */
		if (((e->rtag ^ gva) & PAGE_MASK) == 0 || ((e->wtag ^ gva) & PAGE_MASK) == 0)
			e->rtag = e->wtag = TLB_INVALID;
	}
	if (((ie->tag ^ gva) & PAGE_MASK) == 0)
		ie->tag = TLB_INVALID;
	if (tlb->exec_pages[b / 64] >> (b % 64) & 1)
		code_changed(tlb);
}

void tlb_protect_gfn(struct tlb *tlb, gfn_t gfn)
{
	for (unsigned c = 0; c < TLB_NCTX; c++)
		for (unsigned n = 0; n < TLB_SIZE; n++)
			if (tlb->e[c][n].gfn == gfn)
				tlb->e[c][n].wtag = TLB_INVALID;
}

static void note_fill(struct tlb *tlb, const struct tlb_fill *fill)
{
	if (fill->page_size > PAGE_SIZE) {
		gva_t lo = fill->gva & ~(fill->page_size - 1);
		unsigned half = fill->gva >> 63;

		tlb->large_lo[half] = MIN(tlb->large_lo[half], lo);
		tlb->large_hi[half] = MAX(tlb->large_hi[half], lo + fill->page_size - 1);
	}
	if (fill->gva >> 63 && !fill->global)
		tlb->upper_nonglobal = true;
}

void tlb_insert(struct tlb *tlb, enum tlb_ctx ctx, const struct tlb_fill *fill)
{
	struct tlb_entry *e = &tlb->e[ctx][(fill->gva >> PAGE_SHIFT) & (TLB_SIZE - 1)];

	note_fill(tlb, fill);
	e->rtag = tlb_tag(tlb, fill->gva);
	e->wtag = fill->write ? e->rtag : TLB_INVALID;
	e->addend = fill->hva - fill->gva;
	e->gfn = fill->gfn;
}

static void note_exec(struct tlb *tlb, gva_t gva)
{
	unsigned b = bloom_bit(gva);

	tlb->exec_pages[b / 64] |= 1ull << (b % 64);
}

const struct itlb_entry *tlb_fetch_lookup(struct tlb *tlb, gva_t gva, bool user)
{
	const struct itlb_entry *e = &tlb->i[(gva >> PAGE_SHIFT) & (ITLB_SIZE - 1)];

	if (e->tag != tlb_tag(tlb, gva) || e->user != user)
		return NULL;
	/* The entry may be older than this code_gen. */
	note_exec(tlb, gva);
	return e;
}

const struct itlb_entry *tlb_fetch_insert(struct tlb *tlb, bool user, const struct tlb_fill *fill)
{
	struct itlb_entry *e = &tlb->i[(fill->gva >> PAGE_SHIFT) & (ITLB_SIZE - 1)];

	note_fill(tlb, fill);
	note_exec(tlb, fill->gva);
	e->tag = tlb_tag(tlb, fill->gva);
	e->gfn = fill->gfn;
	e->hva = fill->hva & PAGE_MASK;
	e->user = user;
	return e;
}
