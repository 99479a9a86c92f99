/*
 * A guest's side of virtio-pci for unit tests: 16 MiB of memory, a bus with a PCI host bridge, and
 * a driver that finds a device's capabilities, negotiates and works its queues, by bus accesses.
 */
#ifndef TESTS_VIRTIO_DRIVER_H
#define TESTS_VIRTIO_DRIVER_H

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <sys/mman.h>
#include <unistd.h>

#include <cmocka.h>

#include "src/base/atomic.h"
#include "src/base/evloop.h"
#include "src/base/rcu.h"
#include "src/dev/bus.h"
#include "src/dev/pci.h"
#include "src/dev/virtio.h"

#define RIG_RAM	 MIB(16)
#define RIG_ECAM 0xb0000000ull
#define RIG_MSI	 0xfee00000ull

struct rig {
	struct gmem gm;
	uint8_t *ram;
	struct bus *bus;
	struct pci_host *host;
	struct clock clk;
	struct evloop *loop;
	bool intx[4];
	uint32_t msi[64]; /* atomic: messages by data */
};

static inline void rig_set_intx(void *opaque, unsigned n, bool level)
{
	((struct rig *)opaque)->intx[n - 16] = level;
}

static inline void rig_send_msi(void *opaque, uint64_t addr, uint32_t data)
{
	struct rig *rig = opaque;

	assert_int_equal(addr, RIG_MSI);
	assert_in_range(data, 0, 63);
	atomic_fetch_add_seq(&rig->msi[data], 1);
}

