#include <fcntl.h>
#include <stdio.h>
#include <sys/stat.h>

#include "src/dev/virtio_blk.h"
#include "tests/unit/virtio_driver.h"

#define DISK_SIZE (MIB(1) + 300) /* not a multiple of a sector */
#define SECTORS	  (MIB(1) / 512)

#define RINGS  MIB(1)
#define HEADER MIB(2)
#define STATUS (MIB(2) + 64)
#define DATA   MIB(3)
#define ACROSS (RIG_RAM / 2 - 1024) /* a buffer from here on lies in two slots */

#define T_IN	       0
#define T_OUT	       1
#define T_FLUSH	       4
#define T_GET_ID       8
#define T_DISCARD      11
#define T_WRITE_ZEROES 13

#define BASE_FEATURES (VIRTIO_F_VERSION_1 | VIRTIO_F_EVENT_IDX | VIRTIO_F_INDIRECT_DESC)
#define F_FLUSH	      (1ull << 9)
#define F_DISCARD     (1ull << 13)
#define F_ZEROES      (1ull << 14)

struct fixture {
	struct rig rig;
	struct drv d;
	char path[64];
	bool threads;
};

static void make_image(struct fixture *f)
{
	int fd;

	strcpy(f->path, "/tmp/test_virtio_blk.XXXXXX");
	fd = mkstemp(f->path);
	assert_true(fd >= 0);
	assert_int_equal(ftruncate(fd, DISK_SIZE), 0);
	close(fd);
}

static void start_with(struct fixture *f, bool readonly, unsigned nqueues)
{
	struct virtio_blk_params p = {
		.path = f->path,
		.readonly = readonly,
		.nqueues = nqueues,
		.serial = "disk-serial",
		.threads = f->threads,
	};
	uint64_t features = BASE_FEATURES | F_FLUSH | (readonly ? 0 : F_DISCARD | F_ZEROES);

	rig_init(&f->rig);
	assert_int_equal(virtio_blk_create(f->rig.host, 3, &f->rig.gm, f->rig.loop, &p), 0);
	assert_int_equal(evloop_start(f->rig.loop), 0);
	assert_int_equal(drv_begin(&f->d, &f->rig, 3, features) & VIRTIO_STATUS_FEATURES_OK,
			 VIRTIO_STATUS_FEATURES_OK);
	for (unsigned i = 0; i < nqueues; i++)
		drv_queue(&f->d, i, 64, RINGS + i * KIB(64));
	drv_ready(&f->d);
}

static struct fixture *new_fixture(bool threads)
{
	struct fixture *f = calloc(1, sizeof(*f));

	f->threads = threads;
	make_image(f);
	return f;
}

static void end(struct fixture *f)
{
	rig_fini(&f->rig);
	unlink(f->path);
	free(f);
}

/* One request with its data in one descriptor; returns the status byte. */
static uint8_t request(struct fixture *f, unsigned q, uint32_t type, uint64_t sector, gpa_t data,
		       uint32_t len, bool device_writes)
{
	uint8_t *h = f->rig.ram + HEADER;
	uint8_t *status = f->rig.ram + STATUS;
	struct drv *d = &f->d;

	memset(h, 0, 16);
	memcpy(h, &type, 4);
	memcpy(h + 8, &sector, 8);
	*status = 0xee;
	drv_desc(d, q, 0, HEADER, 16, DESC_NEXT, len ? 1 : 2);
	drv_desc(d, q, 1, data, len, DESC_NEXT | (device_writes ? DESC_WRITE : 0), 2);
	drv_desc(d, q, 2, STATUS, 1, DESC_WRITE, 0);
	drv_offer(d, q, 0);
	drv_notify(d, q);
	drv_wait(d, q, NULL);
	return *status;
}

static void fill(struct fixture *f, gpa_t at, unsigned len, unsigned seed)
{
	for (unsigned i = 0; i < len; i++)
		f->rig.ram[at + i] = i * 7 + seed + (i >> 8);
}

static void image_read(struct fixture *f, uint64_t off, void *buf, size_t len)
{
	int fd = open(f->path, O_RDONLY);

	assert_true(fd >= 0);
	assert_int_equal(pread(fd, buf, len, off), len);
	close(fd);
}

