#include <stdarg.h>
#include <stddef.h>
#include <setjmp.h>
#include <stdint.h>
#include <cmocka.h>
#include <stdio.h>
#include <stdlib.h>

#include "src/base/log.h"
#include "src/boot/acpi.h"
#include "src/boot/acpi_tables.h"
#include "src/boot/aml.h"
#include "tests/unit/guest_ram.h"

#define MAX_CPUS 1023

struct fixture {
	struct gmem gm;
	struct boot_ram ram[2];
	struct acpi_cpu cpu[MAX_CPUS];
	struct acpi_config cfg;
	struct acpi_info info;
};

static int setup(void **state)
{
	static const uint8_t distance[] = {10, 21, 31, 10};
	struct fixture *f = calloc(1, sizeof(*f));
	unsigned i;

	f->ram[0] = (struct boot_ram){0, MIB(16), 0};
	f->ram[1] = (struct boot_ram){MIB(16), MIB(16), 1};
	for (i = 0; i < MAX_CPUS; i++)
		f->cpu[i] = (struct acpi_cpu){i, i & 1};
	guest_ram_create(&f->gm, f->ram, 2);
	f->cfg = (struct acpi_config){
		.cpu = f->cpu,
		.ncpus = 4,
		.ram = f->ram,
		.nram = 2,
		.nnodes = 2,
		.distance = distance,
		.ecam_base = 0xb0000000,
		.nbuses = 256,
		.mmio32_base = 0xc0000000,
		.mmio32_size = 0x3c000000,
		.mmio64_base = GIB(512),
		.mmio64_size = GIB(256),
		.intx_gsi = {16, 17, 18, 19},
		.ioapic_base = 0xfec00000,
		.lapic_base = 0xfee00000,
		.pm_base = 0x600,
		.sci_irq = 9,
		.slp_typ_s5 = 5,
		.pvpanic_port = 0x505,
	};
	*state = f;
	return 0;
}

static int teardown(void **state)
{
	struct fixture *f = *state;

	guest_ram_destroy(&f->gm);
	free(f);
	return 0;
}

static uint8_t sum(const void *data, size_t len)
{
	const uint8_t *p = data;
	uint8_t s = 0;

	while (len--)
		s += *p++;
	return s;
}

/* The table at gpa, checked. */
static const struct acpi_header *table(struct fixture *f, gpa_t gpa)
{
	const struct acpi_header *h = gmem_ptr(&f->gm, gpa, sizeof(*h), false);

	assert_non_null(h);
	assert_true(gpa >= f->info.base && gpa + h->length <= f->info.base + f->info.size);
	assert_int_equal(sum(h, h->length), 0);
	return h;
}

/* Looks a table up in the XSDT and checks that the RSDT agrees. */
static const void *find(struct fixture *f, const char *signature)
{
	const struct acpi_rsdp *rsdp = gmem_ptr(&f->gm, f->info.rsdp, sizeof(*rsdp), false);
	const struct acpi_header *xsdt, *rsdt;
	unsigned i, n;

	assert_memory_equal(rsdp->signature, "RSD PTR ", 8);
	assert_int_equal(sum(rsdp, 20), 0);
	assert_int_equal(sum(rsdp, sizeof(*rsdp)), 0);
	xsdt = table(f, rsdp->xsdt);
	rsdt = table(f, rsdp->rsdt);
	n = (xsdt->length - sizeof(*xsdt)) / 8;
	assert_int_equal((rsdt->length - sizeof(*rsdt)) / 4, n);
	for (i = 0; i < n; i++) {
		uint64_t x;
		uint32_t r;

		memcpy(&x, (char *)(xsdt + 1) + 8 * i, 8);
		memcpy(&r, (char *)(rsdt + 1) + 4 * i, 4);
		assert_int_equal(x, r);
		if (!memcmp(table(f, x)->signature, signature, 4))
			return table(f, x);
	}
	return NULL;
}