static inline void rig_init(struct rig *rig)
{
	const struct pci_layout layout = {
		.ecam_base = RIG_ECAM,
		.mmio32_base = 0xc0000000,
		.mmio32_size = 0x3ec00000,
		.mmio64_base = GIB(64),
		.mmio64_size = GIB(1),
	};
	struct msi_sink msi = {rig_send_msi, rig};
	struct memslot slot = {.size = RIG_RAM / 2};
	struct irq_line intx[4];

	memset(rig, 0, sizeof(*rig));
	rcu_thread_init();
	for (unsigned i = 0; i < 4; i++)
		intx[i] = (struct irq_line){rig_set_intx, rig, 16 + i};
	rig->ram = mmap(NULL, RIG_RAM, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
	assert_true(rig->ram != MAP_FAILED);
	assert_int_equal(gmem_init(&rig->gm), 0);
	/* Two slots side by side, as two guest nodes have. */
	slot.hva = (hva_t)rig->ram;
	assert_int_equal(gmem_add_slot(&rig->gm, &slot), 0);
	slot.gpa = RIG_RAM / 2;
	slot.hva = (hva_t)rig->ram + RIG_RAM / 2;
	assert_int_equal(gmem_add_slot(&rig->gm, &slot), 0);
	assert_int_equal(bus_create(&rig->bus), 0);
	assert_int_equal(pci_host_create(&rig->host, rig->bus, &layout, intx, &msi), 0);
	clock_init_host(&rig->clk);
	assert_int_equal(evloop_create(&rig->loop, &rig->clk), 0);
}

static inline void rig_fini(struct rig *rig)
{
	evloop_stop(rig->loop);
	pci_host_destroy(rig->host);
	evloop_destroy(rig->loop);
	bus_destroy(rig->bus);
	gmem_fini(&rig->gm);
	munmap(rig->ram, RIG_RAM);
	rcu_thread_exit();
}

static inline uint64_t mmio_read(struct rig *rig, uint64_t addr, unsigned len)
{
	uint64_t v = 0;

	bus_read(rig->bus, BUS_MMIO, addr, &v, len);
	return v;
}

static inline void mmio_write(struct rig *rig, uint64_t addr, uint64_t v, unsigned len)
{
	bus_write(rig->bus, BUS_MMIO, addr, &v, len);
}

static inline uint64_t cfg_addr(unsigned slot, unsigned off)
{
	return RIG_ECAM + (slot << 15) + off;
}

static inline uint32_t cfg_read(struct rig *rig, unsigned slot, unsigned off, unsigned len)
{
	return mmio_read(rig, cfg_addr(slot, off), len);
}

static inline void cfg_write(struct rig *rig, unsigned slot, unsigned off, uint32_t v, unsigned len)
{
	mmio_write(rig, cfg_addr(slot, off), v, len);
}

/* --- the driver --- */

#define DRV_QUEUES 4

struct drv_queue {
	unsigned size;
	gpa_t desc, avail, used;
	uint16_t last_used;
};

struct drv {
	struct rig *rig;
	unsigned slot;
	uint64_t common, notify, isr, config; /* bus addresses */
	unsigned cfg_cap;
	uint64_t msix_table;
	struct drv_queue q[DRV_QUEUES];
};

#define DESC_NEXT     1
#define DESC_WRITE    2
#define DESC_INDIRECT 4

/* Offsets in the common configuration. */
enum {
	C_DEVICE_FEATURE_SELECT = 0,
	C_DEVICE_FEATURE = 4,
	C_DRIVER_FEATURE_SELECT = 8,
	C_DRIVER_FEATURE = 12,
	C_CONFIG_VECTOR = 16,
	C_NUM_QUEUES = 18,
	C_STATUS = 20,
	C_QUEUE_SELECT = 22,
	C_QUEUE_SIZE = 24,
	C_QUEUE_VECTOR = 26,
	C_QUEUE_ENABLE = 28,
	C_QUEUE_DESC = 32,
	C_QUEUE_DRIVER = 40,
	C_QUEUE_DEVICE = 48,
};

static inline uint32_t common_get(struct drv *d, unsigned off, unsigned len)
{
	return mmio_read(d->rig, d->common + off, len);
}

static inline void common_set(struct drv *d, unsigned off, uint64_t v, unsigned len)
{
	mmio_write(d->rig, d->common + off, v, len);
}

static inline uint64_t drv_bar(struct drv *d, unsigned bar)
{
	uint64_t lo = cfg_read(d->rig, d->slot, PCI_BAR0 + 4 * bar, 4);
	uint64_t hi = cfg_read(d->rig, d->slot, PCI_BAR0 + 4 * bar + 4, 4);

	return hi << 32 | (lo & ~0xfull);
}

static inline void drv_find_caps(struct drv *d)
{
	unsigned cap = cfg_read(d->rig, d->slot, PCI_CAP_POINTER, 1);

	for (; cap; cap = cfg_read(d->rig, d->slot, cap + 1, 1)) {
		unsigned id = cfg_read(d->rig, d->slot, cap, 1);
		uint64_t at;

		if (id == PCI_CAP_MSIX) {
			uint32_t table = cfg_read(d->rig, d->slot, cap + 4, 4);

			d->msix_table = drv_bar(d, table & 7) + (table & ~7u);
			cfg_write(d->rig, d->slot, cap + 2, 0x8000, 2);
		}
		if (id != PCI_CAP_VENDOR)
			continue;
		at = drv_bar(d, cfg_read(d->rig, d->slot, cap + 4, 1)) +
		     cfg_read(d->rig, d->slot, cap + 8, 4);
		switch (cfg_read(d->rig, d->slot, cap + 3, 1)) {
		case 1: d->common = at; break;
		case 2: d->notify = at; break;
		case 3: d->isr = at; break;
		case 4: d->config = at; break;
		case 5: d->cfg_cap = cap; break;
		}
	}
	assert_true(d->common && d->notify && d->isr && d->cfg_cap && d->msix_table);
}

static inline void drv_set_msix(struct drv *d, unsigned vector, uint32_t data)
{
	mmio_write(d->rig, d->msix_table + 16 * vector, RIG_MSI, 8);
	mmio_write(d->rig, d->msix_table + 16 * vector + 8, data, 4);
	mmio_write(d->rig, d->msix_table + 16 * vector + 12, 0, 4);
}

static inline uint64_t drv_offered(struct drv *d)
{
	uint64_t v;

	common_set(d, C_DEVICE_FEATURE_SELECT, 1, 4);
	v = (uint64_t)common_get(d, C_DEVICE_FEATURE, 4) << 32;
	common_set(d, C_DEVICE_FEATURE_SELECT, 0, 4);
	return v | common_get(d, C_DEVICE_FEATURE, 4);
}

/* Up to FEATURES_OK. Vector 0 (data 0) is configuration changes. Returns the status. */
static inline uint8_t drv_begin(struct drv *d, struct rig *rig, unsigned slot, uint64_t features)
{
	memset(d, 0, sizeof(*d));
	d->rig = rig;
	d->slot = slot;
	cfg_write(rig, slot, PCI_COMMAND, PCI_COMMAND_MEMORY | PCI_COMMAND_MASTER, 2);
	drv_find_caps(d);
	common_set(d, C_STATUS, 0, 1);
	assert_int_equal(common_get(d, C_STATUS, 1), 0);
	common_set(d, C_STATUS, 1, 1);
	common_set(d, C_STATUS, 3, 1);
	common_set(d, C_DRIVER_FEATURE_SELECT, 0, 4);
	common_set(d, C_DRIVER_FEATURE, (uint32_t)features, 4);
	common_set(d, C_DRIVER_FEATURE_SELECT, 1, 4);
	common_set(d, C_DRIVER_FEATURE, features >> 32, 4);
	common_set(d, C_STATUS, 11, 1);
	drv_set_msix(d, 0, 0);
	common_set(d, C_CONFIG_VECTOR, 0, 2);
	return common_get(d, C_STATUS, 1);
}

/* Rings of queue n at guest address at; vector n + 1 with that data. */
static inline void drv_queue(struct drv *d, unsigned n, unsigned size, gpa_t at)
{
	struct drv_queue *q = &d->q[n];

	*q = (struct drv_queue){.size = size, .desc = at};
	q->avail = at + 16 * size;
	q->used = ALIGN_UP(q->avail + 2 * size + 6, 64);
	memset(d->rig->ram + at, 0, q->used + 8 * size + 6 - at);
	drv_set_msix(d, n + 1, n + 1);
	common_set(d, C_QUEUE_SELECT, n, 2);
	common_set(d, C_QUEUE_SIZE, size, 2);
	common_set(d, C_QUEUE_VECTOR, n + 1, 2);
	common_set(d, C_QUEUE_DESC, q->desc, 8);
	common_set(d, C_QUEUE_DRIVER, (uint32_t)q->avail, 4);
	common_set(d, C_QUEUE_DRIVER + 4, q->avail >> 32, 4);
	common_set(d, C_QUEUE_DEVICE, q->used, 8);
	common_set(d, C_QUEUE_ENABLE, 1, 2);
}

static inline void drv_ready(struct drv *d)
{
	common_set(d, C_STATUS, 15, 1);
}

static inline void drv_desc(struct drv *d, unsigned n, unsigned i, gpa_t addr, uint32_t len,
			    uint16_t flags, uint16_t next)
{
	uint8_t *p = d->rig->ram + d->q[n].desc + 16 * i;

	memcpy(p, &addr, 8);
	memcpy(p + 8, &len, 4);
	memcpy(p + 12, &flags, 2);
	memcpy(p + 14, &next, 2);
}

static inline uint16_t *ram16(struct drv *d, gpa_t a)
{
	return (uint16_t *)(d->rig->ram + a);
}

/* Puts a chain into the available ring, without notification. */
static inline void drv_offer(struct drv *d, unsigned n, uint16_t head)
{
	struct drv_queue *q = &d->q[n];
	uint16_t idx = *ram16(d, q->avail + 2);

	*ram16(d, q->avail + 4 + 2 * (idx % q->size)) = head;
	atomic_store_release(ram16(d, q->avail + 2), (uint16_t)(idx + 1));
}

static inline void drv_notify(struct drv *d, unsigned n)
{
	mmio_write(d->rig, d->notify + 4 * n, n, 2);
}

static inline uint16_t drv_used_idx(struct drv *d, unsigned n)
{
	return atomic_load_acquire(ram16(d, d->q[n].used + 2));
}

/* Waits up to 10 s for the next used entry; returns its length and optionally its id. */
static inline uint32_t drv_wait(struct drv *d, unsigned n, uint32_t *id)
{
	struct drv_queue *q = &d->q[n];
	uint32_t *e;

	for (int i = 0; drv_used_idx(d, n) == q->last_used; i++) {
		assert_true(i < 100000);
		usleep(100);
	}
	e = (uint32_t *)(d->rig->ram + q->used + 4 + 8 * (q->last_used % q->size));
	q->last_used++;
	if (id)
		*id = e[0];
	return e[1];
}

static inline bool drv_broken(struct drv *d)
{
	return common_get(d, C_STATUS, 1) & VIRTIO_STATUS_NEEDS_RESET;
}

#endif
