#include "src/dev/virtio_rng.h"

#include <stdlib.h>
#include <sys/random.h>

#include "src/base/log.h"

#define QUEUE_SIZE 64
/* A device may give less than it is asked for (5.4.6.2): so no request takes long. */
#define MAX_BYTES 4096

static void rng_notify(struct virtio_device *vdev, unsigned q)
{
	struct virtqueue *vq = &vdev->vqs[q];
	struct virtq_elem *e;
	bool pushed = false;

	pthread_mutex_lock(&vq->lock);
	while (virtqueue_pop(vq, sizeof(*e), &e) == 1) {
		uint8_t buf[MAX_BYTES];
		/* Never blocks: the host's pool was initialised long ago. */
		ssize_t n = getrandom(buf, MIN(e->write_len, sizeof(buf)), GRND_NONBLOCK);

		n = iov_from_buf(e->iov + e->nread, e->nwrite, 0, buf, MAX(n, 0));
		virtqueue_push(vq, e, n);
		pushed = true;
	}
	if (pushed)
		virtqueue_interrupt(vq);
	pthread_mutex_unlock(&vq->lock);
}

static void rng_destroy(struct virtio_device *vdev)
{
	virtio_pci_fini(vdev);
	free(vdev);
}

static const struct virtio_ops rng_ops = {
	.name = "virtio-rng",
	.notify = rng_notify,
	.destroy = rng_destroy,
};

int virtio_rng_create(struct pci_host *host, unsigned slot, struct gmem *gm)
{
	struct virtio_device *vdev = calloc(1, sizeof(*vdev));
	int r;

	if (!vdev)
		return -ENOMEM;
	vdev->ops = &rng_ops;
	vdev->gm = gm;
	vdev->id = VIRTIO_ID_RNG;
	vdev->class_code = 0x00ff00;
	vdev->nvqs = 1;
	vdev->vq_size = QUEUE_SIZE;
	r = virtio_pci_create(vdev, host, slot);
	if (r)
		free(vdev);
	return r;
}
