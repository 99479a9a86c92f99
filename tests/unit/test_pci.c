#include "tests/unit/virtio_driver.h"

/* A function with one BAR of plain registers and three MSI-X vectors. */
struct card {
	struct pci_function fn;
	struct device regs;
	uint32_t reg;
	bool destroyed;
};

static void card_read(struct device *dev, uint64_t off, void *data, unsigned len)
{
	memcpy(data, &container_of(dev, struct card, regs)->reg, MIN(len, 4u));
}

static void card_write(struct device *dev, uint64_t off, const void *data, unsigned len)
{
	memcpy(&container_of(dev, struct card, regs)->reg, data, MIN(len, 4u));
}

static const struct device_ops card_regs = {
	.name = "card",
	.read = card_read,
	.write = card_write,
};

static void card_destroy(struct pci_function *fn)
{
	container_of(fn, struct card, fn)->destroyed = true;
	pci_function_fini(fn);
}

static const struct pci_function_ops card_ops = {.destroy = card_destroy};

static void card_add(struct card *c, struct rig *rig, unsigned slot)
{
	const struct pci_id id = {
		.vendor = 0x1234,
		.device = 0x5678,
		.revision = 3,
		.class_code = 0x020001,
	};

	memset(c, 0, sizeof(*c));
	c->regs.ops = &card_regs;
	pci_function_init(&c->fn, &card_ops, &id);
	pci_add_bar(&c->fn, 0, KIB(16), &c->regs);
	assert_int_equal(pci_add_msix(&c->fn, 2, 3), 0);
	assert_int_equal(pci_host_add(rig->host, slot, &c->fn), 0);
}

static void pio_write(struct rig *rig, uint64_t port, uint32_t v, unsigned len)
{
	bus_write(rig->bus, BUS_PIO, port, &v, len);
}

static uint32_t pio_read(struct rig *rig, uint64_t port, unsigned len)
{
	uint32_t v = 0;

	bus_read(rig->bus, BUS_PIO, port, &v, len);
	return v;
}

static void both_ways_to_config_agree(void **state)
{
	struct rig rig;
	struct card c;

	rig_init(&rig);
	card_add(&c, &rig, 5);
	assert_int_equal(cfg_read(&rig, 5, 0, 4), 0x56781234);
	assert_int_equal(cfg_read(&rig, 0, 0, 4), 0x29c08086);
	assert_int_equal(cfg_read(&rig, 6, 0, 4), 0xffffffff);
	assert_int_equal(mmio_read(&rig, cfg_addr(5, 0) + 0x1000, 4), 0xffffffff); /* function 1 */
	assert_int_equal(cfg_read(&rig, 5, 0x100, 4), 0); /* no extended capability */
	pio_write(&rig, 0xcf8, 0x80000000 | 5 << 11 | 8, 4);
	assert_int_equal(pio_read(&rig, 0xcf8, 4), 0x80000000 | 5 << 11 | 8);
	assert_int_equal(pio_read(&rig, 0xcfc, 4), 0x02000103);
	assert_int_equal(pio_read(&rig, 0xcfc, 1), 3);
	assert_int_equal(pio_read(&rig, 0xcfe, 2), 0x0200);
	assert_int_equal(pio_read(&rig, 0xcff, 1), 2);
	/* A byte to the address register is not for it. */
	pio_write(&rig, 0xcf8, 0, 1);
	assert_int_equal(pio_read(&rig, 0xcfc, 1), 3);
	/* Disabled, or another bus: nobody there. */
	pio_write(&rig, 0xcf8, 5 << 11, 4);
	assert_int_equal(pio_read(&rig, 0xcfc, 4), 0xffffffff);
	pio_write(&rig, 0xcf8, 0x80010000 | 5 << 11, 4);
	assert_int_equal(pio_read(&rig, 0xcfc, 4), 0xffffffff);
	/* Byte writes through the port. */
	pio_write(&rig, 0xcf8, 0x80000000 | 5 << 11 | 0x3c, 4);
	pio_write(&rig, 0xcfc, 0x42, 1);
	assert_int_equal(cfg_read(&rig, 5, PCI_IRQ_LINE, 2), 0x0142);
	rig_fini(&rig);
	assert_true(c.destroyed);
}

