/*
 * Random accesses to every device of a whole machine, by several threads at once, while the I/O
 * thread works: nothing a guest does may hurt the monitor. The sanitizers judge.
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <unistd.h>
#include <cmocka.h>

#include "src/base/rcu.h"
#include "src/dev/acpi_pm.h"
#include "src/vm/vm_int.h"

#define THREADS 3
#define ROUNDS	100000
#define RINGS	0x200000u
#define MEMORY	MIB(32)

struct fuzzer {
	struct vm *vm;
	uint64_t seed;
	unsigned number;
};

static uint64_t random64(struct fuzzer *f)
{
	f->seed ^= f->seed << 13;
	f->seed ^= f->seed >> 7;
	return f->seed ^= f->seed << 17;
}

struct range {
	uint64_t base, len;
};

static const struct range ports[] = {
	{0x20, 2},  {0xa0, 2},	  {0x4d0, 2},
	{0x40, 4},  {0x60, 8},	  {0x70, 2},
	{0x92, 1},  {0x3f8, 8},	  {0xcf8, 8},
	{0x510, 2},

	{0xf4, 4},  {0xe0, 9},	  {0x2000, 24},
	{0x80, 1},  {0, 0x10000}, {ACPI_PM_BASE, ACPI_PM_PORTS},
};

/* BARs lie at the start of their window, and move only where configuration space is written. */
static const struct range memory[] = {
	{ECAM_BASE, 6 << 15},	   {ECAM_BASE, 6 << 15},   {MMIO32_BASE, 0x40000},
	{MMIO32_BASE, 0x40000},	   {MMIO32_BASE, 0x40000}, {IOAPIC_MMIO_BASE, 0x50},
	{APIC_DEFAULT_BASE, 4096}, {0xff000000, 0x10000},  {0, 1ull << 40},
};

/* Values that mean something somewhere. */
static uint64_t value(struct fuzzer *f)
{
	switch (random64(f) % 6) {
	case 0: return 0;
	case 1: return random64(f) % 16;
	case 2: return random64(f) % (MEMORY / 64) * 64;
	case 3: return 1ull << random64(f) % 64;
	case 4: return random64(f) % 256 * 0x01010101ull;
	default: return random64(f);
	}
}

static uint64_t pick(struct fuzzer *f, const struct range *r, unsigned n)
{
	r += random64(f) % n;
	return r->base + random64(f) % r->len;
}

static void access_port(struct fuzzer *f, struct cpu *cpu)
{
	uint16_t port = pick(f, ports, ARRAY_SIZE(ports));
	unsigned len = 1u << random64(f) % 3;
	uint64_t v = value(f);

	if (random64(f) % 2)
		cpu->ops->pio_write(cpu, port, &v, len);
	else
		cpu->ops->pio_read(cpu, port, &v, len);
}

static void access_memory(struct fuzzer *f, struct cpu *cpu)
{
	unsigned len = 1u << random64(f) % 4;
	gpa_t gpa = pick(f, memory, ARRAY_SIZE(memory)) & ~(uint64_t)(len - 1);
	uint64_t v = value(f);

	/* Decoding stays on and devices stay masters, most of the time. */
	if (gpa - ECAM_BASE < ECAM_SIZE && (gpa & 0xfff) < 0x40 && random64(f) % 8)
		return;
	if (gpa - ECAM_BASE < ECAM_SIZE && (gpa & 0xfff & ~3u) == PCI_COMMAND)
		v |= PCI_COMMAND_MEMORY | PCI_COMMAND_MASTER;
	if (random64(f) % 2)
		cpu->ops->mmio_write(cpu, gpa, &v, len);
	else
		cpu->ops->mmio_read(cpu, gpa, &v, len);
}

/* Register BARs are 16 KiB, and aligned so. */
static gpa_t some_bar(struct fuzzer *f)
{
	return MMIO32_BASE + random64(f) % 8 * 0x4000;
}

