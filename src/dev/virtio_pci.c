/* The modern PCI transport (4.1): one register BAR, one MSI-X BAR, vendor capabilities. */
#include <stdlib.h>

#include "src/base/log.h"
#include "src/dev/virtio_common.h"

#define REGS_BAR 0
#define MSIX_BAR 2

/* Parts of the register BAR. */
#define REGS_SIZE	  0x4000
#define COMMON_OFF	  0x0000
#define ISR_OFF		  0x1000
#define CONFIG_OFF	  0x2000
#define NOTIFY_OFF	  0x3000
#define NOTIFY_MULTIPLIER 4

/* Capability types (4.1.4). */
#define CAP_COMMON 1
#define CAP_NOTIFY 2
#define CAP_ISR	   3
#define CAP_DEVICE 4
#define CAP_PCI	   5

static struct virtio_device *from_regs(struct device *dev)
{
	return container_of(dev, struct virtio_device, regs);
}

static struct virtio_device *from_pci(struct pci_function *fn)
{
	return container_of(fn, struct virtio_device, pci);
}

/* --- the register BAR --- */

static void config_read(struct virtio_device *vdev, unsigned off, void *data, unsigned len)
{
	memset(data, 0, len);
	if (!vdev->ops->config_read || off >= vdev->config_len)
		return;
	pthread_mutex_lock(&vdev->lock);
	vdev->ops->config_read(vdev, off, data, MIN(len, vdev->config_len - off));
	pthread_mutex_unlock(&vdev->lock);
}

static void config_write(struct virtio_device *vdev, unsigned off, const void *data, unsigned len)
{
	if (!vdev->ops->config_write || off + len > vdev->config_len)
		return;
	pthread_mutex_lock(&vdev->lock);
	vdev->ops->config_write(vdev, off, data, len);
	pthread_mutex_unlock(&vdev->lock);
}

static void regs_read(struct device *dev, uint64_t off, void *data, unsigned len)
{
	struct virtio_device *vdev = from_regs(dev);

	memset(data, 0, len);
	if (off + len <= COMMON_OFF + VIRTIO_COMMON_LEN)
		virtio_common_read(vdev, off, data, len);
	else if (off == ISR_OFF)
		*(uint8_t *)data = virtio_take_isr(vdev);
	else if (off >= CONFIG_OFF && off < NOTIFY_OFF)
		config_read(vdev, off - CONFIG_OFF, data, len);
}

static void regs_write(struct device *dev, uint64_t off, const void *data, unsigned len)
{
	struct virtio_device *vdev = from_regs(dev);
	uint64_t q = (off - NOTIFY_OFF) / NOTIFY_MULTIPLIER;

	if (off + len <= COMMON_OFF + VIRTIO_COMMON_LEN)
		virtio_common_write(vdev, off, data, len);
	else if (off >= NOTIFY_OFF && q < vdev->nvqs)
		vdev->ops->notify(vdev, q);
	else if (off >= CONFIG_OFF && off < NOTIFY_OFF)
		config_write(vdev, off - CONFIG_OFF, data, len);
}

static const struct device_ops regs_ops = {
	.name = "virtio-pci",
	.read = regs_read,
	.write = regs_write,
};

/* --- capabilities (4.1.4) --- */

struct virtio_cap {
	uint8_t id;
	uint8_t next;
	uint8_t len;
	uint8_t type;
	uint8_t bar;
	uint8_t pad[3];
	uint32_t offset;
	uint32_t length;
	uint32_t extra; /* notify: multiplier; PCI access: data window */
};

#define CAP_LEN_PLAIN offsetof(struct virtio_cap, extra)
#define CAP_LEN_EXTRA sizeof(struct virtio_cap)

static unsigned add_cap(struct virtio_device *vdev, uint8_t type, uint32_t offset, uint32_t length,
			unsigned cap_len)
{
	unsigned at = pci_add_capability(&vdev->pci, PCI_CAP_VENDOR, cap_len);
	struct virtio_cap cap = {
		.len = cap_len,
		.type = type,
		.bar = REGS_BAR,
		.offset = offset,
		.length = length,
		.extra = type == CAP_NOTIFY ? NOTIFY_MULTIPLIER : 0,
	};

	memcpy(&vdev->pci.config[at + 2], (char *)&cap + 2, cap_len - 2);
	return at;
}

static void add_caps(struct virtio_device *vdev)
{
	uint8_t *mask;

	add_cap(vdev, CAP_COMMON, COMMON_OFF, VIRTIO_COMMON_LEN, CAP_LEN_PLAIN);
	add_cap(vdev, CAP_NOTIFY, NOTIFY_OFF, vdev->nvqs * NOTIFY_MULTIPLIER, CAP_LEN_EXTRA);
	add_cap(vdev, CAP_ISR, ISR_OFF, 1, CAP_LEN_PLAIN);
	if (vdev->config_len)
		add_cap(vdev, CAP_DEVICE, CONFIG_OFF, vdev->config_len, CAP_LEN_PLAIN);
	vdev->cfg_cap = add_cap(vdev, CAP_PCI, 0, 0, CAP_LEN_EXTRA);
	mask = &vdev->pci.wmask[vdev->cfg_cap];
	memset(mask + offsetof(struct virtio_cap, bar), 0xff, 1);
	memset(mask + offsetof(struct virtio_cap, offset), 0xff, 12);
}

