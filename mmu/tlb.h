/*
 * The software TLB of one VCPU: guest virtual page -> host address. Written and read only by its
 * owner, the VCPU's thread; others reach it by shootdown messages. docs/mmu.md has the whole.
 *
 * First level: one direct-mapped array per access context, so that a hit needs no permission check.
 * An entry is tagged with its page address and, in the low 12 bits, a number standing for the
 * address space: one for the lower half (renewed or switched by CR3 and PCID) and one for the upper
 * half, which survives CR3 switches as long as it holds only global pages. Flushing an address
 * space means giving it a new number.
 *
 * Second level: one set-associative array for all contexts, whose entries say what each of them may
 * do, under numbers of its own that last longer. Whatever may be stored to by the first level has
 * an entry here that allows it, and these are chained by frame, so that the right is found and
 * taken away without a search.
 *
 * Zeroed memory is an empty TLB once tlb_init() was called; pages never used are never touched.
 */
#ifndef MMU_TLB_H
#define MMU_TLB_H

#include "mmu/latch.h"
#include "mmu/psc.h"
#include "src/base/types.h"

#define TLB_BITS    12
#define TLB_SIZE    (1u << TLB_BITS)
#define ITLB_SIZE   256u
#define TLB2_WAYS   4u
#define TLB2_SETS   8192u
#define TLB2_SIZE   (TLB2_WAYS * TLB2_SETS)
#define TLB2_CHAINS 16384u

enum tlb_ctx {
	TLB_USER,     /* CPL 3 */
	TLB_SUPER,    /* CPL 0-2, user pages forbidden by SMAP */
	TLB_SUPER_AC, /* CPL 0-2, user pages allowed */
	TLB_ALIGN, /* CPL 3 with alignment checks: never filled, so that every access is checked */
	TLB_NCTX,
};

/* What a translation allows, in each context. Who may store may load. */
#define TLB_READ(ctx)	(1u << (ctx))
#define TLB_WRITE(ctx)	(16u << (ctx)) /* stores that need no bookkeeping */
#define TLB_FETCH_SUPER (1u << 8)
#define TLB_FETCH_USER	(1u << 9)
#define TLB_READS	0x007u
#define TLB_WRITES	0x070u
#define TLB_FETCHES	0x300u

struct tlb_entry {
	uint64_t rtag;	 /* matches loads, or TLB_INVALID */
	uint64_t wtag;	 /* matches stores that need no bookkeeping, or TLB_INVALID */
	uint64_t addend; /* host address - guest virtual address */
	gfn_t gfn;
};

/* Translation for fetches: kept apart, read once per jump-cache miss. */
struct itlb_entry {
	uint64_t tag;
	gfn_t gfn;
	hva_t hva; /* of the page */
	bool user; /* filled for CPL 3 */
};

struct tlb2_entry {
	uint64_t key;	 /* page number below, number of the address space above; 0: empty */
	uint64_t addend; /* as above */
	uint32_t gfn;
	uint16_t allow;
	/* Chain of its frame, as index + 1: only while the entry allows stores. */
	uint16_t next, prev;
};

#define TLB_INVALID   0ull /* no tag: numbers of address spaces begin at 1 */
#define TLB_MAX_ASID  0xffe
#define TLB_PCIDS     4096
#define TLB_VPN_BITS  36 /* of a canonical address */
#define TLB_MAX_SPACE ((1u << (64 - TLB_VPN_BITS)) - 1)

#define TLB_LARGE_BITS 14

struct tlb {
	struct tlb_entry e[TLB_NCTX][TLB_SIZE];
	/* Address space numbers in use: [0] lower half, [1] upper half. Hot. */
	uint64_t tag[2];
	uint64_t space[2]; /* the same in the second level, in place */
	struct psc psc;
	struct itlb_entry i[ITLB_SIZE];
	struct tlb2_entry e2[TLB2_SETS * TLB2_WAYS];
	uint16_t chain[TLB2_CHAINS]; /* first entry of a frame that hashes here, + 1 */
	unsigned victim;	     /* whose turn it is to go when a set is full */
	uint16_t next_asid;
	uint16_t pcid;
	bool upper_nonglobal; /* the upper half holds pages that a CR3 write must drop */
	uint32_t next_space;
	uint32_t oldest_space;		/* numbers below it were flushed */
	uint32_t pcid_space[TLB_PCIDS]; /* lower half, by PCID */
	uint16_t pcid_asid[TLB_PCIDS];	/* lower half, by PCID; 0: none */
	/*
	 * A large page has an entry per small page, and INVLPG anywhere in it drops all. Bloom
	 * filter of the 2 MiB regions, and by half the range of still larger pages, of which any
	 * was inserted since the last full flush.
	 */
	uint64_t large[(1u << TLB_LARGE_BITS) / 64];
	gva_t giga_lo[2], giga_hi[2];
	/* Changes whenever a cached virtual-to-code mapping may be stale. */
	uint64_t code_gen;
	uint64_t exec_pages[64]; /* Bloom filter of pages fetched from in this code_gen */
	struct latches latches;	 /* of compiled code: pages that its checks saw last */
};

/* Zeroed memory in. */
void tlb_init(struct tlb *tlb);
/* Everything, all address spaces. */
void tlb_flush_all(struct tlb *tlb);
/* CR3 write: switch to pcid (0 without PCID), keeping its entries or not. */
void tlb_switch(struct tlb *tlb, uint16_t pcid, bool keep);
/* INVPCID types 0-3 for a pcid that may not be current; page flushes take tlb_flush_page(). */
void tlb_flush_pcid(struct tlb *tlb, uint16_t pcid);
void tlb_flush_page(struct tlb *tlb, gva_t gva);
/* Drops what lets stores to the frame skip bookkeeping. */
void tlb_protect_gfn(struct tlb *tlb, gfn_t gfn);
/* Latches get other users. */
void tlb_clear_latches(struct tlb *tlb);