/* The parts of a register BAR where something is: common configuration, notification, device. */
static void access_virtio(struct fuzzer *f, struct cpu *cpu)
{
	static const struct range parts[] = {
		{0, 56}, {0, 56}, {0x1000, 4}, {0x2000, 64}, {0x3000, 16}};
	unsigned len = 1u << random64(f) % 3;
	gpa_t gpa = some_bar(f) + (pick(f, parts, ARRAY_SIZE(parts)) & ~(uint64_t)(len - 1));
	uint64_t v = value(f);

	if (random64(f) % 2)
		cpu->ops->mmio_write(cpu, gpa, &v, len);
	else
		cpu->ops->mmio_read(cpu, gpa, &v, len);
}

static void put(struct fuzzer *f, struct cpu *cpu, gpa_t gpa, uint64_t v, unsigned len)
{
	/* Now and then a driver gets it wrong. */
	if (random64(f) % 64 == 0)
		v = value(f);
	cpu->ops->mmio_write(cpu, gpa, &v, len);
}

struct desc {
	uint64_t addr;
	uint32_t len;
	uint16_t flags, next;
};

/* Chains of three, as for disks, and of one, as for network cards and entropy. */
static void fill_ring(struct fuzzer *f, gpa_t ring)
{
	static const uint16_t heads[8] = {0, 3, 6, 7, 3, 0, 7, 6};
	struct gmem *gm = &f->vm->gmem;
	struct {
		uint32_t type, reserved;
		uint64_t sector;
	} header = {.type = random64(f) % 16, .sector = random64(f) % 16};
	const struct desc table[8] = {
		{RINGS + 0x8000, 16, 1, 1},   {RINGS + 0x9000, 4096, 3, 2},
		{RINGS + 0xa000, 1, 2, 0},    {RINGS + 0x8000, 16, 1, 4},
		{RINGS + 0x9000, 512, 1, 5},  {RINGS + 0xa001, 1, 2, 0},
		{RINGS + 0xb000, 2048, 2, 0}, {RINGS + 0xc000, 76, 0, 0},
	};
	uint32_t zero = 0;

	gmem_write(gm, RINGS + 0x8000, &header, sizeof(header));
	gmem_write(gm, ring, table, sizeof(table));
	gmem_write(gm, ring + 0x100, &zero, 4);
	gmem_write(gm, ring + 0x104, heads, sizeof(heads));
	gmem_write(gm, ring + 0x200, &zero, 4);
}

/* A driver that takes a device into use, more or less. */
static void bring_up(struct fuzzer *f, struct cpu *cpu)
{
	gpa_t bar = some_bar(f);

	for (unsigned slot = 1; slot <= 3; slot++)
		put(f, cpu, ECAM_BASE + (slot << 15) + PCI_COMMAND,
		    PCI_COMMAND_MEMORY | PCI_COMMAND_MASTER, 2);
	put(f, cpu, bar + 20, 0, 1);
	put(f, cpu, bar + 20, 1, 1);
	put(f, cpu, bar + 20, 3, 1);
	put(f, cpu, bar + 8, 0, 4);
	put(f, cpu, bar + 12, random64(f) & 0x30000000, 4);
	put(f, cpu, bar + 8, 1, 4);
	put(f, cpu, bar + 12, 1, 4);
	put(f, cpu, bar + 20, 11, 1);
	for (unsigned q = 0; q < 3; q++) {
		gpa_t ring = RINGS + random64(f) % 4 * 0x1000;

		fill_ring(f, ring);
		put(f, cpu, bar + 22, q, 2);
		put(f, cpu, bar + 24, 8, 2);
		put(f, cpu, bar + 26, q, 2);
		put(f, cpu, bar + 32, ring, 8);
		put(f, cpu, bar + 40, ring + 0x100, 8);
		put(f, cpu, bar + 48, ring + 0x200, 8);
		put(f, cpu, bar + 28, 1, 2);
	}
	put(f, cpu, bar + 20, 15, 1);
}

