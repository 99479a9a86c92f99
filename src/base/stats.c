#include "src/base/stats.h"

#include "src/base/types.h"

const struct stat_desc stat_descs[] = {
#define STAT(name, help) {#name, help, offsetof(struct stats, name)},
#include "src/base/stats.def"
#undef STAT
};

const unsigned stat_desc_count = ARRAY_SIZE(stat_descs);
