#include "numa/mem.h"

#include <sys/mman.h>

#include "src/base/log.h"

#define HUGE_PAGE MIB(2)

/*
 * Private memory, not a file's: there hosts give huge pages to who asks for them, and without them
 * a guest's access pays for a walk of the host's tables beside its own.
 */
int numa_mem_create(struct numa_mem *mem, uint64_t size)
{
	uint64_t mapped = size + HUGE_PAGE;
	uint8_t *p = mmap(NULL, mapped, PROT_READ | PROT_WRITE,
			  MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
	uint64_t skip;

	if (p == MAP_FAILED) {
		int r = -errno;

		log_err("cannot allocate %lu MiB of guest memory: %s", size >> 20, strerror(-r));
		return r;
	}
	skip = -(uintptr_t)p & (HUGE_PAGE - 1);
	if (skip)
		munmap(p, skip);
	p += skip;
	if (mapped - skip > size)
		munmap(p + size, mapped - skip - size);
	madvise(p, size, MADV_HUGEPAGE);
	/* The monitor's core dumps are not the guest's. */
	madvise(p, size, MADV_DONTDUMP);
	mem->hva = (hva_t)p;
	mem->size = size;
	return 0;
}

void numa_mem_destroy(struct numa_mem *mem)
{
	if (!mem->size)
		return;
	munmap((void *)mem->hva, mem->size);
	mem->size = 0;
}
