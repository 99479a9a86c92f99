/* The common configuration of a device, its interrupts and its reset. */
#include "src/dev/virtio_common.h"

#include "src/base/atomic.h"
#include "src/base/log.h"

#define ISR_QUEUE  1
#define ISR_CONFIG 2

/* 4.1.4.3; all fields little-endian, naturally aligned. */
struct common_cfg {
	uint32_t device_feature_select;
	uint32_t device_feature;
	uint32_t driver_feature_select;
	uint32_t driver_feature;
	uint16_t config_msix_vector;
	uint16_t num_queues;
	uint8_t device_status;
	uint8_t config_generation;
	uint16_t queue_select;
	uint16_t queue_size;
	uint16_t queue_msix_vector;
	uint16_t queue_enable;
	uint16_t queue_notify_off;
	uint64_t queue_desc;
	uint64_t queue_driver;
	uint64_t queue_device;
};

_Static_assert(sizeof(struct common_cfg) == VIRTIO_COMMON_LEN, "layout of 4.1.4.3");

#define COMMON(field) offsetof(struct common_cfg, field)

/* --- interrupts --- */

static void set_isr(struct virtio_device *vdev, uint8_t bits)
{
	pthread_mutex_lock(&vdev->isr_lock);
	vdev->isr |= bits;
	pci_set_intx(&vdev->pci, true);
	pthread_mutex_unlock(&vdev->isr_lock);
}

uint8_t virtio_take_isr(struct virtio_device *vdev)
{
	uint8_t isr;

	pthread_mutex_lock(&vdev->isr_lock);
	isr = vdev->isr;
	vdev->isr = 0;
	pci_set_intx(&vdev->pci, false);
	pthread_mutex_unlock(&vdev->isr_lock);
	return isr;
}

static void interrupt(struct virtio_device *vdev, const uint16_t *vector, uint8_t isr)
{
	if (pci_msix_enabled(&vdev->pci))
		pci_msix_notify(&vdev->pci, atomic_load_relaxed(vector));
	else
		set_isr(vdev, isr);
}

void virtio_queue_interrupt(struct virtqueue *vq)
{
	interrupt(vq->vdev, &vq->vector, ISR_QUEUE);
}

static void config_interrupt(struct virtio_device *vdev)
{
	if (atomic_load_relaxed(&vdev->status) & VIRTIO_STATUS_DRIVER_OK)
		interrupt(vdev, &vdev->config_vector, ISR_CONFIG);
}

void virtio_config_changed(struct virtio_device *vdev)
{
	/* The new contents were stored under vdev->lock, which the driver's reads take too. */
	atomic_fetch_add_relaxed(&vdev->config_generation, 1);
	config_interrupt(vdev);
}

void virtio_set_broken(struct virtio_device *vdev, const char *why)
{
	uint8_t old = atomic_fetch_or_seq(&vdev->status, VIRTIO_STATUS_NEEDS_RESET);

	if (old & VIRTIO_STATUS_NEEDS_RESET)
		return;
	log_debug("%s: the guest's driver broke the device: %s", vdev->ops->name, why);
	config_interrupt(vdev);
}

/* --- reset --- */

/* Acquire pairs with the release in virtqueue.c: no buffer is touched any more. */
static void finish_reset_locked(struct virtio_device *vdev)
{
	if (!atomic_load_relaxed(&vdev->resetting) || atomic_load_acquire(&vdev->inflight))
		return;
	vdev->driver_features = 0;
	vdev->feature_select = vdev->driver_feature_select = 0;
	vdev->queue_select = 0;
	atomic_store_relaxed(&vdev->config_vector, VIRTIO_NO_VECTOR);
	virtio_take_isr(vdev);
	atomic_store_relaxed(&vdev->status, 0);
	atomic_store_relaxed(&vdev->resetting, false);
}

