/*
 * User networking by libslirp. Its sockets sit in an epoll set of their own, whose descriptor the
 * I/O thread watches; whenever libslirp has done something it is asked again what it waits for.
 */
#include <arpa/inet.h>
#include <poll.h>
#include <slirp/libslirp.h>
#include <stdlib.h>
#include <sys/epoll.h>
#include <unistd.h>

#include "src/base/log.h"
#include "src/dev/iov.h"
#include "src/dev/net_backend.h"
#include "src/dev/net_csum.h"

/* Frames that wait for a buffer of the guest; more are dropped, and TCP slows down. */
#define BACKLOG_MAX MIB(1)

struct frame {
	struct frame *next;
	size_t len;
	uint8_t data[];
};

/* What the epoll set holds for a descriptor, which is its index. */
struct watch {
	uint32_t events; /* 0: not in the set */
	uint32_t round;	 /* refresh() that last wanted it */
};

struct fd_list {
	struct pollfd *p;
	unsigned n, cap;
};

struct net_user {
	struct net_backend nb;
	struct evloop *loop;
	struct clock *clk;
	Slirp *slirp;
	struct ev_fd epoll; /* the inner epoll set */
	struct ev_timer timer;
	struct fd_list now, before;
	struct watch *watch;
	unsigned nwatch;
	uint32_t round;
	struct frame *first, **last;
	size_t backlog;
	uint8_t buf[NET_FRAME_MAX];
};

struct user_timer {
	struct ev_timer ev;
	struct net_user *nu;
	SlirpTimerCb cb;
	void *arg;
};

/* --- what libslirp waits for --- */

static short to_poll(int ev)
{
	return (ev & SLIRP_POLL_IN ? POLLIN : 0) | (ev & SLIRP_POLL_OUT ? POLLOUT : 0) |
	       (ev & SLIRP_POLL_PRI ? POLLPRI : 0);
}

static int from_poll(short ev)
{
	return (ev & POLLIN ? SLIRP_POLL_IN : 0) | (ev & POLLOUT ? SLIRP_POLL_OUT : 0) |
	       (ev & POLLPRI ? SLIRP_POLL_PRI : 0) | (ev & POLLERR ? SLIRP_POLL_ERR : 0) |
	       (ev & POLLHUP ? SLIRP_POLL_HUP : 0);
}

static int add_poll(int fd, int events, void *opaque)
{
	struct net_user *nu = opaque;
	struct fd_list *l = &nu->now;

	if (l->n == l->cap) {
		unsigned cap = l->cap ? 2 * l->cap : 16;
		struct pollfd *p = realloc(l->p, cap * sizeof(*p));

		if (!p)
			return -1;
		l->p = p;
		l->cap = cap;
	}
	l->p[l->n] = (struct pollfd){.fd = fd, .events = to_poll(events)};
	return l->n++;
}

static int get_revents(int idx, void *opaque)
{
	struct net_user *nu = opaque;

	return idx < 0 ? 0 : from_poll(nu->now.p[idx].revents);
}

static struct watch *watch_of(struct net_user *nu, int fd)
{
	unsigned n = nu->nwatch ? nu->nwatch : 64;
	struct watch *w;

	if ((unsigned)fd < nu->nwatch)
		return &nu->watch[fd];
	while (n <= (unsigned)fd)
		n *= 2;
	w = realloc(nu->watch, n * sizeof(*w));
	if (!w)
		return NULL;
	memset(&w[nu->nwatch], 0, (n - nu->nwatch) * sizeof(*w));
	nu->watch = w;
	nu->nwatch = n;
	return &w[fd];
}

/* The bits that both interfaces have are the same numbers in Linux. */
_Static_assert(POLLIN == EPOLLIN && POLLOUT == EPOLLOUT && POLLPRI == EPOLLPRI, "poll(2)");

static void watch_fd(struct net_user *nu, const struct pollfd *p)
{
	struct watch *w = watch_of(nu, p->fd);
	struct epoll_event e = {.events = (uint16_t)p->events};

	if (!w)
		return;
	w->round = nu->round;
	if (w->events == e.events)
		return;
	if (epoll_ctl(nu->epoll.fd, w->events ? EPOLL_CTL_MOD : EPOLL_CTL_ADD, p->fd, &e))
		log_warn("cannot watch a network socket: %s", strerror(errno));
	else
		w->events = e.events;
}

static bool watched(const struct net_user *nu, int fd)
{
	return (unsigned)fd < nu->nwatch && nu->watch[fd].events;
}

