/*
 * The I/O thread: one event loop per VM that runs device callbacks for host events (a readable
 * descriptor, a timer). Callbacks run on the loop's thread, one at a time, without the loop's lock,
 * so they may call any function here; they take their device's lock themselves.
 */
#ifndef BASE_EVLOOP_H
#define BASE_EVLOOP_H

#include "src/base/clock.h"
#include "src/base/types.h"

struct evloop;

/* Owned by the caller; must stay valid from evloop_add() until evloop_del() returned. */
struct ev_fd {
	int fd;
	void (*cb)(struct ev_fd *ev, uint32_t epoll_events);
	struct ev_fd *next; /* private to the loop */
};

/* Owned by the caller; zero-initialise, set cb. One-shot: cb re-arms if it wants to. */
struct ev_timer {
	void (*cb)(struct ev_timer *t);
	uint64_t deadline_ns; /* guest time; private to the loop */
	struct ev_timer *next;
	bool armed;
};

/* 0 or -errno. The clock gives the time base of timers. */
int evloop_create(struct evloop **loop, struct clock *clk);
/* Starts the thread. */
int evloop_start(struct evloop *loop);
/* Stops and joins the thread: afterwards no callback runs. Not from the loop's own thread. */
void evloop_stop(struct evloop *loop);
void evloop_destroy(struct evloop *loop);

/* Any thread. epoll_events: EPOLLIN, EPOLLOUT ... (level-triggered). 0 or -errno. */
int evloop_add(struct evloop *loop, struct ev_fd *ev, uint32_t epoll_events);
int evloop_mod(struct evloop *loop, struct ev_fd *ev, uint32_t epoll_events);
/*
 * Any thread. When it returns the callback is not running and will not run again, except when
 * called from the loop's own thread (a callback may delete itself).
 * The caller must not hold a lock that the callback takes.
 */
void evloop_del(struct evloop *loop, struct ev_fd *ev);

/* Any thread. Arms (or moves) the timer to fire at guest time deadline_ns or soon after. */
void evloop_timer_arm(struct evloop *loop, struct ev_timer *t, uint64_t deadline_ns);
/* Any thread. The callback may still be running on return when called from another thread. */
void evloop_timer_cancel(struct evloop *loop, struct ev_timer *t);

/*
 * Runs the callbacks of the timers that are due on the calling thread, in the place of the loop's.
 * Only while the loop is not started: for tests and for runs driven by one thread.
 */
void evloop_run_timers(struct evloop *loop);

#endif
