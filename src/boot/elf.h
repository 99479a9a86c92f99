/* ELF executables for x86, 32 or 64 bits. Every function logs its own failure. */
#ifndef BOOT_ELF_H
#define BOOT_ELF_H

#include "src/boot/e820.h"
#include "src/boot/image.h"

#define ELF_MAX_SEGMENTS 64

struct elf_segment {
	uint32_t type;	/* PT_LOAD, PT_NOTE ... */
	uint32_t flags; /* PF_X ... */
	uint64_t offset;
	uint64_t vaddr;
	uint64_t paddr;
	uint64_t file_size;
	uint64_t mem_size;
};

struct elf_file {
	bool is64;
	uint64_t entry; /* virtual */
	unsigned nsegments;
	struct elf_segment segment[ELF_MAX_SEGMENTS];
};

bool elf_detect(const uint8_t *head, size_t len);
/* -ENOEXEC if it is not an x86 executable. */
int elf_parse(const struct image *img, struct elf_file *elf);
/*
 * Copies the PT_LOAD segments to their physical addresses, which must be usable RAM outside the
 * loaders' own data. *end: first page boundary above 1 MiB that no segment reaches.
 */
int elf_load(const struct image *img, const struct elf_file *elf, struct gmem *gm,
	     const struct e820_map *map, gpa_t *end);
/* The entry point as a physical address. */
uint64_t elf_entry_paddr(const struct elf_file *elf);
/* First 4 bytes of the descriptor of a note; -ENOENT (not logged) if there is none. */
int elf_find_note(const struct image *img, const struct elf_file *elf, const char *name,
		  uint32_t type, uint32_t *value);
/* Whether [gpa, gpa + size) may be loaded to; logs if not (-ENOMEM). */
int elf_check_range(const struct image *img, const struct e820_map *map, gpa_t gpa, uint64_t size);

#endif
