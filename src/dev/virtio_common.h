/* Between virtio_common.c and virtio_pci.c only. */
#ifndef DEV_VIRTIO_COMMON_H
#define DEV_VIRTIO_COMMON_H

#include "src/dev/virtio.h"

/* Bytes of the common configuration (4.1.4.3). */
#define VIRTIO_COMMON_LEN 0x38

/* VCPU threads; off + len is within it. */
void virtio_common_read(struct virtio_device *vdev, unsigned off, void *data, unsigned len);
void virtio_common_write(struct virtio_device *vdev, unsigned off, const void *data, unsigned len);
/* Reads and clears the interrupt status, and lowers the line (4.1.4.5). */
uint8_t virtio_take_isr(struct virtio_device *vdev);
/* Not on a VCPU thread. */
void virtio_reset_and_drain(struct virtio_device *vdev);

#endif
