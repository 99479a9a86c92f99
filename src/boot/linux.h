/* Linux bzImage by the 64-bit boot protocol (Linux Documentation/arch/x86/boot.rst). */
#ifndef BOOT_LINUX_H
#define BOOT_LINUX_H

#include "src/boot/e820.h"
#include "src/boot/image.h"

/* True if the file's first bytes (len of them) look like a bzImage of any version. */
bool linux_detect(const uint8_t *head, size_t len);
/* See boot_load(). */
int linux_load(const struct boot_config *cfg, const struct image *img, struct gmem *gm,
	       const struct e820_map *map, struct boot_entry *entry);

#endif