static void test_fixed_tables(void **state)
{
	struct fixture *f = *state;
	const struct acpi_fadt *fadt;
	const struct acpi_facs *facs;
	const struct acpi_mcfg *mcfg;

	assert_int_equal(acpi_build(&f->cfg, &f->gm, &f->info), 0);
	assert_int_equal(f->info.rsdp, 0xe0000);
	assert_int_equal(f->info.base + f->info.size, MIB(32));
	fadt = find(f, "FACP");
	assert_int_equal(fadt->header.length, 276);
	assert_int_equal(fadt->pm1a_evt, 0x600);
	assert_int_equal(fadt->x_pm1a_cnt.address, 0x604);
	assert_int_equal(fadt->pm_tmr, 0x608);
	assert_int_equal(fadt->reset_reg.address, 0xcf9);
	assert_int_equal(fadt->reset_value, 6);
	assert_int_equal(fadt->dsdt, fadt->x_dsdt);
	assert_memory_equal(table(f, fadt->dsdt)->signature, "DSDT", 4);
	facs = gmem_ptr(&f->gm, fadt->facs, sizeof(*facs), false);
	assert_memory_equal(facs->signature, "FACS", 4);
	assert_int_equal(fadt->facs % 64, 0);
	mcfg = (void *)((char *)find(f, "MCFG") + sizeof(struct acpi_header));
	assert_int_equal(mcfg->base, 0xb0000000);
	assert_int_equal(mcfg->last_bus, 255);
}

/* Counts subtables by type behind a fixed part; every length must fit. */
static void count_types(const struct acpi_header *h, size_t fixed, unsigned count[16])
{
	const uint8_t *p = (const uint8_t *)h + sizeof(*h) + fixed;
	const uint8_t *end = (const uint8_t *)h + h->length;

	memset(count, 0, 16 * sizeof(count[0]));
	while (p < end) {
		assert_true(p[0] < 16 && p[1] >= 2 && p + p[1] <= end);
		count[p[0]]++;
		p += p[1];
	}
}

static void test_cpus(void **state)
{
	struct fixture *f = *state;
	unsigned count[16];

	assert_int_equal(acpi_build(&f->cfg, &f->gm, &f->info), 0);
	count_types(find(f, "APIC"), sizeof(struct acpi_madt), count);
	assert_int_equal(count[0], 4);
	assert_int_equal(count[9], 0);
	assert_int_equal(count[1], 1);
	assert_int_equal(count[2], 2);
	assert_int_equal(count[4], 1);
	assert_int_equal(count[10], 0);
	count_types(find(f, "SRAT"), 12, count);
	assert_int_equal(count[0], 4);
	assert_int_equal(count[1], 2);
	assert_int_equal(count[2], 0);

	f->cfg.ncpus = MAX_CPUS;
	assert_int_equal(acpi_build(&f->cfg, &f->gm, &f->info), 0);
	count_types(find(f, "APIC"), sizeof(struct acpi_madt), count);
	assert_int_equal(count[0], 255);
	assert_int_equal(count[9], MAX_CPUS - 255);
	assert_int_equal(count[10], 1);
	count_types(find(f, "SRAT"), 12, count);
	assert_int_equal(count[0], 255);
	assert_int_equal(count[2], MAX_CPUS - 255);
}

static void test_numa(void **state)
{
	struct fixture *f = *state;
	const uint8_t *p;

	assert_int_equal(acpi_build(&f->cfg, &f->gm, &f->info), 0);
	p = find(f, "SLIT");
	assert_int_equal(p[36], 2);
	assert_int_equal(p[44], 10);
	assert_int_equal(p[45], 21);
	assert_int_equal(p[46], 31);
	f->cfg.distance = NULL;
	assert_int_equal(acpi_build(&f->cfg, &f->gm, &f->info), 0);
	p = find(f, "SLIT");
	assert_int_equal(p[45], 20);
	f->cfg.nnodes = 0;
	assert_int_equal(acpi_build(&f->cfg, &f->gm, &f->info), 0);
	assert_null(find(f, "SLIT"));
	assert_null(find(f, "SRAT"));
}

