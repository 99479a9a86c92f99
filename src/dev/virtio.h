/*
 * Virtio 1.x devices behind modern virtio-pci: what a device (block, net ...) is made of, and the
 * split virtqueue. Section numbers are those of "Virtual I/O Device (VIRTIO) Version 1.2".
 *
 * A device embeds struct virtio_device, fills in what is marked for it and calls
 * virtio_pci_create(). From then on VCPU threads call its operations.
 *
 * Whatever a driver writes is checked here or in the device. A malformed ring or chain sets
 * DEVICE_NEEDS_RESET: from then on every pop finds nothing and every push is dropped.
 *
 * Reset never waits on a VCPU thread. The status register goes to 0, which is what a driver waits
 * for (2.4), once every popped element has been pushed: until then the host may still store into
 * the buffers. Elements pushed during a reset are dropped.
 *
 * Locks, outer to inner: virtio_device.lock, virtqueue.lock, those of PCI.
 */
#ifndef DEV_VIRTIO_H
#define DEV_VIRTIO_H

#include <pthread.h>

#include "mmu/gmem.h"
#include "src/dev/iov.h"
#include "src/dev/pci.h"

/* Device numbers (5). */
#define VIRTIO_ID_NET	  1
#define VIRTIO_ID_BLOCK	  2
#define VIRTIO_ID_CONSOLE 3
#define VIRTIO_ID_RNG	  4

/* Status bits (2.1). */
#define VIRTIO_STATUS_ACKNOWLEDGE 1
#define VIRTIO_STATUS_DRIVER	  2
#define VIRTIO_STATUS_DRIVER_OK	  4
#define VIRTIO_STATUS_FEATURES_OK 8
#define VIRTIO_STATUS_NEEDS_RESET 64
#define VIRTIO_STATUS_FAILED	  128

/* Feature bits common to all devices (6). */
#define VIRTIO_F_INDIRECT_DESC (1ull << 28)
#define VIRTIO_F_EVENT_IDX     (1ull << 29)
#define VIRTIO_F_VERSION_1     (1ull << 32)

#define VIRTIO_NO_VECTOR 0xffff
#define VIRTQ_MAX_SIZE	 1024

struct virtio_device;

struct virtqueue {
	pthread_mutex_t lock;	    /* everything below, but for what is marked */
	struct virtio_device *vdev; /* fixed */
	unsigned index;		    /* fixed */
	uint16_t max_size;	    /* fixed; a power of two, not above VIRTQ_MAX_SIZE */
	uint16_t size;
	uint16_t vector; /* atomic */
	bool enabled;
	bool event_idx, indirect; /* negotiated */
	gpa_t desc, avail, used;
	uint16_t last_avail; /* next entry of the available ring to take */
	uint16_t used_idx;
	uint16_t signalled; /* used_idx when the driver was last told */
	bool signalled_valid;
	uint16_t outstanding; /* chains popped and not pushed */
};

/* One piece of a buffer: contiguous in guest and in host memory. */
struct virtq_seg {
	gpa_t gpa;
	uint32_t len;
};

/*
 * A chain that the device works on. nread segments that the device reads come first in iov[] and
 * seg[], then nwrite ones that it writes. Counted in virtio_device.inflight until it is pushed.
 */
struct virtq_elem {
	uint16_t head;
	unsigned nread, nwrite;
	uint64_t read_len, write_len; /* bytes */
	struct iovec *iov;	      /* nread + nwrite; the device may consume it */
	struct virtq_seg *seg;	      /* the same, for bookkeeping: not to be changed */
};

