/* numavisor run: from parsed options to an exit status. */
#ifndef CLI_RUN_H
#define CLI_RUN_H

#include "src/cli/options.h"

/* Exit statuses; a guest's debug-exit value gives others. */
enum {
	CLI_EXIT_OK = 0,      /* the guest powered off, or the user left it */
	CLI_EXIT_CRASHED = 1, /* triple fault or pvpanic */
	CLI_EXIT_USAGE = 2,   /* said before any guest code ran */
	CLI_EXIT_HOST = 3,
	CLI_EXIT_SIGNAL = 128, /* plus the signal that stopped a guest which did not power off */
};

/* Blocks until the guest ends. Once a process: it takes the terminal and the signals. */
int cli_run(struct options *o);

/* signal: what console_stop() returned. */
int cli_exit_status(const struct vm_result *res, int signal);

#endif
