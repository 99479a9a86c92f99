/* What the host has to say about a command line that is right in itself. */
#ifndef CLI_CHECK_H
#define CLI_CHECK_H

#include "src/cli/options.h"

/*
 * The kernel, the initial RAM disk and the disks can be opened, no disk is there twice where one
 * is for writing (whatever its names), and no output would overwrite an input. 0, or -errno with
 * o->error set.
 */
int check_files(struct options *o);

#endif
