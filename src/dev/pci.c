#include "src/dev/pci.h"

#include <stdlib.h>

#include "src/base/atomic.h"
#include "src/base/log.h"
#include "src/dev/pci_internal.h"

#define PCI_PORT_BASE 0xcf8
#define PCI_PORT_LEN  8

/* Low bits of a memory BAR: 64-bit, not prefetchable. */
#define BAR_FLAGS_64 0x4u

void pci_function_init(struct pci_function *fn, const struct pci_function_ops *ops,
		       const struct pci_id *id)
{
	memset(fn, 0, sizeof(*fn));
	fn->ops = ops;
	pci_put16(&fn->config[PCI_VENDOR_ID], id->vendor);
	pci_put16(&fn->config[PCI_DEVICE_ID], id->device);
	fn->config[PCI_REVISION] = id->revision;
	fn->config[PCI_CLASS] = id->class_code;
	fn->config[PCI_CLASS + 1] = id->class_code >> 8;
	fn->config[PCI_CLASS + 2] = id->class_code >> 16;
	pci_put16(&fn->config[PCI_SUBSYS_VENDOR], id->subsys_vendor);
	pci_put16(&fn->config[PCI_SUBSYS_ID], id->subsys);
	pci_put16(&fn->wmask[PCI_COMMAND],
		  PCI_COMMAND_MEMORY | PCI_COMMAND_MASTER | PCI_COMMAND_INTX_DISABLE);
	fn->wmask[0x0c] = 0xff; /* cache line size: a scratch register today */
	fn->wmask[PCI_IRQ_LINE] = 0xff;
	fn->cap_next = 0x40;
}

void pci_add_bar(struct pci_function *fn, unsigned index, uint64_t size, struct device *dev)
{
	uint8_t *reg = &fn->config[PCI_BAR0 + 4 * index];
	uint8_t *mask = &fn->wmask[PCI_BAR0 + 4 * index];

	BUG_ON(index + 1 >= PCI_BARS || size < PAGE_SIZE || (size & (size - 1)));
	fn->bar[index].size = size;
	fn->bar[index].dev = dev;
	pci_put32(reg, BAR_FLAGS_64);
	/* The address bits below the size are not there: that is how a guest finds the size. */
	pci_put32(mask, (uint32_t) ~(size - 1));
	pci_put32(mask + 4, (uint32_t)(~(size - 1) >> 32));
	pci_put16(&fn->config[PCI_COMMAND],
		  pci_get16(&fn->config[PCI_COMMAND]) | PCI_COMMAND_MEMORY);
}

unsigned pci_add_capability(struct pci_function *fn, uint8_t id, unsigned len)
{
	unsigned off = fn->cap_next;

	BUG_ON(off + len > PCI_CONFIG_SIZE);
	fn->config[off] = id;
	fn->config[off + 1] = 0;
	if (fn->cap_last)
		fn->config[fn->cap_last + 1] = off;
	else
		fn->config[PCI_CAP_POINTER] = off;
	pci_put16(&fn->config[PCI_STATUS], pci_get16(&fn->config[PCI_STATUS]) | PCI_STATUS_CAPS);
	fn->cap_last = off;
	fn->cap_next = ALIGN_UP(off + len, 4u);
	return off;
}

/* --- INTx --- */

static void intx_update_locked(struct pci_function *fn)
{
	struct pci_host *host = fn->host;
	unsigned line = pci_intx_index(fn->slot, 0);
	bool drive = fn->intx_level && !fn->intx_disable;

	if (drive == fn->intx_driven)
		return;
	fn->intx_driven = drive;
	host->intx_count[line] += drive ? 1 : -1;
	irq_set(&host->intx[line], host->intx_count[line] > 0);
}

void pci_set_intx(struct pci_function *fn, bool level)
{
	pthread_mutex_lock(&fn->host->intx_lock);
	fn->intx_level = level;
	intx_update_locked(fn);
	pthread_mutex_unlock(&fn->host->intx_lock);
}

/* --- BARs --- */

static uint64_t bar_address(const struct pci_function *fn, unsigned i)
{
	const uint8_t *reg = &fn->config[PCI_BAR0 + 4 * i];

	return (uint64_t)pci_get32(reg + 4) << 32 | (pci_get32(reg) & ~0xfu);
}

