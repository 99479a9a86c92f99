/* Guest memory from the host: one mapping for each guest node. */
#ifndef NUMA_MEM_H
#define NUMA_MEM_H

#include "src/base/types.h"

struct numa_mem {
	hva_t hva; /* a multiple of a huge page's size */
	uint64_t size;
};

/* size: bytes, page-aligned. 0 or -errno after one log line. */
int numa_mem_create(struct numa_mem *mem, uint64_t size);
void numa_mem_destroy(struct numa_mem *mem);

#endif
