#include <arpa/inet.h>
#include <stdio.h>
#include <sys/socket.h>

#include "src/dev/net_csum.h"
#include "src/dev/virtio_net.h"
#include "tests/unit/virtio_driver.h"

#define RINGS	 MIB(1)
#define RX_BUF	 MIB(2)
#define TX_BUF	 MIB(3)
#define BUF_SIZE 2048
#define QSIZE	 16
#define FEATURES (VIRTIO_F_VERSION_1 | VIRTIO_F_EVENT_IDX | 3)

static const uint8_t mac[6] = {0x52, 0x54, 0, 1, 2, 3};

struct fixture {
	struct rig rig;
	struct drv d;
};

static void give_rx(struct fixture *f, unsigned i)
{
	drv_desc(&f->d, 0, i, RX_BUF + i * BUF_SIZE, BUF_SIZE, DESC_WRITE, 0);
	drv_offer(&f->d, 0, i);
}

static void setup(struct fixture *f, const struct net_hostfwd *fwd, unsigned nfwd, unsigned nrx)
{
	struct net_backend *nb;

	rig_init(&f->rig);
	assert_int_equal(net_user_create(&nb, f->rig.loop, &f->rig.clk, fwd, nfwd), 0);
	assert_int_equal(virtio_net_create(f->rig.host, 2, &f->rig.gm, f->rig.loop, nb, mac), 0);
	assert_int_equal(evloop_start(f->rig.loop), 0);
	assert_int_equal(drv_begin(&f->d, &f->rig, 2, FEATURES), 11);
	drv_queue(&f->d, 0, QSIZE, RINGS);
	drv_queue(&f->d, 1, QSIZE, RINGS + KIB(64));
	drv_ready(&f->d);
	for (unsigned i = 0; i < nrx; i++)
		give_rx(f, i);
	drv_notify(&f->d, 0);
}

static void send_frame(struct fixture *f, const struct net_hdr *h, const void *frame, size_t len)
{
	memcpy(f->rig.ram + TX_BUF, h, sizeof(*h));
	memcpy(f->rig.ram + TX_BUF + sizeof(*h), frame, len);
	drv_desc(&f->d, 1, 0, TX_BUF, sizeof(*h) + len, 0, 0);
	drv_offer(&f->d, 1, 0);
	drv_notify(&f->d, 1);
	drv_wait(&f->d, 1, NULL);
}

/* Waits for a frame; its Ethernet header. */
static uint8_t *recv_frame(struct fixture *f, size_t *len)
{
	uint32_t id, n = drv_wait(&f->d, 0, &id);

	assert_true(n > sizeof(struct net_hdr));
	*len = n - sizeof(struct net_hdr);
	return f->rig.ram + RX_BUF + id * BUF_SIZE + sizeof(struct net_hdr);
}

static void ask_arp(struct fixture *f)
{
	uint8_t a[42] = {0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0x52, 0x54, 0, 1,	2,
			 3,    8,    6,	   0,	 1,    8,    0,	   6,	 4, 0,	1, /* a request */
			 0x52, 0x54, 0,	   1,	 2,    3,    10,   0,	 2, 15, 0,
			 0,    0,    0,	   0,	 0,    10,   0,	   2,	 2};

	send_frame(f, &(struct net_hdr){0}, a, sizeof(a));
}

static void host_answers_arp(void **state)
{
	struct fixture f;
	uint8_t *p;
	size_t len;

	setup(&f, NULL, 0, 4);
	assert_int_equal(mmio_read(&f.rig, f.d.config, 4), 0x01005452);
	assert_int_equal(mmio_read(&f.rig, f.d.config + 6, 2), 1);
	ask_arp(&f);
	p = recv_frame(&f, &len);
	assert_true(len >= 42);
	assert_memory_equal(p, mac, 6);
	assert_int_equal(p[21], 2); /* a reply ... */
	assert_memory_equal(p + 28, ((uint8_t[]){10, 0, 2, 2}), 4);
	rig_fini(&f.rig);
}

static void frames_wait_for_buffers(void **state)
{
	struct fixture f;
	size_t len;

	setup(&f, NULL, 0, 0);
	for (unsigned i = 0; i < 3; i++)
		ask_arp(&f);
	assert_int_equal(drv_used_idx(&f.d, 0), 0);
	give_rx(&f, 0);
	drv_notify(&f.d, 0);
	recv_frame(&f, &len);
	give_rx(&f, 1);
	give_rx(&f, 2);
	drv_notify(&f.d, 0);
	recv_frame(&f, &len);
	recv_frame(&f, &len);
	rig_fini(&f.rig);
}

static void bad_frames_are_dropped(void **state)
{
	struct net_hdr h = {.flags = NET_HDR_F_NEEDS_CSUM, .csum_start = 40, .csum_offset = 65535};
	uint8_t junk[60] = {0};
	struct fixture f;
	size_t len;

	setup(&f, NULL, 0, 4);
	send_frame(&f, &h, junk, sizeof(junk));
	h = (struct net_hdr){.gso_type = 1};
	send_frame(&f, &h, junk, sizeof(junk));
	send_frame(&f, &h, junk, 0);
	send_frame(&f, &(struct net_hdr){0}, junk, sizeof(junk));
	assert_false(drv_broken(&f.d));
	ask_arp(&f);
	recv_frame(&f, &len);
	rig_fini(&f.rig);
}

