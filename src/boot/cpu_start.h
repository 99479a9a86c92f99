/* What every loader needs for the BSP: descriptor table, page tables, BIOS data area, strings. */
#ifndef BOOT_CPU_START_H
#define BOOT_CPU_START_H

#include "src/boot/boot.h"

/* Writes GDT and BIOS data area and fills mode, GDT and, for long mode, CR3 with page tables that
 * map the first 4 GiB to themselves. 0 or -errno (logged). */
int cpu_start_prepare(struct gmem *gm, enum boot_mode mode, struct boot_entry *entry);

/* gmem_write() with a log line if the guest has no memory there. */
int boot_put(struct gmem *gm, gpa_t gpa, const void *buf, uint64_t len);

/* Writes the string and its terminator at *gpa in the command line area and moves *gpa past it.
 * -E2BIG (logged) if it does not fit. */
int boot_put_string(struct gmem *gm, gpa_t *gpa, const char *s);

#endif
