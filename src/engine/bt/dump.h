/* Guest and host code side by side, for people. */
#ifndef ENGINE_BT_DUMP_H
#define ENGINE_BT_DUMP_H

#include <stdio.h>

#include "src/engine/bt/translate.h"

/* Appends the unit that was just translated; cold: where its code out of line starts. */
void bt_dump_unit(FILE *out, const struct tr *t, const uint8_t *cold);

/* One line for each of its two pieces, in the format of perf's maps. */
void bt_name_unit(FILE *out, const struct tr *t, const uint8_t *cold);

#endif
