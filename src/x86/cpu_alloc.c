/* The memory of a CPU, with its banks of latches. */
#include <sys/mman.h>
#include <unistd.h>

#include "src/x86/cpu.h"

/* What a bank is made of: two pieces of struct cpu. */
#define PIECE(field)                                                          \
	{                                                                     \
		offsetof(struct cpu, field), sizeof(((struct cpu *)0)->field) \
	}
static const struct {
	size_t off, size;
} piece[] = {PIECE(tlb.latches.touched[0]), PIECE(tlb.latches.latch[0])};
#define BANK_SIZE \
	(sizeof(((struct latches *)0)->touched[0]) + sizeof(((struct latches *)0)->latch[0]))

/* Alias n of a CPU of that size; further banks are behind it in the file. */
static int map_alias(int fd, char *at, size_t size, unsigned n)
{
	const int prot = PROT_READ | PROT_WRITE, flags = MAP_SHARED | MAP_FIXED;
	off_t off;

	if (mmap(at, size, prot, flags, fd, 0) == MAP_FAILED)
		return -errno;
	if (!n)
		return 0;
	off = size + (n - 1) * BANK_SIZE;
	for (unsigned k = 0; k < ARRAY_SIZE(piece); k++) {
		if (mmap(at + piece[k].off, piece[k].size, prot, flags, fd, off) == MAP_FAILED)
			return -errno;
		off += piece[k].size;
	}
	return 0;
}

struct cpu *cpu_alloc(size_t size)
{
	int fd = memfd_create("vcpu", MFD_CLOEXEC);
	char *p = MAP_FAILED;
	struct cpu *cpu = NULL;

	size = ALIGN_UP(size, PAGE_SIZE);
	if (fd < 0 || ftruncate(fd, size + (LATCH_BANKS - 1) * BANK_SIZE))
		goto out;
	p = mmap(NULL, LATCH_BANKS * size, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE,
		 -1, 0);
	if (p == MAP_FAILED)
		goto out;
	for (unsigned n = 0; n < LATCH_BANKS; n++)
		if (map_alias(fd, p + n * size, size, n))
			goto out;
	cpu = (struct cpu *)p;
	cpu->tlb.latches.stride = size;
out:
	if (!cpu && p != MAP_FAILED)
		munmap(p, LATCH_BANKS * size);
	if (fd >= 0)
		close(fd);
	return cpu;
}

void cpu_free(struct cpu *cpu)
{
	if (cpu)
		munmap(cpu, LATCH_BANKS * cpu->tlb.latches.stride);
}
