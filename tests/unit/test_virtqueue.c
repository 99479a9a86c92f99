#include "tests/unit/virtio_driver.h"

#define RINGS MIB(1)
#define DATA  MIB(2)
#define TABLE MIB(3)
#define ALL   (VIRTIO_F_VERSION_1 | VIRTIO_F_EVENT_IDX | VIRTIO_F_INDIRECT_DESC)
#define QSIZE 8

/* A device that copies what it reads to what it writes, or holds on to the chains. */
struct echo {
	struct virtio_device vdev;
	bool hold;
	struct virtq_elem *held[256];
	unsigned nheld;
	unsigned popped;
	unsigned last_nread, last_nwrite;
};

static void echo_push(struct virtqueue *vq, struct virtq_elem *e)
{
	uint8_t buf[4096];
	size_t n = iov_to_buf(e->iov, e->nread, 0, buf, sizeof(buf));

	n = iov_from_buf(e->iov + e->nread, e->nwrite, 0, buf, n);
	virtqueue_push(vq, e, n);
	virtqueue_interrupt(vq);
}

static void echo_notify(struct virtio_device *vdev, unsigned q)
{
	struct echo *echo = container_of(vdev, struct echo, vdev);
	struct virtqueue *vq = &vdev->vqs[q];
	struct virtq_elem *e;

	pthread_mutex_lock(&vq->lock);
	while (virtqueue_pop(vq, sizeof(*e), &e) == 1) {
		echo->popped++;
		echo->last_nread = e->nread;
		echo->last_nwrite = e->nwrite;
		if (echo->hold)
			echo->held[echo->nheld++] = e;
		else
			echo_push(vq, e);
	}
	pthread_mutex_unlock(&vq->lock);
}

static void echo_drain(struct virtio_device *vdev)
{
	struct echo *echo = container_of(vdev, struct echo, vdev);

	pthread_mutex_lock(&vdev->vqs[0].lock);
	while (echo->nheld)
		echo_push(&vdev->vqs[0], echo->held[--echo->nheld]);
	pthread_mutex_unlock(&vdev->vqs[0].lock);
}

static void echo_destroy(struct virtio_device *vdev)
{
	virtio_pci_fini(vdev);
}

static const struct virtio_ops echo_ops = {
	.name = "echo",
	.notify = echo_notify,
	.drain = echo_drain,
	.destroy = echo_destroy,
};

struct fixture {
	struct rig rig;
	struct echo echo;
	struct drv d;
};

static void setup_with(struct fixture *f, uint64_t features, unsigned size)
{
	memset(f, 0, sizeof(*f));
	rig_init(&f->rig);
	f->echo.vdev.ops = &echo_ops;
	f->echo.vdev.gm = &f->rig.gm;
	f->echo.vdev.id = 30;
	f->echo.vdev.nvqs = 2;
	f->echo.vdev.vq_size = 256;
	assert_int_equal(virtio_pci_create(&f->echo.vdev, f->rig.host, 4), 0);
	assert_int_equal(drv_begin(&f->d, &f->rig, 4, features), 11);
	drv_queue(&f->d, 0, size, RINGS);
	drv_ready(&f->d);
}

static void setup(struct fixture *f)
{
	setup_with(f, ALL, QSIZE);
}

static void teardown(struct fixture *f)
{
	rig_fini(&f->rig);
}

/* in -> out, through descriptors a and a + 1. */
static void offer_echo(struct fixture *f, unsigned a)
{
	drv_desc(&f->d, 0, a, DATA, 16, DESC_NEXT, a + 1);
	drv_desc(&f->d, 0, a + 1, DATA + 64, 16, DESC_WRITE, 0);
	drv_offer(&f->d, 0, a);
}

static void check_echo(struct fixture *f, unsigned seed)
{
	uint32_t id;

	memset(f->rig.ram + DATA, seed, 16);
	memset(f->rig.ram + DATA + 64, 0, 16);
	offer_echo(f, 2);
	drv_notify(&f->d, 0);
	assert_int_equal(drv_wait(&f->d, 0, &id), 16);
	assert_int_equal(id, 2);
	assert_memory_equal(f->rig.ram + DATA, f->rig.ram + DATA + 64, 16);
}

