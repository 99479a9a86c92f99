/* Layouts of the fixed ACPI tables (ACPI specification 6.4, chapter 5.2; PCI Firmware 3.3 for
 * MCFG). */
#ifndef BOOT_ACPI_TABLES_H
#define BOOT_ACPI_TABLES_H

#include <assert.h>

#include "src/base/types.h"

#define ACPI_PACKED __attribute__((packed))

struct acpi_header {
	char signature[4];
	uint32_t length; /* of the whole table */
	uint8_t revision;
	uint8_t checksum; /* makes all bytes add up to 0 */
	char oem_id[6];
	char oem_table_id[8];
	uint32_t oem_revision;
	char creator_id[4];
	uint32_t creator_revision;
} ACPI_PACKED;

struct acpi_rsdp {
	char signature[8];
	uint8_t checksum; /* of the first 20 bytes */
	char oem_id[6];
	uint8_t revision;
	uint32_t rsdt;
	uint32_t length;
	uint64_t xsdt;
	uint8_t extended_checksum;
	uint8_t reserved[3];
} ACPI_PACKED;

/* Generic address structure. */
struct acpi_gas {
	uint8_t space; /* 1: ports */
	uint8_t bits;
	uint8_t bit_offset;
	uint8_t access; /* 1: byte, 2: word, 3: dword */
	uint64_t address;
} ACPI_PACKED;

struct acpi_fadt {
	struct acpi_header header;
	uint32_t facs;
	uint32_t dsdt;
	uint8_t reserved0;
	uint8_t profile;
	uint16_t sci;
	uint32_t smi_cmd;
	uint8_t acpi_enable;
	uint8_t acpi_disable;
	uint8_t s4bios;
	uint8_t pstate;
	uint32_t pm1a_evt;
	uint32_t pm1b_evt;
	uint32_t pm1a_cnt;
	uint32_t pm1b_cnt;
	uint32_t pm2_cnt;
	uint32_t pm_tmr;
	uint32_t gpe0;
	uint32_t gpe1;
	uint8_t pm1_evt_len;
	uint8_t pm1_cnt_len;
	uint8_t pm2_cnt_len;
	uint8_t pm_tmr_len;
	uint8_t gpe0_len;
	uint8_t gpe1_len;
	uint8_t gpe1_base;
	uint8_t cst_cnt;
	uint16_t c2_latency;
	uint16_t c3_latency;
	uint16_t flush_size;
	uint16_t flush_stride;
	uint8_t duty_offset;
	uint8_t duty_width;
	uint8_t day_alarm;
	uint8_t month_alarm;
	uint8_t century;
	uint16_t boot_arch;
	uint8_t reserved1;
	uint32_t flags;
	struct acpi_gas reset_reg;
	uint8_t reset_value;
	uint16_t arm_boot_arch;
	uint8_t minor;
	uint64_t x_facs;
	uint64_t x_dsdt;
	struct acpi_gas x_pm1a_evt;
	struct acpi_gas x_pm1b_evt;
	struct acpi_gas x_pm1a_cnt;
	struct acpi_gas x_pm1b_cnt;
	struct acpi_gas x_pm2_cnt;
	struct acpi_gas x_pm_tmr;
	struct acpi_gas x_gpe0;
	struct acpi_gas x_gpe1;
	struct acpi_gas sleep_control;
	struct acpi_gas sleep_status;
	uint64_t hypervisor;
} ACPI_PACKED;

struct acpi_facs {
	char signature[4];
	uint32_t length;
	uint32_t hardware_signature;
	uint32_t waking_vector;
	uint32_t global_lock;
	uint32_t flags;
	uint64_t x_waking_vector;
	uint8_t version;
	uint8_t reserved[31];
} ACPI_PACKED;

struct acpi_madt {
	uint32_t lapic_base;
	uint32_t flags; /* 1: there is an 8259 pair too */
} ACPI_PACKED;

struct madt_lapic {
	uint8_t type; /* 0 */
	uint8_t length;
	uint8_t uid;
	uint8_t apic_id;
	uint32_t flags; /* 1: enabled */
} ACPI_PACKED;

struct madt_x2apic {
	uint8_t type; /* 9 */
	uint8_t length;
	uint16_t reserved;
	uint32_t apic_id;
	uint32_t flags;
	uint32_t uid;
} ACPI_PACKED;

struct madt_ioapic {
	uint8_t type; /* 1 */
	uint8_t length;
	uint8_t id;
	uint8_t reserved;
	uint32_t address;
	uint32_t gsi_base;
} ACPI_PACKED;

struct madt_override {
	uint8_t type; /* 2 */
	uint8_t length;
	uint8_t bus;
	uint8_t irq;
	uint32_t gsi;
	uint16_t flags; /* polarity in bits 1:0, trigger in 3:2; 0: as the bus says */
} ACPI_PACKED;

struct madt_lapic_nmi {
	uint8_t type; /* 4 */
	uint8_t length;
	uint8_t uid; /* 0xff: all */
	uint16_t flags;
	uint8_t lint;
} ACPI_PACKED;

struct madt_x2apic_nmi {
	uint8_t type; /* 10 */
	uint8_t length;
	uint16_t flags;
	uint32_t uid; /* ~0: all */
	uint8_t lint;
	uint8_t reserved[3];
} ACPI_PACKED;

struct acpi_mcfg {
	uint64_t reserved;
	uint64_t base;
	uint16_t segment;
	uint8_t first_bus;
	uint8_t last_bus;
	uint32_t reserved1;
} ACPI_PACKED;

struct srat_lapic {
	uint8_t type; /* 0 */
	uint8_t length;
	uint8_t domain_low;
	uint8_t apic_id;
	uint32_t flags; /* 1: enabled */
	uint8_t sapic_eid;
	uint8_t domain_high[3];
	uint32_t clock_domain;
} ACPI_PACKED;

struct srat_memory {
	uint8_t type; /* 1 */
	uint8_t length;
	uint32_t domain;
	uint16_t reserved;
	uint64_t base;
	uint64_t size;
	uint32_t reserved1;
	uint32_t flags; /* 1: enabled */
	uint64_t reserved2;
} ACPI_PACKED;

struct srat_x2apic {
	uint8_t type; /* 2 */
	uint8_t length;
	uint16_t reserved;
	uint32_t domain;
	uint32_t apic_id;
	uint32_t flags;
	uint32_t clock_domain;
	uint32_t reserved1;
} ACPI_PACKED;

static_assert(sizeof(struct acpi_header) == 36, "ACPI layout");
static_assert(sizeof(struct acpi_rsdp) == 36, "ACPI layout");
static_assert(sizeof(struct acpi_fadt) == 276, "ACPI layout");
static_assert(sizeof(struct acpi_facs) == 64, "ACPI layout");
static_assert(sizeof(struct madt_lapic) == 8, "ACPI layout");
static_assert(sizeof(struct madt_x2apic) == 16, "ACPI layout");
static_assert(sizeof(struct madt_ioapic) == 12, "ACPI layout");
static_assert(sizeof(struct madt_override) == 10, "ACPI layout");
static_assert(sizeof(struct madt_lapic_nmi) == 6, "ACPI layout");
static_assert(sizeof(struct madt_x2apic_nmi) == 12, "ACPI layout");
static_assert(sizeof(struct acpi_mcfg) == 24, "ACPI layout");
static_assert(sizeof(struct srat_lapic) == 16, "ACPI layout");
static_assert(sizeof(struct srat_memory) == 40, "ACPI layout");
static_assert(sizeof(struct srat_x2apic) == 24, "ACPI layout");

#endif