static uint64_t bar(struct rig *rig, unsigned slot, unsigned i)
{
	return (uint64_t)cfg_read(rig, slot, PCI_BAR0 + 4 * i + 4, 4) << 32 |
	       (cfg_read(rig, slot, PCI_BAR0 + 4 * i, 4) & ~0xfu);
}

static void bars_are_sized_and_moved(void **state)
{
	struct rig rig;
	struct card a, b;
	uint64_t base;

	rig_init(&rig);
	card_add(&a, &rig, 1);
	card_add(&b, &rig, 2);
	base = bar(&rig, 1, 0);
	assert_int_equal(base, 0xc0000000);
	assert_int_not_equal(bar(&rig, 2, 0), base);
	/* Decoded from the start. */
	mmio_write(&rig, base + 0x10, 0x1111, 4);
	assert_int_equal(a.reg, 0x1111);
	/* Sizing. */
	cfg_write(&rig, 1, PCI_COMMAND, 0, 2);
	assert_false(bus_read(rig.bus, BUS_MMIO, base, &(uint32_t){0}, 4));
	cfg_write(&rig, 1, PCI_BAR0, 0xffffffff, 4);
	cfg_write(&rig, 1, PCI_BAR0 + 4, 0xffffffff, 4);
	assert_int_equal(cfg_read(&rig, 1, PCI_BAR0, 4), 0xffffc004);
	assert_int_equal(cfg_read(&rig, 1, PCI_BAR0 + 4, 4), 0xffffffff);
	/* To above 4 GiB. */
	cfg_write(&rig, 1, PCI_BAR0, 0x10000, 4);
	cfg_write(&rig, 1, PCI_BAR0 + 4, 0x20, 4);
	cfg_write(&rig, 1, PCI_COMMAND, PCI_COMMAND_MEMORY, 2);
	mmio_write(&rig, 0x2000010000, 0x2222, 4);
	assert_int_equal(a.reg, 0x2222);
	/* Onto the other card: not decoded, and that one keeps working. */
	cfg_write(&rig, 1, PCI_BAR0 + 4, 0, 4);
	cfg_write(&rig, 1, PCI_BAR0, bar(&rig, 2, 0), 4);
	mmio_write(&rig, bar(&rig, 2, 0), 0x3333, 4);
	assert_int_equal(a.reg, 0x2222);
	assert_int_equal(b.reg, 0x3333);
	/* A reset puts everything back. */
	pci_host_reset(rig.host);
	assert_int_equal(bar(&rig, 1, 0), base);
	mmio_write(&rig, base, 0x4444, 4);
	assert_int_equal(a.reg, 0x4444);
	rig_fini(&rig);
}

static void intx_lines_are_shared(void **state)
{
	struct rig rig;
	struct card a, b;
	unsigned line = pci_intx_index(1, 0);

	rig_init(&rig);
	card_add(&a, &rig, 1);
	card_add(&b, &rig, 5); /* the same line as slot 1 */
	assert_int_equal(cfg_read(&rig, 1, PCI_IRQ_LINE, 1), 16 + line);
	assert_int_equal(cfg_read(&rig, 1, PCI_IRQ_PIN, 1), 1);
	pci_set_intx(&a.fn, true);
	pci_set_intx(&b.fn, true);
	assert_true(rig.intx[line]);
	assert_int_equal(cfg_read(&rig, 1, PCI_STATUS, 2) & PCI_STATUS_INTX, PCI_STATUS_INTX);
	pci_set_intx(&a.fn, false);
	assert_true(rig.intx[line]);
	cfg_write(&rig, 5, PCI_COMMAND, PCI_COMMAND_INTX_DISABLE, 2);
	assert_false(rig.intx[line]);
	cfg_write(&rig, 5, PCI_COMMAND, 0, 2);
	assert_true(rig.intx[line]);
	pci_set_intx(&b.fn, false);
	assert_false(rig.intx[line]);
	rig_fini(&rig);
}

