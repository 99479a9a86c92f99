/*
 * Per-VCPU counters. The VCPU's thread is the only writer and uses plain increments; other threads
 * may read at any time and see a recent value.
 */
#ifndef BASE_STATS_H
#define BASE_STATS_H

#include <stdint.h>

struct stats {
#define STAT(name, help) uint64_t name;
#include "src/base/stats.def"
#undef STAT
};

struct stat_desc {
	const char *name;
	const char *help;
	unsigned offset; /* of the uint64_t in struct stats */
};

extern const struct stat_desc stat_descs[];
extern const unsigned stat_desc_count;

#define STAT_INC(s, name) ((s)->name++)

#endif