/* Brings the bus mapping of one BAR in line with its registers. */
static void bar_update_locked(struct pci_function *fn, unsigned i, bool decode)
{
	struct pci_bar *bar = &fn->bar[i];
	uint64_t addr = bar_address(fn, i);

	if (!bar->size || (bar->mapped && decode && bar->mapped_base == addr))
		return;
	if (bar->mapped) {
		bus_unmap(fn->host->bus, BUS_MMIO, bar->mapped_base);
		bar->mapped = false;
	}
	if (decode && addr) {
		bar->mapped_base = addr;
		bar->mapped = !bus_map(fn->host->bus, BUS_MMIO, addr, bar->size, bar->dev, 0);
	}
}

static void update_all_locked(struct pci_function *fn)
{
	uint16_t command = pci_get16(&fn->config[PCI_COMMAND]);

	for (unsigned i = 0; i < PCI_BARS; i++)
		bar_update_locked(fn, i, command & PCI_COMMAND_MEMORY);
	atomic_store_seq(&fn->bus_master, !!(command & PCI_COMMAND_MASTER));
	pthread_mutex_lock(&fn->host->intx_lock);
	fn->intx_disable = command & PCI_COMMAND_INTX_DISABLE;
	intx_update_locked(fn);
	pthread_mutex_unlock(&fn->host->intx_lock);
	if (fn->msix)
		pci_msix_control_changed(fn);
}

bool pci_bus_master(const struct pci_function *fn)
{
	return atomic_load_relaxed(&fn->bus_master);
}

static bool window_take(uint64_t *next, uint64_t base, uint64_t size, uint64_t want, uint64_t *addr)
{
	uint64_t a = ALIGN_UP(*next, want);

	if (a < base || a - base > size || want > size - (a - base))
		return false;
	*addr = a;
	*next = a + want;
	return true;
}

static int bar_assign(struct pci_host *host, struct pci_function *fn, unsigned i)
{
	const struct pci_layout *l = &host->layout;
	struct pci_bar *bar = &fn->bar[i];
	uint8_t *reg = &fn->config[PCI_BAR0 + 4 * i];

	if (!bar->size)
		return 0;
	if (!window_take(&host->next32, l->mmio32_base, l->mmio32_size, bar->size,
			 &bar->assigned) &&
	    !window_take(&host->next64, l->mmio64_base, l->mmio64_size, bar->size,
			 &bar->assigned)) {
		log_err("no address space left for PCI device %u", fn->slot);
		return -ENOSPC;
	}
	pci_put32(reg, (uint32_t)bar->assigned | BAR_FLAGS_64);
	pci_put32(reg + 4, bar->assigned >> 32);
	return 0;
}

bool pci_bar_access(struct pci_function *fn, unsigned i, uint64_t off, void *data, unsigned len,
		    bool write)
{
	struct pci_bar *bar = i < PCI_BARS ? &fn->bar[i] : NULL;

	if (!bar || off >= bar->size || len > bar->size - off)
		return false;
	if (write)
		bar->dev->ops->write(bar->dev, off, data, len);
	else
		bar->dev->ops->read(bar->dev, off, data, len);
	return true;
}

/* --- configuration space --- */

void pci_config_load(struct pci_function *fn, unsigned off, void *data, unsigned len)
{
	pthread_mutex_lock(&fn->host->lock);
	memcpy(data, &fn->config[off], len);
	pthread_mutex_unlock(&fn->host->lock);
}

void pci_config_store(struct pci_function *fn, unsigned off, const void *data, unsigned len)
{
	const uint8_t *src = data;

	pthread_mutex_lock(&fn->host->lock);
	for (unsigned i = 0; i < len; i++) {
		uint8_t mask = fn->wmask[off + i];

		fn->config[off + i] = (fn->config[off + i] & ~mask) | (src[i] & mask);
	}
	update_all_locked(fn);
	pthread_mutex_unlock(&fn->host->lock);
}

