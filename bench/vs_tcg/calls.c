/* Calls: recursive ones, and through pointers that a predictor cannot guess. */
#include "work.h"

#define DEPTH 20
#define NODES 21891 /* calls of tree() for that depth */
#define CALLS 1024

/* A tree of calls: what is combined at each node cannot be turned into a loop. */
static __attribute__((noinline)) uint64_t tree(unsigned n)
{
	return n < 2 ? n : work_hash(tree(n - 1), tree(n - 2));
}

static uint64_t recurse_unit(void)
{
	return tree(DEPTH);
}

/* Eight small functions, called in a fixed random order. */
#define FUNCTION(name, expression)                                 \
	static __attribute__((noinline)) uint64_t name(uint64_t x) \
	{                                                          \
		return expression;                                 \
	}
FUNCTION(f0, x + 0x1234567)
FUNCTION(f1, x ^ x >> 7)
FUNCTION(f2, x * 5)
FUNCTION(f3, ~x)
FUNCTION(f4, x << 3 | x >> 61)
FUNCTION(f5, x - (x >> 3))
FUNCTION(f6, x & 1 ? x + 77 : x - 99)
FUNCTION(f7, __builtin_bswap64(x))

static uint64_t (*const functions[])(uint64_t) = {f0, f1, f2, f3, f4, f5, f6, f7};
static uint64_t (*table[CALLS])(uint64_t);

static void indirect_setup(void)
{
	uint64_t state = 17;

	for (int i = 0; i < CALLS; i++)
		table[i] = functions[work_random(&state) >> 20 & 7];
}

static uint64_t indirect_unit(void)
{
	uint64_t x = 1;

	for (int i = 0; i < CALLS; i++)
		x = table[i](x);
	return x;
}

const struct work call_works[] = {
	{.name = "recurse", .ops = NODES, .unit = recurse_unit},
	{.name = "indirect", .ops = CALLS, .setup = indirect_setup, .unit = indirect_unit},
	{},
};
