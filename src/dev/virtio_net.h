/* A virtio network card (5.1) with one pair of queues. */
#ifndef DEV_VIRTIO_NET_H
#define DEV_VIRTIO_NET_H

#include "src/dev/net_backend.h"
#include "src/dev/virtio.h"

/*
 * Frames move on the I/O thread; a VCPU only wakes it. Takes the backend, also when it fails, and
 * destroys it with the device. 0, or -errno after one log line. The host owns the device.
 */
int virtio_net_create(struct pci_host *host, unsigned slot, struct gmem *gm, struct evloop *loop,
		      struct net_backend *nb, const uint8_t mac[6]);

#endif
