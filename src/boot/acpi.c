#include "src/boot/acpi.h"

#include "src/base/log.h"
#include "src/boot/acpi_tables.h"
#include "src/boot/aml.h"
#include "src/boot/dsdt.h"
#include "src/boot/layout.h"

#define OEM_ID	     "NUMAVI"
#define OEM_TABLE_ID "NUMAVSOR"
#define CREATOR_ID   "NVSR"

#define LEGACY_APIC_IDS 255 /* ids from here on need x2APIC structures */

#define RESET_PORT     0xcf9
#define RESET_VALUE    6
#define CMOS_CENTURY   0x32
#define PROFILE_SERVER 4
#define NO_C_STATE     0xffff
#define GAS_PORTS      1

#define BOOT_ARCH_LEGACY_DEVICES (1u << 0)
#define BOOT_ARCH_NO_VGA	 (1u << 2)
#define BOOT_ARCH_NO_ASPM	 (1u << 4)

#define FADT_WBINVD	     (1u << 0)
#define FADT_C1		     (1u << 2)
#define FADT_NO_SLEEP_BUTTON (1u << 5)
#define FADT_TIMER_32	     (1u << 8)
#define FADT_RESET_REG	     (1u << 10)

#define MADT_PCAT_COMPAT       1
#define MADT_ACTIVE_HIGH_LEVEL 0x0d

/* Tables built one after the other in a buffer that will lie at base. */
struct tables {
	const struct acpi_config *cfg;
	struct aml a;
	gpa_t base;
	gpa_t facs;
	gpa_t dsdt;
	gpa_t entry[8]; /* what RSDT and XSDT list */
	unsigned nentries;
	gpa_t rsdt;
	gpa_t xsdt;
};

static uint8_t checksum(const void *data, size_t len)
{
	const uint8_t *p = data;
	uint8_t sum = 0;

	while (len--)
		sum += *p++;
	return -sum;
}

static void align(struct aml *a)
{
	while (!a->failed && a->len % 64)
		aml_u8(a, 0);
}

/* Starts a table; the header's length and checksum are filled in by table_end(). */
static size_t table_begin(struct tables *t, const char *signature, uint8_t revision)
{
	struct acpi_header h = {.revision = revision, .oem_revision = 1, .creator_revision = 1};
	size_t start;

	align(&t->a);
	start = t->a.len;
	memcpy(h.signature, signature, sizeof(h.signature));
	memcpy(h.oem_id, OEM_ID, sizeof(h.oem_id));
	memcpy(h.oem_table_id, OEM_TABLE_ID, sizeof(h.oem_table_id));
	memcpy(h.creator_id, CREATOR_ID, sizeof(h.creator_id));
	aml_bytes(&t->a, &h, sizeof(h));
	return start;
}

static gpa_t table_end(struct tables *t, size_t start)
{
	uint8_t *p = t->a.data + start;
	uint32_t len = t->a.len - start;

	if (t->a.failed)
		return 0;
	memcpy(p + offsetof(struct acpi_header, length), &len, sizeof(len));
	p[offsetof(struct acpi_header, checksum)] = checksum(p, len);
	return t->base + start;
}

static void list(struct tables *t, gpa_t table)
{
	t->entry[t->nentries++] = table;
}

static void build_facs(struct tables *t)
{
	struct acpi_facs facs = {.signature = "FACS", .length = sizeof(facs), .version = 2};

	align(&t->a);
	t->facs = t->base + t->a.len;
	aml_bytes(&t->a, &facs, sizeof(facs));
}

static void build_dsdt(struct tables *t)
{
	size_t start = table_begin(t, "DSDT", 2);

	dsdt_build(t->cfg, &t->a);
	t->dsdt = table_end(t, start);
}

static struct acpi_gas port_register(uint16_t port, uint8_t bits)
{
	return (struct acpi_gas){.space = GAS_PORTS,
				 .bits = bits,
				 .access = bits == 8	? 1
					   : bits == 16 ? 2
							: 3,
				 .address = port};
}