static void writes_and_reads(bool threads)
{
	struct fixture *f = new_fixture(threads);
	uint8_t image[4096];

	start_with(f, false, 1);
	fill(f, DATA, 4096, 1);
	assert_int_equal(request(f, 0, T_OUT, 8, DATA, 4096, false), 0);
	image_read(f, 4096, image, sizeof(image));
	assert_memory_equal(image, f->rig.ram + DATA, 4096);
	/* Back into a buffer that spans two memory slots. */
	assert_int_equal(request(f, 0, T_IN, 8, ACROSS, 4096, true), 0);
	assert_memory_equal(f->rig.ram + ACROSS, image, 4096);
	assert_int_equal(request(f, 0, T_FLUSH, 0, 0, 0, false), 0);
	assert_true(atomic_load_seq(&f->rig.msi[1]) >= 1);
	assert_false(drv_broken(&f->d));
	end(f);
}

static void by_uring(void **state)
{
	writes_and_reads(false);
}

static void by_threads(void **state)
{
	writes_and_reads(true);
}

static void tells_its_geometry(void **state)
{
	struct fixture *f = new_fixture(false);

	start_with(f, false, 1);
	assert_int_equal(mmio_read(&f->rig, f->d.config, 4), SECTORS);
	assert_int_equal(mmio_read(&f->rig, f->d.config + 20, 4), 512);
	memset(f->rig.ram + DATA, 0xff, 20);
	assert_int_equal(request(f, 0, T_GET_ID, 0, DATA, 20, true), 0);
	assert_string_equal((char *)f->rig.ram + DATA, "disk-serial");
	end(f);
}

static void refuses_out_of_range(void **state)
{
	struct fixture *f = new_fixture(false);

	start_with(f, false, 1);
	assert_int_equal(request(f, 0, T_IN, SECTORS - 1, DATA, 512, true), 0);
	assert_int_equal(request(f, 0, T_IN, SECTORS, DATA, 512, true), 1);
	assert_int_equal(request(f, 0, T_IN, SECTORS - 1, DATA, 1024, true), 1);
	assert_int_equal(request(f, 0, T_OUT, UINT64_MAX, DATA, 512, false), 1);
	assert_int_equal(request(f, 0, T_OUT, 1ull << 55, DATA, 512, false), 1);
	assert_int_equal(request(f, 0, T_OUT, 0, DATA, 511, false), 1);
	assert_int_equal(request(f, 0, 99, 0, DATA, 512, false), 2);
	assert_false(drv_broken(&f->d));
	end(f);
}

static void readonly_refuses_writes(void **state)
{
	struct fixture *f = new_fixture(false);

	start_with(f, true, 1);
	assert_true(drv_offered(&f->d) & 1 << 5);
	assert_int_equal(request(f, 0, T_OUT, 0, DATA, 512, false), 1);
	assert_int_equal(request(f, 0, T_IN, 0, DATA, 512, true), 0);
	assert_int_equal(request(f, 0, T_DISCARD, 0, DATA, 16, false), 2);
	end(f);
}

static uint8_t range_request(struct fixture *f, uint32_t type, uint64_t sector, uint32_t n,
			     uint32_t flags)
{
	memcpy(f->rig.ram + DATA, &sector, 8);
	memcpy(f->rig.ram + DATA + 8, &n, 4);
	memcpy(f->rig.ram + DATA + 12, &flags, 4);
	return request(f, 0, type, 0, DATA, 16, false);
}

static void check_zero(struct fixture *f, uint64_t off, size_t len)
{
	uint8_t *image = malloc(len);

	image_read(f, off, image, len);
	for (size_t i = 0; i < len; i++)
		assert_int_equal(image[i], 0);
	free(image);
}