struct tlb_fill {
	gva_t gva; /* canonical */
	hva_t hva; /* of the byte at gva */
	gfn_t gfn;
	unsigned allow; /* TLB_READ() and so on of all contexts */
	bool global;
	uint64_t page_size;
};

static inline uint64_t tlb_tag(const struct tlb *tlb, gva_t gva)
{
	return (gva & PAGE_MASK) | tlb->tag[gva >> 63];
}

static inline struct tlb_entry *tlb_entry(struct tlb *tlb, enum tlb_ctx ctx, gva_t gva)
{
	return &tlb->e[ctx][(gva >> PAGE_SHIFT) % TLB_SIZE];
}

static inline uint64_t tlb2_key(const struct tlb *tlb, gva_t gva)
{
	return gva << 16 >> (16 + PAGE_SHIFT) | tlb->space[gva >> 63];
}

/* The set of a page, folded: stacks, heaps and libraries tend to begin at round addresses. */
static inline struct tlb2_entry *tlb2_set(struct tlb *tlb, gva_t gva)
{
	uint64_t vpn = gva >> PAGE_SHIFT;

	return &tlb->e2[(vpn ^ vpn >> 13) % TLB2_SETS * TLB2_WAYS];
}

/* The entry of the page in its address space, or NULL. gva is canonical, here and below. */
static inline struct tlb2_entry *tlb2_find(struct tlb *tlb, gva_t gva)
{
	struct tlb2_entry *set = tlb2_set(tlb, gva);
	uint64_t key = tlb2_key(tlb, gva);

	_Static_assert(TLB2_WAYS == 4, "unrolled");
	if (set[0].key == key)
		return &set[0];
	if (set[1].key == key)
		return &set[1];
	if (set[2].key == key)
		return &set[2];
	return set[3].key == key ? &set[3] : NULL;
}

/* Takes the right to stores away from an entry that has it, and from the first level. */
void tlb2_revoke(struct tlb *tlb, struct tlb2_entry *e);
/* What INVLPG has to know of a page larger than PAGE_SIZE. */
void tlb_note_large(struct tlb *tlb, gva_t gva, uint64_t page_size);

static inline uint16_t *tlb2_chain(struct tlb *tlb, gfn_t gfn)
{
	return &tlb->chain[gfn % TLB2_CHAINS];
}

static inline struct tlb2_entry *tlb2_at(struct tlb *tlb, uint16_t index_plus_1)
{
	return &tlb->e2[index_plus_1 - 1];
}

/* Makes the entry of the page, in place of e, which tlb2_find() gave, or of another page's. */
static force_inline struct tlb2_entry *tlb2_replace(struct tlb *tlb, struct tlb2_entry *e,
						    const struct tlb_fill *fill)
{
	if (unlikely(fill->page_size != PAGE_SIZE))
		tlb_note_large(tlb, fill->gva, fill->page_size);
	if (fill->gva >> 63 && !fill->global)
		tlb->upper_nonglobal = true;
	if (likely(!e))
		e = &tlb2_set(tlb, fill->gva)[tlb->victim++ % TLB2_WAYS];
	if (e->allow & TLB_WRITES)
		tlb2_revoke(tlb, e);
	e->key = tlb2_key(tlb, fill->gva);
	e->addend = fill->hva - fill->gva;
	e->gfn = fill->gfn;
	e->allow = fill->allow;
	if (fill->allow & TLB_WRITES) {
		uint16_t *head = tlb2_chain(tlb, e->gfn), self = e - tlb->e2 + 1;

		e->next = *head;
		e->prev = 0;
		if (*head)
			tlb2_at(tlb, *head)->prev = self;
		*head = self;
	}
	return e;
}

/* Copies an entry to the first level, whose array of this context is given. */
static force_inline void tlb_copy(const struct tlb *tlb, struct tlb_entry *array, enum tlb_ctx ctx,
				  gva_t gva, const struct tlb2_entry *from)
{
	struct tlb_entry *e = &array[(gva >> PAGE_SHIFT) % TLB_SIZE];
	unsigned allow = from->allow >> ctx;
	uint64_t tag = tlb_tag(tlb, gva), addend = from->addend;
	gfn_t gfn = from->gfn;

	e->rtag = allow & TLB_READ(0) ? tag : TLB_INVALID;
	e->wtag = allow & TLB_WRITE(0) ? tag : TLB_INVALID;
	e->addend = addend;
	e->gfn = gfn;
}

static inline struct tlb2_entry *tlb2_insert(struct tlb *tlb, const struct tlb_fill *fill)
{
	return tlb2_replace(tlb, tlb2_find(tlb, fill->gva), fill);
}

static inline void tlb_insert(struct tlb *tlb, enum tlb_ctx ctx, const struct tlb_fill *fill)
{
	tlb_copy(tlb, tlb->e[ctx], ctx, fill->gva, tlb2_insert(tlb, fill));
}

/* For fetches: the entry of the first level or NULL, and a copy from the second to the first. */
const struct itlb_entry *tlb_fetch_lookup(struct tlb *tlb, gva_t gva, bool user);
const struct itlb_entry *tlb_fetch_copy(struct tlb *tlb, gva_t gva, bool user,
					const struct tlb2_entry *from);

#endif
