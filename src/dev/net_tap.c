#include <fcntl.h>
#include <linux/if.h>
#include <linux/if_tun.h>
#include <stdlib.h>
#include <sys/epoll.h>
#include <sys/ioctl.h>
#include <unistd.h>

#include "src/base/log.h"
#include "src/dev/net_backend.h"

/* Frames read in one go, so that other devices have their turn. */
#define BATCH 64

struct net_tap {
	struct net_backend nb;
	struct evloop *loop;
	struct ev_fd ev; /* watched unless a frame is held */
	size_t held;	 /* bytes of a frame in buf that the card did not take */
	uint8_t buf[NET_FRAME_MAX];
};

static void on_readable(struct ev_fd *ev, uint32_t events)
{
	struct net_tap *t = container_of(ev, struct net_tap, ev);

	for (unsigned i = 0; i < BATCH; i++) {
		ssize_t n = read(ev->fd, t->buf, sizeof(t->buf));

		if (n <= (ssize_t)sizeof(struct net_hdr))
			return;
		if (t->nb.receive && !t->nb.receive(t->nb.opaque, t->buf, n)) {
			t->held = n;
			evloop_del(t->loop, ev);
			return;
		}
	}
}

static void tap_resume(struct net_backend *nb)
{
	struct net_tap *t = container_of(nb, struct net_tap, nb);
	int r;

	if (!t->held || !nb->receive(nb->opaque, t->buf, t->held))
		return;
	t->held = 0;
	r = evloop_add(t->loop, &t->ev, EPOLLIN);
	if (r)
		log_err("cannot watch a tap interface: %s", strerror(-r));
}

static void tap_send(struct net_backend *nb, const struct iovec *iov, unsigned n, size_t len)
{
	struct net_tap *t = container_of(nb, struct net_tap, nb);

	/* The kernel checks the header; a full queue drops the frame, as a wire would. */
	if (writev(t->ev.fd, iov, n) < 0 && errno != EAGAIN)
		log_debug("tap: %s", strerror(errno));
}

static void tap_destroy(struct net_backend *nb)
{
	struct net_tap *t = container_of(nb, struct net_tap, nb);

	evloop_del(t->loop, &t->ev);
	close(t->ev.fd);
	free(t);
}

static const struct net_backend_ops tap_ops = {
	.send = tap_send,
	.resume = tap_resume,
	.destroy = tap_destroy,
};

static int attach(int fd, const char *name)
{
	struct ifreq ifr = {.ifr_flags = IFF_TAP | IFF_NO_PI | IFF_VNET_HDR};
	int hdr = sizeof(struct net_hdr);

	if (strlen(name) >= sizeof(ifr.ifr_name))
		return -ENAMETOOLONG;
	strcpy(ifr.ifr_name, name);
	if (ioctl(fd, TUNSETIFF, &ifr) || ioctl(fd, TUNSETVNETHDRSZ, &hdr))
		return -errno;
	return 0;
}

static int open_tap(const char *name)
{
	int fd = open("/dev/net/tun", O_RDWR | O_NONBLOCK | O_CLOEXEC);
	int r = fd < 0 ? -errno : attach(fd, name);

	if (!r)
		return fd;
	log_err("cannot open tap interface '%s': %s", name, strerror(-r));
	if (fd >= 0)
		close(fd);
	return r;
}

int net_tap_create(struct net_backend **nb, struct evloop *loop, const char *name)
{
	struct net_tap *t;
	int fd = open_tap(name);
	int r;

	if (fd < 0)
		return fd;
	t = calloc(1, sizeof(*t));
	if (!t) {
		close(fd);
		return -ENOMEM;
	}
	t->nb.ops = &tap_ops;
	t->loop = loop;
	t->ev = (struct ev_fd){.fd = fd, .cb = on_readable};
	r = evloop_add(loop, &t->ev, EPOLLIN);
	if (r) {
		log_err("cannot watch tap interface '%s': %s", name, strerror(-r));
		tap_destroy(&t->nb);
		return r;
	}
	*nb = &t->nb;
	return 0;
}
