/* A matrix product with 256-bit fused multiply-add. Compiled with -O3 -mavx2 -mfma. */
#include <errno.h>
#include <immintrin.h>
#include <string.h>

#include "work.h"

#define SIDE 64

static double a[SIDE][SIDE], b[SIDE][SIDE] __attribute__((aligned(32)));
static double product[SIDE][SIDE] __attribute__((aligned(32)));

static void avx2_setup(void)
{
	uint64_t state = 31;

	errno = ENOTSUP;
	if (!__builtin_cpu_supports("avx2") || !__builtin_cpu_supports("fma"))
		work_die("AVX2 and FMA");
	for (int i = 0; i < SIDE * SIDE; i++) {
		a[i / SIDE][i % SIDE] = (double)(work_random(&state) >> 40) / 1e6;
		b[i / SIDE][i % SIDE] = (double)(work_random(&state) >> 40) / 1e6;
	}
}

static uint64_t avx2_unit(void)
{
	uint64_t hash = 0, bits;

	for (int i = 0; i < SIDE; i++) {
		for (int j = 0; j < SIDE; j += 16) {
			__m256d sum[4] = {0};

			for (int n = 0; n < SIDE; n++) {
				__m256d x = _mm256_broadcast_sd(&a[i][n]);

				for (int v = 0; v < 4; v++)
					sum[v] = _mm256_fmadd_pd(
						x, _mm256_load_pd(&b[n][j + v * 4]), sum[v]);
			}
			for (int v = 0; v < 4; v++)
				_mm256_store_pd(&product[i][j + v * 4], sum[v]);
		}
		memcpy(&bits, &product[i][i], sizeof(bits));
		hash = work_hash(hash, bits);
	}
	return hash;
}

/* For four products. */
const struct work avx2_works[] = {
	{.name = "avx2", .ops = SIDE * SIDE * SIDE / 4, .setup = avx2_setup, .unit = avx2_unit},
	{},
};
