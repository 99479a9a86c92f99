#include "numa/mem.h"

#include <stdio.h>
#include <sys/mman.h>
#include <unistd.h>

#include "src/base/log.h"

int numa_mem_create(struct numa_mem *mem, uint64_t size, unsigned node)
{
	char name[32];
	void *p;
	int r;

	snprintf(name, sizeof(name), "guest-node%u", node);
	mem->fd = memfd_create(name, MFD_CLOEXEC);
	if (mem->fd < 0 || ftruncate(mem->fd, size)) {
		r = -errno;
		goto fail;
	}
	p = mmap(NULL, size, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_NORESERVE, mem->fd, 0);
	if (p == MAP_FAILED) {
		r = -errno;
		goto fail;
	}
	/* Where the host allows huge pages in shared memory they halve the cost of TLB misses. */
	madvise(p, size, MADV_HUGEPAGE);
	/* The monitor's core dumps are not the guest's. */
	madvise(p, size, MADV_DONTDUMP);
	mem->hva = (hva_t)p;
	mem->size = size;
	return 0;
fail:
	log_err("cannot allocate %lu MiB of guest memory: %s", size >> 20, strerror(-r));
	if (mem->fd >= 0)
		close(mem->fd);
	mem->fd = -1;
	return r;
}

void numa_mem_destroy(struct numa_mem *mem)
{
	if (!mem->size)
		return;
	munmap((void *)mem->hva, mem->size);
	close(mem->fd);
	mem->size = 0;
}
