/*
 * What 4-level page tables in a test's memory say of a data access: the rules once more, written to
 * be read beside the manual and not to be fast. Tables lie in the first 4 GiB; nothing is changed.
 */
#ifndef TESTS_PAGING_MODEL_H
#define TESTS_PAGING_MODEL_H

#include "src/x86/cpu.h"

/* What the tables say of one address. */
struct truth {
	bool fault;
	uint32_t error;
	gpa_t gpa;
	uint64_t *path[4];
	unsigned npath;
};

static bool denied(const struct cpu *c, bool user, bool write, bool w, bool u)
{
	if (user)
		return !u || (write && !w);
	if (u && (c->cr4 & CR4_SMAP) && !(c->rflags & FLAG_AC))
		return true;
	return write && !w && (c->cr0 & CR0_WP);
}

static void look(const struct cpu *c, uint8_t *ram, gva_t gva, bool write, struct truth *t)
{
	bool w = true, u = true, user = c->cpl == 3;
	gpa_t table = c->cr3 & 0xfffff000;
	uint64_t e = 0, rsvd;
	unsigned shift;

	*t = (struct truth){.error = (write ? 2 : 0) | (user ? 4 : 0), .fault = true};
	for (shift = 39;; shift -= 9) {
		uint64_t *p = (uint64_t *)(ram + table) + (gva >> shift & 511);
		bool large = (*p & PTE_PS) && shift > 12;

		e = *p;
		t->path[t->npath++] = p;
		if (!(e & PTE_P))
			return;
		rsvd = 0x000fff0000000000 | (c->efer & EFER_NXE ? 0 : PTE_NX);
		if (large)
			rsvd |= shift == 39 ? PTE_PS : ((1ull << shift) - 1) & ~0x1fffull;
		if (e & rsvd) {
			t->error |= 9;
			return;
		}
		w &= !!(e & PTE_W);
		u &= !!(e & PTE_U);
		table = e & 0xfffffff000;
		if (large || shift == 12)
			break;
	}
	if (denied(c, user, write, w, u)) {
		t->error |= 1;
		return;
	}
	t->fault = false;
	t->gpa = (table & ~((1ull << shift) - 1)) | (gva & ((1ull << shift) - 1));
}

#endif
