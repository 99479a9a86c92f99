#include "src/cli/terminal.h"

#include <signal.h>
#include <stdlib.h>
#include <termios.h>
#include <unistd.h>

#include "src/base/atomic.h"
#include "src/base/log.h"

static const int fatal_signals[] = {SIGSEGV, SIGBUS, SIGILL, SIGFPE, SIGABRT};

/* saved and old_actions are written before raw is set, and only then. */
static struct termios saved;
static struct sigaction old_actions[ARRAY_SIZE(fatal_signals)];
static int raw;

void terminal_restore(void)
{
	int err = errno;

	/* Pairs with the release in terminal_raw(). */
	if (atomic_xchg_seq(&raw, 0))
		tcsetattr(STDIN_FILENO, TCSADRAIN, &saved);
	errno = err;
}

/* Gives the signal to whom it would have gone without us. */
static void on_fatal(int sig, siginfo_t *info, void *context)
{
	terminal_restore();
	for (size_t i = 0; i < ARRAY_SIZE(fatal_signals); i++) {
		if (fatal_signals[i] == sig)
			sigaction(sig, &old_actions[i], NULL);
	}
	/* A fault comes again by itself when its instruction does; a signal that was sent does
	 * not. */
	if (info->si_code <= 0)
		raise(sig);
}

static void catch_fatal_signals(void)
{
	struct sigaction sa = {.sa_sigaction = on_fatal, .sa_flags = SA_SIGINFO | SA_ONSTACK};

	for (size_t i = 0; i < ARRAY_SIZE(fatal_signals); i++)
		sigaction(fatal_signals[i], &sa, &old_actions[i]);
}

int terminal_raw(void)
{
	struct termios t;

	if (tcgetattr(STDIN_FILENO, &saved)) {
		log_err("cannot read the terminal's mode: %s", strerror(errno));
		return -EIO;
	}
	t = saved;
	cfmakeraw(&t);
	/* Lines of our own on the terminal still end in a plain newline. */
	t.c_oflag |= OPOST;
	catch_fatal_signals();
	atexit(terminal_restore);
	/* Release: a handler that sees raw sees the saved mode. */
	atomic_store_release(&raw, 1);
	if (tcsetattr(STDIN_FILENO, TCSADRAIN, &t)) {
		log_err("cannot set the terminal's mode: %s", strerror(errno));
		return -EIO;
	}
	return 0;
}
