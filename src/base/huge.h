/*
 * Huge pages for shared memory: code that is written through one mapping and runs in another, and
 * CPUs, whose latches are mostly never used. The kernel gives it none by itself, unless the
 * administrator says so; on demand it does, from Linux 6.1 on.
 */
#ifndef BASE_HUGE_H
#define BASE_HUGE_H

#include "src/base/types.h"

#define HUGE_PAGE MIB(2)

/*
 * Puts the huge pages that lie wholly in the range into the place of small ones, if the kernel can:
 * else nothing changes. What is there stays, and others may use it meanwhile. May take some
 * milliseconds. Any thread.
 */
void huge_collapse(void *p, size_t size);

/* Private memory whose address is a multiple of HUGE_PAGE, or NULL; flags: more for mmap(). */
void *huge_map(size_t size, int prot, int flags);

#endif
