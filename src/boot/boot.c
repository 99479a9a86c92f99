#include "src/boot/boot.h"

#include "src/base/log.h"
#include "src/boot/e820.h"
#include "src/boot/elf.h"
#include "src/boot/image.h"
#include "src/boot/linux.h"
#include "src/boot/multiboot.h"
#include "src/boot/pvh.h"

/* A multiboot header wins over a PVH note: who has both asks to be started by either. */
static int load_elf(const struct boot_config *cfg, const struct image *img, const uint8_t *head,
		    size_t len, struct gmem *gm, const struct e820_map *map,
		    struct boot_entry *entry)
{
	struct multiboot_header mb;
	struct elf_file elf;
	uint32_t rip;
	int r = elf_parse(img, &elf);

	if (r)
		return r;
	if (multiboot_find(head, len, &mb))
		return multiboot_load(cfg, img, &mb, &elf, gm, map, entry);
	r = pvh_find_entry(img, &elf, &rip);
	if (!r)
		return pvh_load(cfg, img, &elf, rip, gm, map, entry);
	if (r == -ENOENT) {
		log_err("kernel '%s' is ELF without a PVH entry note or multiboot header",
			img->path);
		r = -ENOEXEC;
	}
	return r;
}

static int load(const struct boot_config *cfg, const struct image *img, struct gmem *gm,
		struct boot_entry *entry)
{
	uint8_t head[MULTIBOOT_SEARCH];
	size_t len = MIN(img->size, sizeof(head));
	struct multiboot_header mb;
	struct e820_map map;
	int r = image_read(img, 0, head, len);

	if (!r)
		r = e820_build(cfg, &map);
	if (r)
		return r;
	if (elf_detect(head, len))
		return load_elf(cfg, img, head, len, gm, &map, entry);
	if (linux_detect(head, len))
		return linux_load(cfg, img, gm, &map, entry);
	if (multiboot_find(head, len, &mb))
		return multiboot_load(cfg, img, &mb, NULL, gm, &map, entry);
	log_err("kernel '%s' is not a bzImage, a PVH or a multiboot kernel for x86", img->path);
	return -ENOEXEC;
}

int boot_load(const struct boot_config *cfg, struct gmem *gm, struct boot_entry *entry)
{
	struct image img;
	int r = image_open(&img, "kernel", cfg->kernel_path);

	if (r)
		return r;
	memset(entry, 0, sizeof(*entry));
	r = load(cfg, &img, gm, entry);
	image_close(&img);
	return r;
}
