/* A virtio console with one port (5.3), the guest's hvc0. */
#ifndef DEV_VIRTIO_CONSOLE_H
#define DEV_VIRTIO_CONSOLE_H

#include "src/dev/chardev.h"
#include "src/dev/virtio.h"

/*
 * Attaches itself to cd, which stays the caller's and must outlive the device. 0, or -errno after
 * one log line. The host owns the device.
 */
int virtio_console_create(struct pci_host *host, unsigned slot, struct gmem *gm,
			  struct chardev *cd);

#endif
