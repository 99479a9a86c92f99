#include "numa/mem.h"

#include <sys/mman.h>

#include "src/base/huge.h"
#include "src/base/log.h"

/*
 * Private memory, not a file's: there hosts give huge pages to who asks for them, and without them
 * a guest's access pays for a walk of the host's tables beside its own.
 */
int numa_mem_create(struct numa_mem *mem, uint64_t size)
{
	void *p = huge_map(size, PROT_READ | PROT_WRITE, 0);

	if (!p) {
		int r = -errno;

		log_err("cannot allocate %lu MiB of guest memory: %s", size >> 20, strerror(-r));
		return r;
	}
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
