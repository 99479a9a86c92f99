/*
 * Guest page table walk: 4-level, PAE and 32-bit paging (AMD64 APM volume 2, chapter 5; SDM volume
 * 3, chapter 4). Accessed and dirty bits are set by compare-and-swap, as the processor does, and
 * only if the access is allowed. The tables may change under the walk.
 */
#ifndef MMU_WALK_H
#define MMU_WALK_H

#include "mmu/gmem.h"

struct psc;

enum paging_mode { PAGING_OFF, PAGING_32, PAGING_PAE, PAGING_4LEVEL };

struct walk_regs {
	enum paging_mode mode;
	/* What the registers say of rights; read together as policy. */
	union {
		struct {
			bool nxe : 1, wp : 1, smep : 1, smap : 1;
		};
		uint8_t policy;
	};
	bool pse; /* CR4.PSE, 32-bit paging only */
	uint64_t cr3;
	const uint64_t *pdpte; /* the four loaded entries, PAE only */
	struct psc *psc;       /* filled in 4-level paging; NULL: none */
};

#define WALK_NXE  (1u << 0)
#define WALK_WP	  (1u << 1)
#define WALK_SMEP (1u << 2)
#define WALK_SMAP (1u << 3)

#define WALK_WRITE (1u << 0)
#define WALK_USER  (1u << 1) /* with the rights of CPL 3 */
#define WALK_FETCH (1u << 2)
#define WALK_AC	   (1u << 3) /* supervisor data access to user pages allowed despite SMAP */

struct walk_result {
	gpa_t gpa; /* of the byte at gva */
	uint64_t page_size;
	/* TLB_* (tlb.h): what no later access needs a walk for. Stores only if D is set. */
	unsigned allow;
	bool global;
	uint32_t pf_error; /* when the walk fails */
};

/*
 * What a translation allows (TLB_*) if D is set, by its rights (no execution 1, write 2, user 4)
 * and policy * 8.
 */
extern const uint16_t walk_allow[128];

/*
 * 0, or -EFAULT with pf_error. Any thread that is registered with RCU and online; with a
 * paging-structure cache, its owner.
 */
int walk(struct gmem *gm, const struct walk_regs *regs, gva_t gva, unsigned access,
	 struct walk_result *res);

/*
 * The same without any effect but accessed and dirty bits: nothing is allocated, nobody is told of
 * a store. -EAGAIN if that would be needed; -EFAULT with pf_error. Uses general registers only. A
 * VCPU's own thread, which does not drain its queue meanwhile.
 */
int walk_quiet(struct gmem *gm, const struct walk_regs *regs, gva_t gva, unsigned access,
	       struct walk_result *res);

#endif