static void discards_and_zeroes(void **state)
{
	struct fixture *f = new_fixture(false);
	uint8_t image[512];

	start_with(f, false, 1);
	fill(f, MIB(4), MIB(1), 5);
	assert_int_equal(request(f, 0, T_OUT, 0, MIB(4), MIB(1), false), 0);
	assert_int_equal(range_request(f, T_WRITE_ZEROES, 1, 3, 0), 0);
	check_zero(f, 512, 3 * 512);
	assert_int_equal(range_request(f, T_WRITE_ZEROES, 16, 1024, 1), 0);
	check_zero(f, 16 * 512, 1024 * 512);
	if (drv_offered(&f->d) & F_DISCARD) {
		assert_int_equal(range_request(f, T_DISCARD, 1600, 8, 0), 0);
		check_zero(f, 1600 * 512, 8 * 512);
		assert_int_equal(range_request(f, T_DISCARD, 0, 8, 1), 2);
		assert_int_equal(range_request(f, T_DISCARD, SECTORS - 7, 8, 0), 1);
	}
	image_read(f, 0, image, 512);
	assert_memory_equal(image, f->rig.ram + MIB(4), 512);
	image_read(f, 4 * 512, image, 512);
	assert_memory_equal(image, f->rig.ram + MIB(4) + 4 * 512, 512);
	assert_int_equal(range_request(f, T_WRITE_ZEROES, 0, UINT32_MAX, 0), 1);
	end(f);
}

/* Header and status may be cut up anyhow. */
static void takes_any_layout(void **state)
{
	struct fixture *f = new_fixture(false);
	struct drv *d = &f->d;
	uint8_t image[1024];

	start_with(f, false, 1);
	fill(f, DATA, 1024, 9);
	/* An OUT header (type 1, sector 2) split into 3 + 13, the last of which runs into the data.
	 */
	memset(f->rig.ram + HEADER, 0, 3);
	f->rig.ram[HEADER] = T_OUT;
	memset(f->rig.ram + DATA - 13, 0, 13);
	f->rig.ram[DATA - 13 + 5] = 2;
	drv_desc(d, 0, 0, HEADER, 3, DESC_NEXT, 1);
	drv_desc(d, 0, 1, DATA - 13, 13 + 1024, DESC_NEXT, 2);
	drv_desc(d, 0, 2, STATUS, 1, DESC_WRITE, 0);
	f->rig.ram[STATUS] = 0xee;
	drv_offer(d, 0, 0);
	drv_notify(d, 0);
	drv_wait(d, 0, NULL);
	assert_int_equal(f->rig.ram[STATUS], 0);
	image_read(f, 1024, image, 1024);
	assert_memory_equal(image, f->rig.ram + DATA, 1024);
	/* An IN request whose status follows the data in one descriptor. */
	f->rig.ram[HEADER] = T_IN;
	memset(f->rig.ram + HEADER, 0, 16);
	f->rig.ram[HEADER + 8] = 2;
	drv_desc(d, 0, 0, HEADER, 16, DESC_NEXT, 1);
	drv_desc(d, 0, 1, MIB(5), 1025, DESC_WRITE, 0);
	f->rig.ram[MIB(5) + 1024] = 0xee;
	drv_offer(d, 0, 0);
	drv_notify(d, 0);
	assert_int_equal(drv_wait(d, 0, NULL), 1025);
	assert_int_equal(f->rig.ram[MIB(5) + 1024], 0);
	assert_memory_equal(f->rig.ram + MIB(5), image, 1024);
	end(f);
}

static void headless_request_breaks(void **state)
{
	struct fixture *f = new_fixture(false);

	start_with(f, false, 1);
	drv_desc(&f->d, 0, 0, HEADER, 15, DESC_NEXT, 1);
	drv_desc(&f->d, 0, 1, STATUS, 1, DESC_WRITE, 0);
	drv_offer(&f->d, 0, 0);
	drv_notify(&f->d, 0);
	assert_true(drv_broken(&f->d));
	assert_int_equal(drv_used_idx(&f->d, 0), 0);
	assert_int_equal(f->rig.msi[0], 1);
	/* A reset mends it. */
	drv_begin(&f->d, &f->rig, 3, BASE_FEATURES);
	drv_queue(&f->d, 0, 64, RINGS);
	drv_ready(&f->d);
	assert_int_equal(request(f, 0, T_IN, 0, DATA, 512, true), 0);
	end(f);
}