struct virtio_ops {
	const char *name;
	/* New buffers may be in queue q. VCPU thread, no lock held. */
	void (*notify)(struct virtio_device *vdev, unsigned q);
	/*
	 * Device configuration. VCPU threads, virtio_device.lock held. NULL: reads 0, ignores
	 * writes. off + len <= config_len, given to virtio_pci_create().
	 */
	void (*config_read)(struct virtio_device *vdev, unsigned off, void *data, unsigned len);
	void (*config_write)(struct virtio_device *vdev, unsigned off, const void *data,
			     unsigned len);
	/*
	 * A reset began: no pop succeeds any more. The device returns what it can return at once
	 * (elements that wait for something) and lets the rest complete. virtio_device.lock held,
	 * no queue's. May be NULL.
	 */
	void (*reset)(struct virtio_device *vdev);
	/*
	 * Blocks until no request is in flight, whether or not the I/O thread runs. Not on a VCPU
	 * thread. NULL for devices that complete everything at once.
	 */
	void (*drain)(struct virtio_device *vdev);
	/* Frees the device, which has been reset and drained. No VCPU and no I/O thread runs. */
	void (*destroy)(struct virtio_device *vdev);
};

struct virtio_device {
	/* For the device to fill in before virtio_pci_create(). */
	const struct virtio_ops *ops;
	struct gmem *gm;
	uint16_t id;
	uint32_t class_code;
	uint64_t features; /* its own ones; the common ones are added */
	unsigned nvqs;
	uint16_t vq_size; /* of every queue */
	unsigned config_len;

	/* Private to virtio*.c, unless said otherwise. */
	struct device regs;
	struct pci_function pci;
	unsigned cfg_cap; /* offset of the PCI configuration access capability */
	pthread_mutex_t lock;
	struct virtqueue *vqs;
	uint64_t driver_features; /* negotiated once FEATURES_OK; devices may read it */
	uint32_t feature_select, driver_feature_select;
	uint16_t queue_select;
	uint16_t config_vector; /* atomic */
	uint8_t config_generation;
	uint8_t status;	   /* atomic */
	bool resetting;	   /* atomic */
	uint32_t inflight; /* atomic: elements popped and not pushed */
	pthread_mutex_t isr_lock;
	uint8_t isr;
};

/*
 * Puts the device into a slot. On failure nothing is owned by the host and the caller still owns
 * vdev; -errno after one log line.
 */
int virtio_pci_create(struct virtio_device *vdev, struct pci_host *host, unsigned slot);
/* Undoes it, for the destroy operation. */
void virtio_pci_fini(struct virtio_device *vdev);

static inline bool virtio_has_feature(const struct virtio_device *vdev, uint64_t feature)
{
	return vdev->driver_features & feature;
}

/* With the lock held of the queue that the driver broke. */
void virtio_set_broken(struct virtio_device *vdev, const char *why);
/* Any thread, also with a queue's lock held. */
void virtio_config_changed(struct virtio_device *vdev);
/* Interrupt of a queue, with its lock held; devices use virtqueue_interrupt(). */
void virtio_queue_interrupt(struct virtqueue *vq);

/* --- virtqueue.c; every function: with vq->lock held, thread registered with RCU --- */

/* Checks the addresses that the driver gave; false (and the device is broken) if they are bad. */
bool virtqueue_enable(struct virtqueue *vq);
void virtqueue_reset(struct virtqueue *vq);

/*
 * Takes the next chain. *elem is the start of a zeroed block of size bytes (at least
 * sizeof(struct virtq_elem), which a device's request has as its first member), freed by
 * virtqueue_push() or virtqueue_unpop().
 * Returns 1; 0 if there is none (then the driver has been asked to notify); -errno if the device is
 * broken, or if memory is short and the chain stays in the ring.
 */
int virtqueue_pop(struct virtqueue *vq, size_t size, struct virtq_elem **elem);
/* Gives the last popped chain back to the ring, as if it had not been popped. */
void virtqueue_unpop(struct virtqueue *vq, struct virtq_elem *elem);
/* Returns a chain of which the first len writable bytes may have been written. Frees elem. */
void virtqueue_push(struct virtqueue *vq, struct virtq_elem *elem, uint32_t len);
/* After one or more pushes: interrupts the driver if it wants to know. */
void virtqueue_interrupt(struct virtqueue *vq);

#endif
