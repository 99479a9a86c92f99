#include "src/boot/pvh.h"

#include <assert.h>

#include "src/boot/cpu_start.h"
#include "src/boot/layout.h"

#define XEN_ELFNOTE_PHYS32_ENTRY 18
#define HVM_START_MAGIC		 0x336ec578u

/* Xen public/arch-x86/hvm/start_info.h, version 1. */
struct hvm_start_info {
	uint32_t magic;
	uint32_t version;
	uint32_t flags;
	uint32_t nr_modules;
	uint64_t modlist_paddr;
	uint64_t cmdline_paddr;
	uint64_t rsdp_paddr;
	uint64_t memmap_paddr;
	uint32_t memmap_entries;
	uint32_t reserved;
};

struct hvm_module {
	uint64_t paddr;
	uint64_t size;
	uint64_t cmdline_paddr;
	uint64_t reserved;
};

struct hvm_memmap {
	uint64_t addr;
	uint64_t size;
	uint32_t type; /* as in e820 */
	uint32_t reserved;
};

static_assert(sizeof(struct hvm_start_info) == 56, "layout of hvm_start_info");
static_assert(sizeof(struct hvm_memmap) * E820_MAX <= PAGE_SIZE, "the map has one page");

int pvh_find_entry(const struct image *img, const struct elf_file *elf, uint32_t *entry)
{
	return elf_find_note(img, elf, "Xen", XEN_ELFNOTE_PHYS32_ENTRY, entry);
}

static int put_memmap(struct gmem *gm, const struct e820_map *map)
{
	struct hvm_memmap table[E820_MAX] = {0};
	unsigned i;

	for (i = 0; i < map->count; i++)
		table[i] = (struct hvm_memmap){map->range[i].addr, map->range[i].size,
					       map->range[i].type, 0};
	return boot_put(gm, BOOT_PARAMS, table, map->count * sizeof(table[0]));
}

int pvh_load(const struct boot_config *cfg, const struct image *img, const struct elf_file *elf,
	     uint32_t rip, struct gmem *gm, const struct e820_map *map, struct boot_entry *entry)
{
	struct hvm_start_info info = {
		.magic = HVM_START_MAGIC,
		.version = 1,
		.nr_modules = cfg->initrd_path ? 1 : 0,
		.modlist_paddr = cfg->initrd_path ? BOOT_MODULE : 0,
		.cmdline_paddr = BOOT_CMDLINE,
		.rsdp_paddr = cfg->rsdp,
		.memmap_paddr = BOOT_PARAMS,
		.memmap_entries = map->count,
	};
	struct hvm_module mod = {0};
	gpa_t end, string = BOOT_CMDLINE;
	int r = elf_load(img, elf, gm, map, &end);

	if (!r)
		r = image_load_initrd(cfg->initrd_path, gm, end, e820_low_top(map), &mod.paddr,
				      &mod.size);
	if (!r)
		r = boot_put_string(gm, &string, cfg->cmdline ? cfg->cmdline : "");
	if (!r)
		r = put_memmap(gm, map);
	if (!r)
		r = boot_put(gm, BOOT_MODULE, &mod, sizeof(mod));
	if (!r)
		r = boot_put(gm, BOOT_INFO, &info, sizeof(info));
	if (r)
		return r;
	entry->rip = rip;
	entry->rbx = BOOT_INFO;
	return cpu_start_prepare(gm, BOOT_PROT32, entry);
}
