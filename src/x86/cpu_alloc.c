/* The memory of a CPU, with its banks of latches. */
#include <sys/mman.h>
#include <unistd.h>

#include "src/base/huge.h"
#include "src/x86/cpu.h"

#define TOUCHED	     offsetof(struct cpu, tlb.latches.touched[0])
#define LATCH	     offsetof(struct cpu, tlb.latches.latch[0])
#define TOUCHED_SIZE sizeof(((struct cpu *)0)->tlb.latches.touched[0])
#define LATCH_SIZE   sizeof(((struct cpu *)0)->tlb.latches.latch[0])

_Static_assert(LATCH_SIZE % HUGE_PAGE == 0 && TOUCHED_SIZE % PAGE_SIZE == 0, "mapped apart");

/* Before a CPU, so that its latches begin with a huge page. */
#define SKIP (-LATCH & (HUGE_PAGE - 1))

/*
 * The file is what one alias shows, with SKIP before it, and behind that the latches of the other
 * banks and then what goes with them.
 */
struct layout {
	int fd;
	size_t stride; /* from one alias to the next */
};

static int map(const struct layout *l, char *at, size_t size, off_t off)
{
	void *p = mmap(at, size, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_FIXED, l->fd, off);

	return p == MAP_FAILED ? -errno : 0;
}

static off_t bank_latches(const struct layout *l, unsigned bank)
{
	return l->stride + (bank - 1) * LATCH_SIZE;
}

static off_t bank_touched(const struct layout *l, unsigned bank)
{
	return bank_latches(l, LATCH_BANKS) + (bank - 1) * TOUCHED_SIZE;
}

/* Alias n, at a huge page's address. */
static int map_alias(const struct layout *l, char *at, unsigned n)
{
	char *cpu = at + SKIP;
	int r = map(l, at, l->stride, 0);

	if (!r && n)
		r = map(l, cpu + LATCH, LATCH_SIZE, bank_latches(l, n));
	if (!r && n)
		r = map(l, cpu + TOUCHED, TOUCHED_SIZE, bank_touched(l, n));
	return r;
}

struct cpu *cpu_alloc(size_t size)
{
	struct layout l = {.fd = memfd_create("vcpu", MFD_CLOEXEC),
			   .stride = ALIGN_UP(SKIP + size, HUGE_PAGE)};
	struct cpu *cpu = NULL;
	char *p = NULL;

	if (l.fd < 0 || ftruncate(l.fd, bank_touched(&l, LATCH_BANKS)))
		goto out;
	p = huge_map(LATCH_BANKS * l.stride, PROT_NONE, 0);
	if (!p)
		goto out;
	for (unsigned n = 0; n < LATCH_BANKS; n++)
		if (map_alias(&l, p + n * l.stride, n))
			goto out;
	cpu = (struct cpu *)(p + SKIP);
	cpu->tlb.latches.stride = l.stride;
out:
	if (!cpu && p)
		munmap(p, LATCH_BANKS * l.stride);
	if (l.fd >= 0)
		close(l.fd);
	return cpu;
}

void cpu_free(struct cpu *cpu)
{
	if (cpu)
		munmap((char *)cpu - SKIP, LATCH_BANKS * cpu->tlb.latches.stride);
}

void cpu_huge_caches(struct cpu *cpu)
{
	char *end = (char *)cpu + LATCH;
	size_t size = LATCH - offsetof(struct cpu, jump);

	huge_collapse(end - ALIGN_UP(size, HUGE_PAGE), ALIGN_UP(size, HUGE_PAGE));
}

void cpu_huge_latches(struct cpu *alias, bool upper, uint32_t n)
{
	n = ALIGN_DOWN(n, (uint32_t)CPU_HUGE_LATCHES);
	huge_collapse(&alias->tlb.latches.latch[upper][n], HUGE_PAGE);
}
