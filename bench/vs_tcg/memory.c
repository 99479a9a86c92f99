/* Memory larger than what caches and TLBs hold. */
#include <errno.h>
#include <string.h>

#include "work.h"

#define SIZE  (256u << 20)
#define LINES (SIZE / sizeof(struct line))
#define WORDS (SIZE / sizeof(uint64_t))
#define STEPS 4096u
#define COPY  (64u << 20)

struct line {
	struct line *next;
	uint64_t order; /* how many steps from the first line */
	uint64_t unused[6];
};

static struct line *lines, *position;
static uint64_t steps_done;

/* One ring through all lines in random order. */
static void chase_setup(void)
{
	uint32_t *order = work_pages(LINES * sizeof(*order));
	uint64_t state = 11;

	lines = work_pages(SIZE);
	for (uint32_t i = 0; i < LINES; i++)
		order[i] = i;
	for (uint32_t i = LINES - 1; i > 0; i--) {
		uint32_t j = work_random(&state) % (i + 1), t = order[i];

		order[i] = order[j];
		order[j] = t;
	}
	for (uint32_t i = 0; i < LINES; i++) {
		lines[order[i]].next = &lines[order[(i + 1) % LINES]];
		lines[order[i]].order = i;
	}
	position = &lines[order[0]];
}

/* How far the place is from where it should be: 0. */
static uint64_t chase_unit(void)
{
	struct line *l = position;

	for (unsigned i = 0; i < STEPS; i++)
		l = l->next;
	position = l;
	steps_done += STEPS;
	return l->order - steps_done % LINES;
}

static uint64_t *words, rmw_state = 13, rmw_total;

static void rmw_setup(void)
{
	words = work_pages(SIZE);
}

static uint64_t rmw_unit(void)
{
	for (unsigned i = 0; i < STEPS; i++) {
		uint64_t r = work_random(&rmw_state);

		words[r % WORDS] += r;
		rmw_total += r;
	}
	return 0;
}

static void rmw_finish(void)
{
	uint64_t sum = 0;

	for (size_t i = 0; i < WORDS; i++)
		sum += words[i];
	errno = 0;
	if (sum != rmw_total)
		work_die("rmw");
}

static uint8_t *from, *to;
static uint64_t copies;

static void memcpy_setup(void)
{
	from = work_pages(COPY);
	to = work_pages(COPY);
}

/* The last word of every 64 KiB is the number of the copy: differences there are counted, 0. */
static uint64_t memcpy_unit(void)
{
	const size_t stride = 65536;
	uint64_t wrong = 0, word;

	copies++;
	for (size_t i = stride - sizeof(copies); i < COPY; i += stride)
		memcpy(from + i, &copies, sizeof(copies));
	memcpy(to, from, COPY);
	for (size_t i = stride - sizeof(copies); i < COPY; i += stride) {
		memcpy(&word, to + i, sizeof(word));
		wrong += word != copies;
	}
	return wrong;
}

const struct work memory_works[] = {
	{.name = "chase", .ops = STEPS, .setup = chase_setup, .unit = chase_unit},
	{.name = "rmw", .ops = STEPS, .setup = rmw_setup, .unit = rmw_unit, .finish = rmw_finish},
	{.name = "memcpy", .ops = 1, .setup = memcpy_setup, .unit = memcpy_unit},
	{},
};