/* 16 requests of 32 KiB in flight, on two queues, when the driver resets the device. */
static void reset_waits_for_requests(void **state)
{
	struct fixture *f = new_fixture(true);
	struct drv *d = &f->d;
	uint8_t *copy = malloc(MIB(1));

	start_with(f, false, 2);
	memset(f->rig.ram + HEADER, 0, 16);
	for (unsigned i = 0; i < 16; i++) {
		unsigned q = i % 2, base = i / 2 * 3;

		drv_desc(d, q, base, HEADER, 16, DESC_NEXT, base + 1);
		drv_desc(d, q, base + 1, DATA + i * KIB(32), KIB(32), DESC_NEXT | DESC_WRITE,
			 base + 2);
		drv_desc(d, q, base + 2, STATUS + i, 1, DESC_WRITE, 0);
		drv_offer(d, q, base);
	}
	drv_notify(d, 0);
	drv_notify(d, 1);
	common_set(d, C_STATUS, 0, 1);
	for (int i = 0; common_get(d, C_STATUS, 1); i++) {
		assert_true(i < 100000);
		usleep(10);
	}
	/* From now on the memory is the driver's: nothing stores to it. */
	memset(f->rig.ram + DATA, 0x77, KIB(512));
	memcpy(copy, f->rig.ram + RINGS, MIB(1));
	usleep(20000);
	for (unsigned i = 0; i < KIB(512); i++)
		assert_int_equal(f->rig.ram[DATA + i], 0x77);
	assert_memory_equal(f->rig.ram + RINGS, copy, MIB(1));
	drv_begin(d, &f->rig, 3, BASE_FEATURES);
	drv_queue(d, 0, 64, RINGS);
	drv_ready(d);
	assert_int_equal(request(f, 0, T_IN, 0, DATA, 512, true), 0);
	free(copy);
	end(f);
}

static void many_queues(void **state)
{
	struct fixture *f = new_fixture(false);

	start_with(f, false, 4);
	assert_int_equal(mmio_read(&f->rig, f->d.config + 34, 2), 4);
	for (unsigned i = 0; i < 400; i++) {
		fill(f, DATA, 512, i);
		assert_int_equal(request(f, i % 4, T_OUT, i, DATA, 512, false), 0);
		assert_int_equal(request(f, (i + 1) % 4, T_IN, i, MIB(5), 512, true), 0);
		assert_memory_equal(f->rig.ram + DATA, f->rig.ram + MIB(5), 512);
	}
	end(f);
}

static void bad_disks_are_refused(void **state)
{
	struct fixture *f = new_fixture(false);
	struct virtio_blk_params p = {.path = "/nonexistent/disk", .nqueues = 1};
	struct rig *rig = &f->rig;

	rig_init(rig);
	assert_int_equal(virtio_blk_create(rig->host, 3, &rig->gm, rig->loop, &p), -ENOENT);
	p.path = "/dev/null";
	assert_int_equal(virtio_blk_create(rig->host, 3, &rig->gm, rig->loop, &p), -EINVAL);
	assert_int_equal(truncate(f->path, 511), 0);
	p.path = f->path;
	assert_int_equal(virtio_blk_create(rig->host, 3, &rig->gm, rig->loop, &p), -EINVAL);
	assert_int_equal(truncate(f->path, 512), 0);
	assert_int_equal(virtio_blk_create(rig->host, 3, &rig->gm, rig->loop, &p), 0);
	assert_int_equal(virtio_blk_create(rig->host, 4, &rig->gm, rig->loop, &p), -EBUSY);
	p.readonly = true;
	assert_int_equal(virtio_blk_create(rig->host, 4, &rig->gm, rig->loop, &p), -EBUSY);
	end(f);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(by_uring),
		cmocka_unit_test(by_threads),
		cmocka_unit_test(tells_its_geometry),
		cmocka_unit_test(refuses_out_of_range),
		cmocka_unit_test(readonly_refuses_writes),
		cmocka_unit_test(discards_and_zeroes),
		cmocka_unit_test(takes_any_layout),
		cmocka_unit_test(headless_request_breaks),
		cmocka_unit_test(reset_waits_for_requests),
		cmocka_unit_test(many_queues),
		cmocka_unit_test(bad_disks_are_refused),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
