/*
 * The software TLB of one VCPU: guest virtual page -> host address. Written and read only by its
 * owner, the VCPU's thread; others reach it by shootdown messages. docs/mmu.md has the whole.
 *
 * Entries are tagged with their page's address and, in the low 12 bits, a number standing for the
 * address space: one for the lower half (renewed or switched by CR3 and PCID) and one for the upper
 * half, which survives CR3 switches: the few of its pages that are not global are dropped one by
 * one. Flushing an address space means giving it a new number.
 *
 * First level: two direct-mapped arrays per access context, for loads and for stores, so that a hit
 * needs no permission check and a copy's source and destination do not compete.
 *
 * Second level: one set-associative array for all contexts, whose entries say what each of them may
 * do. Whatever may be stored to by the first level has an entry here that allows it, and these are
 * chained by frame, so that the right is found and taken away without a search. Compiled code asks
 * it without a call to C (bt/stubs_tlb.c), so what that reads is 16 bytes an entry, under the tag
 * of the first level, and a page's number has the index in both levels as its low bits.
 *
 * Zeroed memory is an empty TLB once tlb_init() was called; pages never used are never touched.
 */
#ifndef MMU_TLB_H
#define MMU_TLB_H

#include "mmu/code_map.h"
#include "mmu/latch.h"
#include "mmu/psc.h"
#include "src/base/types.h"

#define TLB_BITS    12
#define TLB_SIZE    (1u << TLB_BITS)
#define ITLB_SIZE   256u
#define TLB2_BITS   17
#define TLB2_WAYS   4u
#define TLB2_SIZE   (1u << TLB2_BITS)
#define TLB2_SETS   (TLB2_SIZE / TLB2_WAYS)
#define TLB2_BLOCK  256u
#define TLB2_CHAINS 32768u

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

enum tlb_kind { TLB_LOADS, TLB_STORES, TLB_KINDS };

struct tlb_entry {
	uint64_t tag;	 /* or TLB_INVALID; of stores: only such as need no bookkeeping */
	uint64_t addend; /* host address - guest virtual address */
};

/* Translation for fetches: kept apart, read once per jump-cache miss. */
struct itlb_entry {
	uint64_t tag;
	gfn_t gfn;
	hva_t hva; /* of the page */
	bool user; /* filled for CPL 3 */
};

struct tlb2_entry {
	uint64_t tag;	/* or TLB_INVALID */
	uint64_t where; /* the addend, as above, | what is allowed */
};

/* What only C code asks of an entry of the same index. */
struct tlb2_frame {
	uint32_t gfn;
	/* Chain of the frame, as index + 1: only while the entry allows stores. */
	uint32_t next, prev;
};

#define TLB_INVALID  0ull /* no tag: numbers of address spaces begin at 1 */
#define TLB_MAX_ASID 0xffe
#define TLB_PCIDS    4096

#define TLB_LARGE_BITS 14
#define TLB_OWN_PAGES  32

/*
 * Pages of the upper half that are not global, of the address space in use: the next CR3 write
 * drops them, and compiled code keeps none of them in a latch.
 */
struct tlb_own {
	gva_t lo;      /* the range that they lie in; compiled code reads it */
	uint64_t span; /* 0: there are none */
	gva_t page[TLB_OWN_PAGES];
	unsigned n;   /* more than TLB_OWN_PAGES: not all are listed */
	bool fetched; /* code from one of them */
};

