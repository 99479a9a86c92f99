#include "src/base/clock.h"

#include <cpuid.h>
#include <stdio.h>
#include <string.h>
#include <time.h>
#include <x86intrin.h>

#include "src/base/atomic.h"

/* How long the counter is watched before its rate is relied upon, and how often it is looked at. */
#define WATCH_NS  (NSEC_PER_SEC / 5)
#define FOLLOW_NS NSEC_PER_SEC
/* No rate of a clock is off by so much: the counter was set. */
#define JUMP_NS NSEC_PER_SEC
/* The largest change of the rate at once, as a fraction. */
#define SLEW	   250000
#define PAIR_TRIES 8

static uint64_t read_ns(clockid_t id)
{
	struct timespec ts;

	clock_gettime(id, &ts);
	return ts.tv_sec * NSEC_PER_SEC + ts.tv_nsec;
}

uint64_t clock_monotonic_ns(void)
{
	return read_ns(CLOCK_MONOTONIC);
}

/* Not before the loads that come before it. */
static uint64_t read_tsc(void)
{
	_mm_lfence();
	return __rdtsc();
}

/* The counter at the host's time *ns or a moment before: what is scaled from it is never late. */
static uint64_t read_pair(uint64_t *ns)
{
	uint64_t best = ~0ull, tsc = 0;

	for (unsigned n = 0; n < PAIR_TRIES; n++) {
		uint64_t before = read_tsc(), t = clock_monotonic_ns();
		uint64_t took = read_tsc() - before;

		if (took < best) {
			best = took;
			tsc = before;
			*ns = t;
		}
	}
	return tsc;
}

uint32_t clock_scale(const struct clock *clk, struct clock_scale *s)
{
	uint32_t seq;

	/* Pairs with set_scale(). */
	do {
		seq = atomic_load_acquire(&clk->seq) & ~1u;
		s->mult = atomic_load_acquire(&clk->scale.mult);
		s->tsc0 = atomic_load_acquire(&clk->scale.tsc0);
		s->ns0 = atomic_load_acquire(&clk->scale.ns0);
	} while (seq != atomic_load_relaxed(&clk->seq));
	return seq;
}

static void set_scale(struct clock *clk, const struct clock_scale *s)
{
	uint32_t seq = atomic_load_relaxed(&clk->seq);

	/* Who loads a field as stored here sees at least the odd number. */
	atomic_store_relaxed(&clk->seq, seq + 1);
	atomic_store_release(&clk->scale.mult, s->mult);
	atomic_store_release(&clk->scale.tsc0, s->tsc0);
	atomic_store_release(&clk->scale.ns0, s->ns0);
	atomic_store_release(&clk->seq, seq + 2);
}

/*
 * A thread that does not see the first scale yet returns no earlier time than one that does, as far
 * as they can compare: what tells them to compare also shows the scale.
 */
static uint64_t host_now(struct clock *clk)
{
	struct clock_scale s;

	if (likely(clock_scale(clk, &s)))
		return clock_scaled(&s, read_tsc());
	return clock_monotonic_ns() - clk->start_ns;
}

/* The counter's rate between two moments. */
static uint64_t rate(uint64_t ns, uint64_t ticks)
{
	return ((unsigned __int128)ns << 32) / ticks;
}

/* The next scale: on from the last one's time, at the rate that will meet the host's time ns. */
static void steer(const struct clock *clk, struct clock_scale *s, uint64_t tsc, uint64_t ns)
{
	uint64_t now = clock_scaled(s, tsc), most = s->mult / SLEW;
	int64_t error = ns - now;
	uint64_t mult;

	if (tsc < s->tsc0 || error > (int64_t)JUMP_NS || error < -(int64_t)JUMP_NS) {
		now = ns;
	} else {
		mult = rate(ns - clk->seen_ns + error, tsc - clk->seen_tsc);
		s->mult = MIN(MAX(mult, s->mult - most), s->mult + most);
	}
	s->tsc0 = tsc;
	s->ns0 = now;
}

static void follow(struct clock *clk)
{
	struct clock_scale s;
	uint64_t ns, tsc = read_pair(&ns);

	ns -= clk->start_ns;
	if (clock_scale(clk, &s))
		steer(clk, &s, tsc, ns);
	else
		s = (struct clock_scale){rate(ns - clk->seen_ns, tsc - clk->seen_tsc), tsc, ns};
	set_scale(clk, &s);
	clk->seen_ns = ns;
	atomic_store_relaxed(&clk->seen_tsc, tsc);
}

void clock_follow(struct clock *clk)
{
	uint64_t seen = atomic_load_relaxed(&clk->seen_tsc), since = read_tsc() - seen;
	struct clock_scale s;
	uint32_t idle = 0;

	if (!seen)
		return;
	if (clock_scale(clk, &s) ? (unsigned __int128)since * s.mult >> 32 < FOLLOW_NS
				 : clock_now(clk) < WATCH_NS)
		return;
	if (!atomic_cas_seq(&clk->following, &idle, 1))
		return;
	/* Unless another thread just did. */
	if (seen == atomic_load_relaxed(&clk->seen_tsc))
		follow(clk);
	atomic_store_release(&clk->following, 0);
}

uint64_t clock_host_ns(struct clock *clk, uint64_t ns)
{
	return clock_monotonic_ns() + (ns - clock_now(clk));
}

/* Whether the counter runs at one rate, and the host's kernel trusts it. */
static bool tsc_is_clock(void)
{
	static const char path[] =
		"/sys/devices/system/clocksource/clocksource0/current_clocksource";
	unsigned eax, ebx, ecx, edx;
	char name[32] = "";
	FILE *f;

	if (!__get_cpuid(0x80000007, &eax, &ebx, &ecx, &edx) || !(edx & 1u << 8))
		return false;
	f = fopen(path, "re");
	if (!f)
		return false;
	if (!fgets(name, sizeof(name), f))
		name[0] = 0;
	fclose(f);
	return !strcmp(name, "tsc\n") || !strcmp(name, "kvm-clock\n");
}

void clock_init_host(struct clock *clk)
{
	*clk = (struct clock){.now_ns = host_now};
	clk->seen_tsc = read_pair(&clk->start_ns);
	clk->epoch_ns = read_ns(CLOCK_REALTIME);
	if (!tsc_is_clock())
		clk->seen_tsc = 0;
}
