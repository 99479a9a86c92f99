#include "src/dev/chardev.h"

#include <fcntl.h>
#include <poll.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/epoll.h>
#include <sys/eventfd.h>
#include <termios.h>
#include <unistd.h>

#include "src/base/log.h"

#define OUT_SIZE    KIB(64)
#define INPUT_CHUNK 1024
/* A pipe that polls writable takes this much without blocking. */
#define WRITE_CHUNK 4096
#define FLUSH_MS    1000

/*
 * lock protects what is marked; it is a leaf. Descriptors are only registered and removed by the
 * I/O thread, except that any thread may resume input.
 *
 * The event loop watches each descriptor only while there is something to do with it: input while
 * the client has room, output while bytes are waiting that the host did not take.
 */
struct chardev {
	struct evloop *loop;
	struct ev_fd in, out; /* fd -1: none */
	struct ev_fd wake; /* eventfd: output was added, or input that cannot be polled resumes */
	const struct chardev_client *client;
	void *opaque;
	chardev_filter_fn filter;
	void *filter_opaque;
	int slave_fd;	    /* keeps a pseudo-terminal from hanging up while nobody has it open */
	bool forget_oldest; /* instead of making the client wait */
	bool in_pollable, out_pollable;
	char name[256];

	pthread_mutex_t lock;
	/* The rest is under lock. */
	bool in_paused; /* the client has no room; not watched */
	bool in_ended;
	bool out_watched;
	bool out_dead;	   /* the reader has gone: output is dropped */
	bool client_waits; /* a write was cut short */
	uint32_t out_head, out_len;
	uint8_t out_buf[OUT_SIZE];
};

/* --- output --- */

static size_t out_room_locked(const struct chardev *cd)
{
	return OUT_SIZE - cd->out_len;
}

static void out_drop_locked(struct chardev *cd, size_t n)
{
	cd->out_head = (cd->out_head + n) % OUT_SIZE;
	cd->out_len -= n;
}

static void out_put_locked(struct chardev *cd, const uint8_t *p, size_t n)
{
	uint32_t tail = (cd->out_head + cd->out_len) % OUT_SIZE;
	size_t first = MIN(n, OUT_SIZE - tail);

	memcpy(&cd->out_buf[tail], p, first);
	memcpy(cd->out_buf, p + first, n - first);
	cd->out_len += n;
}

size_t chardev_write(struct chardev *cd, const void *data, size_t len)
{
	const uint8_t *p = data;
	size_t n = len;
	bool wake;

	pthread_mutex_lock(&cd->lock);
	if (cd->out_dead || cd->out.fd < 0) {
		pthread_mutex_unlock(&cd->lock);
		return len;
	}
	if (cd->forget_oldest && n > out_room_locked(cd)) {
		if (n > OUT_SIZE) {
			p += n - OUT_SIZE;
			n = OUT_SIZE;
		}
		out_drop_locked(cd, n - out_room_locked(cd));
	}
	n = MIN(n, out_room_locked(cd));
	wake = n && !cd->out_len; /* else the I/O thread is at it */
	out_put_locked(cd, p, n);
	if (!cd->forget_oldest && n < len)
		cd->client_waits = true;
	pthread_mutex_unlock(&cd->lock);
	if (wake)
		eventfd_write(cd->wake.fd, 1);
	return cd->forget_oldest ? len : n;
}

static bool fd_ready(int fd, short events, int timeout_ms)
{
	struct pollfd p = {.fd = fd, .events = events};

	return poll(&p, 1, timeout_ms) > 0;
}

/* Writes once. 1: something went out, 0: the host takes nothing now, -1: it never will again. */
static int write_some(struct chardev *cd)
{
	uint8_t chunk[WRITE_CHUNK];
	bool more;
	size_t n;
	ssize_t r;

	pthread_mutex_lock(&cd->lock);
	n = MIN(MIN(cd->out_len, OUT_SIZE - cd->out_head), sizeof(chunk));
	memcpy(chunk, &cd->out_buf[cd->out_head], n);
	/* Taken out now: the oldest bytes may be forgotten while we write. */
	out_drop_locked(cd, n);
	pthread_mutex_unlock(&cd->lock);
	if (!n)
		return 0;
	r = write(cd->out.fd, chunk, n);
	if (r < 0 && errno != EAGAIN && errno != EINTR) {
		log_warn("output to %s failed: %s", cd->name, strerror(errno));
		return -1;
	}
	more = r > 0 || errno == EINTR;
	if (r < (ssize_t)n) {
		size_t left = n - MAX(r, 0);

		pthread_mutex_lock(&cd->lock);
		left = MIN(left, out_room_locked(cd));
		cd->out_head = (cd->out_head + OUT_SIZE - left) % OUT_SIZE;
		for (size_t i = 0; i < left; i++)
			cd->out_buf[(cd->out_head + i) % OUT_SIZE] = chunk[n - left + i];
		cd->out_len += left;
		pthread_mutex_unlock(&cd->lock);
	}
	return more;
}

