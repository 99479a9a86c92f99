#include <fcntl.h>
#include <signal.h>

#include "src/dev/virtio_console.h"
#include "src/dev/virtio_rng.h"
#include "tests/unit/virtio_driver.h"

#define RINGS	 MIB(1)
#define RX_BUF	 MIB(2)
#define TX_BUF	 MIB(3)
#define QSIZE	 16
#define FEATURES (VIRTIO_F_VERSION_1 | VIRTIO_F_EVENT_IDX)

struct fixture {
	struct rig rig;
	struct drv d;
	struct chardev *cd;
	int to_guest, from_guest; /* our ends */
};

static void start_console(struct fixture *f)
{
	assert_int_equal(virtio_console_create(f->rig.host, 2, &f->rig.gm, f->cd), 0);
	assert_int_equal(evloop_start(f->rig.loop), 0);
	assert_int_equal(drv_begin(&f->d, &f->rig, 2, FEATURES), 11);
	drv_queue(&f->d, 0, QSIZE, RINGS);
	drv_queue(&f->d, 1, QSIZE, RINGS + KIB(64));
	drv_ready(&f->d);
}

static void setup(struct fixture *f)
{
	int in[2], out[2];

	rig_init(&f->rig);
	assert_int_equal(pipe(in), 0);
	assert_int_equal(pipe(out), 0);
	assert_int_equal(chardev_open_fds(&f->cd, f->rig.loop, in[0], out[1]), 0);
	f->to_guest = in[1];
	f->from_guest = out[0];
	start_console(f);
}

static void teardown(struct fixture *f)
{
	struct evloop *loop = f->rig.loop;

	/* The order in which a machine goes down. */
	evloop_stop(loop);
	pci_host_destroy(f->rig.host);
	close(f->from_guest);
	close(f->to_guest);
	chardev_destroy(f->cd);
	evloop_destroy(loop);
	bus_destroy(f->rig.bus);
	gmem_fini(&f->rig.gm);
	munmap(f->rig.ram, RIG_RAM);
	rcu_thread_exit();
}

static void send_text(struct fixture *f, size_t len)
{
	drv_desc(&f->d, 1, 0, TX_BUF, len, 0, 0);
	drv_offer(&f->d, 1, 0);
	drv_notify(&f->d, 1);
}

static void output_reaches_the_host(void **state)
{
	struct fixture f;
	char buf[16] = "";

	setup(&f);
	memcpy(f.rig.ram + TX_BUF, "hello", 5);
	send_text(&f, 5);
	drv_wait(&f.d, 1, NULL);
	assert_int_equal(read(f.from_guest, buf, sizeof(buf)), 5);
	assert_string_equal(buf, "hello");
	teardown(&f);
}

/* 1 MiB, through a pipe that nobody reads at first: the chain waits, no byte is lost. */
static void output_waits_for_a_slow_reader(void **state)
{
	struct fixture f;
	uint8_t buf[4096];
	size_t got = 0;

	setup(&f);
	for (unsigned i = 0; i < MIB(1); i++)
		f.rig.ram[TX_BUF + i] = i ^ i >> 8 ^ i >> 16;
	send_text(&f, MIB(1));
	usleep(50000);
	assert_int_equal(drv_used_idx(&f.d, 1), 0);
	while (got < MIB(1)) {
		ssize_t n = read(f.from_guest, buf, sizeof(buf));

		assert_true(n > 0);
		assert_memory_equal(buf, f.rig.ram + TX_BUF + got, n);
		got += n;
	}
	drv_wait(&f.d, 1, NULL);
	teardown(&f);
}

static void reset_returns_a_waiting_chain(void **state)
{
	struct fixture f;

	setup(&f);
	send_text(&f, MIB(1));
	usleep(20000);
	assert_int_equal(drv_begin(&f.d, &f.rig, 2, FEATURES), 11);
	teardown(&f);
}

/* More input than the device keeps, before and after the guest gives buffers. */
static void input_waits_for_buffers(void **state)
{
	struct fixture f;
	uint8_t data[60000];
	size_t got = 0;

	setup(&f);
	for (unsigned i = 0; i < sizeof(data); i++)
		data[i] = i ^ i >> 8;
	assert_int_equal(write(f.to_guest, data, sizeof(data)), sizeof(data));
	usleep(20000);
	while (got < sizeof(data)) {
		uint32_t n;

		drv_desc(&f.d, 0, 0, RX_BUF, 700, DESC_WRITE, 0);
		drv_offer(&f.d, 0, 0);
		drv_notify(&f.d, 0);
		n = drv_wait(&f.d, 0, NULL);
		assert_in_range(n, 1, 700);
		assert_memory_equal(f.rig.ram + RX_BUF, data + got, n);
		got += n;
	}
	teardown(&f);
}

