/* The virtio entropy device (5.4), fed by the host's getrandom(). */
#ifndef DEV_VIRTIO_RNG_H
#define DEV_VIRTIO_RNG_H

#include "src/dev/virtio.h"

/* 0, or -errno after one log line. The host owns the device. */
int virtio_rng_create(struct pci_host *host, unsigned slot, struct gmem *gm);

#endif
