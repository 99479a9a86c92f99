/* What runs one input of the translator's fuzzer. One machine a process, one thread. */
#ifndef TESTS_FUZZ_FUZZ_BT_H
#define TESTS_FUZZ_FUZZ_BT_H

#include "src/base/stats.h"
#include "src/base/types.h"

#define FUZZ_HEADER 8
#define FUZZ_CODE   4096u

/* check_every: as in struct interp_config. */
int fuzz_init(uint32_t check_every);
/* False if compiled code and the interpreter differ, which has been logged. */
bool fuzz_case(const uint8_t *data, size_t size);
const struct stats *fuzz_stats(void);

#endif