static void test_too_small(void **state)
{
	struct fixture *f = *state;

	f->ram[0].size = MIB(1);
	f->cfg.nram = 1;
	log_set_level(LOG_ERR);
	assert_int_equal(acpi_build(&f->cfg, &f->gm, &f->info), -ENOMEM);
}

/* PkgLength of one to four bytes, ACPI 6.4 section 20.2.4. */
static void test_aml_length(void **state)
{
	static const struct {
		size_t body;
		uint8_t enc[4];
		unsigned n;
	} cases[] = {
		{0, {0x01}, 1},
		{62, {0x3f}, 1},
		{63, {0x41, 0x04}, 2},
		{4093, {0x4f, 0xff}, 2},
		{4094, {0x81, 0x00, 0x01}, 3},
		{1048572, {0x8f, 0xff, 0xff}, 3},
		{1048573, {0xc1, 0x00, 0x00, 0x01}, 4},
	};
	unsigned i;

	for (i = 0; i < ARRAY_SIZE(cases); i++) {
		uint8_t *body = calloc(1, cases[i].body + 1);
		struct aml a = {0};
		size_t start = aml_begin(&a);

		aml_bytes(&a, body, cases[i].body);
		aml_end(&a, start);
		assert_int_equal(a.len, cases[i].body + cases[i].n);
		assert_memory_equal(a.data, cases[i].enc, cases[i].n);
		aml_free(&a);
		free(body);
	}
}

static void test_aml_terms(void **state)
{
	struct aml a = {0};
	size_t dev;

	assert_int_equal(aml_eisa_id("PNP0A03"), 0x030ad041);
	dev = aml_device(&a, "RTC");
	aml_name_int(&a, "_UID", 0x1234);
	aml_end(&a, dev);
	assert_int_equal(a.len, 15);
	assert_memory_equal(a.data, "\x5b\x82\x0dRTC_\x08_UID\x0b\x34\x12", 15);
	a.len = 0;
	aml_name_string(&a, "\\_SB.PCI0");
	assert_memory_equal(a.data, "\\\x2e_SB_PCI0", 10);
	aml_free(&a);
}

/* With a directory as argument writes the tables of a big machine there, to be read with iasl -d.
 */
static void dump_tables(const char *dir)
{
	static const char *const names[] = {"FACP", "APIC", "MCFG", "SRAT", "SLIT", "DSDT"};
	struct fixture *f;
	unsigned i;

	setup((void **)&f);
	f->cfg.ncpus = 300;
	acpi_build(&f->cfg, &f->gm, &f->info);
	for (i = 0; i < ARRAY_SIZE(names); i++) {
		const struct acpi_header *h = find(f, names[i]);
		char path[256];
		FILE *out;

		if (!h)
			h = table(f, ((const struct acpi_fadt *)find(f, "FACP"))->dsdt);
		snprintf(path, sizeof(path), "%s/%s.dat", dir, names[i]);
		out = fopen(path, "wb");
		if (!out)
			break;
		fwrite(h, 1, h->length, out);
		fclose(out);
	}
	teardown((void **)&f);
}

int main(int argc, char **argv)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test_setup_teardown(test_fixed_tables, setup, teardown),
		cmocka_unit_test_setup_teardown(test_cpus, setup, teardown),
		cmocka_unit_test_setup_teardown(test_numa, setup, teardown),
		cmocka_unit_test_setup_teardown(test_too_small, setup, teardown),
		cmocka_unit_test(test_aml_length),
		cmocka_unit_test(test_aml_terms),
	};

	if (argc > 1) {
		dump_tables(argv[1]);
		return 0;
	}
	return cmocka_run_group_tests(tests, NULL, NULL);
}
