/* clang -fsanitize=fuzzer: the target's entry. */
#include <stdlib.h>

#include "tests/fuzz/fuzz_bt.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	static bool ready;

	if (!ready && fuzz_init(1))
		abort();
	ready = true;
	if (!fuzz_case(data, size))
		abort();
	return 0;
}
