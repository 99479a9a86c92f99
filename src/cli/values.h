/*
 * The values of flags, each parsed into its part of the configuration. All take a string that they
 * may cut into pieces, which the configuration then points into. 0, or -EINVAL with o->error set.
 */
#ifndef CLI_VALUES_H
#define CLI_VALUES_H

#include "src/cli/options.h"

int value_cpus(struct options *o, char *value);
int value_memory(struct options *o, char *value);
int value_disk(struct options *o, char *value);
int value_net(struct options *o, char *value);
int value_engine(struct options *o, char *value);
int value_check(struct options *o, char *value);
int value_serial(struct options *o, char *value);

/* Sets o->error and returns -EINVAL. */
int options_fail(struct options *o, const char *fmt, ...) printf_like(2, 3);

#endif
