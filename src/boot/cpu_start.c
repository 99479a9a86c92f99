#include "src/boot/cpu_start.h"

#include "src/base/log.h"
#include "src/boot/layout.h"

#define PTE_PRESENT  (1ull << 0)
#define PTE_WRITE    (1ull << 1)
#define PTE_ACCESSED (1ull << 5)
#define PTE_DIRTY    (1ull << 6)
#define PTE_LARGE    (1ull << 7)

/* Segment descriptors, Intel SDM volume 3, 3.4.5: flat, present, accessed; CS long or 32-bit. */
#define DESC_CODE64 0x00af9b000000ffffull
#define DESC_CODE32 0x00cf9b000000ffffull
#define DESC_DATA   0x00cf93000000ffffull
#define DESC_TSS    0x00008b0000000067ull

/* BIOS data area: segment of the EBDA, KiB of conventional memory. */
#define BDA_EBDA_SEGMENT 0x40e
#define BDA_MEMORY_KIB	 0x413

int boot_put(struct gmem *gm, gpa_t gpa, const void *buf, uint64_t len)
{
	if (!gmem_write(gm, gpa, buf, len))
		return 0;
	log_err("the guest has no memory at %#llx for the boot data", (unsigned long long)gpa);
	return -ENOMEM;
}

int boot_put_string(struct gmem *gm, gpa_t *gpa, const char *s)
{
	uint64_t len = strlen(s) + 1;
	int r;

	if (len > BOOT_CMDLINE + BOOT_CMDLINE_SIZE - *gpa) {
		log_err("the kernel command line is longer than %u bytes", BOOT_CMDLINE_SIZE);
		return -E2BIG;
	}
	r = boot_put(gm, *gpa, s, len);
	*gpa += len;
	return r;
}

static int put_page_tables(struct gmem *gm)
{
	const gpa_t pdpt = BOOT_PAGE_TABLES + PAGE_SIZE, pd = pdpt + PAGE_SIZE;
	const uint64_t table = PTE_PRESENT | PTE_WRITE | PTE_ACCESSED;
	uint64_t page[512] = {pdpt | table};
	unsigned i, j;
	int r = boot_put(gm, BOOT_PAGE_TABLES, page, sizeof(page));

	memset(page, 0, sizeof(page));
	for (i = 0; i < 4; i++)
		page[i] = (pd + i * PAGE_SIZE) | table;
	if (!r)
		r = boot_put(gm, pdpt, page, sizeof(page));
	for (i = 0; !r && i < 4; i++) {
		for (j = 0; j < 512; j++)
			page[j] = (GIB(i) + MIB(2) * j) | table | PTE_DIRTY | PTE_LARGE;
		r = boot_put(gm, pd + i * PAGE_SIZE, page, sizeof(page));
	}
	return r;
}

static int put_bda(struct gmem *gm)
{
	const uint16_t ebda_segment = BOOT_EBDA >> 4, kib = BOOT_EBDA >> 10;
	int r = boot_put(gm, BDA_EBDA_SEGMENT, &ebda_segment, sizeof(ebda_segment));

	return r ? r : boot_put(gm, BDA_MEMORY_KIB, &kib, sizeof(kib));
}

int cpu_start_prepare(struct gmem *gm, enum boot_mode mode, struct boot_entry *entry)
{
	uint64_t gdt[5] = {0, 0, mode == BOOT_LONG64 ? DESC_CODE64 : DESC_CODE32, DESC_DATA,
			   DESC_TSS};
	int r;

	entry->mode = mode;
	entry->gdt_base = BOOT_GDT;
	entry->gdt_limit = sizeof(gdt) - 1;
	r = boot_put(gm, BOOT_GDT, gdt, sizeof(gdt));
	if (!r)
		r = put_bda(gm);
	if (!r && mode == BOOT_LONG64) {
		entry->cr3 = BOOT_PAGE_TABLES;
		r = put_page_tables(gm);
	}
	return r;
}