static void echoes(void **state)
{
	struct fixture f;

	setup(&f);
	check_echo(&f, 0x41);
	assert_int_equal(f.rig.msi[1], 1);
	assert_int_equal(f.rig.msi[0], 0);
	assert_false(drv_broken(&f.d));
	/* Writing both flags of an indirect table's last descriptor is the plain case of two. */
	drv_desc(&f.d, 0, 5, TABLE, 32, DESC_INDIRECT, 0);
	memset(f.rig.ram + DATA, 0x66, 16);
	memcpy(f.rig.ram + TABLE, f.rig.ram + f.d.q[0].desc + 2 * 16, 32);
	*ram16(&f.d, TABLE + 14) = 1; /* next: inside of the table */
	drv_offer(&f.d, 0, 5);
	drv_notify(&f.d, 0);
	assert_int_equal(drv_wait(&f.d, 0, NULL), 16);
	assert_int_equal(f.rig.ram[DATA + 64 + 15], 0x66);
	teardown(&f);
}

/* Direct descriptors, then an indirect one at the end of the chain (2.7.5.3.2). */
static void indirect_may_follow_direct(void **state)
{
	struct fixture f;

	setup(&f);
	memset(f.rig.ram + DATA, 0x33, 8);
	drv_desc(&f.d, 0, 0, DATA, 8, DESC_NEXT, 1);
	drv_desc(&f.d, 0, 1, TABLE, 16, DESC_INDIRECT | DESC_WRITE, 0);
	memcpy(f.rig.ram + TABLE, &(uint64_t[]){DATA + 64, 8 | (uint64_t)DESC_WRITE << 32}, 16);
	drv_offer(&f.d, 0, 0);
	drv_notify(&f.d, 0);
	assert_int_equal(drv_wait(&f.d, 0, NULL), 8);
	assert_int_equal(f.rig.ram[DATA + 64 + 7], 0x33);
	teardown(&f);
}

static void long_indirect_tables_are_taken(void **state)
{
	struct fixture f;

	setup(&f);
	for (unsigned i = 0; i < 300; i++) {
		uint64_t d[2] = {DATA + i, 1 | (uint64_t)(i < 299 ? DESC_NEXT : 0) << 32 |
						   (uint64_t)(i + 1) << 48};

		memcpy(f.rig.ram + TABLE + 16 * i, d, 16);
	}
	drv_desc(&f.d, 0, 0, TABLE, 300 * 16, DESC_INDIRECT, 0);
	drv_offer(&f.d, 0, 0);
	drv_notify(&f.d, 0);
	drv_wait(&f.d, 0, NULL);
	assert_int_equal(f.echo.last_nread, 300);
	teardown(&f);
}

static void a_buffer_may_span_slots(void **state)
{
	struct fixture f;
	gpa_t across = RIG_RAM / 2 - 100;

	setup(&f);
	memset(f.rig.ram + across, 0x21, 200);
	drv_desc(&f.d, 0, 0, across, 200, DESC_NEXT, 1);
	drv_desc(&f.d, 0, 1, DATA, 200, DESC_WRITE, 0);
	drv_offer(&f.d, 0, 0);
	drv_notify(&f.d, 0);
	assert_int_equal(drv_wait(&f.d, 0, NULL), 200);
	assert_int_equal(f.echo.last_nread, 2);
	assert_memory_equal(f.rig.ram + DATA, f.rig.ram + across, 200);
	teardown(&f);
}

/* Nothing is used, the status says so, the driver got one configuration interrupt, a reset mends.
 */
static void expect_broken(struct fixture *f)
{
	unsigned popped = f->echo.popped;
	uint16_t used = drv_used_idx(&f->d, 0);

	drv_notify(&f->d, 0);
	assert_true(drv_broken(&f->d));
	assert_int_equal(f->echo.popped, popped);
	assert_int_equal(drv_used_idx(&f->d, 0), used);
	assert_int_equal(f->rig.msi[0], 1);
	/* Good chains are not looked at any more. */
	offer_echo(f, 2);
	drv_notify(&f->d, 0);
	assert_int_equal(f->echo.popped, popped);
	assert_int_equal(f->rig.msi[0], 1);
	/* The driver cannot clear the bit but by a reset. */
	common_set(&f->d, C_STATUS, 15, 1);
	assert_true(drv_broken(&f->d));
	assert_int_equal(drv_begin(&f->d, &f->rig, 4, ALL), 11);
	drv_queue(&f->d, 0, QSIZE, RINGS);
	drv_ready(&f->d);
	check_echo(f, 0x99);
	teardown(f);
}

static void broken_by_head_out_of_range(void **state)
{
	struct fixture f;

	setup(&f);
	drv_offer(&f.d, 0, QSIZE);
	expect_broken(&f);
}

