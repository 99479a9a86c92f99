/* The Internet checksum that a guest leaves to its card. */
#ifndef DEV_NET_CSUM_H
#define DEV_NET_CSUM_H

#include "src/dev/net_backend.h"

/*
 * Completes the checksum of a frame (without its header) as h asks. The field holds the sum over
 * the pseudo-header (5.1.6.2). False if the positions lie outside the frame.
 */
bool net_csum_complete(const struct net_hdr *h, uint8_t *frame, size_t len);

#endif
