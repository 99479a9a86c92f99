#include "src/cli/console.h"

#include <pthread.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <time.h>
#include <unistd.h>

#include "src/base/atomic.h"
#include "src/base/log.h"
#include "src/cli/escape.h"
#include "src/cli/terminal.h"

/* Ends the signal thread. */
#define SIG_LEAVE SIGUSR1

/*
 * Signals are never handled, only waited for, by one thread that does nothing else: so whatever
 * they cause may take locks and time. The I/O thread asks for a power-off by sending that thread
 * a SIGINT.
 */
struct console {
	bool terminal;
	struct escape escape; /* of the I/O thread */
	sigset_t signals;
	struct vm *vm;	/* set before the thread starts */
	bool leaving;	/* atomic: the thread is to end */
	int first;	/* of the thread: the signal that asked for the power-off, or 0 */
	int stopped_by; /* of the thread, read after its end */

	pthread_mutex_t lock; /* on the following: the I/O thread uses them only while running */
	bool running;
	pthread_t thread;
};

static uint64_t now_ns(void)
{
	struct timespec ts;

	clock_gettime(CLOCK_MONOTONIC, &ts);
	return ts.tv_sec * NSEC_PER_SEC + ts.tv_nsec;
}

static void say(const char *text)
{
	if (write(STDERR_FILENO, text, strlen(text)) < 0)
		return;
}

static void show_help(void)
{
	say("\n[Ctrl-A X leaves at once, Ctrl-A Ctrl-A sends one Ctrl-A, Ctrl-A H shows this;\n"
	    " Ctrl-C twice asks the guest to power off]\n");
}

/* --- keys, on the I/O thread --- */

static size_t filter_input(void *opaque, uint8_t *data, size_t n)
{
	struct console *c = opaque;
	unsigned asked = 0;

	n = escape_filter(&c->escape, now_ns(), data, n, &asked);
	if (!asked)
		return n;
	pthread_mutex_lock(&c->lock);
	if (asked & ESCAPE_HELP)
		show_help();
	if (c->running && (asked & ESCAPE_POWER_OFF))
		pthread_kill(c->thread, SIGINT);
	if (c->running && (asked & ESCAPE_LEAVE))
		vm_stop(c->vm);
	pthread_mutex_unlock(&c->lock);
	return n;
}

/* --- signals --- */

/* The next signal, or 0 when deadline (host nanoseconds; 0: never) has passed. */
static int wait_signal(struct console *c, uint64_t deadline)
{
	struct timespec ts;
	uint64_t now;
	int sig;

	do {
		now = now_ns();
		if (!deadline) {
			sig = sigwaitinfo(&c->signals, NULL);
			continue;
		}
		if (now >= deadline)
			return 0;
		ts.tv_sec = (deadline - now) / NSEC_PER_SEC;
		ts.tv_nsec = (deadline - now) % NSEC_PER_SEC;
		sig = sigtimedwait(&c->signals, NULL, &ts);
	} while (sig < 0);
	return sig;
}

static void ask_power_off(struct console *c, int sig)
{
	c->first = sig;
	log_warn("asking the guest to power off; it has %d seconds, or until the next %s",
		 CONSOLE_GRACE_SEC, c->terminal ? "Ctrl-C twice" : "signal");
	vm_power_button(c->vm);
}

static void stop(struct console *c, int sig)
{
	if (!sig)
		log_warn("the guest did not power off in %d seconds: stopping it",
			 CONSOLE_GRACE_SEC);
	if (!c->stopped_by)
		c->stopped_by = sig ? sig : c->first;
	vm_stop(c->vm);
}

static void *signal_thread(void *arg)
{
	struct console *c = arg;
	uint64_t deadline = 0;

	for (;;) {
		int sig = wait_signal(c, deadline);

		if (atomic_load_relaxed(&c->leaving))
			return NULL;
		if (sig == SIG_LEAVE)
			continue;
		if (sig && sig != SIGQUIT && !c->first) {
			ask_power_off(c, sig);
			deadline = now_ns() + CONSOLE_GRACE_SEC * NSEC_PER_SEC;
		} else {
			stop(c, sig);
			deadline = 0;
		}
	}
}

/* A signal that was ignored when we started stays so, as nohup and shells' background jobs want. */
static void choose_signals(sigset_t *set)
{
	static const int wanted[] = {SIGINT, SIGTERM, SIGHUP, SIGQUIT, SIG_LEAVE};
	struct sigaction sa;

	sigemptyset(set);
	for (size_t i = 0; i < ARRAY_SIZE(wanted); i++) {
		if (wanted[i] == SIG_LEAVE || sigaction(wanted[i], NULL, &sa) ||
		    sa.sa_handler != SIG_IGN)
			sigaddset(set, wanted[i]);
	}
}

/* --- life cycle --- */

int console_open(struct console **out, struct vm_config *cfg)
{
	struct console *c = calloc(1, sizeof(*c));

	if (!c)
		return -ENOMEM;
	pthread_mutex_init(&c->lock, NULL);
	c->terminal = cfg->serial == VM_SERIAL_STDIO && isatty(STDIN_FILENO);
	if (c->terminal) {
		/* Keys reach the signal thread as SIGINT, also where a shell has it ignored. */
		signal(SIGINT, SIG_DFL);
		cfg->input_filter = filter_input;
		cfg->input_filter_opaque = c;
	}
	choose_signals(&c->signals);
	/* For good: a signal that comes while we end has no more to say. */
	pthread_sigmask(SIG_BLOCK, &c->signals, NULL);
	*out = c;
	return 0;
}

int console_start(struct console *c, struct vm *vm)
{
	int r;

	c->vm = vm;
	pthread_mutex_lock(&c->lock);
	r = pthread_create(&c->thread, NULL, signal_thread, c);
	c->running = !r;
	pthread_mutex_unlock(&c->lock);
	if (r) {
		log_err("cannot start a thread: %s", strerror(r));
		return -r;
	}
	return c->terminal ? terminal_raw() : 0;
}

int console_stop(struct console *c)
{
	bool running;

	pthread_mutex_lock(&c->lock);
	running = c->running;
	c->running = false;
	pthread_mutex_unlock(&c->lock);
	if (running) {
		atomic_store_relaxed(&c->leaving, true);
		pthread_kill(c->thread, SIG_LEAVE);
		pthread_join(c->thread, NULL);
	}
	terminal_restore();
	return c->stopped_by;
}

void console_close(struct console *c)
{
	if (!c)
		return;
	pthread_mutex_destroy(&c->lock);
	free(c);
}
