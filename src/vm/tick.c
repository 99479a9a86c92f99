#include "src/vm/tick.h"

#include <pthread.h>
#include <signal.h>
#include <unistd.h>

#include "src/base/atomic.h"
#include "src/base/log.h"

/* Between two safepoints of a VCPU that nobody wants anything of. */
#define LONGEST_NS 2000000ull

/* Runs on the VCPU's own thread, inside compiled code or anywhere else. */
static void on_tick(int sig, siginfo_t *info, void *context)
{
	struct tick *t = info->si_value.sival_ptr;
	struct vcpu *v = t->v;

	atomic_store_relaxed(&t->armed_ns, 0);
	/* One that sleeps is at a safepoint, and nothing needs to wake it. */
	if (atomic_load_seq(&v->sleeping))
		return;
	atomic_fetch_or_seq(&v->requests, REQ_TICK);
	cpu_kick(&v->cpu);
}

static int unblock(int sig)
{
	sigset_t set;

	sigemptyset(&set);
	sigaddset(&set, sig);
	return -pthread_sigmask(SIG_UNBLOCK, &set, NULL);
}

int tick_init(struct tick *t, struct vcpu *v)
{
	const int sig = SIGRTMIN;
	struct sigaction sa = {.sa_sigaction = on_tick, .sa_flags = SA_SIGINFO | SA_RESTART};
	struct sigevent ev = {.sigev_notify = SIGEV_THREAD_ID, .sigev_signo = sig};
	int r = 0;

	*t = (struct tick){.v = v};
	ev.sigev_value.sival_ptr = t;
	ev._sigev_un._tid = gettid();
	sigfillset(&sa.sa_mask);
	/* The same for every VCPU of every VM. */
	if (sigaction(sig, &sa, NULL) || timer_create(CLOCK_MONOTONIC, &ev, &t->timer))
		r = -errno;
	if (!r)
		r = unblock(sig);
	if (r)
		log_err("cannot create the timer of VCPU %u: %s", v->index, strerror(-r));
	return r;
}

void tick_fini(struct tick *t)
{
	timer_delete(t->timer);
}

void tick_arm(struct tick *t)
{
	uint64_t deadline = t->v->lapic.timer_deadline_ns, now, want;
	uint64_t armed = atomic_load_relaxed(&t->armed_ns);
	struct itimerspec its = {0};

	/* One that fires meanwhile leaves its request. */
	if (armed && (!deadline || deadline >= armed))
		return;
	now = vcpu_now(t->v);
	want = now + LONGEST_NS;
	if (deadline)
		want = MIN(want, MAX(deadline, now + 1));
	its.it_value.tv_nsec = want - now;
	/* In this order: the new one may fire before the next instruction. */
	atomic_store_relaxed(&t->armed_ns, want);
	timer_settime(t->timer, 0, &its, NULL);
}