struct tlb {
	struct tlb2_frame frame[TLB2_SIZE];
	uint32_t chain[TLB2_CHAINS]; /* first entry of a frame that hashes here, + 1 */
	/* What follows up to the latches is read by compiled code. */
	struct tlb_entry e[TLB_NCTX][TLB_KINDS][TLB_SIZE];
	/* Address space numbers in use: [0] lower half, [1] upper half. Hot. */
	uint64_t tag[2];
	/*
	 * What leads from virtual addresses to code carries these instead: [0] the tag of the code
	 * map in use, or 0, when one has to be searched first; [1] as tag[1].
	 */
	uint64_t code_tag[2];
	struct psc psc;
	struct itlb_entry i[ITLB_SIZE];
	struct tlb2_entry e2[TLB2_SIZE];
	uint64_t used[TLB2_SIZE / TLB2_BLOCK /
		      64]; /* blocks of the second level that are not empty */
	unsigned victim;   /* whose turn it is to go when a set is full */
	uint16_t next_asid;
	uint16_t pcid;
	struct tlb_own own;
	uint16_t oldest_asid;			/* numbers below it were flushed */
	uint16_t pcid_asid[TLB_PCIDS];		/* lower half, by PCID */
	uint64_t live[(TLB_MAX_ASID + 2) / 64]; /* bits: numbers of address spaces */
	/*
	 * A large page has an entry per small page, and INVLPG anywhere in it drops all. Bloom
	 * filter of the 2 MiB regions, and by half the range of still larger pages, of which any
	 * was inserted since the last full flush.
	 */
	uint64_t large[(1u << TLB_LARGE_BITS) / 64];
	gva_t giga_lo[2], giga_hi[2];
	/* Changes whenever a cached virtual-to-code mapping may be stale, but for code_tag. */
	uint64_t code_gen;
	/* Bloom filter of pages of the upper half fetched from in this code_gen */
	uint64_t exec_pages[64];
	struct code_maps maps;	/* of pages of the lower half that were fetched from */
	struct latches latches; /* of compiled code: pages that its checks saw last */
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

static inline unsigned tlb_index(gva_t gva)
{
	return (gva >> PAGE_SHIFT) % TLB_SIZE;
}

/* The first of the places of a page; the others differ in the two upper bits. */
static inline unsigned tlb2_index(gva_t gva)
{
	return (gva >> PAGE_SHIFT) % TLB2_SIZE;
}

static inline unsigned tlb2_other(unsigned index, unsigned way)
{
	return index ^ way * TLB2_SETS;
}

static inline unsigned tlb2_allow(const struct tlb2_entry *e)
{
	return e->where & ~PAGE_MASK;
}

static inline uint64_t tlb2_addend(const struct tlb2_entry *e)
{
	return e->where & PAGE_MASK;
}

static inline struct tlb2_frame *tlb2_frame(struct tlb *tlb, const struct tlb2_entry *e)
{
	return &tlb->frame[e - tlb->e2];
}

/* The entry of the page in its address space, or NULL. gva is canonical, here and below. */
static inline struct tlb2_entry *tlb2_find(struct tlb *tlb, gva_t gva)
{
	uint64_t tag = tlb_tag(tlb, gva);
	unsigned n = tlb2_index(gva);

	_Static_assert(TLB2_WAYS == 4, "unrolled");
	if (tlb->e2[n].tag == tag)
		return &tlb->e2[n];
	if (tlb->e2[tlb2_other(n, 1)].tag == tag)
		return &tlb->e2[tlb2_other(n, 1)];
	if (tlb->e2[tlb2_other(n, 2)].tag == tag)
		return &tlb->e2[tlb2_other(n, 2)];
	n = tlb2_other(n, 3);
	return tlb->e2[n].tag == tag ? &tlb->e2[n] : NULL;
}

/* Takes the right to stores away from an entry that has it, and from the first level. */
void tlb2_revoke(struct tlb *tlb, struct tlb2_entry *e);
/* What INVLPG has to know of a page larger than PAGE_SIZE. */
void tlb_note_large(struct tlb *tlb, gva_t gva, uint64_t page_size);
/* A page for tlb->own. */
void tlb_note_own(struct tlb *tlb, gva_t gva);

/* The entry that makes room for the page: one that no address space has use for, or in turn. */
struct tlb2_entry *tlb2_victim(struct tlb *tlb, gva_t gva);
/* Puts an entry, which allows stores, in the chain of its frame. */
void tlb2_chain_up(struct tlb *tlb, const struct tlb2_entry *e);

/* The context's entry for loads from the page goes if it leads elsewhere. */
static force_inline void tlb_agree(struct tlb *tlb, enum tlb_ctx ctx, gva_t gva, uint64_t addend)
{
	struct tlb_entry *e = &tlb->e[ctx][TLB_LOADS][tlb_index(gva)];

	if (unlikely(e->tag == tlb_tag(tlb, gva) && e->addend != addend))
		e->tag = TLB_INVALID;
}

/* Makes the entry of the page, in place of e, which tlb2_find() gave, or of another page's. */
static force_inline struct tlb2_entry *tlb2_replace(struct tlb *tlb, struct tlb2_entry *e,
						    const struct tlb_fill *fill)
{
	uint64_t addend = (fill->hva & PAGE_MASK) - (fill->gva & PAGE_MASK);

	if (unlikely(fill->page_size != PAGE_SIZE))
		tlb_note_large(tlb, fill->gva, fill->page_size);
	if (fill->gva >> 63 && !fill->global)
		tlb_note_own(tlb, fill->gva);
	if (likely(!e))
		e = tlb2_victim(tlb, fill->gva);
	if (e->where & TLB_WRITES)
		tlb2_revoke(tlb, e);
	/* Loads and stores of one page shall not go to different frames. */
	tlb_agree(tlb, TLB_USER, fill->gva, addend);
	tlb_agree(tlb, TLB_SUPER, fill->gva, addend);
	tlb_agree(tlb, TLB_SUPER_AC, fill->gva, addend);
	tlb->used[(e - tlb->e2) / TLB2_BLOCK / 64] |= 1ull << (e - tlb->e2) / TLB2_BLOCK % 64;
	e->tag = tlb_tag(tlb, fill->gva);
	e->where = addend | fill->allow;
	tlb2_frame(tlb, e)->gfn = fill->gfn;
	if (fill->allow & TLB_WRITES)
		tlb2_chain_up(tlb, e);
	return e;
}

/* Copies an entry, which allows it, to the first level, for loads or for stores of a context. */
static force_inline void tlb_copy(const struct tlb *tlb, struct tlb_entry (*ctx)[TLB_SIZE],
				  enum tlb_kind kind, gva_t gva, const struct tlb2_entry *from)
{
	struct tlb_entry *e = &ctx[kind][tlb_index(gva)];

	e->tag = tlb_tag(tlb, gva);
	e->addend = tlb2_addend(from);
}

static inline struct tlb2_entry *tlb2_insert(struct tlb *tlb, const struct tlb_fill *fill)
{
	return tlb2_replace(tlb, tlb2_find(tlb, fill->gva), fill);
}

/*
 * A code map for the address space in use is searched; when code_maps_ask() has no more questions
 * code_tag[0] becomes its tag. May change code_gen.
 */
struct code_maps *tlb_search_code(struct tlb *tlb, uint64_t root);
void tlb_settle_code(struct tlb *tlb);

/* For fetches: the entry of the first level or NULL, and a copy from the second to the first. */
const struct itlb_entry *tlb_fetch_lookup(struct tlb *tlb, gva_t gva, bool user);
const struct itlb_entry *tlb_fetch_copy(struct tlb *tlb, gva_t gva, bool user,
					const struct tlb2_entry *from);

#endif
