/*
 * How the person at the terminal, and whoever sends signals, steers a running guest.
 *
 * On a terminal with --serial stdio: raw mode and the escape keys. Everywhere: SIGTERM, SIGINT and
 * SIGHUP press the guest's power button; a second one, or CONSOLE_GRACE_SEC later, stops the guest;
 * SIGQUIT stops it at once. Called by the main thread.
 */
#ifndef CLI_CONSOLE_H
#define CLI_CONSOLE_H

#include "src/vm/vm.h"

#define CONSOLE_GRACE_SEC 30

struct console;

/*
 * Before the VM is made: sets cfg's input filter and blocks the signals in this thread and so in
 * all that it will create. 0 or -ENOMEM.
 */
int console_open(struct console **c, struct vm_config *cfg);

/* From here on keys and signals reach vm. 0 or -errno after one log line. */
int console_start(struct console *c, struct vm *vm);

/*
 * Before vm is destroyed: no key or signal reaches it any more, and the terminal is as it was.
 * Returns the signal because of which the guest was stopped, or 0.
 */
int console_stop(struct console *c);

/* After the VM is gone. */
void console_close(struct console *c);

#endif