static void build_fadt(struct tables *t)
{
	const uint16_t pm = t->cfg->pm_base;
	size_t start = table_begin(t, "FACP", 6);
	struct acpi_fadt f = {
		.facs = t->facs,
		.dsdt = t->dsdt,
		.profile = PROFILE_SERVER,
		.sci = t->cfg->sci_irq,
		.pm1a_evt = pm,
		.pm1a_cnt = pm + 4,
		.pm_tmr = pm + 8,
		.pm1_evt_len = 4,
		.pm1_cnt_len = 2,
		.pm_tmr_len = 4,
		.c2_latency = NO_C_STATE,
		.c3_latency = NO_C_STATE,
		.century = CMOS_CENTURY,
		.boot_arch = BOOT_ARCH_LEGACY_DEVICES | BOOT_ARCH_NO_VGA | BOOT_ARCH_NO_ASPM,
		.flags = FADT_WBINVD | FADT_C1 | FADT_NO_SLEEP_BUTTON | FADT_TIMER_32 |
			 FADT_RESET_REG,
		.reset_reg = port_register(RESET_PORT, 8),
		.reset_value = RESET_VALUE,
		.minor = 4,
		.x_dsdt = t->dsdt,
		.x_pm1a_evt = port_register(pm, 32),
		.x_pm1a_cnt = port_register(pm + 4, 16),
		.x_pm_tmr = port_register(pm + 8, 32),
	};

	aml_bytes(&t->a, (uint8_t *)&f + sizeof(f.header), sizeof(f) - sizeof(f.header));
	list(t, table_end(t, start));
}

static bool needs_x2apic(uint32_t apic_id, unsigned uid)
{
	return apic_id >= LEGACY_APIC_IDS || uid >= LEGACY_APIC_IDS;
}

/* Returns whether any x2APIC structure was needed. */
static bool madt_cpus(struct tables *t)
{
	bool wide = false;
	unsigned i;

	for (i = 0; i < t->cfg->ncpus; i++) {
		uint32_t id = t->cfg->cpu[i].apic_id;

		if (needs_x2apic(id, i)) {
			struct madt_x2apic x = {.type = 9,
						.length = sizeof(x),
						.apic_id = id,
						.flags = 1,
						.uid = i};

			aml_bytes(&t->a, &x, sizeof(x));
			wide = true;
		} else {
			struct madt_lapic x = {0, sizeof(x), i, id, 1};

			aml_bytes(&t->a, &x, sizeof(x));
		}
	}
	return wide;
}

static void build_madt(struct tables *t)
{
	const struct acpi_config *cfg = t->cfg;
	struct acpi_madt madt = {cfg->lapic_base, MADT_PCAT_COMPAT};
	struct madt_ioapic ioapic = {1, sizeof(ioapic), cfg->ioapic_id, 0, cfg->ioapic_base, 0};
	struct madt_override timer = {2, sizeof(timer), 0, 0, 2, 0};
	struct madt_override sci = {
		2, sizeof(sci), 0, cfg->sci_irq, cfg->sci_irq, MADT_ACTIVE_HIGH_LEVEL};
	struct madt_lapic_nmi nmi = {4, sizeof(nmi), 0xff, 0, 1};
	struct madt_x2apic_nmi wide_nmi = {10, sizeof(wide_nmi), 0, ~0u, 1, {0}};
	size_t start = table_begin(t, "APIC", 5);
	bool wide;

	aml_bytes(&t->a, &madt, sizeof(madt));
	wide = madt_cpus(t);
	aml_bytes(&t->a, &ioapic, sizeof(ioapic));
	aml_bytes(&t->a, &timer, sizeof(timer));
	aml_bytes(&t->a, &sci, sizeof(sci));
	aml_bytes(&t->a, &nmi, sizeof(nmi));
	if (wide)
		aml_bytes(&t->a, &wide_nmi, sizeof(wide_nmi));
	list(t, table_end(t, start));
}

static void build_mcfg(struct tables *t)
{
	struct acpi_mcfg mcfg = {.base = t->cfg->ecam_base, .last_bus = t->cfg->nbuses - 1};
	size_t start = table_begin(t, "MCFG", 1);

	aml_bytes(&t->a, &mcfg, sizeof(mcfg));
	list(t, table_end(t, start));
}

static void srat_cpus(struct tables *t)
{
	unsigned i;

	for (i = 0; i < t->cfg->ncpus; i++) {
		uint32_t id = t->cfg->cpu[i].apic_id, node = t->cfg->cpu[i].node;

		if (needs_x2apic(id, i)) {
			struct srat_x2apic x = {.type = 2,
						.length = sizeof(x),
						.domain = node,
						.apic_id = id,
						.flags = 1};

			aml_bytes(&t->a, &x, sizeof(x));
		} else {
			struct srat_lapic x = {.type = 0,
					       .length = sizeof(x),
					       .domain_low = node,
					       .domain_high = {node >> 8, node >> 16, node >> 24},
					       .apic_id = id,
					       .flags = 1};

			aml_bytes(&t->a, &x, sizeof(x));
		}
	}
}