static void begin_reset_locked(struct virtio_device *vdev)
{
	atomic_store_relaxed(&vdev->resetting, true);
	for (unsigned q = 0; q < vdev->nvqs; q++) {
		pthread_mutex_lock(&vdev->vqs[q].lock);
		virtqueue_reset(&vdev->vqs[q]);
		pthread_mutex_unlock(&vdev->vqs[q].lock);
	}
	if (vdev->ops->reset)
		vdev->ops->reset(vdev);
	finish_reset_locked(vdev);
}

void virtio_reset_and_drain(struct virtio_device *vdev)
{
	pthread_mutex_lock(&vdev->lock);
	begin_reset_locked(vdev);
	pthread_mutex_unlock(&vdev->lock);
	if (vdev->ops->drain)
		vdev->ops->drain(vdev);
	pthread_mutex_lock(&vdev->lock);
	finish_reset_locked(vdev);
	pthread_mutex_unlock(&vdev->lock);
}

/* --- common configuration --- */

static uint64_t offered(const struct virtio_device *vdev)
{
	return vdev->features | VIRTIO_F_VERSION_1 | VIRTIO_F_INDIRECT_DESC | VIRTIO_F_EVENT_IDX;
}

static uint32_t feature_word(uint64_t features, uint32_t select)
{
	return select < 2 ? features >> (32 * select) : 0;
}

static struct virtqueue *selected(struct virtio_device *vdev)
{
	return vdev->queue_select < vdev->nvqs ? &vdev->vqs[vdev->queue_select] : NULL;
}

static void fill_queue_fields(struct virtqueue *vq, struct common_cfg *c)
{
	pthread_mutex_lock(&vq->lock);
	c->queue_size = vq->size;
	c->queue_msix_vector = vq->vector;
	c->queue_enable = vq->enabled;
	c->queue_notify_off = vq->index;
	c->queue_desc = vq->desc;
	c->queue_driver = vq->avail;
	c->queue_device = vq->used;
	pthread_mutex_unlock(&vq->lock);
}

void virtio_common_read(struct virtio_device *vdev, unsigned off, void *data, unsigned len)
{
	struct common_cfg c = {0};
	struct virtqueue *vq;

	pthread_mutex_lock(&vdev->lock);
	finish_reset_locked(vdev);
	vq = selected(vdev);
	c.device_feature_select = vdev->feature_select;
	c.device_feature = feature_word(offered(vdev), vdev->feature_select);
	c.driver_feature_select = vdev->driver_feature_select;
	c.driver_feature = feature_word(vdev->driver_features, vdev->driver_feature_select);
	c.config_msix_vector = vdev->config_vector;
	c.num_queues = vdev->nvqs;
	c.device_status = atomic_load_relaxed(&vdev->status);
	c.config_generation = atomic_load_relaxed(&vdev->config_generation);
	c.queue_select = vdev->queue_select;
	if (vq)
		fill_queue_fields(vq, &c);
	pthread_mutex_unlock(&vdev->lock);
	memcpy(data, (char *)&c + off, len);
}

/* A vector that does not exist reads back as "none" (4.1.5.1.2). */
static uint16_t valid_vector(const struct virtio_device *vdev, uint32_t v)
{
	return v <= vdev->nvqs ? v : VIRTIO_NO_VECTOR;
}

static bool features_acceptable(const struct virtio_device *vdev)
{
	return (vdev->driver_features & VIRTIO_F_VERSION_1) &&
	       !(vdev->driver_features & ~offered(vdev));
}

/* Returns true if the driver has just become ready. */
static bool write_status_locked(struct virtio_device *vdev, uint8_t v)
{
	uint8_t old = atomic_load_relaxed(&vdev->status);

	if (v == 0) {
		begin_reset_locked(vdev);
		return false;
	}
	if ((v & ~old & VIRTIO_STATUS_FEATURES_OK) && !features_acceptable(vdev))
		v &= ~VIRTIO_STATUS_FEATURES_OK;
	if (!((v | old) & VIRTIO_STATUS_FEATURES_OK))
		v &= ~VIRTIO_STATUS_DRIVER_OK;
	/* Bits are only added; another thread may add NEEDS_RESET at the same time. */
	atomic_fetch_or_seq(&vdev->status, v & ~VIRTIO_STATUS_NEEDS_RESET);
	return v & ~old & VIRTIO_STATUS_DRIVER_OK;
}

