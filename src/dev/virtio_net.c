#include "src/dev/virtio_net.h"

#include <stdlib.h>
#include <sys/epoll.h>
#include <sys/eventfd.h>
#include <unistd.h>

#include "src/base/atomic.h"
#include "src/base/log.h"

#define QUEUE_SIZE 256
#define RX	   0
#define TX	   1

#define F_CSUM	     (1ull << 0) /* we complete checksums */
#define F_GUEST_CSUM (1ull << 1) /* the driver believes DATA_VALID */
#define F_MAC	     (1ull << 5)
#define F_STATUS     (1ull << 16)

#define S_LINK_UP 1

struct net_config {
	uint8_t mac[6];
	uint16_t status;
};

_Static_assert(sizeof(struct net_config) == 8, "5.1.4");

struct virtio_net {
	struct virtio_device vdev;
	struct evloop *loop;
	struct net_backend *nb;
	struct ev_fd kick; /* eventfd: frames to send, or the stalled receiver has buffers */
	struct net_config config;
	bool rx_stalled; /* under the RX queue's lock: the backend waits for resume() */
	bool rx_resume;	 /* atomic: the I/O thread shall call resume() */
};

static struct virtio_net *from_vdev(struct virtio_device *vdev)
{
	return container_of(vdev, struct virtio_net, vdev);
}

/* --- on the I/O thread --- */

static void put_frame_locked(struct virtio_net *net, struct virtq_elem *e, const uint8_t *frame,
			     size_t len)
{
	struct virtqueue *vq = &net->vdev.vqs[RX];
	struct net_hdr h;

	memcpy(&h, frame, sizeof(h));
	if (!virtio_has_feature(&net->vdev, F_GUEST_CSUM))
		h.flags = 0;
	h.num_buffers = 1;
	iov_from_buf(e->iov + e->nread, e->nwrite, 0, frame, len);
	iov_from_buf(e->iov + e->nread, e->nwrite, 0, &h, sizeof(h));
	virtqueue_push(vq, e, len);
	virtqueue_interrupt(vq);
}

/* A frame that fits no buffer, or finds no running driver, is dropped. */
static bool net_receive(void *opaque, const uint8_t *frame, size_t len)
{
	struct virtio_net *net = opaque;
	struct virtqueue *vq = &net->vdev.vqs[RX];
	struct virtq_elem *e;
	bool taken = true;
	int r;

	pthread_mutex_lock(&vq->lock);
	r = virtqueue_pop(vq, sizeof(*e), &e);
	if (r == 1 && e->write_len >= len) {
		put_frame_locked(net, e, frame, len);
	} else if (r == 1) {
		virtqueue_unpop(vq, e);
	} else if (r == 0 && vq->enabled) {
		net->rx_stalled = true;
		taken = false;
	}
	pthread_mutex_unlock(&vq->lock);
	return taken;
}

/*
 * The queue's lock is not held while the backend works: what it does may bring frames for the other
 * queue. The element in hand keeps a reset from completing.
 */
static struct virtq_elem *next_tx(struct virtqueue *vq)
{
	struct virtq_elem *e = NULL;

	pthread_mutex_lock(&vq->lock);
	if (virtqueue_pop(vq, sizeof(*e), &e) != 1)
		e = NULL;
	pthread_mutex_unlock(&vq->lock);
	return e;
}

static void send_all(struct virtio_net *net)
{
	struct virtqueue *vq = &net->vdev.vqs[TX];
	const struct net_backend_ops *ops = net->nb->ops;
	struct virtq_elem *e;
	bool sent = false;

	while ((e = next_tx(vq))) {
		ops->send(net->nb, e->iov, e->nread, e->read_len);
		pthread_mutex_lock(&vq->lock);
		virtqueue_push(vq, e, 0);
		virtqueue_interrupt(vq);
		pthread_mutex_unlock(&vq->lock);
		sent = true;
	}
	if (sent && ops->send_done)
		ops->send_done(net->nb);
}

static void on_kick(struct ev_fd *ev, uint32_t events)
{
	struct virtio_net *net = container_of(ev, struct virtio_net, kick);
	eventfd_t v;

	eventfd_read(ev->fd, &v);
	/* The eventfd orders this after the VCPU's store. */
	if (atomic_xchg_seq(&net->rx_resume, false))
		net->nb->ops->resume(net->nb);
	send_all(net);
}

/* --- on VCPU threads --- */

static void net_notify(struct virtio_device *vdev, unsigned q)
{
	struct virtio_net *net = from_vdev(vdev);
	struct virtqueue *vq = &vdev->vqs[RX];
	bool stalled;

	if (q == RX) {
		pthread_mutex_lock(&vq->lock);
		stalled = net->rx_stalled;
		net->rx_stalled = false;
		pthread_mutex_unlock(&vq->lock);
		if (!stalled)
			return;
		atomic_store_seq(&net->rx_resume, true);
	}
	eventfd_write(net->kick.fd, 1);
}

static void net_config_read(struct virtio_device *vdev, unsigned off, void *data, unsigned len)
{
	memcpy(data, (char *)&from_vdev(vdev)->config + off, len);
}

static void free_net(struct virtio_net *net)
{
	if (net->kick.fd >= 0) {
		evloop_del(net->loop, &net->kick);
		close(net->kick.fd);
	}
	net->nb->ops->destroy(net->nb);
	free(net);
}

static void net_destroy(struct virtio_device *vdev)
{
	virtio_pci_fini(vdev);
	free_net(from_vdev(vdev));
}

static const struct virtio_ops net_ops = {
	.name = "virtio-net",
	.notify = net_notify,
	.config_read = net_config_read,
	.destroy = net_destroy,
};

/* --- construction --- */

static int init_kick(struct virtio_net *net)
{
	int r;

	net->kick = (struct ev_fd){.fd = eventfd(0, EFD_NONBLOCK | EFD_CLOEXEC), .cb = on_kick};
	r = net->kick.fd < 0 ? -errno : evloop_add(net->loop, &net->kick, EPOLLIN);
	if (r)
		log_err("cannot set up a network card: %s", strerror(-r));
	return r;
}

int virtio_net_create(struct pci_host *host, unsigned slot, struct gmem *gm, struct evloop *loop,
		      struct net_backend *nb, const uint8_t mac[6])
{
	struct virtio_net *net = calloc(1, sizeof(*net));
	int r;

	if (!net) {
		nb->ops->destroy(nb);
		return -ENOMEM;
	}
	net->loop = loop;
	net->nb = nb;
	memcpy(net->config.mac, mac, sizeof(net->config.mac));
	net->config.status = S_LINK_UP;
	net->vdev.ops = &net_ops;
	net->vdev.gm = gm;
	net->vdev.id = VIRTIO_ID_NET;
	net->vdev.class_code = 0x020000;
	net->vdev.features = F_CSUM | F_GUEST_CSUM | F_MAC | F_STATUS;
	net->vdev.nvqs = 2;
	net->vdev.vq_size = QUEUE_SIZE;
	net->vdev.config_len = sizeof(net->config);
	r = init_kick(net);
	if (!r)
		r = virtio_pci_create(&net->vdev, host, slot);
	if (r) {
		free_net(net);
		return r;
	}
	nb->opaque = net;
	nb->receive = net_receive;
	return 0;
}
