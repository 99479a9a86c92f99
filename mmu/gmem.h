/*
 * Guest physical memory: memory slots, the map from guest frame to host address (npt.h) and the
 * state that tells which frames hold decoded code. One struct gmem per VM.
 *
 * This is also the one checked gate through which devices and loaders reach guest memory: a guest
 * physical address is an integer until one of these functions has turned it into a host pointer.
 *
 * Threads: slots are added and removed by the thread that builds the VM (or, later, hotplugs).
 * Everything else may be called by any thread that is registered with RCU and online; pointers
 * into guest memory stay valid until the slot is removed and a grace period has passed.
 */
#ifndef MMU_GMEM_H
#define MMU_GMEM_H

#include "mmu/shootdown.h"
#include "src/base/types.h"

struct npt;

#define MEMSLOT_READONLY 1u /* guest stores are dropped (ROM) */

struct memslot {
	gpa_t gpa; /* page-aligned */
	uint64_t size;
	hva_t hva; /* page-aligned mapping of size bytes, owned by the caller of gmem_add_slot() */
	uint32_t flags;
	uint32_t node; /* guest NUMA node */
};

struct memslots {
	unsigned count;
	struct memslot slot[]; /* sorted by gpa, not overlapping */
};

struct gmem {
	struct memslots *slots; /* RCU */
	struct npt *npt;
	struct shootdown_queue **queues; /* by VCPU number; fixed before the first VCPU runs */
	unsigned nqueues;
};

int gmem_init(struct gmem *gm);
void gmem_fini(struct gmem *gm);
/* -EEXIST if the range overlaps another slot, -EINVAL if it is not page-aligned. */
int gmem_add_slot(struct gmem *gm, const struct memslot *slot);
/* Registers the queues to which code and TLB shootdowns are posted. Before VCPUs run. */
int gmem_set_queues(struct gmem *gm, struct shootdown_queue **queues, unsigned n);

/*
 * The frame's host page | NPT_* flags (npt.h), or 0 if no slot holds it or memory ran out.
 */
uint64_t gmem_translate(struct gmem *gm, gfn_t gfn);
/*
 * Host address of gpa if [gpa, gpa + len) lies inside one slot, else NULL. With write, NULL also
 * for a read-only slot; after storing through such a pointer call gmem_wrote().
 */
void *gmem_ptr(struct gmem *gm, gpa_t gpa, uint64_t len, bool write);
/* Tells that [gpa, gpa + len) was stored to by other means than gmem_write(). */
void gmem_wrote(struct gmem *gm, gpa_t gpa, uint64_t len);
/* 0, or -EFAULT with nothing copied if any byte of the range is not RAM (ROM is not written). */
int gmem_read(struct gmem *gm, gpa_t gpa, void *buf, uint64_t len);
int gmem_write(struct gmem *gm, gpa_t gpa, const void *buf, uint64_t len);

/*
 * Code frames. See docs/concurrency.md, "Code pages".
 *
 * A frame is NONE, PROTECTING (someone wants to cache code from it; stores may still be on the fast
 * path of some VCPU), STABLE (every store to it is noticed) or DROPPING (it was stored to, and not
 * everyone has been told yet). Code is cached only from STABLE frames; from others it is decoded
 * afresh for each execution. Stores may take the fast path only to NONE frames.
 */
enum code_state { CODE_NONE, CODE_PROTECTING, CODE_STABLE, CODE_DROPPING };

/* State word of a frame: enum code_state in the low two bits, a generation above. 0 if not RAM. */
uint32_t gmem_code_word(struct gmem *gm, gfn_t gfn);
static inline enum code_state code_word_state(uint32_t word)
{
	return word & 3;
}
/*
 * NONE -> PROTECTING; posts SHOOTDOWN_PROTECT to every queue, also if the frame is PROTECTING
 * already. Returns the new word, whose state is DROPPING if this is not the moment to protect.
 */
uint32_t gmem_code_protect(struct gmem *gm, gfn_t gfn);
/* PROTECTING -> STABLE if the word is still the given one. */
bool gmem_code_stabilise(struct gmem *gm, gfn_t gfn, uint32_t word);
/*
 * To be called after a store to the frame: if code may be cached from it, posts SHOOTDOWN_DROP_CODE
 * to every queue and makes it NONE. Returns true if it posted.
 */
bool gmem_code_written(struct gmem *gm, gfn_t gfn);

#endif
