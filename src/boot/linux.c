#include "src/boot/linux.h"

#include <asm/bootparam.h>
#include <assert.h>

#include "src/base/log.h"
#include "src/boot/cpu_start.h"
#include "src/boot/layout.h"

#define SETUP_MAGIC_OFFSET 0x202
#define SETUP_MAGIC	   "HdrS"
#define SETUP_JUMP_OFFSET  0x201 /* second byte of a short jump: the header ends at its target */
#define SETUP_SECTOR	   512
#define ENTRY_64_OFFSET	   0x200
#define MIN_PROTOCOL	   0x20c
#define LOADER_UNDEFINED   0xff
#define VIDEO_MODE_NORMAL  0xffff

static_assert(sizeof(struct boot_params) == PAGE_SIZE, "the zero page is one page");
static_assert(offsetof(struct boot_params, hdr) == 0x1f1, "the setup header's place is fixed");
static_assert(E820_MAX <= E820_MAX_ENTRIES_ZEROPAGE, "a map must fit into the zero page");

bool linux_detect(const uint8_t *head, size_t len)
{
	return len >= SETUP_MAGIC_OFFSET + 4 && !memcmp(head + SETUP_MAGIC_OFFSET, SETUP_MAGIC, 4);
}

static int refuse(const struct image *img, const char *why)
{
	log_err("kernel '%s' %s", img->path, why);
	return -ENOEXEC;
}

/* Copies the header as far as this kernel knows it; the rest of bp stays zero. */
static int read_header(const struct image *img, struct boot_params *bp)
{
	const size_t start = offsetof(struct boot_params, hdr);
	uint8_t head[PAGE_SIZE] = {0};
	size_t end;
	int r = image_read(img, 0, head, MIN(img->size, sizeof(head)));

	if (r)
		return r;
	end = SETUP_MAGIC_OFFSET + head[SETUP_JUMP_OFFSET];
	if (img->size < end)
		return refuse(img, "is truncated");
	end = MIN(end, start + sizeof(bp->hdr));
	memset(bp, 0, sizeof(*bp));
	memcpy(&bp->hdr, head + start, end - start);
	return 0;
}

static uint64_t setup_size(const struct setup_header *hdr)
{
	return (uint64_t)((hdr->setup_sects ? hdr->setup_sects : 4) + 1) * SETUP_SECTOR;
}

static int check_header(const struct image *img, const struct setup_header *hdr)
{
	if (hdr->version < MIN_PROTOCOL)
		return refuse(img, "is too old: its boot protocol is below 2.12");
	if (!(hdr->xloadflags & XLF_KERNEL_64))
		return refuse(img, "is not a 64-bit x86 kernel");
	if (!(hdr->loadflags & LOADED_HIGH))
		return refuse(img, "is not a bzImage");
	/* syssize counts 16-byte paragraphs, the last of which may be incomplete. */
	if (img->size + 15 < setup_size(hdr) + (uint64_t)hdr->syssize * 16 ||
	    img->size <= setup_size(hdr))
		return refuse(img, "is truncated");
	return 0;
}

static int load_kernel(const struct image *img, struct gmem *gm, const struct e820_map *map,
		       const struct setup_header *hdr)
{
	uint64_t len = img->size - setup_size(hdr);
	uint64_t need = MAX(len, (uint64_t)hdr->init_size);

	if (!e820_is_ram(map, hdr->pref_address, need) || hdr->pref_address < BOOT_HIGH_MEMORY ||
	    hdr->pref_address + need > GIB(4)) {
		log_err("kernel '%s' needs %llu MiB of memory below 4 GiB", img->path,
			(unsigned long long)((hdr->pref_address + need) >> 20) + 1);
		return -ENOMEM;
	}
	return image_load(img, setup_size(hdr), len, gm, hdr->pref_address);
}

static int load_initrd(const struct boot_config *cfg, struct gmem *gm, const struct e820_map *map,
		       struct setup_header *hdr)
{
	gpa_t floor = ALIGN_UP(hdr->pref_address + hdr->init_size, PAGE_SIZE);
	gpa_t ceiling = MIN(e820_low_top(map), (uint64_t)hdr->initrd_addr_max + 1);
	gpa_t gpa;
	uint64_t size;
	int r = image_load_initrd(cfg->initrd_path, gm, floor, ceiling, &gpa, &size);

	hdr->ramdisk_image = gpa;
	hdr->ramdisk_size = size;
	return r;
}

static int put_cmdline(const struct boot_config *cfg, const struct image *img, struct gmem *gm,
		       struct setup_header *hdr)
{
	const char *s = cfg->cmdline ? cfg->cmdline : "";
	gpa_t end = BOOT_CMDLINE;

	if (hdr->cmdline_size && strlen(s) > hdr->cmdline_size) {
		log_err("kernel '%s' takes a command line of at most %u bytes", img->path,
			hdr->cmdline_size);
		return -E2BIG;
	}
	hdr->cmd_line_ptr = BOOT_CMDLINE;
	return boot_put_string(gm, &end, s);
}

static void put_e820(const struct e820_map *map, struct boot_params *bp)
{
	unsigned i;

	bp->e820_entries = map->count;
	for (i = 0; i < map->count; i++) {
		bp->e820_table[i].addr = map->range[i].addr;
		bp->e820_table[i].size = map->range[i].size;
		bp->e820_table[i].type = map->range[i].type;
	}
}

int linux_load(const struct boot_config *cfg, const struct image *img, struct gmem *gm,
	       const struct e820_map *map, struct boot_entry *entry)
{
	struct boot_params bp;
	int r = read_header(img, &bp);

	if (!r)
		r = check_header(img, &bp.hdr);
	if (!r)
		r = load_kernel(img, gm, map, &bp.hdr);
	if (!r)
		r = load_initrd(cfg, gm, map, &bp.hdr);
	if (!r)
		r = put_cmdline(cfg, img, gm, &bp.hdr);
	if (r)
		return r;

	put_e820(map, &bp);
	bp.acpi_rsdp_addr = cfg->rsdp;
	bp.hdr.type_of_loader = LOADER_UNDEFINED;
	bp.hdr.vid_mode = VIDEO_MODE_NORMAL;
	bp.hdr.code32_start = bp.hdr.pref_address;
	r = boot_put(gm, BOOT_PARAMS, &bp, sizeof(bp));
	if (r)
		return r;
	entry->rip = bp.hdr.pref_address + ENTRY_64_OFFSET;
	entry->rsi = BOOT_PARAMS;
	return cpu_start_prepare(gm, BOOT_LONG64, entry);
}