/* What a driver might have put into its rings: a descriptor, an entry of the available ring. */
static void scribble(struct fuzzer *f)
{
	struct gmem *gm = &f->vm->gmem;
	gpa_t ring = RINGS + random64(f) % 4 * 0x1000;
	uint64_t v = value(f);
	uint16_t idx = 0;

	if (random64(f) % 2) {
		uint64_t desc[2] = {value(f) % MEMORY, random64(f) % 4096 |
							       (random64(f) % 8) << 32 |
							       (random64(f) % 9) << 48};

		gmem_write(gm, ring + random64(f) % 8 * 16, desc, 16);
	} else if (random64(f) % 4) {
		gmem_read(gm, ring + 0x102, &idx, 2);
		idx += random64(f) % 3;
		gmem_write(gm, ring + 0x102, &idx, 2);
	} else {
		gmem_write(gm, random64(f) % (MEMORY - 8), &v, 1u << random64(f) % 4);
	}
}

static void *fuzz(void *arg)
{
	struct fuzzer *f = arg;
	struct cpu *cpu = &f->vm->smp->vcpu[f->number]->cpu;

	rcu_thread_init();
	for (unsigned n = 0; n < ROUNDS; n++) {
		switch (random64(f) % 8) {
		case 0: access_port(f, cpu); break;
		case 1: access_memory(f, cpu); break;
		case 2:
			if (random64(f) % 8 == 0)
				bring_up(f, cpu);
			break;
		case 3:
		case 4: scribble(f); break;
		default: access_virtio(f, cpu);
		}
		rcu_quiescent();
	}
	rcu_thread_exit();
	return NULL;
}

static void make_file(const char *path, size_t size)
{
	FILE *out = fopen(path, "w");

	assert_non_null(out);
	assert_int_equal(ftruncate(fileno(out), size), 0);
	fclose(out);
}

static void make_kernel(const char *path)
{
	static const uint32_t header[] = {0x1badb002, 0x10000,	-(0x1badb002u + 0x10000),
					  0x100000,   0x100000, 0x100024,
					  0x100024,   0x100020, 0xfeebf4};
	FILE *out = fopen(path, "w");

	assert_non_null(out);
	assert_int_equal(fwrite(header, sizeof(header), 1, out), 1);
	fclose(out);
}

static void test_devices(void **state)
{
	char dir[] = "/tmp/test_fuzz.XXXXXX", kernel[64], disk[64], serial[64];
	struct fuzzer f[THREADS];
	pthread_t thread[THREADS];
	struct vm_config cfg = {
		.kernel = kernel,
		.sockets = 1,
		.cores = THREADS,
		.threads = 1,
		.memory = MEMORY,
		.engine = "interp",
		.serial = VM_SERIAL_FILE,
		.serial_path = serial,
		.net = VM_NET_USER,
		.rng = true,
		.test_device = true,
		.ndisks = 1,
		.disk = {{.path = disk}},
	};
	bool host_error;
	struct vm *vm;

	assert_non_null(mkdtemp(dir));
	snprintf(kernel, sizeof(kernel), "%s/kernel", dir);
	snprintf(disk, sizeof(disk), "%s/disk", dir);
	snprintf(serial, sizeof(serial), "%s/serial", dir);
	make_kernel(kernel);
	make_file(disk, MIB(1));
	for (uint64_t seed = 1; seed <= 10; seed++) {
		assert_int_equal(vm_create(&vm, &cfg, &host_error), 0);
		assert_int_equal(evloop_start(vm->loop), 0);
		for (unsigned n = 0; n < THREADS; n++) {
			f[n] = (struct fuzzer){.vm = vm,
					       .seed = (seed << 8 | n) * 88172645463325253ull,
					       .number = n};
			assert_int_equal(pthread_create(&thread[n], NULL, fuzz, &f[n]), 0);
		}
		rcu_offline();
		for (unsigned n = 0; n < THREADS; n++)
			pthread_join(thread[n], NULL);
		rcu_online();
		vm_destroy(vm);
	}
	remove(kernel);
	remove(disk);
	remove(serial);
	remove(dir);
}

int main(void)
{
	const struct CMUnitTest tests[] = {cmocka_unit_test(test_devices)};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
