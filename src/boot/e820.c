#include "src/boot/e820.h"

#include <stdlib.h>

#include "src/base/log.h"
#include "src/boot/layout.h"

static int add(struct e820_map *map, uint64_t addr, uint64_t end, uint32_t type)
{
	if (addr >= end)
		return 0;
	if (map->count == E820_MAX) {
		log_err("the guest's memory map has more than %d entries", E820_MAX);
		return -E2BIG;
	}
	map->range[map->count++] = (struct e820_range){addr, end - addr, type};
	return 0;
}

/* Neighbouring ranges of different NUMA nodes are one range here. */
static int add_ram(const struct boot_config *cfg, struct e820_map *map)
{
	unsigned i;

	for (i = 0; i < cfg->nram; i++) {
		const struct boot_ram *ram = &cfg->ram[i];
		struct e820_range *last = map->count ? &map->range[map->count - 1] : NULL;
		int r;

		if (last && last->addr + last->size == ram->gpa) {
			last->size += ram->size;
			continue;
		}
		r = add(map, ram->gpa, ram->gpa + ram->size, E820_RAM);
		if (r)
			return r;
	}
	return 0;
}

/* Takes [start, end) out of the usable RAM. */
static int carve(struct e820_map *map, uint64_t start, uint64_t end)
{
	unsigned i, n = map->count;

	for (i = 0; i < n; i++) {
		struct e820_range *e = &map->range[i];
		uint64_t e_end = e->addr + e->size;
		int r;

		if (e->type != E820_RAM || start >= e_end || end <= e->addr)
			continue;
		r = add(map, end, e_end, E820_RAM);
		if (r)
			return r;
		e->size = start > e->addr ? start - e->addr : 0;
	}
	return 0;
}

static int by_address(const void *a, const void *b)
{
	const struct e820_range *x = a, *y = b;

	return x->addr < y->addr ? -1 : x->addr > y->addr;
}

static void sort(struct e820_map *map)
{
	unsigned i, n = 0;

	for (i = 0; i < map->count; i++)
		if (map->range[i].size)
			map->range[n++] = map->range[i];
	map->count = n;
	qsort(map->range, n, sizeof(map->range[0]), by_address);
}

int e820_build(const struct boot_config *cfg, struct e820_map *map)
{
	const struct e820_range holes[] = {
		{BOOT_EBDA, BOOT_CONVENTIONAL_END - BOOT_EBDA, E820_RESERVED},
		{BOOT_CONVENTIONAL_END, BOOT_BIOS_AREA - BOOT_CONVENTIONAL_END, 0},
		{BOOT_BIOS_AREA, BOOT_HIGH_MEMORY - BOOT_BIOS_AREA, E820_RESERVED},
		{cfg->acpi_base, cfg->acpi_size, E820_ACPI},
		{cfg->ecam_base, cfg->ecam_size, E820_RESERVED},
	};
	unsigned i;
	int r;

	map->count = 0;
	r = add_ram(cfg, map);
	for (i = 0; !r && i < ARRAY_SIZE(holes); i++) {
		uint64_t end = holes[i].addr + holes[i].size;

		if (!holes[i].size)
			continue;
		r = carve(map, holes[i].addr, end);
		if (!r && holes[i].type)
			r = add(map, holes[i].addr, end, holes[i].type);
	}
	sort(map);
	return r;
}

bool e820_is_ram(const struct e820_map *map, uint64_t addr, uint64_t size)
{
	unsigned i;

	for (i = 0; i < map->count; i++) {
		const struct e820_range *e = &map->range[i];

		if (e->type == E820_RAM && addr >= e->addr && addr - e->addr <= e->size &&
		    size <= e->size - (addr - e->addr))
			return true;
	}
	return false;
}

uint64_t e820_low_top(const struct e820_map *map)
{
	unsigned i;

	for (i = 0; i < map->count; i++) {
		const struct e820_range *e = &map->range[i];

		if (e->type == E820_RAM && e->addr == BOOT_HIGH_MEMORY)
			return e->addr + e->size;
	}
	return BOOT_HIGH_MEMORY;
}
