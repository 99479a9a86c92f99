/*
 * The software TLB of one VCPU: guest virtual page -> host address. Written and read only by its
 * owner, the VCPU's thread; others reach it by shootdown messages.
 *
 * There is one direct-mapped array per access context, so that a hit needs no permission check.
 * An entry is tagged with its page address and, in the low 12 bits, a number standing for the
 * address space: one for the lower half (renewed or switched by CR3 and PCID) and one for the upper
 * half, which survives CR3 switches as long as it holds only global pages. Flushing an address
 * space means giving it a new number.
 */
#ifndef MMU_TLB_H
#define MMU_TLB_H

#include "src/base/types.h"

#define TLB_BITS  10
#define TLB_SIZE  (1u << TLB_BITS)
#define ITLB_SIZE 256u

enum tlb_ctx {
	TLB_USER,     /* CPL 3 */
	TLB_SUPER,    /* CPL 0-2, user pages forbidden by SMAP */
	TLB_SUPER_AC, /* CPL 0-2, user pages allowed */
	TLB_ALIGN, /* CPL 3 with alignment checks: never filled, so that every access is checked */
	TLB_NCTX,
};

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

#define TLB_INVALID  ~0ull
#define TLB_MAX_ASID 0xffe
#define TLB_PCIDS    4096

struct tlb {
	struct tlb_entry e[TLB_NCTX][TLB_SIZE];
	struct itlb_entry i[ITLB_SIZE];
	/* Address space numbers in use: [0] lower half, [1] upper half. Hot. */
	uint64_t tag[2];
	uint16_t next_asid;
	uint16_t pcid_asid[TLB_PCIDS]; /* lower half, by PCID; 0: none */
	uint16_t pcid;
	bool upper_nonglobal; /* the upper half holds pages that a CR3 write must drop */
	/*
	 * By half, the range of large pages inserted since the last full flush: INVLPG inside it
	 * flushes everything, for a large page has an entry per small page.
	 */
	gva_t large_lo[2], large_hi[2];
	/* Changes whenever a cached virtual-to-code mapping may be stale. */
	uint64_t code_gen;
	uint64_t exec_pages[64]; /* Bloom filter of pages fetched from in this code_gen */
};

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

struct tlb_fill {
	gva_t gva;
	hva_t hva; /* of the byte at gva */
	gfn_t gfn;
	bool write; /* stores may take the fast path */
	bool global;
	uint64_t page_size;
};
void tlb_insert(struct tlb *tlb, enum tlb_ctx ctx, const struct tlb_fill *fill);

static inline uint64_t tlb_tag(const struct tlb *tlb, gva_t gva)
{
	return (gva & PAGE_MASK) | tlb->tag[gva >> 63];
}

const struct itlb_entry *tlb_fetch_lookup(struct tlb *tlb, gva_t gva, bool user);
const struct itlb_entry *tlb_fetch_insert(struct tlb *tlb, bool user, const struct tlb_fill *fill);

#endif
