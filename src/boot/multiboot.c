#include "src/boot/multiboot.h"

#include <assert.h>
#include <stdio.h>
#include <stdlib.h>

#include "src/base/log.h"
#include "src/boot/cpu_start.h"
#include "src/boot/layout.h"

#define HEADER_MAGIC	0x1badb002u
#define LOADER_MAGIC	0x2badb002u
#define HEADER_REQUIRED 0xfff8u /* features that must be known: modules, memory and video are */

#define INFO_MEMORY	 (1u << 0)
#define INFO_CMDLINE	 (1u << 2)
#define INFO_MODULES	 (1u << 3)
#define INFO_MMAP	 (1u << 6)
#define INFO_LOADER_NAME (1u << 9)

struct multiboot_info {
	uint32_t flags;
	uint32_t mem_lower; /* KiB from 0 */
	uint32_t mem_upper; /* KiB from 1 MiB */
	uint32_t boot_device;
	uint32_t cmdline;
	uint32_t mods_count;
	uint32_t mods_addr;
	uint32_t syms[4];
	uint32_t mmap_length; /* bytes */
	uint32_t mmap_addr;
	uint32_t drives[2];
	uint32_t config_table;
	uint32_t boot_loader_name;
	uint32_t unused[12]; /* APM, VBE, frame buffer: not offered */
};

struct multiboot_module {
	uint32_t start;
	uint32_t end;
	uint32_t string;
	uint32_t reserved;
};

struct multiboot_mmap {
	uint32_t size; /* of the rest */
	uint64_t addr;
	uint64_t len;
	uint32_t type; /* as in e820 */
} __attribute__((packed));

static_assert(sizeof(struct multiboot_mmap) * E820_MAX <= PAGE_SIZE, "the map has one page");
static_assert(sizeof(struct multiboot_info) <= BOOT_MODULE - BOOT_INFO, "must fit its place");

bool multiboot_find(const uint8_t *head, size_t len, struct multiboot_header *hdr)
{
	uint32_t off;

	for (off = 0; off + 12 <= MIN(len, (size_t)MULTIBOOT_SEARCH); off += 4) {
		uint32_t w[8] = {0};

		memcpy(w, head + off, MIN(sizeof(w), len - off));
		if (w[0] != HEADER_MAGIC || w[0] + w[1] + w[2] != 0)
			continue;
		*hdr = (struct multiboot_header){off, w[1], w[3], w[4], w[5], w[6], w[7]};
		return true;
	}
	return false;
}

/* Loads by the addresses in the header ("a.out kludge"). */
static int load_by_header(const struct image *img, const struct multiboot_header *hdr,
			  struct gmem *gm, const struct e820_map *map, gpa_t *end)
{
	uint64_t before =
		(uint64_t)hdr->header_addr - hdr->load_addr; /* file bytes before header */
	uint64_t start, len, mem;
	int r;

	if (hdr->header_addr < hdr->load_addr || before > hdr->offset ||
	    (hdr->load_end_addr && hdr->load_end_addr < hdr->load_addr)) {
		log_err("kernel '%s' has a malformed multiboot header", img->path);
		return -ENOEXEC;
	}
	start = hdr->offset - before;
	len = hdr->load_end_addr ? hdr->load_end_addr - hdr->load_addr : img->size - start;
	mem = len;
	if (hdr->bss_end_addr > hdr->load_addr)
		mem = MAX(mem, (uint64_t)hdr->bss_end_addr - hdr->load_addr);
	r = elf_check_range(img, map, hdr->load_addr, mem);
	if (!r)
		r = image_load(img, start, len, gm, hdr->load_addr);
	if (!r)
		r = image_zero(img, mem - len, gm, hdr->load_addr + len);
	*end = MAX(ALIGN_UP(hdr->load_addr + mem, PAGE_SIZE), (uint64_t)BOOT_HIGH_MEMORY);
	return r;
}

