/*
 * The keys that the monitor keeps for itself on a terminal: Ctrl-A and one more, and Ctrl-C twice.
 * No I/O here; one thread.
 */
#ifndef CLI_ESCAPE_H
#define CLI_ESCAPE_H

#include "src/base/types.h"

#define ESCAPE_LEAVE	 (1U << 0) /* Ctrl-A X */
#define ESCAPE_HELP	 (1U << 1) /* Ctrl-A H */
#define ESCAPE_POWER_OFF (1U << 2) /* Ctrl-C Ctrl-C */

/* Two Ctrl-C count as one wish only if the second follows within this time. */
#define ESCAPE_TWICE_NS NSEC_PER_SEC

struct escape {
	bool prefixed;	       /* a Ctrl-A came, its second key has not */
	bool interrupted;      /* the last byte was a Ctrl-C that went to the guest */
	uint64_t interrupt_ns; /* when */
};

/*
 * Takes the escapes out of the n bytes that arrived at now_ns. Returns how many are left for the
 * guest and adds what was asked for to *asked. Ctrl-C goes to the guest too, both times.
 */
size_t escape_filter(struct escape *e, uint64_t now_ns, uint8_t *data, size_t n, unsigned *asked);

#endif
