/* Floating point: a matrix product in scalar SSE2, and a loop on the x87 stack. */
#include <string.h>

#include "work.h"

#define SIDE  32
#define TERMS 1000

static double a[SIDE][SIDE], b[SIDE][SIDE], product[SIDE][SIDE];

static void sse2_setup(void)
{
	uint64_t state = 29;

	for (int i = 0; i < SIDE * SIDE; i++) {
		a[i / SIDE][i % SIDE] = (double)(work_random(&state) >> 40) / 1e6;
		b[i / SIDE][i % SIDE] = (double)(work_random(&state) >> 40) / 1e6;
	}
}

static uint64_t sse2_unit(void)
{
	uint64_t hash = 0, bits;

	for (int i = 0; i < SIDE; i++) {
		for (int j = 0; j < SIDE; j++) {
			double sum = 0;

			for (int n = 0; n < SIDE; n++)
				sum += a[i][n] * b[n][j];
			product[i][j] = sum;
		}
		memcpy(&bits, &product[i][i], sizeof(bits));
		hash = work_hash(hash, bits);
	}
	return hash;
}

/* A logistic map and a sum of reciprocals: four basic operations, all of them exact by IEEE 754. */
static uint64_t x87_unit(void)
{
	long double x = 0.3L, sum = 0;
	uint64_t mantissa, hash = 0;

	for (int i = 1; i <= TERMS; i++) {
		x = 3.7L * x * (1 - x);
		sum += x / i - sum * 0.125L;
	}
	memcpy(&mantissa, &x, sizeof(mantissa));
	hash = work_hash(hash, mantissa);
	memcpy(&mantissa, &sum, sizeof(mantissa));
	return work_hash(hash, mantissa);
}

const struct work vector_works[] = {
	{.name = "sse2", .ops = SIDE * SIDE * SIDE, .setup = sse2_setup, .unit = sse2_unit},
	{.name = "x87", .ops = TERMS, .unit = x87_unit},
	{},
};
