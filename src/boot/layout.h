/*
 * Where the loaders put what they hand to a kernel. All of it lies in conventional memory, in
 * [BOOT_DATA_START, BOOT_DATA_END), so that kernels linked very low (from 16 KiB) can be loaded.
 * The pages from 0x9c000 to 0x9f000 stay free: Linux's decompressor places its mode-switch
 * trampoline there while it still runs on our page tables.
 */
#ifndef BOOT_LAYOUT_H
#define BOOT_LAYOUT_H

#define BOOT_DATA_START	  0x90000u
#define BOOT_GDT	  0x90000u /* 5 descriptors */
#define BOOT_INFO	  0x90100u /* multiboot information or hvm_start_info */
#define BOOT_MODULE	  0x90200u /* module list: one entry */
#define BOOT_LOADER_NAME  0x90300u
#define BOOT_PARAMS	  0x91000u /* Linux's zero page, or the memory map of the other two */
#define BOOT_PAGE_TABLES  0x92000u /* PML4, PDPT, four page directories */
#define BOOT_CMDLINE	  0x98000u
#define BOOT_CMDLINE_SIZE 0x4000u /* bytes, terminators included */
#define BOOT_DATA_END	  0x9c000u

#define BOOT_EBDA	      0x9fc00u
#define BOOT_CONVENTIONAL_END 0xa0000u
#define BOOT_BIOS_AREA	      0xe0000u /* RSDP */
#define BOOT_HIGH_MEMORY      0x100000u

#endif
