/*
 * The command line. Pure: looks at nothing but its arguments, so that every rule of it can be
 * tested without a host. What needs the host (files that exist, disks that are one) is in check.h.
 */
#ifndef CLI_OPTIONS_H
#define CLI_OPTIONS_H

#include <stdio.h>

#include "src/vm/vm.h"

enum cli_command { CLI_RUN, CLI_TOPOLOGY, CLI_HELP, CLI_VERSION };

#define CLI_MAX_CPUS 1024 /* ids up to 1023 */

struct options {
	enum cli_command command;
	struct vm_config vm; /* its strings point into text, or are literals */
	const char *bt_log;  /* path, or NULL */
	bool perf_map;
	const char *stats; /* file to write counters to, or NULL */
	char error[1024];  /* one line without newline, set when parsing fails */
	char *text;	   /* owned copies of the arguments */
	size_t used;
};

/* argv[0] is the program's name. 0; -EINVAL with error set; -ENOMEM. Free in every case. */
int options_parse(struct options *o, int argc, char *const argv[]);
void options_free(struct options *o);

/* Fits one screen and names every flag. */
void options_usage(FILE *out);
void options_version(FILE *out);

#endif
