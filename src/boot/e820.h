/* The memory map handed to kernels, sorted by address. Pure functions. */
#ifndef BOOT_E820_H
#define BOOT_E820_H

#include "src/boot/boot.h"

enum e820_type { E820_RAM = 1, E820_RESERVED = 2, E820_ACPI = 3 };

struct e820_range {
	uint64_t addr;
	uint64_t size;
	uint32_t type; /* enum e820_type */
};

#define E820_MAX 128 /* what Linux's boot parameters can hold */

struct e820_map {
	unsigned count;
	struct e820_range range[E820_MAX];
};

/* -E2BIG (logged) if the RAM is in more pieces than fit. */
int e820_build(const struct boot_config *cfg, struct e820_map *map);
/* True if all of [addr, addr + size) is one piece of usable RAM. */
bool e820_is_ram(const struct e820_map *map, uint64_t addr, uint64_t size);
/* End of the usable RAM that starts at 1 MiB; 1 MiB if there is none. */
uint64_t e820_low_top(const struct e820_map *map);

#endif
