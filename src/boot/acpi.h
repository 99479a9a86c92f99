/*
 * ACPI tables (ACPI specification 6.4) for a machine described by struct acpi_config: RSDP, RSDT,
 * XSDT, FACS, FADT, DSDT, MADT, MCFG, and SRAT and SLIT for a machine with NUMA nodes.
 *
 * The tables lie at the top of the guest's low RAM, in memory that the e820 map calls "ACPI" (they
 * grow with the number of CPUs); the RSDP lies at 0xe0000, where software scans for it.
 *
 * Called by the thread that builds (or resets) the VM, before boot_load().
 */
#ifndef BOOT_ACPI_H
#define BOOT_ACPI_H

#include "src/boot/boot.h"

struct acpi_cpu {
	uint32_t apic_id;
	uint32_t node;
};

struct acpi_config {
	const struct acpi_cpu *cpu; /* by VCPU number, which becomes the ACPI processor UID */
	unsigned ncpus;
	const struct boot_ram *ram; /* sorted by gpa; the first starts at 0 */
	unsigned nram;
	unsigned nnodes;
	const uint8_t *distance; /* nnodes x nnodes, row by row; NULL: 10 to itself, else 20 */

	gpa_t ecam_base;
	unsigned nbuses;   /* ECAM covers buses [0, nbuses) with 1 MiB each */
	gpa_t mmio32_base; /* windows for PCI BARs */
	uint64_t mmio32_size;
	gpa_t mmio64_base;
	uint64_t mmio64_size; /* 0: none */
	/* GSI of INTA..INTD of device 0; device d uses intx_gsi[(d + pin) % 4]. */
	uint8_t intx_gsi[4];

	gpa_t ioapic_base;
	uint8_t ioapic_id;
	gpa_t lapic_base;
	uint16_t pm_base;      /* see src/dev/acpi_pm.h: event +0, control +4, timer +8 */
	uint8_t sci_irq;       /* also its GSI; level, active high */
	uint8_t slp_typ_s5;    /* what \_S5 tells to write to PM1a control */
	uint16_t pvpanic_port; /* 0: none */
};

struct acpi_info {
	gpa_t rsdp;
	gpa_t base; /* of the tables, page-aligned */
	uint64_t size;
};

/*
 * Writes the tables to guest memory. 0, or -errno (logged): -ENOMEM if memory is too small.
 * For a boot_config: rsdp, acpi_base and acpi_size.
 */
int acpi_build(const struct acpi_config *cfg, struct gmem *gm, struct acpi_info *info);

#endif