/* The output's only writer, so the order of bytes is kept. Returns what is still waiting. */
static size_t write_out(struct chardev *cd)
{
	size_t left;
	int r = 1;

	while (r > 0) {
		r = fd_ready(cd->out.fd, POLLOUT, 0) ? write_some(cd) : 0;
		pthread_mutex_lock(&cd->lock);
		if (r < 0) {
			cd->out_dead = true;
			cd->out_len = 0;
		}
		left = cd->out_len;
		pthread_mutex_unlock(&cd->lock);
		if (!left)
			break;
	}
	return left;
}

static void pump_output(struct chardev *cd)
{
	size_t left;
	bool tell;

	if (cd->out.fd < 0)
		return;
	left = write_out(cd);
	if (left && cd->out_pollable && !cd->out_watched) {
		cd->out_watched = !evloop_add(cd->loop, &cd->out, EPOLLOUT);
	} else if (!left && cd->out_watched) {
		evloop_del(cd->loop, &cd->out);
		cd->out_watched = false;
	}
	pthread_mutex_lock(&cd->lock);
	tell = cd->client_waits && out_room_locked(cd);
	if (tell)
		cd->client_waits = false;
	pthread_mutex_unlock(&cd->lock);
	if (tell && cd->client && cd->client->output_ready)
		cd->client->output_ready(cd->opaque);
}

static void on_output(struct ev_fd *ev, uint32_t events)
{
	pump_output(container_of(ev, struct chardev, out));
}

/* --- input --- */

static void stop_input(struct chardev *cd)
{
	pthread_mutex_lock(&cd->lock);
	cd->in_ended = true;
	pthread_mutex_unlock(&cd->lock);
	if (cd->in_pollable)
		evloop_del(cd->loop, &cd->in);
}

/* Stops watching until there is room. */
static void pause_input(struct chardev *cd)
{
	if (cd->in_pollable)
		evloop_del(cd->loop, &cd->in);
	pthread_mutex_lock(&cd->lock);
	cd->in_paused = true;
	pthread_mutex_unlock(&cd->lock);
	/* Room that came before in_paused was set went unnoticed by chardev_input_ready(). */
	if (cd->client->room(cd->opaque))
		chardev_input_ready(cd);
}

void chardev_input_ready(struct chardev *cd)
{
	bool resume;

	pthread_mutex_lock(&cd->lock);
	resume = cd->in_paused && !cd->in_ended;
	cd->in_paused = false;
	if (resume && cd->in_pollable && evloop_add(cd->loop, &cd->in, EPOLLIN))
		cd->in_ended = true;
	pthread_mutex_unlock(&cd->lock);
	if (resume && !cd->in_pollable)
		eventfd_write(cd->wake.fd, 1);
}

/* One read. False when there is nothing more to do now. */
static bool read_some(struct chardev *cd)
{
	uint8_t buf[INPUT_CHUNK];
	size_t room = cd->client->room(cd->opaque);
	ssize_t n;

	if (!room) {
		pause_input(cd);
		return false;
	}
	n = read(cd->in.fd, buf, MIN(room, sizeof(buf)));
	if (n < 0 && (errno == EAGAIN || errno == EINTR))
		return false;
	if (n <= 0) {
		stop_input(cd);
		return false;
	}
	if (cd->filter)
		n = cd->filter(cd->filter_opaque, buf, n);
	if (n)
		cd->client->input(cd->opaque, buf, n);
	return true;
}

static void on_input(struct ev_fd *ev, uint32_t events)
{
	read_some(container_of(ev, struct chardev, in));
}

static void on_wake(struct ev_fd *ev, uint32_t events)
{
	struct chardev *cd = container_of(ev, struct chardev, wake);
	bool read_on;
	eventfd_t v;

	eventfd_read(ev->fd, &v);
	pump_output(cd);
	if (cd->in.fd < 0 || cd->in_pollable || !cd->client)
		return;
	/* A plain file: always readable, and epoll refuses it. */
	pthread_mutex_lock(&cd->lock);
	read_on = !cd->in_paused && !cd->in_ended;
	pthread_mutex_unlock(&cd->lock);
	while (read_on)
		read_on = read_some(cd);
}

void chardev_attach(struct chardev *cd, const struct chardev_client *client, void *opaque)
{
	int r;

	cd->client = client;
	cd->opaque = opaque;
	if (cd->in.fd < 0)
		return;
	r = evloop_add(cd->loop, &cd->in, EPOLLIN);
	cd->in_pollable = !r;
	if (r)
		eventfd_write(cd->wake.fd, 1);
}

void chardev_set_filter(struct chardev *cd, chardev_filter_fn filter, void *opaque)
{
	cd->filter = filter;
	cd->filter_opaque = opaque;
}

/* --- construction --- */

const char *chardev_name(const struct chardev *cd)
{
	return cd->name;
}