static void broken_by_next_out_of_range(void **state)
{
	struct fixture f;

	setup(&f);
	drv_desc(&f.d, 0, 0, DATA, 16, DESC_NEXT, QSIZE);
	drv_offer(&f.d, 0, 0);
	expect_broken(&f);
}

static void broken_by_loop(void **state)
{
	struct fixture f;

	setup(&f);
	drv_desc(&f.d, 0, 0, DATA, 16, DESC_NEXT, 1);
	drv_desc(&f.d, 0, 1, DATA, 16, DESC_NEXT, 0);
	drv_offer(&f.d, 0, 0);
	expect_broken(&f);
}

static void broken_by_self_loop(void **state)
{
	struct fixture f;

	setup(&f);
	drv_desc(&f.d, 0, 7, DATA, 16, DESC_NEXT, 7);
	drv_offer(&f.d, 0, 7);
	expect_broken(&f);
}

static void broken_by_avail_jump(void **state)
{
	struct fixture f;

	setup(&f);
	*ram16(&f.d, f.d.q[0].avail + 2) = QSIZE + 1;
	expect_broken(&f);
}

static void broken_by_avail_going_back(void **state)
{
	struct fixture f;

	setup(&f);
	check_echo(&f, 1);
	*ram16(&f.d, f.d.q[0].avail + 2) = 0;
	expect_broken(&f);
}

static void bad_buffer(uint64_t addr, uint32_t len, uint16_t flags)
{
	struct fixture f;

	setup(&f);
	drv_desc(&f.d, 0, 0, addr, len, flags, 0);
	drv_offer(&f.d, 0, 0);
	expect_broken(&f);
}

static void broken_by_buffer_outside(void **state)
{
	bad_buffer(RIG_RAM, 1, 0);
	bad_buffer(RIG_RAM - 8, 16, DESC_WRITE);
	bad_buffer(UINT64_MAX - 7, 16, 0);
	bad_buffer(UINT64_MAX, UINT32_MAX, DESC_WRITE);
	bad_buffer(0xfee00000, 4, DESC_WRITE);
}

static void broken_by_empty_buffer(void **state)
{
	bad_buffer(DATA, 0, 0);
}

static void broken_by_bad_indirect_table(void **state)
{
	bad_buffer(TABLE, 0, DESC_INDIRECT);
	bad_buffer(TABLE, 24, DESC_INDIRECT);
	bad_buffer(RIG_RAM - 16, 32, DESC_INDIRECT);
	bad_buffer(TABLE + 4, 16, DESC_INDIRECT);
	bad_buffer(TABLE, 16, DESC_INDIRECT | DESC_NEXT);
}

static void broken_by_order(void **state)
{
	struct fixture f;

	setup(&f);
	drv_desc(&f.d, 0, 0, DATA, 16, DESC_NEXT | DESC_WRITE, 1);
	drv_desc(&f.d, 0, 1, DATA, 16, 0, 0);
	drv_offer(&f.d, 0, 0);
	expect_broken(&f);
}

static void indirect_entry(uint64_t addr, uint32_t len, uint16_t flags, uint16_t next)
{
	struct fixture f;
	uint64_t d[2] = {addr, len | (uint64_t)flags << 32 | (uint64_t)next << 48};

	setup(&f);
	memcpy(f.rig.ram + TABLE, d, 16);
	memset(f.rig.ram + TABLE + 16, 0, 16);
	drv_desc(&f.d, 0, 0, TABLE, 32, DESC_INDIRECT, 0);
	drv_offer(&f.d, 0, 0);
	expect_broken(&f);
}

static void broken_inside_indirect(void **state)
{
	indirect_entry(TABLE, 32, DESC_INDIRECT, 0); /* nested */
	indirect_entry(DATA, 4, DESC_NEXT, 2);	     /* next out of the table */
	indirect_entry(DATA, 4, DESC_NEXT, 0);	     /* loop */
	indirect_entry(RIG_RAM, 4, 0, 0);
}

static void broken_by_indirect_not_negotiated(void **state)
{
	struct fixture f;

	setup_with(&f, VIRTIO_F_VERSION_1, QSIZE);
	drv_desc(&f.d, 0, 0, TABLE, 16, DESC_INDIRECT, 0);
	memcpy(f.rig.ram + TABLE, &(uint64_t[]){DATA, 8}, 16);
	drv_offer(&f.d, 0, 0);
	expect_broken(&f);
}

