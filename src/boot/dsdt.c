#include "src/boot/dsdt.h"

#include <stdio.h>

#define PCI_CONFIG_PORT	 0xcf8
#define PCI_CONFIG_PORTS 8
#define PCI_DEVICES	 32
#define PCI_PINS	 4

static void sleep_states(const struct acpi_config *cfg, struct aml *a)
{
	size_t package;

	aml_name(a, "\\_S5");
	package = aml_package(a, 4);
	aml_int(a, cfg->slp_typ_s5);
	aml_int(a, cfg->slp_typ_s5);
	aml_int(a, 0);
	aml_int(a, 0);
	aml_end(a, package);
}

static void pci_windows(const struct acpi_config *cfg, struct aml *a)
{
	struct aml_resources r;

	aml_name(a, "_CRS");
	r = aml_resources_begin(a);
	aml_res_bus(a, 0, cfg->nbuses - 1);
	aml_res_io(a, PCI_CONFIG_PORT, PCI_CONFIG_PORTS);
	aml_res_io_window(a, 0, PCI_CONFIG_PORT - 1);
	aml_res_io_window(a, PCI_CONFIG_PORT + PCI_CONFIG_PORTS, 0xffff);
	aml_res_mem32_window(a, cfg->mmio32_base, cfg->mmio32_size);
	if (cfg->mmio64_size)
		aml_res_mem64_window(a, cfg->mmio64_base, cfg->mmio64_size);
	aml_resources_end(a, r);
}

static void pci_routes(const struct acpi_config *cfg, struct aml *a)
{
	size_t all, one;
	unsigned dev, pin;

	aml_name(a, "_PRT");
	all = aml_package(a, PCI_DEVICES * PCI_PINS);
	for (dev = 0; dev < PCI_DEVICES; dev++) {
		for (pin = 0; pin < PCI_PINS; pin++) {
			one = aml_package(a, 4);
			aml_int(a, dev << 16 | 0xffff);
			aml_int(a, pin);
			aml_int(a, 0); /* no link device: the next is a GSI */
			aml_int(a, cfg->intx_gsi[(dev + pin) % PCI_PINS]);
			aml_end(a, one);
		}
	}
	aml_end(a, all);
}

static void pci_root(const struct acpi_config *cfg, struct aml *a)
{
	size_t dev = aml_device(a, "PCI0");

	aml_name_eisa(a, "_HID", "PNP0A08");
	aml_name_eisa(a, "_CID", "PNP0A03");
	aml_name_int(a, "_UID", 0);
	aml_name_int(a, "_SEG", 0);
	aml_name_int(a, "_BBN", 0);
	pci_windows(cfg, a);
	pci_routes(cfg, a);
	aml_end(a, dev);
}

/* Linux trusts MCFG only for memory that a motherboard resource or the e820 map reserves. */
static void motherboard(const struct acpi_config *cfg, struct aml *a)
{
	size_t dev = aml_device(a, "MBRD");
	struct aml_resources r;

	aml_name_eisa(a, "_HID", "PNP0C02");
	aml_name_int(a, "_UID", 0);
	aml_name(a, "_CRS");
	r = aml_resources_begin(a);
	aml_res_mem64_fixed(a, cfg->ecam_base, MIB(cfg->nbuses));
	aml_resources_end(a, r);
	aml_end(a, dev);
}

static void isa_device(struct aml *a, const char *name, const char *id, uint16_t port, uint8_t len,
		       unsigned irq)
{
	size_t dev = aml_device(a, name);
	struct aml_resources r;

	aml_name_eisa(a, "_HID", id);
	aml_name_int(a, "_UID", 1);
	aml_name(a, "_CRS");
	r = aml_resources_begin(a);
	aml_res_io(a, port, len);
	aml_res_irq(a, irq);
	aml_resources_end(a, r);
	aml_end(a, dev);
}

static void pvpanic(const struct acpi_config *cfg, struct aml *a)
{
	size_t dev = aml_device(a, "PEVT");
	struct aml_resources r;

	aml_name_string_value(a, "_HID", "QEMU0001");
	aml_name(a, "_CRS");
	r = aml_resources_begin(a);
	aml_res_io(a, cfg->pvpanic_port, 1);
	aml_resources_end(a, r);
	aml_end(a, dev);
}

static void processors(const struct acpi_config *cfg, struct aml *a)
{
	unsigned i;

	for (i = 0; i < cfg->ncpus; i++) {
		char name[16];
		size_t dev;

		snprintf(name, sizeof(name), "C%03X", i & 0xfff);
		dev = aml_device(a, name);
		aml_name_string_value(a, "_HID", "ACPI0007");
		aml_name_int(a, "_UID", i);
		if (cfg->nnodes)
			aml_name_int(a, "_PXM", cfg->cpu[i].node);
		aml_end(a, dev);
	}
}

void dsdt_build(const struct acpi_config *cfg, struct aml *a)
{
	size_t scope;

	sleep_states(cfg, a);
	scope = aml_scope(a, "\\_SB");
	pci_root(cfg, a);
	motherboard(cfg, a);
	isa_device(a, "COM1", "PNP0501", 0x3f8, 8, 4);
	isa_device(a, "RTC", "PNP0B00", 0x70, 2, 8);
	if (cfg->pvpanic_port)
		pvpanic(cfg, a);
	processors(cfg, a);
	aml_end(a, scope);
}