static void unwatch_fd(struct net_user *nu, int fd)
{
	if (!watched(nu, fd))
		return;
	epoll_ctl(nu->epoll.fd, EPOLL_CTL_DEL, fd, NULL);
	nu->watch[fd].events = 0;
}

/* After anything libslirp did: what does it wait for now? */
static void refresh(struct net_user *nu)
{
	struct fd_list old = nu->now;
	uint32_t timeout_ms = UINT32_MAX;

	nu->now = nu->before;
	nu->now.n = 0;
	nu->before = old;
	nu->round++;
	slirp_pollfds_fill(nu->slirp, &timeout_ms, add_poll, nu);
	for (unsigned i = 0; i < nu->now.n; i++)
		watch_fd(nu, &nu->now.p[i]);
	for (unsigned i = 0; i < old.n; i++) {
		int fd = old.p[i].fd;

		if (watched(nu, fd) && nu->watch[fd].round != nu->round)
			unwatch_fd(nu, fd);
	}
	if (timeout_ms == UINT32_MAX)
		evloop_timer_cancel(nu->loop, &nu->timer);
	else
		evloop_timer_arm(nu->loop, &nu->timer,
				 clock_now(nu->clk) + timeout_ms * 1000000ull);
}

static void service(struct net_user *nu)
{
	int r = poll(nu->now.p, nu->now.n, 0);

	slirp_pollfds_poll(nu->slirp, r < 0, get_revents, nu);
	refresh(nu);
}

static void on_sockets(struct ev_fd *ev, uint32_t events)
{
	service(container_of(ev, struct net_user, epoll));
}

static void on_timer(struct ev_timer *t)
{
	service(container_of(t, struct net_user, timer));
}

/* --- frames --- */

static void user_send(struct net_backend *nb, const struct iovec *iov, unsigned n, size_t len)
{
	struct net_user *nu = container_of(nb, struct net_user, nb);
	uint8_t *frame = nu->buf + sizeof(struct net_hdr);
	struct net_hdr h;

	if (len <= sizeof(h) || len > sizeof(nu->buf))
		return;
	iov_to_buf(iov, n, 0, nu->buf, len);
	memcpy(&h, nu->buf, sizeof(h));
	len -= sizeof(h);
	if (!h.gso_type && net_csum_complete(&h, frame, len))
		slirp_input(nu->slirp, frame, len);
}

static void user_send_done(struct net_backend *nb)
{
	refresh(container_of(nb, struct net_user, nb));
}

/* Frames stay in order: none passes the backlog. */
static ssize_t send_packet(const void *buf, size_t len, void *opaque)
{
	const struct net_hdr h = {.flags = NET_HDR_F_DATA_VALID, .num_buffers = 1};
	struct net_user *nu = opaque;
	struct frame *f;

	if (!nu->nb.receive || nu->backlog + len > BACKLOG_MAX)
		return len;
	f = malloc(sizeof(*f) + sizeof(h) + len);
	if (!f)
		return len;
	f->next = NULL;
	f->len = sizeof(h) + len;
	memcpy(f->data, &h, sizeof(h));
	memcpy(f->data + sizeof(h), buf, len);
	if (!nu->first && nu->nb.receive(nu->nb.opaque, f->data, f->len)) {
		free(f);
		return len;
	}
	*nu->last = f;
	nu->last = &f->next;
	nu->backlog += f->len;
	return len;
}

static void user_resume(struct net_backend *nb)
{
	struct net_user *nu = container_of(nb, struct net_user, nb);
	struct frame *f;

	while ((f = nu->first) && nb->receive(nb->opaque, f->data, f->len)) {
		nu->backlog -= f->len;
		nu->first = f->next;
		if (!nu->first)
			nu->last = &nu->first;
		free(f);
	}
}

/* --- libslirp's other callbacks --- */

static void guest_error(const char *msg, void *opaque)
{
	log_debug("network: %s", msg);
}

static int64_t clock_get_ns(void *opaque)
{
	return clock_now(((struct net_user *)opaque)->clk);
}

static void on_user_timer(struct ev_timer *ev)
{
	struct user_timer *t = container_of(ev, struct user_timer, ev);

	t->cb(t->arg);
	refresh(t->nu);
}

static void *timer_new(SlirpTimerCb cb, void *arg, void *opaque)
{
	struct user_timer *t = calloc(1, sizeof(*t));

	if (t) {
		t->ev.cb = on_user_timer;
		t->nu = opaque;
		t->cb = cb;
		t->arg = arg;
	}
	return t;
}