/* One access inside an aligned double word, or an ECAM access of 8 bytes. */
static void config_read(struct pci_host *host, unsigned slot_fn, unsigned off, void *data,
			unsigned len)
{
	struct pci_function *fn = slot_fn & 7 ? NULL : host->slot[slot_fn >> 3];

	if (!fn) {
		memset(data, 0xff, len);
		return;
	}
	if (off + len > PCI_CONFIG_SIZE) {
		memset(data, 0, len); /* no extended capabilities */
		return;
	}
	if (fn->ops->config_read && fn->ops->config_read(fn, off, data, len))
		return;
	pci_config_load(fn, off, data, len);
	if (off <= PCI_STATUS && off + len > PCI_STATUS) {
		pthread_mutex_lock(&host->intx_lock);
		if (fn->intx_level)
			((uint8_t *)data)[PCI_STATUS - off] |= PCI_STATUS_INTX;
		pthread_mutex_unlock(&host->intx_lock);
	}
}

static void config_write(struct pci_host *host, unsigned slot_fn, unsigned off, const void *data,
			 unsigned len)
{
	struct pci_function *fn = slot_fn & 7 ? NULL : host->slot[slot_fn >> 3];

	if (!fn || off + len > PCI_CONFIG_SIZE)
		return;
	if (fn->ops->config_write && fn->ops->config_write(fn, off, data, len))
		return;
	pci_config_store(fn, off, data, len);
}

/*
 * Configuration mechanism 1 (PCI Local Bus 3.0, 3.2.2.3.2): bit 31 enables, bus 23:16,
 * device and function 15:8, register 7:2. Only a double-word access reaches the address register.
 */
static bool port_target(struct pci_host *host, uint64_t off, unsigned len, unsigned *slot_fn,
			unsigned *reg)
{
	uint32_t a = atomic_load_relaxed(&host->address);

	if (off < 4 || off + len > 8 || !(a & 0x80000000u) || (a >> 16 & 0xff))
		return false;
	*slot_fn = a >> 8 & 0xff;
	*reg = (a & 0xfc) + (off - 4);
	return true;
}

static void ports_read(struct device *dev, uint64_t off, void *data, unsigned len)
{
	struct pci_host *host = container_of(dev, struct pci_host, ports);
	unsigned slot_fn, reg;

	memset(data, 0xff, len);
	if (off == 0 && len == 4) {
		uint32_t a = atomic_load_relaxed(&host->address);

		memcpy(data, &a, sizeof(a));
	} else if (off == 1 && len == 1 && host->reset_port) {
		host->reset_port->ops->read(host->reset_port, 0, data, 1);
	} else if (port_target(host, off, len, &slot_fn, &reg)) {
		config_read(host, slot_fn, reg, data, len);
	}
}

static void ports_write(struct device *dev, uint64_t off, const void *data, unsigned len)
{
	struct pci_host *host = container_of(dev, struct pci_host, ports);
	unsigned slot_fn, reg;

	if (off == 0 && len == 4)
		atomic_store_relaxed(&host->address, pci_get32(data) & ~3u);
	else if (off == 1 && len == 1 && host->reset_port)
		host->reset_port->ops->write(host->reset_port, 0, data, 1);
	else if (port_target(host, off, len, &slot_fn, &reg))
		config_write(host, slot_fn, reg, data, len);
}

/* ECAM (PCI Express 5.0, 7.2.2): device and function 19:12, register 11:0. */
static void ecam_read(struct device *dev, uint64_t off, void *data, unsigned len)
{
	struct pci_host *host = container_of(dev, struct pci_host, ecam);

	config_read(host, off >> 12 & 0xff, off & 0xfff, data, len);
}

static void ecam_write(struct device *dev, uint64_t off, const void *data, unsigned len)
{
	struct pci_host *host = container_of(dev, struct pci_host, ecam);

	config_write(host, off >> 12 & 0xff, off & 0xfff, data, len);
}

/* --- the host bridge --- */

static const struct device_ops ports_ops = {
	.name = "pci-config-ports",
	.read = ports_read,
	.write = ports_write,
};

static const struct device_ops ecam_ops = {
	.name = "pci-ecam",
	.read = ecam_read,
	.write = ecam_write,
};

static const struct pci_function_ops bridge_ops = {0};

