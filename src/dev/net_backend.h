/*
 * The host's side of a network card: user networking or a tap interface.
 *
 * Every frame, in both directions, is preceded by the 12-byte header of virtio 1.2, 5.1.6.1. A
 * backend fills in checksums that the header of a sent frame asks for, and sends no frame that
 * needs segmentation. Everything here runs on the I/O thread, except creation and destruction,
 * which happen while no callback runs.
 */
#ifndef DEV_NET_BACKEND_H
#define DEV_NET_BACKEND_H

#include <netinet/in.h>
#include <sys/uio.h>

#include "src/base/clock.h"
#include "src/base/evloop.h"
#include "src/base/types.h"

struct net_hdr {
	uint8_t flags;
	uint8_t gso_type;
	uint16_t hdr_len;
	uint16_t gso_size;
	uint16_t csum_start;
	uint16_t csum_offset;
	uint16_t num_buffers;
};

_Static_assert(sizeof(struct net_hdr) == 12, "5.1.6.1");

#define NET_HDR_F_NEEDS_CSUM 1
#define NET_HDR_F_DATA_VALID 2

/* Header and frame together. */
#define NET_FRAME_MAX (65536 + sizeof(struct net_hdr))

struct net_backend;

struct net_backend_ops {
	/* One frame from the guest; dropped if it cannot be sent now. */
	void (*send)(struct net_backend *nb, const struct iovec *iov, unsigned n, size_t len);
	/* After one or more sends. May be NULL. */
	void (*send_done)(struct net_backend *nb);
	/* receive() had returned false; now it may take frames. */
	void (*resume)(struct net_backend *nb);
	void (*destroy)(struct net_backend *nb);
};

struct net_backend {
	const struct net_backend_ops *ops;
	/* Set by the card. False: no buffer, the frame was not taken, resume() follows. */
	bool (*receive)(void *opaque, const uint8_t *frame, size_t len);
	void *opaque;
};

/* A port of the host that leads to one of the guest. Addresses and ports in host byte order. */
struct net_hostfwd {
	bool udp;
	uint32_t host_addr;
	uint16_t host_port;
	uint32_t guest_addr; /* 0: the address that DHCP gives out */
	uint16_t guest_port;
};

/*
 * "tcp:[ADDR]:PORT-[GUESTADDR]:PORT", or udp. No ADDR is 127.0.0.1: a guest's port is not shown to
 * the network unasked. 0 or -EINVAL, unlogged.
 */
int net_parse_hostfwd(const char *text, struct net_hostfwd *fwd);

/*
 * User networking: the guest is 10.0.2.15 by DHCP, the host 10.0.2.2, the name server 10.0.2.3.
 * The process must ignore SIGPIPE.
 * 0, or -errno after one log line.
 */
int net_user_create(struct net_backend **nb, struct evloop *loop, struct clock *clk,
		    const struct net_hostfwd *fwd, unsigned nfwd);
/* An existing or new tap interface of that name. 0, or -errno after one log line. */
int net_tap_create(struct net_backend **nb, struct evloop *loop, const char *name);

#endif
