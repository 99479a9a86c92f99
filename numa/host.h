/* The host's topology as hwloc sees it. Read-only after creation; any thread. */
#ifndef NUMA_HOST_H
#define NUMA_HOST_H

#include <stdio.h>

#include "src/base/types.h"

struct numa_host;

/* 0 or -errno after one log line. */
int numa_host_create(struct numa_host **host);
void numa_host_destroy(struct numa_host *host);

unsigned numa_host_pus(const struct numa_host *host); /* logical processors we may use */
unsigned numa_host_nodes(const struct numa_host *host);
uint64_t numa_host_memory(const struct numa_host *host); /* bytes, all nodes */

/* A tree for people. */
void numa_host_print(const struct numa_host *host, FILE *out);

#endif
