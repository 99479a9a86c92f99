/* Guest memory for tests: anonymous host memory, one slot for each range. */
#ifndef TESTS_GUEST_RAM_H
#define TESTS_GUEST_RAM_H

#include <sys/mman.h>

#include "mmu/gmem.h"
#include "src/base/log.h"
#include "src/base/rcu.h"
#include "src/boot/boot.h"

static inline void guest_ram_create(struct gmem *gm, const struct boot_ram *ram, unsigned n)
{
	unsigned i;

	rcu_thread_init();
	BUG_ON(gmem_init(gm));
	for (i = 0; i < n; i++) {
		void *p = mmap(NULL, ram[i].size, PROT_READ | PROT_WRITE,
			       MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
		struct memslot slot = {.gpa = ram[i].gpa,
				       .size = ram[i].size,
				       .hva = (hva_t)p,
				       .node = ram[i].node};

		BUG_ON(p == MAP_FAILED || gmem_add_slot(gm, &slot));
	}
}

static inline void guest_ram_destroy(struct gmem *gm)
{
	unsigned i;

	for (i = 0; i < gm->slots->count; i++)
		munmap((void *)gm->slots->slot[i].hva, gm->slots->slot[i].size);
	gmem_fini(gm);
	rcu_thread_exit();
}

#endif