/* The same head again and again, each before the last was used. */
static void broken_by_too_many_in_flight(void **state)
{
	struct fixture f;

	setup(&f);
	f.echo.hold = true;
	drv_desc(&f.d, 0, 0, DATA, 16, 0, 0);
	for (unsigned i = 0; i < QSIZE; i++)
		drv_offer(&f.d, 0, 0);
	drv_notify(&f.d, 0);
	assert_int_equal(f.echo.nheld, QSIZE);
	assert_false(drv_broken(&f.d));
	drv_offer(&f.d, 0, 0);
	f.echo.hold = false;
	drv_notify(&f.d, 0);
	assert_true(drv_broken(&f.d));
	/* What was in flight completes without being seen. */
	echo_drain(&f.echo.vdev);
	assert_int_equal(drv_used_idx(&f.d, 0), 0);
	expect_broken(&f);
}

static void bad_ring(unsigned field, uint64_t addr)
{
	struct fixture f;

	setup(&f);
	drv_begin(&f.d, &f.rig, 4, ALL);
	drv_queue(&f.d, 0, QSIZE, RINGS);
	common_set(&f.d, C_QUEUE_SELECT, 1, 2);
	common_set(&f.d, C_QUEUE_SIZE, QSIZE, 2);
	common_set(&f.d, C_QUEUE_DESC, RINGS + KIB(64), 8);
	common_set(&f.d, C_QUEUE_DRIVER, RINGS + KIB(65), 8);
	common_set(&f.d, C_QUEUE_DEVICE, RINGS + KIB(66), 8);
	common_set(&f.d, field, addr, 8);
	common_set(&f.d, C_QUEUE_ENABLE, 1, 2);
	assert_true(drv_broken(&f.d));
	assert_int_equal(common_get(&f.d, C_QUEUE_ENABLE, 2), 0);
	teardown(&f);
}

static void broken_by_ring_address(void **state)
{
	for (unsigned field = C_QUEUE_DESC; field <= C_QUEUE_DEVICE; field += 8) {
		bad_ring(field, 0);
		bad_ring(field, DATA + 1);
		bad_ring(field, RIG_RAM - 16);
		bad_ring(field, UINT64_MAX & ~15ull);
	}
}

/* Interrupts by used_event across the wrap of the 16-bit indices. */
static void event_index_wraps(void **state)
{
	struct fixture f;
	uint16_t *used_event, *avail_event;

	setup(&f);
	used_event = ram16(&f.d, f.d.q[0].avail + 4 + 2 * QSIZE);
	avail_event = ram16(&f.d, f.d.q[0].used + 4 + 8 * QSIZE);
	for (unsigned i = 0; i < 65530; i++) {
		*used_event = i + 100; /* far ahead: no interrupt */
		offer_echo(&f, 0);
		drv_notify(&f.d, 0);
		f.d.q[0].last_used++;
	}
	assert_int_equal(drv_used_idx(&f.d, 0), 65530);
	assert_int_equal(*avail_event, 65530);
	assert_in_range(f.rig.msi[1], 0, 1); /* the first push is always told */
	f.rig.msi[1] = 0;
	/* Told when the index passes 65535, and only then. */
	*used_event = 65535;
	for (unsigned i = 65530; i < 65535; i++)
		check_echo(&f, i);
	assert_int_equal(f.rig.msi[1], 0);
	check_echo(&f, 7); /* index 65535 -> 0 */
	assert_int_equal(drv_used_idx(&f.d, 0), 0);
	assert_int_equal(f.rig.msi[1], 1);
	assert_int_equal(*avail_event, 0);
	/* The event lies behind: nothing. At 1: the second push from here. */
	check_echo(&f, 8);
	assert_int_equal(f.rig.msi[1], 1);
	*used_event = 1;
	check_echo(&f, 9);
	assert_int_equal(f.rig.msi[1], 2);
	assert_false(drv_broken(&f.d));
	teardown(&f);
}

static void flag_suppresses_interrupts(void **state)
{
	struct fixture f;

	setup_with(&f, VIRTIO_F_VERSION_1, QSIZE);
	check_echo(&f, 1);
	assert_int_equal(f.rig.msi[1], 1);
	*ram16(&f.d, f.d.q[0].avail) = 1;
	check_echo(&f, 2);
	assert_int_equal(f.rig.msi[1], 1);
	teardown(&f);
}

