/*
 * Loading a guest: puts a kernel, its initial RAM disk, its command line and the memory map into
 * guest memory and says in which state the boot processor (BSP) starts.
 *
 * Formats, detected from the file: Linux bzImage (64-bit boot protocol), uncompressed ELF64 with a
 * PVH entry note, and multiboot1 kernels (ELF32, ELF64 or a.out kludge).
 *
 * Called by the thread that builds (or resets) the VM, while no VCPU runs.
 */
#ifndef BOOT_BOOT_H
#define BOOT_BOOT_H

#include "mmu/gmem.h"
#include "src/base/types.h"

struct boot_ram {
	gpa_t gpa;     /* page-aligned */
	uint64_t size; /* bytes, page-aligned */
	uint32_t node; /* guest NUMA node */
};

struct boot_config {
	const char *kernel_path;
	const char *initrd_path;    /* NULL: none. Becomes the only module of a multiboot kernel. */
	const char *cmdline;	    /* NULL: empty */
	const struct boot_ram *ram; /* sorted by gpa, not overlapping; the first starts at 0 */
	unsigned nram;
	gpa_t ecam_base; /* PCI configuration window, reserved in the memory map */
	uint64_t ecam_size;
	gpa_t rsdp; /* the three results of acpi_build(); size 0: no tables */
	gpa_t acpi_base;
	uint64_t acpi_size;
};

enum boot_mode {
	/* CR0.PE|PG|ET, CR4.PAE, EFER.LME|LMA, cr3 valid; CS is a 64-bit code segment */
	BOOT_LONG64,
	/* CR0.PE|ET, CR4 and EFER zero, paging off; CS and data segments flat, 32-bit */
	BOOT_PROT32,
};

#define BOOT_CS 0x10 /* code; the descriptors are in the GDT in guest memory */
#define BOOT_DS 0x18 /* DS, ES, FS, GS and SS: base 0, limit 4 GiB, writable */
#define BOOT_TR 0x20 /* busy 32-bit TSS, base 0, limit 0x67 */

/* RFLAGS is 2 (interrupts off); registers not named are zero. The IDT has limit 0. */
struct boot_entry {
	enum boot_mode mode;
	uint64_t rip;
	uint64_t rax;
	uint64_t rbx;
	uint64_t rsi;
	uint64_t rsp;
	uint64_t cr3; /* BOOT_LONG64 only */
	gpa_t gdt_base;
	uint16_t gdt_limit;
};

/*
 * 0; or, after one log line that names the file:
 * -ENOEXEC not a kernel that can be started here (wrong format or machine, truncated),
 * -ENOMEM the guest's memory is too small for it, -E2BIG the command line is too long, or the
 * -errno of opening or reading a file.
 */
int boot_load(const struct boot_config *cfg, struct gmem *gm, struct boot_entry *entry);

#endif