static void msix_masks_and_remembers(void **state)
{
	struct rig rig;
	struct card c;
	unsigned cap;
	uint64_t table, pba;

	rig_init(&rig);
	card_add(&c, &rig, 1);
	cfg_write(&rig, 1, PCI_COMMAND, PCI_COMMAND_MEMORY | PCI_COMMAND_MASTER, 2);
	cap = cfg_read(&rig, 1, PCI_CAP_POINTER, 1);
	assert_int_equal(cfg_read(&rig, 1, cap, 1), PCI_CAP_MSIX);
	assert_int_equal(cfg_read(&rig, 1, cap + 2, 2), 2); /* three vectors */
	table = bar(&rig, 1, 2);
	pba = table + (cfg_read(&rig, 1, cap + 8, 4) & ~7u);
	for (unsigned v = 0; v < 3; v++) {
		assert_int_equal(mmio_read(&rig, table + 16 * v + 12, 4), 1);
		mmio_write(&rig, table + 16 * v, RIG_MSI, 8);
		mmio_write(&rig, table + 16 * v + 8, 10 + v, 4);
	}
	/* Not enabled: nothing, not even pending. */
	pci_msix_notify(&c.fn, 1);
	assert_int_equal(mmio_read(&rig, pba, 8), 0);
	/* Masked by entry. */
	cfg_write(&rig, 1, cap + 2, 0x8000, 2);
	pci_msix_notify(&c.fn, 1);
	assert_int_equal(mmio_read(&rig, pba, 8), 2);
	mmio_write(&rig, table + 16 + 12, 0, 4);
	assert_int_equal(rig.msi[11], 1);
	assert_int_equal(mmio_read(&rig, pba, 8), 0);
	/* Masked as a whole. */
	cfg_write(&rig, 1, cap + 2, 0xc000, 2);
	pci_msix_notify(&c.fn, 1);
	pci_msix_notify(&c.fn, 2);
	assert_int_equal(rig.msi[11], 1);
	assert_int_equal(mmio_read(&rig, pba, 8), 6);
	cfg_write(&rig, 1, cap + 2, 0x8000, 2);
	assert_int_equal(rig.msi[11], 2);
	assert_int_equal(rig.msi[12], 0); /* its own mask is still set */
	assert_int_equal(mmio_read(&rig, pba, 8), 4);
	/* Beyond the table, and writes to the pending bits. */
	pci_msix_notify(&c.fn, 3);
	mmio_write(&rig, pba, ~0ull, 8);
	assert_int_equal(mmio_read(&rig, pba, 8), 4);
	rig_fini(&rig);
}

static void slots_are_exclusive(void **state)
{
	struct rig rig;
	struct card a, b;

	rig_init(&rig);
	card_add(&a, &rig, 1);
	pci_function_init(&b.fn, &card_ops, &(struct pci_id){0});
	assert_int_equal(pci_host_add(rig.host, 1, &b.fn), -EEXIST);
	assert_int_equal(pci_host_add(rig.host, 0, &b.fn), -EEXIST);
	assert_int_equal(pci_host_add(rig.host, 32, &b.fn), -EEXIST);
	rig_fini(&rig);
}

static void reset_port_is_passed_on(void **state)
{
	struct rig rig;
	struct card c = {.regs.ops = &card_regs};

	rig_init(&rig);
	pio_write(&rig, 0xcf9, 6, 1); /* nobody there */
	pci_host_set_reset_port(rig.host, &c.regs);
	pio_write(&rig, 0xcf9, 6, 1);
	assert_int_equal(c.reg, 6);
	assert_int_equal(pio_read(&rig, 0xcf9, 1), 6);
	rig_fini(&rig);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(both_ways_to_config_agree),
		cmocka_unit_test(bars_are_sized_and_moved),
		cmocka_unit_test(intx_lines_are_shared),
		cmocka_unit_test(msix_masks_and_remembers),
		cmocka_unit_test(slots_are_exclusive),
		cmocka_unit_test(reset_port_is_passed_on),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