static void set_driver_features(struct virtio_device *vdev, uint32_t v)
{
	unsigned shift = 32 * vdev->driver_feature_select;

	if (vdev->driver_feature_select >= 2 ||
	    (atomic_load_relaxed(&vdev->status) & VIRTIO_STATUS_FEATURES_OK))
		return;
	vdev->driver_features &= ~(0xffffffffull << shift);
	vdev->driver_features |= (uint64_t)v << shift;
}

static void set_half(uint64_t *field, bool high, uint32_t v)
{
	if (high)
		*field = (uint32_t)*field | (uint64_t)v << 32;
	else
		*field = (*field & ~0xffffffffull) | v;
}

/* The driver fixes size and addresses before it enables the queue, which only a reset undoes. */
static void write_queue_locked(struct virtqueue *vq, unsigned off, unsigned len, uint32_t v)
{
	bool high = off & 4;

	if (off == COMMON(queue_msix_vector) && len == 2) {
		atomic_store_relaxed(&vq->vector, valid_vector(vq->vdev, v));
		return;
	}
	if (vq->enabled)
		return;
	if (off == COMMON(queue_size) && len == 2) {
		if (v && v <= vq->max_size && !(v & (v - 1)))
			vq->size = v;
	} else if (off == COMMON(queue_enable) && len == 2) {
		if (v == 1)
			virtqueue_enable(vq);
	} else if (off >= COMMON(queue_desc) && len == 4) {
		switch (off & ~7u) {
		case COMMON(queue_desc): set_half(&vq->desc, high, v); break;
		case COMMON(queue_driver): set_half(&vq->avail, high, v); break;
		case COMMON(queue_device): set_half(&vq->used, high, v); break;
		}
	}
}

static bool common_write_locked(struct virtio_device *vdev, unsigned off, unsigned len, uint32_t v)
{
	struct virtqueue *vq;

	if (off == COMMON(device_status) && len == 1)
		return write_status_locked(vdev, v);
	if (off == COMMON(device_feature_select) && len == 4) {
		vdev->feature_select = v;
	} else if (off == COMMON(driver_feature_select) && len == 4) {
		vdev->driver_feature_select = v;
	} else if (off == COMMON(driver_feature) && len == 4) {
		set_driver_features(vdev, v);
	} else if (off == COMMON(config_msix_vector) && len == 2) {
		atomic_store_relaxed(&vdev->config_vector, valid_vector(vdev, v));
	} else if (off == COMMON(queue_select) && len == 2) {
		vdev->queue_select = v;
	} else if (off >= COMMON(queue_size)) {
		vq = selected(vdev);
		if (!vq)
			return false;
		pthread_mutex_lock(&vq->lock);
		write_queue_locked(vq, off, len, v);
		pthread_mutex_unlock(&vq->lock);
	}
	return false;
}

/* Fields are written in their own width, 64-bit ones also as two halves (4.1.3.1). */
void virtio_common_write(struct virtio_device *vdev, unsigned off, const void *data, unsigned len)
{
	bool started = false;
	uint32_t v[2] = {0};

	memcpy(v, data, len);
	pthread_mutex_lock(&vdev->lock);
	finish_reset_locked(vdev);
	/* Until the reset is complete only its completion can be waited for. */
	if (!atomic_load_relaxed(&vdev->resetting)) {
		started = common_write_locked(vdev, off, MIN(len, 4u), v[0]);
		if (len == 8)
			common_write_locked(vdev, off + 4, 4, v[1]);
	}
	pthread_mutex_unlock(&vdev->lock);
	/* Buffers may have been queued, and notified in vain, before the driver was ready. */
	for (unsigned q = 0; started && q < vdev->nvqs; q++)
		vdev->ops->notify(vdev, q);
}
