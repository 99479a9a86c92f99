#include "src/base/evloop.h"

#include <pthread.h>
#include <stdlib.h>
#include <sys/epoll.h>
#include <sys/eventfd.h>
#include <sys/timerfd.h>
#include <unistd.h>

#include "src/base/log.h"
#include "src/base/rcu.h"

/*
 * lock protects fds, timers, running and stop. Callbacks run without it. An event returned by
 * epoll_wait() counts only if its ev_fd is still in fds under the lock: that is what lets
 * evloop_del() promise that a deleted callback never starts.
 */
struct evloop {
	struct clock *clk;
	pthread_mutex_t lock;
	pthread_cond_t idle; /* running became NULL */
	pthread_t thread;
	bool started;
	bool stop;
	int epoll_fd;
	int timer_fd;
	int wake_fd;
	struct ev_fd *fds;
	struct ev_fd *running;
	struct ev_timer *timers; /* sorted by deadline */
};

static int epoll_add_ptr(struct evloop *loop, int fd, void *ptr, uint32_t events)
{
	struct epoll_event e = {.events = events, .data.ptr = ptr};

	return epoll_ctl(loop->epoll_fd, EPOLL_CTL_ADD, fd, &e) ? -errno : 0;
}

int evloop_create(struct evloop **out, struct clock *clk)
{
	struct evloop *loop = calloc(1, sizeof(*loop));
	int r;

	if (!loop)
		return -ENOMEM;
	loop->clk = clk;
	pthread_mutex_init(&loop->lock, NULL);
	pthread_cond_init(&loop->idle, NULL);
	loop->epoll_fd = epoll_create1(EPOLL_CLOEXEC);
	loop->timer_fd = timerfd_create(CLOCK_MONOTONIC, TFD_NONBLOCK | TFD_CLOEXEC);
	loop->wake_fd = eventfd(0, EFD_NONBLOCK | EFD_CLOEXEC);
	if (loop->epoll_fd < 0 || loop->timer_fd < 0 || loop->wake_fd < 0) {
		r = -errno;
		goto out;
	}
	r = epoll_add_ptr(loop, loop->timer_fd, &loop->timer_fd, EPOLLIN);
	if (!r)
		r = epoll_add_ptr(loop, loop->wake_fd, &loop->wake_fd, EPOLLIN);
out:
	if (r) {
		log_err("cannot create the I/O event loop: %s", strerror(-r));
		evloop_destroy(loop);
		return r;
	}
	*out = loop;
	return 0;
}

static void program_timer_locked(struct evloop *loop)
{
	struct itimerspec its = {0};

	if (loop->timers) {
		uint64_t now = clock_now(loop->clk);
		uint64_t d = loop->timers->deadline_ns;
		uint64_t wait = d > now ? d - now : 1;

		its.it_value.tv_sec = wait / NSEC_PER_SEC;
		its.it_value.tv_nsec = wait % NSEC_PER_SEC;
	}
	timerfd_settime(loop->timer_fd, 0, &its, NULL);
}

static void unlink_timer_locked(struct evloop *loop, struct ev_timer *t)
{
	struct ev_timer **p;

	for (p = &loop->timers; *p; p = &(*p)->next) {
		if (*p == t) {
			*p = t->next;
			break;
		}
	}
	t->armed = false;
}

void evloop_timer_arm(struct evloop *loop, struct ev_timer *t, uint64_t deadline_ns)
{
	struct ev_timer **p;

	pthread_mutex_lock(&loop->lock);
	if (t->armed)
		unlink_timer_locked(loop, t);
	t->deadline_ns = deadline_ns;
	t->armed = true;
	for (p = &loop->timers; *p && (*p)->deadline_ns <= deadline_ns; p = &(*p)->next)
		;
	t->next = *p;
	*p = t;
	if (loop->timers == t)
		program_timer_locked(loop);
	pthread_mutex_unlock(&loop->lock);
}

void evloop_timer_cancel(struct evloop *loop, struct ev_timer *t)
{
	pthread_mutex_lock(&loop->lock);
	if (t->armed)
		unlink_timer_locked(loop, t);
	pthread_mutex_unlock(&loop->lock);
}

void evloop_run_timers(struct evloop *loop)
{
	uint64_t ticks, now;

	if (read(loop->timer_fd, &ticks, sizeof(ticks)) < 0 && errno != EAGAIN)
		log_warn("reading a timer failed: %s", strerror(errno));
	pthread_mutex_lock(&loop->lock);
	/* Not those that come due meanwhile: descriptors must have their turn. */
	now = clock_now(loop->clk);
	while (loop->timers && loop->timers->deadline_ns <= now) {
		struct ev_timer *t = loop->timers;

		unlink_timer_locked(loop, t);
		pthread_mutex_unlock(&loop->lock);
		t->cb(t);
		pthread_mutex_lock(&loop->lock);
	}
	program_timer_locked(loop);
	pthread_mutex_unlock(&loop->lock);
}