static void timer_free(void *timer, void *opaque)
{
	struct user_timer *t = timer;

	if (t)
		evloop_timer_cancel(t->nu->loop, &t->ev);
	free(t);
}

static void timer_mod(void *timer, int64_t expire_ms, void *opaque)
{
	struct user_timer *t = timer;

	if (t)
		evloop_timer_arm(t->nu->loop, &t->ev, expire_ms * 1000000ull);
}

static void register_poll_fd(int fd, void *opaque)
{
}

/* The descriptor is about to be closed, and its number may come back as another socket. */
static void unregister_poll_fd(int fd, void *opaque)
{
	unwatch_fd(opaque, fd);
}

static void notify(void *opaque)
{
}

static const SlirpCb callbacks = {
	.send_packet = send_packet,
	.guest_error = guest_error,
	.clock_get_ns = clock_get_ns,
	.timer_new = timer_new,
	.timer_free = timer_free,
	.timer_mod = timer_mod,
	.register_poll_fd = register_poll_fd,
	.unregister_poll_fd = unregister_poll_fd,
	.notify = notify,
};

/* --- construction --- */

static void user_destroy(struct net_backend *nb)
{
	struct net_user *nu = container_of(nb, struct net_user, nb);
	struct frame *f;

	evloop_timer_cancel(nu->loop, &nu->timer);
	if (nu->epoll.fd >= 0)
		evloop_del(nu->loop, &nu->epoll);
	nb->receive = NULL;
	if (nu->slirp)
		slirp_cleanup(nu->slirp);
	if (nu->epoll.fd >= 0)
		close(nu->epoll.fd);
	while ((f = nu->first)) {
		nu->first = f->next;
		free(f);
	}
	free(nu->now.p);
	free(nu->before.p);
	free(nu->watch);
	free(nu);
}

static const struct net_backend_ops user_ops = {
	.send = user_send,
	.send_done = user_send_done,
	.resume = user_resume,
	.destroy = user_destroy,
};

static struct in_addr ip(uint32_t host_order)
{
	return (struct in_addr){.s_addr = htonl(host_order)};
}

static int add_forward(struct net_user *nu, const struct net_hostfwd *f)
{
	char text[INET_ADDRSTRLEN];
	struct in_addr host = ip(f->host_addr);
	int err;

	if (!slirp_add_hostfwd(nu->slirp, f->udp, host, f->host_port, ip(f->guest_addr),
			       f->guest_port))
		return 0;
	err = errno ? errno : EADDRINUSE;
	inet_ntop(AF_INET, &host, text, sizeof(text));
	log_err("cannot forward %s port %s:%u: %s", f->udp ? "udp" : "tcp", text, f->host_port,
		strerror(err));
	return -err;
}

static int start_slirp(struct net_user *nu)
{
	const SlirpConfig cfg = {
		.version = 1,
		.in_enabled = true,
		.vnetwork = ip(0x0a000200),
		.vnetmask = ip(0xffffff00),
		.vhost = ip(0x0a000202),
		.vdhcp_start = ip(0x0a00020f),
		.vnameserver = ip(0x0a000203),
		.vhostname = "guest",
	};

	nu->slirp = slirp_new(&cfg, &callbacks, nu);
	nu->epoll.fd = epoll_create1(EPOLL_CLOEXEC);
	if (nu->slirp && nu->epoll.fd >= 0)
		return 0;
	log_err("cannot start user networking");
	return nu->slirp ? -errno : -EIO;
}

int net_user_create(struct net_backend **nb, struct evloop *loop, struct clock *clk,
		    const struct net_hostfwd *fwd, unsigned nfwd)
{
	struct net_user *nu = calloc(1, sizeof(*nu));
	int r;

	if (!nu)
		return -ENOMEM;
	nu->nb.ops = &user_ops;
	nu->loop = loop;
	nu->clk = clk;
	nu->epoll = (struct ev_fd){.fd = -1, .cb = on_sockets};
	nu->timer.cb = on_timer;
	nu->last = &nu->first;
	r = start_slirp(nu);
	for (unsigned i = 0; !r && i < nfwd; i++)
		r = add_forward(nu, &fwd[i]);
	if (!r) {
		refresh(nu);
		r = evloop_add(loop, &nu->epoll, EPOLLIN);
	}
	if (r) {
		user_destroy(&nu->nb);
		return r;
	}
	*nb = &nu->nb;
	return 0;
}