static void build_srat(struct tables *t)
{
	size_t start = table_begin(t, "SRAT", 3);
	unsigned i;

	aml_u32(&t->a, 1); /* reserved, must be 1 */
	aml_u64(&t->a, 0);
	srat_cpus(t);
	for (i = 0; i < t->cfg->nram; i++) {
		const struct boot_ram *ram = &t->cfg->ram[i];
		struct srat_memory m = {.type = 1,
					.length = sizeof(m),
					.domain = ram->node,
					.base = ram->gpa,
					.size = ram->size,
					.flags = 1};

		aml_bytes(&t->a, &m, sizeof(m));
	}
	list(t, table_end(t, start));
}

static void build_slit(struct tables *t)
{
	const struct acpi_config *cfg = t->cfg;
	size_t start = table_begin(t, "SLIT", 1);
	unsigned i, j;

	aml_u64(&t->a, cfg->nnodes);
	for (i = 0; i < cfg->nnodes; i++)
		for (j = 0; j < cfg->nnodes; j++)
			aml_u8(&t->a, cfg->distance ? cfg->distance[i * cfg->nnodes + j]
				      : i == j	    ? 10
						    : 20);
	list(t, table_end(t, start));
}

static void build_roots(struct tables *t)
{
	size_t start = table_begin(t, "RSDT", 1);
	unsigned i;

	for (i = 0; i < t->nentries; i++)
		aml_u32(&t->a, t->entry[i]);
	t->rsdt = table_end(t, start);
	start = table_begin(t, "XSDT", 1);
	for (i = 0; i < t->nentries; i++)
		aml_u64(&t->a, t->entry[i]);
	t->xsdt = table_end(t, start);
}

/* Addresses change no table's size, so a first build at 0 tells how much room a second one needs.
 */
static int build_all(struct tables *t, const struct acpi_config *cfg, gpa_t base)
{
	*t = (struct tables){.cfg = cfg, .base = base};
	build_facs(t);
	build_dsdt(t);
	build_fadt(t);
	build_madt(t);
	build_mcfg(t);
	if (cfg->nnodes) {
		build_srat(t);
		build_slit(t);
	}
	build_roots(t);
	if (t->a.failed) {
		aml_free(&t->a);
		log_err("not enough memory to build the ACPI tables");
		return -ENOMEM;
	}
	return 0;
}

static void build_rsdp(const struct tables *t, struct acpi_rsdp *rsdp)
{
	*rsdp = (struct acpi_rsdp){
		.revision = 2, .rsdt = t->rsdt, .length = sizeof(*rsdp), .xsdt = t->xsdt};
	memcpy(rsdp->signature, "RSD PTR ", sizeof(rsdp->signature));
	memcpy(rsdp->oem_id, OEM_ID, sizeof(rsdp->oem_id));
	rsdp->checksum = checksum(rsdp, offsetof(struct acpi_rsdp, length));
	rsdp->extended_checksum = checksum(rsdp, sizeof(*rsdp));
}

/* End of the RAM that starts at 0, in however many pieces. */
static gpa_t low_ram_end(const struct acpi_config *cfg)
{
	gpa_t end = 0;
	unsigned i;

	for (i = 0; i < cfg->nram && cfg->ram[i].gpa == end; i++)
		end += cfg->ram[i].size;
	return MIN(end, GIB(4));
}

static int place(struct tables *t, struct gmem *gm, struct acpi_info *info)
{
	struct acpi_rsdp rsdp;
	int r;

	build_rsdp(t, &rsdp);
	r = gmem_write(gm, info->base, t->a.data, t->a.len);
	if (!r)
		r = gmem_write(gm, info->rsdp, &rsdp, sizeof(rsdp));
	if (r)
		log_err("the guest has no memory for its ACPI tables");
	return r;
}

int acpi_build(const struct acpi_config *cfg, struct gmem *gm, struct acpi_info *info)
{
	gpa_t end = low_ram_end(cfg);
	struct tables t;
	int r = build_all(&t, cfg, 0);

	if (r)
		return r;
	info->rsdp = BOOT_BIOS_AREA;
	info->size = ALIGN_UP(t.a.len, PAGE_SIZE);
	aml_free(&t.a);
	if (end < BOOT_HIGH_MEMORY + info->size) {
		log_err("the guest's memory is too small for its ACPI tables");
		return -ENOMEM;
	}
	info->base = end - info->size;
	r = build_all(&t, cfg, info->base);
	if (r)
		return r;
	r = place(&t, gm, info);
	aml_free(&t.a);
	return r;
}
