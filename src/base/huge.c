#include "src/base/huge.h"

#include <sys/mman.h>

#include "src/base/atomic.h"

#ifndef MADV_COLLAPSE
#define MADV_COLLAPSE 25
#endif

void huge_collapse(void *p, size_t size)
{
	char *at = (char *)ALIGN_UP((uintptr_t)p, HUGE_PAGE), *end = (char *)p + size;

	for (; end - at >= (ptrdiff_t)HUGE_PAGE; at += HUGE_PAGE) {
		/* There must be something to put into another place. */
		atomic_fetch_or_seq((unsigned char *)at, 0);
		madvise(at, HUGE_PAGE, MADV_COLLAPSE);
	}
}

void *huge_map(size_t size, int prot, int flags)
{
	size_t more = size + HUGE_PAGE, skip;
	char *p =
		mmap(NULL, more, prot, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE | flags, -1, 0);

	if (p == MAP_FAILED)
		return NULL;
	skip = -(uintptr_t)p & (HUGE_PAGE - 1);
	if (skip)
		munmap(p, skip);
	p += skip;
	if (more - skip > size)
		munmap(p + size, more - skip - size);
	madvise(p, size, MADV_HUGEPAGE);
	return p;
}