/* The numbers of a Q35 memory controller, which guests know as a plain host bridge with ECAM. */
static const struct pci_id bridge_id = {
	.vendor = 0x8086,
	.device = 0x29c0,
	.subsys_vendor = 0x1af4,
	.subsys = 0x1100,
	.class_code = 0x060000,
};

static int map_host(struct pci_host *host)
{
	int r = bus_map(host->bus, BUS_PIO, PCI_PORT_BASE, PCI_PORT_LEN, &host->ports, 0);

	if (!r && host->layout.ecam_base)
		r = bus_map(host->bus, BUS_MMIO, host->layout.ecam_base, PCI_ECAM_SIZE, &host->ecam,
			    0);
	if (r)
		log_err("cannot map the PCI host bridge: %s", strerror(-r));
	return r;
}

int pci_host_create(struct pci_host **out, struct bus *bus, const struct pci_layout *layout,
		    const struct irq_line intx[4], const struct msi_sink *msi)
{
	struct pci_host *host = calloc(1, sizeof(*host));
	int r;

	if (!host)
		return -ENOMEM;
	host->bus = bus;
	host->layout = *layout;
	host->next32 = layout->mmio32_base;
	host->next64 = layout->mmio64_base;
	host->msi = *msi;
	memcpy(host->intx, intx, sizeof(host->intx));
	host->ports.ops = &ports_ops;
	host->ecam.ops = &ecam_ops;
	pthread_mutex_init(&host->lock, NULL);
	pthread_mutex_init(&host->intx_lock, NULL);
	pci_function_init(&host->bridge, &bridge_ops, &bridge_id);
	memcpy(host->bridge.initial, host->bridge.config, PCI_CONFIG_SIZE);
	host->bridge.host = host;
	host->slot[0] = &host->bridge;
	r = map_host(host);
	if (r) {
		pci_host_destroy(host);
		return r;
	}
	*out = host;
	return 0;
}

void pci_host_destroy(struct pci_host *host)
{
	if (!host)
		return;
	for (unsigned i = 0; i < PCI_SLOTS; i++) {
		struct pci_function *fn = host->slot[i];

		for (unsigned b = 0; fn && b < PCI_BARS; b++)
			bar_update_locked(fn, b, false);
		if (fn && fn->ops->destroy)
			fn->ops->destroy(fn);
	}
	bus_unmap(host->bus, BUS_PIO, PCI_PORT_BASE);
	if (host->layout.ecam_base)
		bus_unmap(host->bus, BUS_MMIO, host->layout.ecam_base);
	pthread_mutex_destroy(&host->intx_lock);
	pthread_mutex_destroy(&host->lock);
	free(host);
}

void pci_host_reset(struct pci_host *host)
{
	atomic_store_relaxed(&host->address, 0);
	for (unsigned i = 0; i < PCI_SLOTS; i++) {
		struct pci_function *fn = host->slot[i];

		if (!fn)
			continue;
		if (fn->ops->reset)
			fn->ops->reset(fn);
		if (fn->msix)
			pci_msix_reset(fn);
		pci_set_intx(fn, false);
		pthread_mutex_lock(&host->lock);
		memcpy(fn->config, fn->initial, PCI_CONFIG_SIZE);
		update_all_locked(fn);
		pthread_mutex_unlock(&host->lock);
	}
}

void pci_host_set_reset_port(struct pci_host *host, struct device *dev)
{
	host->reset_port = dev;
}

int pci_host_add(struct pci_host *host, unsigned slot, struct pci_function *fn)
{
	int r;

	if (slot == 0 || slot >= PCI_SLOTS || host->slot[slot]) {
		log_err("PCI slot %u is not free", slot);
		return -EEXIST;
	}
	fn->slot = slot;
	for (unsigned i = 0; i < PCI_BARS; i++) {
		r = bar_assign(host, fn, i);
		if (r)
			return r;
	}
	fn->config[PCI_IRQ_PIN] = 1;
	fn->config[PCI_IRQ_LINE] = host->intx[pci_intx_index(slot, 0)].n;
	memcpy(fn->initial, fn->config, PCI_CONFIG_SIZE);
	fn->host = host;
	host->slot[slot] = fn;
	pthread_mutex_lock(&host->lock);
	update_all_locked(fn);
	pthread_mutex_unlock(&host->lock);
	return 0;
}
