#pragma once
/*
 * Workloads of bench/vs_tcg.sh: the same static binary runs natively and in guests. A workload has
 * a unit of work that main() repeats for a fixed time. One process runs one workload, so a workload
 * may keep its state in static variables and need not free it.
 *
 * What goes wrong is fatal: work_die() ends the process, and the row is missing in the report.
 */
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

struct work {
	const char *name;
	unsigned ops;		/* operations in a unit: the result is given for one */
	void (*setup)(void);	/* may be NULL; not timed */
	uint64_t (*unit)(void); /* its checksum, the same each time and on every machine */
	void (*finish)(void);	/* may be NULL; not timed: dies if the units' work is not right */
	/* Instead of unit: measures by itself. Returns the result and its checksum. */
	void (*measure)(double *result, uint64_t *checksum);
};

/* Each ends with an entry without a name. */
extern const struct work sha256_works[], mix_works[], memory_works[], bytecode_works[],
	call_works[], sqlite_works[], redis_works[], vector_works[], avx2_works[], kernel_works[],
	mmap_works[], thread_works[];

/* How long a measurement should take, in nanoseconds. */
extern uint64_t work_target_ns;

_Noreturn void work_die(const char *what);

/* Host or guest time, in nanoseconds. */
uint64_t work_now(void);

/*
 * Repeats unit for about work_target_ns; returns the time of one in nanoseconds. Dies if units
 * disagree about *checksum, which is set to that of the first.
 */
double work_repeat(uint64_t (*unit)(void), uint64_t *checksum);

/* The next number of a fixed sequence; *state must not be 0. */
static inline uint64_t work_random(uint64_t *state)
{
	uint64_t x = *state;

	x ^= x << 13;
	x ^= x >> 7;
	x ^= x << 17;
	return *state = x;
}

static inline uint64_t work_hash(uint64_t hash, uint64_t value)
{
	return (hash ^ value) * 0x9e3779b97f4a7c15 + (hash >> 29);
}

/* Zeroed memory of whole pages, backed by 4 KiB pages. */
void *work_pages(size_t size);

/* Pins the calling thread to the n-th CPU (0 or 1) of those the process was started with. */
void work_pin(int n);
