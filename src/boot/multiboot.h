/*
 * Multiboot 1 kernels (Multiboot Specification 0.6.96): ELF32 or ELF64 by their program headers, or
 * any file by the addresses in its multiboot header. Entered in 32-bit protected mode with EAX the
 * magic number and EBX the information structure.
 */
#ifndef BOOT_MULTIBOOT_H
#define BOOT_MULTIBOOT_H

#include "src/boot/elf.h"

#define MULTIBOOT_SEARCH 8192 /* the header lies within this many bytes from the file's start */

struct multiboot_header {
	uint32_t offset; /* of the header in the file */
	uint32_t flags;
	uint32_t header_addr; /* this and the following: valid with MULTIBOOT_HAS_ADDR */
	uint32_t load_addr;
	uint32_t load_end_addr;
	uint32_t bss_end_addr;
	uint32_t entry_addr;
};

#define MULTIBOOT_HAS_ADDR (1u << 16)

bool multiboot_find(const uint8_t *head, size_t len, struct multiboot_header *hdr);
/* elf: NULL if the file is not ELF; then the header must have addresses. See boot_load(). */
int multiboot_load(const struct boot_config *cfg, const struct image *img,
		   const struct multiboot_header *hdr, const struct elf_file *elf, struct gmem *gm,
		   const struct e820_map *map, struct boot_entry *entry);

#endif
