/* The memory of a CPU. */
#include <sys/mman.h>

#include "src/base/huge.h"
#include "src/x86/cpu.h"

#define LATCH offsetof(struct cpu, tlb.latches.latch[0])

/* Before a CPU, so that its latches begin with a huge page. */
#define SKIP (-LATCH & (HUGE_PAGE - 1))

/*
 * Shared memory, which has no huge pages but where they are asked for: of latches most are never
 * used.
 */
struct cpu *cpu_alloc(size_t size)
{
	char *p = huge_map(SKIP + size, PROT_NONE, 0);

	if (!p)
		return NULL;
	if (mmap(p, SKIP + size, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS | MAP_FIXED, -1,
		 0) == MAP_FAILED) {
		munmap(p, SKIP + size);
		return NULL;
	}
	return (struct cpu *)(p + SKIP);
}

void cpu_free(struct cpu *cpu, size_t size)
{
	if (cpu)
		munmap((char *)cpu - SKIP, SKIP + size);
}

void cpu_huge_caches(struct cpu *cpu)
{
	char *end = (char *)cpu + LATCH;
	size_t size = LATCH - offsetof(struct cpu, jump);

	huge_collapse(end - ALIGN_UP(size, HUGE_PAGE), ALIGN_UP(size, HUGE_PAGE));
}

void cpu_huge_latches(struct cpu *cpu, bool upper, uint32_t n)
{
	huge_collapse(&cpu->tlb.latches.latch[upper][n], HUGE_PAGE);
}