static bool registered_locked(struct evloop *loop, struct ev_fd *ev)
{
	struct ev_fd *p;

	for (p = loop->fds; p; p = p->next)
		if (p == ev)
			return true;
	return false;
}

static void run_fd(struct evloop *loop, struct ev_fd *ev, uint32_t events)
{
	pthread_mutex_lock(&loop->lock);
	if (registered_locked(loop, ev)) {
		loop->running = ev;
		pthread_mutex_unlock(&loop->lock);
		ev->cb(ev, events);
		pthread_mutex_lock(&loop->lock);
		loop->running = NULL;
		pthread_cond_broadcast(&loop->idle);
	}
	pthread_mutex_unlock(&loop->lock);
}

static bool stop_requested(struct evloop *loop)
{
	bool stop;

	pthread_mutex_lock(&loop->lock);
	stop = loop->stop;
	pthread_mutex_unlock(&loop->lock);
	return stop;
}

static void *loop_thread(void *arg)
{
	struct evloop *loop = arg;
	struct epoll_event e;

	rcu_thread_init();
	while (!stop_requested(loop)) {
		int n;

		rcu_offline();
		n = epoll_wait(loop->epoll_fd, &e, 1, -1);
		rcu_online();
		if (n <= 0)
			continue;
		if (e.data.ptr == &loop->timer_fd) {
			evloop_run_timers(loop);
		} else if (e.data.ptr == &loop->wake_fd) {
			uint64_t v;

			if (read(loop->wake_fd, &v, sizeof(v)) < 0)
				continue;
		} else {
			run_fd(loop, e.data.ptr, e.events);
		}
	}
	rcu_thread_exit();
	return NULL;
}

int evloop_start(struct evloop *loop)
{
	int r = pthread_create(&loop->thread, NULL, loop_thread, loop);

	if (r) {
		log_err("cannot start the I/O thread: %s", strerror(r));
		return -r;
	}
	loop->started = true;
	pthread_setname_np(loop->thread, "io");
	return 0;
}

void evloop_stop(struct evloop *loop)
{
	uint64_t one = 1;

	if (!loop->started)
		return;
	pthread_mutex_lock(&loop->lock);
	loop->stop = true;
	pthread_mutex_unlock(&loop->lock);
	if (write(loop->wake_fd, &one, sizeof(one)) < 0)
		log_warn("waking the I/O thread failed: %s", strerror(errno));
	pthread_join(loop->thread, NULL);
	loop->started = false;
}

void evloop_destroy(struct evloop *loop)
{
	if (!loop)
		return;
	evloop_stop(loop);
	if (loop->epoll_fd >= 0)
		close(loop->epoll_fd);
	if (loop->timer_fd >= 0)
		close(loop->timer_fd);
	if (loop->wake_fd >= 0)
		close(loop->wake_fd);
	pthread_cond_destroy(&loop->idle);
	pthread_mutex_destroy(&loop->lock);
	free(loop);
}

int evloop_add(struct evloop *loop, struct ev_fd *ev, uint32_t events)
{
	int r;

	pthread_mutex_lock(&loop->lock);
	r = epoll_add_ptr(loop, ev->fd, ev, events);
	if (!r) {
		ev->next = loop->fds;
		loop->fds = ev;
	}
	pthread_mutex_unlock(&loop->lock);
	return r;
}

int evloop_mod(struct evloop *loop, struct ev_fd *ev, uint32_t events)
{
	struct epoll_event e = {.events = events, .data.ptr = ev};

	return epoll_ctl(loop->epoll_fd, EPOLL_CTL_MOD, ev->fd, &e) ? -errno : 0;
}

void evloop_del(struct evloop *loop, struct ev_fd *ev)
{
	struct ev_fd **p;

	pthread_mutex_lock(&loop->lock);
	for (p = &loop->fds; *p; p = &(*p)->next) {
		if (*p == ev) {
			*p = ev->next;
			epoll_ctl(loop->epoll_fd, EPOLL_CTL_DEL, ev->fd, NULL);
			break;
		}
	}
	if (!loop->started || !pthread_equal(pthread_self(), loop->thread)) {
		while (loop->running == ev)
			pthread_cond_wait(&loop->idle, &loop->lock);
	}
	pthread_mutex_unlock(&loop->lock);
}