static size_t drop_x(void *opaque, uint8_t *data, size_t n)
{
	size_t m = 0;

	for (size_t i = 0; i < n; i++)
		if (data[i] != 'x')
			data[m++] = data[i];
	return m;
}

static void plain_files_work_too(void **state)
{
	char in[] = "/tmp/test_console_in.XXXXXX", out[] = "/tmp/test_console_out.XXXXXX";
	struct fixture f = {.to_guest = -1, .from_guest = -1};
	int fd = mkstemp(in), ofd = mkstemp(out);
	char buf[16] = "";

	assert_int_equal(write(fd, "xaxb", 4), 4);
	lseek(fd, 0, SEEK_SET);
	rig_init(&f.rig);
	assert_int_equal(chardev_open_fds(&f.cd, f.rig.loop, fd, ofd), 0);
	chardev_set_filter(f.cd, drop_x, NULL);
	start_console(&f);
	drv_desc(&f.d, 0, 0, RX_BUF, 16, DESC_WRITE, 0);
	drv_offer(&f.d, 0, 0);
	drv_notify(&f.d, 0);
	assert_int_equal(drv_wait(&f.d, 0, NULL), 2);
	assert_memory_equal(f.rig.ram + RX_BUF, "ab", 2);
	memcpy(f.rig.ram + TX_BUF, "bye", 3);
	send_text(&f, 3);
	teardown(&f); /* writes what is still buffered */
	fd = open(out, O_RDONLY);
	assert_int_equal(read(fd, buf, sizeof(buf)), 3);
	assert_string_equal(buf, "bye");
	close(fd);
	unlink(in);
	unlink(out);
}

/* With nobody at the other end the guest is not held up, and the newest output is kept. */
static void pty_never_holds_up_the_guest(void **state)
{
	struct fixture f = {.to_guest = -1, .from_guest = -1};
	uint8_t buf[4096];
	ssize_t n, total = 0;
	int fd;

	rig_init(&f.rig);
	assert_int_equal(chardev_open_pty(&f.cd, f.rig.loop), 0);
	start_console(&f);
	memset(f.rig.ram + TX_BUF, 'a', MIB(1));
	memset(f.rig.ram + TX_BUF + MIB(1) - KIB(8), 'z', KIB(8));
	send_text(&f, MIB(1));
	drv_wait(&f.d, 1, NULL);
	fd = open(chardev_name(f.cd), O_RDWR | O_NOCTTY);
	assert_true(fd >= 0);
	do {
		n = read(fd, buf, sizeof(buf));
		assert_true(n > 0);
		for (ssize_t i = 0; i < n; i++)
			total += buf[i] == 'z';
	} while (total < (ssize_t)KIB(8));
	/* And the other way. */
	drv_desc(&f.d, 0, 0, RX_BUF, 16, DESC_WRITE, 0);
	drv_offer(&f.d, 0, 0);
	drv_notify(&f.d, 0);
	assert_int_equal(write(fd, "\r\3", 2), 2);
	assert_in_range(drv_wait(&f.d, 0, NULL), 1, 2);
	assert_int_equal(f.rig.ram[RX_BUF], '\r'); /* raw: not translated */
	close(fd);
	teardown(&f);
}

static void rng_fills_buffers(void **state)
{
	struct rig rig;
	struct drv d;
	uint32_t n;
	unsigned zeroes = 0;

	rig_init(&rig);
	assert_int_equal(virtio_rng_create(rig.host, 2, &rig.gm), 0);
	assert_int_equal(drv_begin(&d, &rig, 2, FEATURES), 11);
	drv_queue(&d, 0, QSIZE, RINGS);
	drv_ready(&d);
	drv_desc(&d, 0, 0, RX_BUF, 100, DESC_WRITE | DESC_NEXT, 1);
	drv_desc(&d, 0, 1, RX_BUF + 100, 100000, DESC_WRITE, 0);
	drv_offer(&d, 0, 0);
	drv_notify(&d, 0);
	n = drv_wait(&d, 0, NULL);
	assert_in_range(n, 1, 4096);
	for (unsigned i = 0; i < n; i++)
		zeroes += !rig.ram[RX_BUF + i];
	assert_true(zeroes < n / 8);
	assert_int_equal(rig.ram[RX_BUF + n], 0);
	assert_int_equal(rig.msi[1], 1);
	rig_fini(&rig);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(output_reaches_the_host),
		cmocka_unit_test(output_waits_for_a_slow_reader),
		cmocka_unit_test(reset_returns_a_waiting_chain),
		cmocka_unit_test(input_waits_for_buffers),
		cmocka_unit_test(plain_files_work_too),
		cmocka_unit_test(pty_never_holds_up_the_guest),
		cmocka_unit_test(rng_fills_buffers),
	};

	signal(SIGPIPE, SIG_IGN);
	return cmocka_run_group_tests(tests, NULL, NULL);
}
