#include "src/dev/virtio_console.h"

#include <stdlib.h>

#include "src/base/log.h"

#define QUEUE_SIZE 64
#define RX	   0
#define TX	   1
#define FIFO_SIZE  KIB(4)
#define TX_CHUNK   1024

struct virtio_console {
	struct virtio_device vdev;
	struct chardev *cd;
	/* Input that waits for a buffer of the guest. Under the RX queue's lock. */
	uint8_t fifo[FIFO_SIZE];
	size_t fifo_len;
	/* A chain of which the stream took only the first tx_done bytes. Under the TX queue's lock.
	 */
	struct virtq_elem *tx;
	size_t tx_done;
};

static struct virtio_console *from_vdev(struct virtio_device *vdev)
{
	return container_of(vdev, struct virtio_console, vdev);
}

/* --- from the host to the guest --- */

/* Returns true if the FIFO had been full and has room now. */
static bool pass_input_locked(struct virtio_console *con)
{
	struct virtqueue *vq = &con->vdev.vqs[RX];
	bool was_full = con->fifo_len == FIFO_SIZE, pushed = false;
	struct virtq_elem *e;

	while (con->fifo_len && virtqueue_pop(vq, sizeof(*e), &e) == 1) {
		size_t n = iov_from_buf(e->iov + e->nread, e->nwrite, 0, con->fifo, con->fifo_len);

		con->fifo_len -= n;
		memmove(con->fifo, con->fifo + n, con->fifo_len);
		virtqueue_push(vq, e, n);
		pushed = true;
	}
	if (pushed)
		virtqueue_interrupt(vq);
	return was_full && con->fifo_len < FIFO_SIZE;
}

static size_t input_room(void *opaque)
{
	struct virtio_console *con = opaque;
	struct virtqueue *vq = &con->vdev.vqs[RX];
	size_t room;

	pthread_mutex_lock(&vq->lock);
	room = FIFO_SIZE - con->fifo_len;
	pthread_mutex_unlock(&vq->lock);
	return room;
}

static void input(void *opaque, const uint8_t *data, size_t len)
{
	struct virtio_console *con = opaque;
	struct virtqueue *vq = &con->vdev.vqs[RX];

	pthread_mutex_lock(&vq->lock);
	len = MIN(len, FIFO_SIZE - con->fifo_len);
	memcpy(con->fifo + con->fifo_len, data, len);
	con->fifo_len += len;
	/* If it was full before, this thread, the one that reads input, sees the room itself. */
	pass_input_locked(con);
	pthread_mutex_unlock(&vq->lock);
}

static void notify_rx(struct virtio_console *con)
{
	struct virtqueue *vq = &con->vdev.vqs[RX];
	bool room;

	pthread_mutex_lock(&vq->lock);
	room = pass_input_locked(con);
	pthread_mutex_unlock(&vq->lock);
	if (room)
		chardev_input_ready(con->cd);
}

/* --- from the guest to the host --- */

/* False if the stream takes no more now; output_ready() follows. */
static bool send_chain(struct virtio_console *con, struct virtq_elem *e)
{
	uint8_t buf[TX_CHUNK];

	while (con->tx_done < e->read_len) {
		size_t n = iov_to_buf(e->iov, e->nread, con->tx_done, buf, sizeof(buf));
		size_t taken = chardev_write(con->cd, buf, n);

		con->tx_done += taken;
		if (taken < n)
			return false;
	}
	return true;
}

static void send_locked(struct virtio_console *con)
{
	struct virtqueue *vq = &con->vdev.vqs[TX];
	bool pushed = false;

	while (con->tx || virtqueue_pop(vq, sizeof(*con->tx), &con->tx) == 1) {
		if (!send_chain(con, con->tx))
			break;
		virtqueue_push(vq, con->tx, 0);
		con->tx = NULL;
		con->tx_done = 0;
		pushed = true;
	}
	if (pushed)
		virtqueue_interrupt(vq);
}

static void notify_tx(struct virtio_console *con)
{
	struct virtqueue *vq = &con->vdev.vqs[TX];

	pthread_mutex_lock(&vq->lock);
	send_locked(con);
	pthread_mutex_unlock(&vq->lock);
}

static void output_ready(void *opaque)
{
	notify_tx(opaque);
}

static const struct chardev_client client = {
	.room = input_room,
	.input = input,
	.output_ready = output_ready,
};

/* --- device operations --- */

static void console_notify(struct virtio_device *vdev, unsigned q)
{
	if (q == RX)
		notify_rx(from_vdev(vdev));
	else
		notify_tx(from_vdev(vdev));
}

static void console_reset(struct virtio_device *vdev)
{
	struct virtio_console *con = from_vdev(vdev);
	struct virtqueue *vq = &vdev->vqs[TX];

	pthread_mutex_lock(&vq->lock);
	if (con->tx)
		virtqueue_push(vq, con->tx, 0);
	con->tx = NULL;
	con->tx_done = 0;
	pthread_mutex_unlock(&vq->lock);
}

static void console_destroy(struct virtio_device *vdev)
{
	virtio_pci_fini(vdev);
	free(from_vdev(vdev));
}

static const struct virtio_ops console_ops = {
	.name = "virtio-console",
	.notify = console_notify,
	.reset = console_reset,
	.destroy = console_destroy,
};

int virtio_console_create(struct pci_host *host, unsigned slot, struct gmem *gm, struct chardev *cd)
{
	struct virtio_console *con = calloc(1, sizeof(*con));
	int r;

	if (!con)
		return -ENOMEM;
	con->cd = cd;
	con->vdev.ops = &console_ops;
	con->vdev.gm = gm;
	con->vdev.id = VIRTIO_ID_CONSOLE;
	con->vdev.class_code = 0x078000;
	con->vdev.nvqs = 2;
	con->vdev.vq_size = QUEUE_SIZE;
	r = virtio_pci_create(&con->vdev, host, slot);
	if (r)
		free(con);
	else
		chardev_attach(cd, &client, con);
	return r;
}