static bool pollable(int fd)
{
	struct epoll_event e = {.events = EPOLLOUT};
	int ep = epoll_create1(EPOLL_CLOEXEC);
	bool ok;

	if (ep < 0)
		return false;
	ok = !epoll_ctl(ep, EPOLL_CTL_ADD, fd, &e);
	close(ep);
	return ok;
}

int chardev_open_fds(struct chardev **out, struct evloop *loop, int in_fd, int out_fd)
{
	struct chardev *cd = calloc(1, sizeof(*cd));
	int r = -ENOMEM;

	if (!cd) {
		close(in_fd);
		close(out_fd);
		return r;
	}
	cd->loop = loop;
	cd->slave_fd = -1;
	cd->in = (struct ev_fd){.fd = in_fd, .cb = on_input};
	cd->out = (struct ev_fd){.fd = out_fd, .cb = on_output};
	cd->wake = (struct ev_fd){.fd = eventfd(0, EFD_NONBLOCK | EFD_CLOEXEC), .cb = on_wake};
	cd->out_pollable = out_fd >= 0 && pollable(out_fd);
	strcpy(cd->name, "stream");
	pthread_mutex_init(&cd->lock, NULL);
	r = cd->wake.fd < 0 ? -errno : evloop_add(loop, &cd->wake, EPOLLIN);
	if (r) {
		log_err("cannot set up a character stream: %s", strerror(-r));
		chardev_destroy(cd);
		return r;
	}
	*out = cd;
	return 0;
}

/*
 * A terminal is opened anew, so that it can be non-blocking for us without being so for the shell
 * that shares our standard output. Anything else is duplicated, with its file offset.
 */
static int open_stdout(void)
{
	int fd = -1;

	if (isatty(STDOUT_FILENO))
		fd = open("/proc/self/fd/1", O_WRONLY | O_NONBLOCK | O_NOCTTY | O_CLOEXEC);
	return fd >= 0 ? fd : fcntl(STDOUT_FILENO, F_DUPFD_CLOEXEC, 3);
}

int chardev_open_stdio(struct chardev **cd, struct evloop *loop)
{
	/* A closed standard descriptor is -1 here: no such direction. */
	int r = chardev_open_fds(cd, loop, fcntl(STDIN_FILENO, F_DUPFD_CLOEXEC, 3), open_stdout());

	if (!r)
		strcpy((*cd)->name, "stdio");
	return r;
}

int chardev_open_file(struct chardev **cd, struct evloop *loop, const char *path)
{
	int fd = open(path, O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, 0666);
	int r;

	if (fd < 0) {
		r = -errno;
		log_err("cannot open '%s' for writing: %s", path, strerror(-r));
		return r;
	}
	r = chardev_open_fds(cd, loop, -1, fd);
	if (!r)
		snprintf((*cd)->name, sizeof((*cd)->name), "%s", path);
	return r;
}

/* Opens both ends; the slave in raw mode. 0 or -errno. */
static int open_pty(int *master, int *slave, char *name, size_t len)
{
	struct termios t;

	*slave = -1;
	*master = posix_openpt(O_RDWR | O_NOCTTY | O_CLOEXEC | O_NONBLOCK);
	if (*master < 0)
		return -errno;
	if (grantpt(*master) || unlockpt(*master) || ptsname_r(*master, name, len))
		goto fail;
	*slave = open(name, O_RDWR | O_NOCTTY | O_CLOEXEC);
	if (*slave < 0 || tcgetattr(*slave, &t))
		goto fail;
	cfmakeraw(&t);
	if (tcsetattr(*slave, TCSANOW, &t))
		goto fail;
	return 0;
fail:
	close(*slave);
	close(*master);
	return -EIO;
}

int chardev_open_pty(struct chardev **cd, struct evloop *loop)
{
	int master, slave, r;
	char name[64];

	r = open_pty(&master, &slave, name, sizeof(name));
	if (r) {
		log_err("cannot make a pseudo-terminal: %s", strerror(-r));
		return r;
	}
	r = chardev_open_fds(cd, loop, master, fcntl(master, F_DUPFD_CLOEXEC, 3));
	if (r) {
		close(slave);
		return r;
	}
	(*cd)->slave_fd = slave;
	(*cd)->forget_oldest = true;
	strcpy((*cd)->name, name);
	return 0;
}

void chardev_flush(struct chardev *cd)
{
	if (cd->out.fd < 0)
		return;
	for (int ms = 0; write_out(cd) && ms < FLUSH_MS && !cd->forget_oldest; ms += 10)
		fd_ready(cd->out.fd, POLLOUT, 10);
}

static void close_ev(struct chardev *cd, struct ev_fd *ev)
{
	if (ev->fd < 0)
		return;
	evloop_del(cd->loop, ev);
	close(ev->fd);
}

void chardev_destroy(struct chardev *cd)
{
	if (!cd)
		return;
	chardev_flush(cd);
	close_ev(cd, &cd->in);
	close_ev(cd, &cd->out);
	close_ev(cd, &cd->wake);
	if (cd->slave_fd >= 0)
		close(cd->slave_fd);
	pthread_mutex_destroy(&cd->lock);
	free(cd);
}