static void reset_waits_for_held_chains(void **state)
{
	struct fixture f;
	uint8_t *copy = malloc(KIB(64));

	setup(&f);
	f.echo.hold = true;
	offer_echo(&f, 0);
	drv_notify(&f.d, 0);
	assert_int_equal(f.echo.nheld, 1);
	common_set(&f.d, C_STATUS, 0, 1);
	assert_int_not_equal(common_get(&f.d, C_STATUS, 1), 0);
	/* Meanwhile the device is deaf. */
	common_set(&f.d, C_QUEUE_SELECT, 0, 2);
	common_set(&f.d, C_QUEUE_ENABLE, 1, 2);
	assert_int_equal(common_get(&f.d, C_QUEUE_ENABLE, 2), 0);
	memcpy(copy, f.rig.ram + RINGS, KIB(64));
	echo_drain(&f.echo.vdev);
	assert_memory_equal(copy, f.rig.ram + RINGS, KIB(64));
	assert_int_equal(f.rig.msi[1], 0);
	assert_int_equal(common_get(&f.d, C_STATUS, 1), 0);
	f.echo.hold = false;
	assert_int_equal(drv_begin(&f.d, &f.rig, 4, ALL), 11);
	drv_queue(&f.d, 0, QSIZE, RINGS);
	drv_ready(&f.d);
	check_echo(&f, 3);
	free(copy);
	teardown(&f);
}

static void negotiation(void **state)
{
	struct fixture f;

	setup(&f);
	assert_int_equal(drv_offered(&f.d), ALL);
	assert_int_equal(common_get(&f.d, C_NUM_QUEUES, 2), 2);
	/* Without VERSION_1, or with what was not offered, FEATURES_OK does not stick. */
	assert_int_equal(drv_begin(&f.d, &f.rig, 4, VIRTIO_F_EVENT_IDX), 3);
	assert_int_equal(drv_begin(&f.d, &f.rig, 4, ALL | 1), 3);
	common_set(&f.d, C_STATUS, 15, 1);
	assert_int_equal(common_get(&f.d, C_STATUS, 1), 3);
	assert_int_equal(drv_begin(&f.d, &f.rig, 4, ALL), 11);
	/* Frozen now. */
	common_set(&f.d, C_DRIVER_FEATURE_SELECT, 0, 4);
	common_set(&f.d, C_DRIVER_FEATURE, 0, 4);
	assert_int_equal(common_get(&f.d, C_DRIVER_FEATURE, 4), (uint32_t)ALL);
	/* Sizes and vectors. */
	common_set(&f.d, C_QUEUE_SELECT, 0, 2);
	assert_int_equal(common_get(&f.d, C_QUEUE_SIZE, 2), 256);
	common_set(&f.d, C_QUEUE_SIZE, 100, 2);
	common_set(&f.d, C_QUEUE_SIZE, 512, 2);
	common_set(&f.d, C_QUEUE_SIZE, 0, 2);
	assert_int_equal(common_get(&f.d, C_QUEUE_SIZE, 2), 256);
	common_set(&f.d, C_QUEUE_VECTOR, 3, 2);
	assert_int_equal(common_get(&f.d, C_QUEUE_VECTOR, 2), VIRTIO_NO_VECTOR);
	common_set(&f.d, C_QUEUE_VECTOR, 2, 2);
	assert_int_equal(common_get(&f.d, C_QUEUE_VECTOR, 2), 2);
	common_set(&f.d, C_QUEUE_SELECT, 2, 2);
	assert_int_equal(common_get(&f.d, C_QUEUE_SIZE, 2), 0);
	teardown(&f);
}

static void intx_without_msix(void **state)
{
	struct fixture f;
	unsigned cap, line = pci_intx_index(4, 0);

	setup(&f);
	for (cap = cfg_read(&f.rig, 4, PCI_CAP_POINTER, 1);
	     cfg_read(&f.rig, 4, cap, 1) != PCI_CAP_MSIX;)
		cap = cfg_read(&f.rig, 4, cap + 1, 1);
	cfg_write(&f.rig, 4, cap + 2, 0, 2);
	check_echo(&f, 1);
	assert_true(f.rig.intx[line]);
	assert_int_equal(mmio_read(&f.rig, f.d.isr, 1), 1);
	assert_false(f.rig.intx[line]);
	assert_int_equal(mmio_read(&f.rig, f.d.isr, 1), 0);
	drv_offer(&f.d, 0, QSIZE);
	drv_notify(&f.d, 0);
	assert_true(f.rig.intx[line]);
	assert_int_equal(mmio_read(&f.rig, f.d.isr, 1), 2);
	assert_int_equal(f.rig.msi[0] + f.rig.msi[1], 0);
	teardown(&f);
}