/* Does the access touch the data window of the PCI configuration access capability (4.1.4.9)? */
static bool in_window(const struct virtio_device *vdev, unsigned off, unsigned len)
{
	unsigned window = vdev->cfg_cap + offsetof(struct virtio_cap, extra);

	return off < window + 4 && off + len > window;
}

/* The range that the driver has put into the capability; false if it is not a valid one. */
static bool window_target(struct virtio_device *vdev, struct virtio_cap *cap)
{
	pci_config_load(&vdev->pci, vdev->cfg_cap, cap, sizeof(*cap));
	return (cap->length == 1 || cap->length == 2 || cap->length == 4) &&
	       cap->offset % cap->length == 0 && cap->bar < PCI_BARS &&
	       vdev->pci.bar[cap->bar].size;
}

static bool pci_config_read(struct pci_function *fn, unsigned off, void *data, unsigned len)
{
	struct virtio_device *vdev = from_pci(fn);
	unsigned window = vdev->cfg_cap + offsetof(struct virtio_cap, extra);
	struct virtio_cap cap;
	uint32_t v = 0;

	/* The data goes into the window; the stored configuration space then answers. */
	if (in_window(vdev, off, len) && window_target(vdev, &cap) &&
	    pci_bar_access(fn, cap.bar, cap.offset, &v, cap.length, false))
		pci_config_store(fn, window, &v, 4);
	return false;
}

static bool pci_config_write(struct pci_function *fn, unsigned off, const void *data, unsigned len)
{
	struct virtio_device *vdev = from_pci(fn);
	struct virtio_cap cap;

	if (!in_window(vdev, off, len))
		return false;
	pci_config_store(fn, off, data, len);
	if (window_target(vdev, &cap))
		pci_bar_access(fn, cap.bar, cap.offset, &cap.extra, cap.length, true);
	return true;
}

static void pci_reset(struct pci_function *fn)
{
	virtio_reset_and_drain(from_pci(fn));
}

static void pci_destroy(struct pci_function *fn)
{
	struct virtio_device *vdev = from_pci(fn);

	virtio_reset_and_drain(vdev);
	vdev->ops->destroy(vdev);
}

static const struct pci_function_ops pci_ops = {
	.config_read = pci_config_read,
	.config_write = pci_config_write,
	.reset = pci_reset,
	.destroy = pci_destroy,
};

/* --- construction --- */

static int init_queues(struct virtio_device *vdev)
{
	vdev->vqs = calloc(vdev->nvqs, sizeof(vdev->vqs[0]));
	if (!vdev->vqs)
		return -ENOMEM;
	for (unsigned q = 0; q < vdev->nvqs; q++) {
		struct virtqueue *vq = &vdev->vqs[q];

		pthread_mutex_init(&vq->lock, NULL);
		vq->vdev = vdev;
		vq->index = q;
		vq->max_size = vdev->vq_size;
		virtqueue_reset(vq);
	}
	return 0;
}

int virtio_pci_create(struct virtio_device *vdev, struct pci_host *host, unsigned slot)
{
	struct pci_id id = {
		.vendor = 0x1af4,
		.device = 0x1040 + vdev->id,
		.subsys_vendor = 0x1af4,
		.subsys = 0x1100,
		.revision = 1,
		.class_code = vdev->class_code,
	};
	int r;

	pthread_mutex_init(&vdev->lock, NULL);
	pthread_mutex_init(&vdev->isr_lock, NULL);
	vdev->config_vector = VIRTIO_NO_VECTOR;
	vdev->regs.ops = &regs_ops;
	pci_function_init(&vdev->pci, &pci_ops, &id);
	pci_add_bar(&vdev->pci, REGS_BAR, REGS_SIZE, &vdev->regs);
	add_caps(vdev);
	r = init_queues(vdev);
	if (!r)
		r = pci_add_msix(&vdev->pci, MSIX_BAR, vdev->nvqs + 1);
	if (r)
		log_err("out of memory for a %s device", vdev->ops->name);
	else
		r = pci_host_add(host, slot, &vdev->pci);
	if (r)
		virtio_pci_fini(vdev);
	return r;
}

void virtio_pci_fini(struct virtio_device *vdev)
{
	pci_function_fini(&vdev->pci);
	for (unsigned q = 0; vdev->vqs && q < vdev->nvqs; q++)
		pthread_mutex_destroy(&vdev->vqs[q].lock);
	free(vdev->vqs);
	vdev->vqs = NULL;
	pthread_mutex_destroy(&vdev->isr_lock);
	pthread_mutex_destroy(&vdev->lock);
}
