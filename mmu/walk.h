/*
 * Guest page table walk: 4-level, PAE and 32-bit paging (AMD64 APM volume 2, chapter 5; SDM volume
 * 3, chapter 4). Accessed and dirty bits are set by compare-and-swap, as the processor does, and
 * only if the access is allowed. Any thread; the tables may change under the walk.
 */
#ifndef MMU_WALK_H
#define MMU_WALK_H

#include "mmu/gmem.h"

enum paging_mode { PAGING_OFF, PAGING_32, PAGING_PAE, PAGING_4LEVEL };

struct walk_regs {
	enum paging_mode mode;
	uint64_t cr3;
	const uint64_t *pdpte; /* the four loaded entries, PAE only */
	bool pse;	       /* CR4.PSE, 32-bit paging only */
	bool nxe, wp, smep, smap;
};

#define WALK_WRITE (1u << 0)
#define WALK_USER  (1u << 1) /* with the rights of CPL 3 */
#define WALK_FETCH (1u << 2)
#define WALK_AC	   (1u << 3) /* supervisor data access to user pages allowed despite SMAP */

struct walk_result {
	gpa_t gpa; /* of the byte at gva */
	uint64_t page_size;
	bool write_ok; /* a later store needs no walk: permitted, and D is set */
	bool global;
	uint32_t pf_error; /* when the walk fails */
};

/* 0, or -EFAULT with pf_error. */
int walk(struct gmem *gm, const struct walk_regs *regs, gva_t gva, unsigned access,
	 struct walk_result *res);

#endif