static void config_space_window(void **state)
{
	struct fixture f;
	unsigned cap;

	setup(&f);
	cap = f.d.cfg_cap;
	cfg_write(&f.rig, 4, cap + 4, 0, 1);
	cfg_write(&f.rig, 4, cap + 8, C_STATUS, 4);
	cfg_write(&f.rig, 4, cap + 12, 1, 4);
	assert_int_equal(cfg_read(&f.rig, 4, cap + 16, 1), 15);
	cfg_write(&f.rig, 4, cap + 8, C_QUEUE_SELECT, 4);
	cfg_write(&f.rig, 4, cap + 12, 2, 4);
	cfg_write(&f.rig, 4, cap + 16, 1, 2);
	assert_int_equal(common_get(&f.d, C_QUEUE_SELECT, 2), 1);
	/* Nonsense is ignored. */
	cfg_write(&f.rig, 4, cap + 12, 3, 4);
	cfg_write(&f.rig, 4, cap + 16, 0, 2);
	cfg_write(&f.rig, 4, cap + 12, 4, 4);
	cfg_write(&f.rig, 4, cap + 8, 0xfffffffc, 4);
	cfg_write(&f.rig, 4, cap + 16, 0, 4);
	cfg_write(&f.rig, 4, cap + 4, 9, 1);
	cfg_write(&f.rig, 4, cap + 16, 0, 4);
	assert_int_equal(common_get(&f.d, C_QUEUE_SELECT, 2), 1);
	teardown(&f);
}

/* Without the bus-master bit memory is the guest's alone, and no message is sent. */
static void memory_is_left_alone_without_bus_master(void **state)
{
	struct fixture f;

	setup(&f);
	check_echo(&f, 0x41);
	f.echo.hold = true;
	offer_echo(&f, 2);
	drv_notify(&f.d, 0);
	assert_int_equal(f.echo.nheld, 1);
	cfg_write(&f.rig, 4, PCI_COMMAND, PCI_COMMAND_MEMORY, 2);
	echo_drain(&f.echo.vdev);
	offer_echo(&f, 4);
	drv_notify(&f.d, 0);
	assert_int_equal(f.echo.nheld, 0);
	assert_int_equal(drv_used_idx(&f.d, 0), 1);
	virtio_config_changed(&f.echo.vdev);
	assert_int_equal(f.rig.msi[0], 0);
	assert_int_equal(f.rig.msi[1], 1);
	/* The message was kept back. */
	cfg_write(&f.rig, 4, PCI_COMMAND, PCI_COMMAND_MEMORY | PCI_COMMAND_MASTER, 2);
	assert_int_equal(f.rig.msi[0], 1);
	drv_notify(&f.d, 0);
	assert_int_equal(f.echo.nheld, 1);
	teardown(&f);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(echoes),
		cmocka_unit_test(indirect_may_follow_direct),
		cmocka_unit_test(long_indirect_tables_are_taken),
		cmocka_unit_test(a_buffer_may_span_slots),
		cmocka_unit_test(broken_by_head_out_of_range),
		cmocka_unit_test(broken_by_next_out_of_range),
		cmocka_unit_test(broken_by_loop),
		cmocka_unit_test(broken_by_self_loop),
		cmocka_unit_test(broken_by_avail_jump),
		cmocka_unit_test(broken_by_avail_going_back),
		cmocka_unit_test(broken_by_buffer_outside),
		cmocka_unit_test(broken_by_empty_buffer),
		cmocka_unit_test(broken_by_bad_indirect_table),
		cmocka_unit_test(broken_by_order),
		cmocka_unit_test(broken_inside_indirect),
		cmocka_unit_test(broken_by_indirect_not_negotiated),
		cmocka_unit_test(broken_by_too_many_in_flight),
		cmocka_unit_test(broken_by_ring_address),
		cmocka_unit_test(event_index_wraps),
		cmocka_unit_test(flag_suppresses_interrupts),
		cmocka_unit_test(reset_waits_for_held_chains),
		cmocka_unit_test(negotiation),
		cmocka_unit_test(intx_without_msix),
		cmocka_unit_test(config_space_window),
		cmocka_unit_test(memory_is_left_alone_without_bus_master),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