/* A connection to the forwarded port makes the host look for the guest. */
static void forwards_a_port(void **state)
{
	struct sockaddr_in a = {.sin_family = AF_INET, .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
	struct net_hostfwd fwd;
	socklen_t alen = sizeof(a);
	struct fixture f;
	char text[64];
	uint8_t *p;
	size_t len;
	int s = socket(AF_INET, SOCK_STREAM, 0);

	/* A port that is free now. */
	assert_int_equal(bind(s, (struct sockaddr *)&a, sizeof(a)), 0);
	assert_int_equal(getsockname(s, (struct sockaddr *)&a, &alen), 0);
	close(s);
	snprintf(text, sizeof(text), "tcp:127.0.0.1:%u-:5432", ntohs(a.sin_port));
	assert_int_equal(net_parse_hostfwd(text, &fwd), 0);
	setup(&f, &fwd, 1, 8);
	ask_arp(&f);
	recv_frame(&f, &len);
	s = socket(AF_INET, SOCK_STREAM, 0);
	assert_int_equal(connect(s, (struct sockaddr *)&a, sizeof(a)), 0);
	do {
		p = recv_frame(&f, &len);
	} while (p[12] != 8 || p[13] != 0 || p[23] != IPPROTO_TCP);
	assert_int_equal(p[36] << 8 | p[37], 5432);
	assert_int_equal(p[47] & 0x12, 2); /* SYN */
	close(s);
	rig_fini(&f.rig);
}

static void a_taken_port_is_an_error(void **state)
{
	struct sockaddr_in a = {.sin_family = AF_INET, .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
	struct net_hostfwd fwd = {.host_addr = INADDR_LOOPBACK, .guest_port = 1};
	socklen_t alen = sizeof(a);
	struct net_backend *nb;
	struct rig rig;
	int s = socket(AF_INET, SOCK_STREAM, 0);

	rig_init(&rig);
	assert_int_equal(bind(s, (struct sockaddr *)&a, sizeof(a)), 0);
	assert_int_equal(listen(s, 1), 0);
	assert_int_equal(getsockname(s, (struct sockaddr *)&a, &alen), 0);
	fwd.host_port = ntohs(a.sin_port);
	assert_int_equal(net_user_create(&nb, rig.loop, &rig.clk, &fwd, 1), -EADDRINUSE);
	close(s);
	rig_fini(&rig);
}

static void parses_forwards(void **state)
{
	static const char *const bad[] = {
		"",
		"tcp",
		"tcp:",
		"tcp:1-2",
		"tcp::80",
		"tcp::80-",
		"tcp::80-:",
		"tcp::0-:80",
		"tcp::80-:65536",
		"tcp::80-:8o",
		"sctp::1-:2",
		"tcp:1.2.3:80-:80",
		"tcp:localhost:80-:80",
		"tcp::80-10.0.2.15",
		"tcp::99999999999999999999-:1",
		"tcp:111.111.111.1111111:1-:1",
	};
	struct net_hostfwd f;

	assert_int_equal(net_parse_hostfwd("tcp:127.0.0.1:5432-:5432", &f), 0);
	assert_false(f.udp);
	assert_int_equal(f.host_addr, 0x7f000001);
	assert_int_equal(f.host_port, 5432);
	assert_int_equal(f.guest_addr, 0);
	assert_int_equal(net_parse_hostfwd("udp:0.0.0.0:65535-10.0.2.16:1", &f), 0);
	assert_true(f.udp);
	assert_int_equal(f.host_addr, 0);
	assert_int_equal(f.host_port, 65535);
	assert_int_equal(f.guest_addr, 0x0a000210);
	assert_int_equal(net_parse_hostfwd("tcp::1-:2", &f), 0);
	assert_int_equal(f.host_addr, 0x7f000001);
	for (unsigned i = 0; i < ARRAY_SIZE(bad); i++)
		assert_int_equal(net_parse_hostfwd(bad[i], &f), -EINVAL);
}

/* The example of RFC 1071, section 3: the sum of these bytes is ddf2. */
static void completes_checksums(void **state)
{
	struct net_hdr h = {.flags = NET_HDR_F_NEEDS_CSUM, .csum_start = 2, .csum_offset = 8};
	uint8_t p[12] = {9, 9, 0x00, 0x01, 0xf2, 0x03, 0xf4, 0xf5, 0xf6, 0xf7};

	assert_true(net_csum_complete(&h, p, sizeof(p)));
	assert_int_equal(p[10] << 8 | p[11], 0xffff & ~0xddf2);
	assert_false(net_csum_complete(&h, p, 11));
	h.csum_start = h.csum_offset = 65535;
	assert_false(net_csum_complete(&h, p, sizeof(p)));
	h.flags = 0;
	assert_true(net_csum_complete(&h, p, sizeof(p)));
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(host_answers_arp),
		cmocka_unit_test(frames_wait_for_buffers),
		cmocka_unit_test(bad_frames_are_dropped),
		cmocka_unit_test(forwards_a_port),
		cmocka_unit_test(a_taken_port_is_an_error),
		cmocka_unit_test(parses_forwards),
		cmocka_unit_test(completes_checksums),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
