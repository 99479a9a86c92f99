/*
 * Uncompressed ELF kernels with a PVH entry point (Xen docs/misc/pvh.pandoc): the note
 * XEN_ELFNOTE_PHYS32_ENTRY gives a 32-bit address, entered in protected mode with EBX pointing to
 * struct hvm_start_info.
 */
#ifndef BOOT_PVH_H
#define BOOT_PVH_H

#include "src/boot/elf.h"

/* 0 and the entry point, or -ENOENT if the file has none. */
int pvh_find_entry(const struct image *img, const struct elf_file *elf, uint32_t *entry);
/* See boot_load(). */
int pvh_load(const struct boot_config *cfg, const struct image *img, const struct elf_file *elf,
	     uint32_t rip, struct gmem *gm, const struct e820_map *map, struct boot_entry *entry);

#endif