static int load_kernel(const struct image *img, const struct multiboot_header *hdr,
		       const struct elf_file *elf, struct gmem *gm, const struct e820_map *map,
		       gpa_t *end, uint64_t *rip)
{
	if (hdr->flags & HEADER_REQUIRED) {
		log_err("kernel '%s' requires unknown multiboot features (flags %#x)", img->path,
			hdr->flags);
		return -ENOEXEC;
	}
	if (hdr->flags & MULTIBOOT_HAS_ADDR) {
		*rip = hdr->entry_addr;
		return load_by_header(img, hdr, gm, map, end);
	}
	if (!elf) {
		log_err("kernel '%s' is neither ELF nor has load addresses in its multiboot header",
			img->path);
		return -ENOEXEC;
	}
	*rip = elf_entry_paddr(elf);
	return elf_load(img, elf, gm, map, end);
}

static int put_mmap(struct gmem *gm, const struct e820_map *map, struct multiboot_info *info)
{
	struct multiboot_mmap table[E820_MAX];
	unsigned i;

	for (i = 0; i < map->count; i++)
		table[i] = (struct multiboot_mmap){sizeof(table[0]) - sizeof(table[0].size),
						   map->range[i].addr, map->range[i].size,
						   map->range[i].type};
	info->mmap_addr = BOOT_PARAMS;
	info->mmap_length = map->count * sizeof(table[0]);
	return boot_put(gm, BOOT_PARAMS, table, info->mmap_length);
}

static int put_module(const struct boot_config *cfg, struct gmem *gm, const struct e820_map *map,
		      gpa_t floor, gpa_t *string, struct multiboot_info *info)
{
	struct multiboot_module mod = {.string = *string};
	uint64_t size;
	gpa_t gpa;
	int r;

	if (!cfg->initrd_path)
		return 0;
	r = image_load_initrd(cfg->initrd_path, gm, floor, e820_low_top(map), &gpa, &size);
	if (!r)
		r = boot_put_string(gm, string, cfg->initrd_path);
	mod.start = gpa;
	mod.end = gpa + size;
	info->mods_count = 1;
	info->mods_addr = BOOT_MODULE;
	return r ? r : boot_put(gm, BOOT_MODULE, &mod, sizeof(mod));
}

/* By custom the first word of the command line is the kernel's file name. */
static int put_cmdline(const struct boot_config *cfg, struct gmem *gm, gpa_t *string)
{
	char *s;
	int r;

	if (asprintf(&s, "%s%s%s", cfg->kernel_path, cfg->cmdline ? " " : "",
		     cfg->cmdline ? cfg->cmdline : "") < 0)
		return -ENOMEM;
	r = boot_put_string(gm, string, s);
	free(s);
	return r;
}

int multiboot_load(const struct boot_config *cfg, const struct image *img,
		   const struct multiboot_header *hdr, const struct elf_file *elf, struct gmem *gm,
		   const struct e820_map *map, struct boot_entry *entry)
{
	static const char name[] = "numavisor";
	struct multiboot_info info = {
		.flags = INFO_MEMORY | INFO_CMDLINE | INFO_MODULES | INFO_MMAP | INFO_LOADER_NAME,
		.mem_lower = BOOT_EBDA >> 10,
		.mem_upper = (e820_low_top(map) - BOOT_HIGH_MEMORY) >> 10,
		.cmdline = BOOT_CMDLINE,
		.boot_loader_name = BOOT_LOADER_NAME,
	};
	gpa_t end, string = BOOT_CMDLINE;
	int r = load_kernel(img, hdr, elf, gm, map, &end, &entry->rip);

	if (!r)
		r = put_cmdline(cfg, gm, &string);
	if (!r)
		r = put_module(cfg, gm, map, end, &string, &info);
	if (!r)
		r = put_mmap(gm, map, &info);
	if (!r)
		r = boot_put(gm, BOOT_LOADER_NAME, name, sizeof(name));
	if (!r)
		r = boot_put(gm, BOOT_INFO, &info, sizeof(info));
	if (r)
		return r;
	entry->rax = LOADER_MAGIC;
	entry->rbx = BOOT_INFO;
	return cpu_start_prepare(gm, BOOT_PROT32, entry);
}
