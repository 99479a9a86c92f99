/*
 * The mode of the terminal on standard input. A process has one terminal, so its saved mode is the
 * process's too: a fault handler, which has no argument of ours, must find it.
 */
#ifndef CLI_TERMINAL_H
#define CLI_TERMINAL_H

#include "src/base/types.h"

/*
 * Raw input: every key goes to the guest, none makes a signal. Undone at exit and by any fatal
 * signal, whatever the way out. 0 or -errno after one log line.
 */
int terminal_raw(void);

/* Any thread, also a signal handler; harmless when nothing is to be undone. */
void terminal_restore(void);

#endif
