#include <stdarg.h>
#include <stddef.h>
#include <setjmp.h>
#include <stdint.h>
#include <cmocka.h>
#include <asm/bootparam.h>
#include <elf.h>
#include <stdio.h>
#include <stdlib.h>
#include <unistd.h>

#include "src/base/log.h"
#include "src/boot/boot.h"
#include "src/boot/e820.h"
#include "tests/unit/guest_ram.h"

#define IMAGE_MAX KIB(64)

/* A machine of 64 MiB below and 16 MiB above 4 GiB on two nodes, and a kernel file to build. */
struct fixture {
	struct gmem gm;
	struct boot_config cfg;
	struct boot_ram ram[3];
	uint8_t image[IMAGE_MAX];
	char path[64];
	char initrd[64];
};

static void temp_file(char *path, const void *data, size_t len)
{
	int fd;

	strcpy(path, "/tmp/numavisor-test-XXXXXX");
	fd = mkstemp(path);
	assert_true(fd >= 0);
	assert_int_equal(write(fd, data, len), len);
	close(fd);
}

static int setup(void **state)
{
	struct fixture *f = calloc(1, sizeof(*f));

	log_set_level(LOG_ERR);
	f->ram[0] = (struct boot_ram){0, MIB(33), 0};
	f->ram[1] = (struct boot_ram){MIB(33), MIB(31), 1};
	f->ram[2] = (struct boot_ram){GIB(4), MIB(16), 1};
	guest_ram_create(&f->gm, f->ram, 3);
	f->cfg = (struct boot_config){
		.ram = f->ram,
		.nram = 3,
		.cmdline = "console=ttyS0",
		.ecam_base = 0xb0000000,
		.ecam_size = MIB(256),
		.rsdp = 0xe0000,
		.acpi_base = MIB(64) - KIB(16),
		.acpi_size = KIB(16),
	};
	*state = f;
	return 0;
}

static int teardown(void **state)
{
	struct fixture *f = *state;

	guest_ram_destroy(&f->gm);
	if (f->path[0])
		unlink(f->path);
	if (f->initrd[0])
		unlink(f->initrd);
	free(f);
	return 0;
}

static int load(struct fixture *f, size_t len, struct boot_entry *e)
{
	if (f->path[0])
		unlink(f->path);
	temp_file(f->path, f->image, len);
	f->cfg.kernel_path = f->path;
	return boot_load(&f->cfg, &f->gm, e);
}

static void add_initrd(struct fixture *f)
{
	uint8_t data[5000];

	memset(data, 0x5a, sizeof(data));
	temp_file(f->initrd, data, sizeof(data));
	f->cfg.initrd_path = f->initrd;
}

static const void *guest(struct fixture *f, gpa_t gpa, uint64_t len)
{
	const void *p = gmem_ptr(&f->gm, gpa, len, false);

	assert_non_null(p);
	return p;
}

static void check_gdt(struct fixture *f, const struct boot_entry *e, bool is64)
{
	const uint64_t *gdt = guest(f, e->gdt_base, 40);

	assert_int_equal(e->gdt_limit, 39);
	assert_int_equal(gdt[BOOT_CS / 8], is64 ? 0xaf9b000000ffff : 0xcf9b000000ffff);
	assert_int_equal(gdt[BOOT_DS / 8], 0xcf93000000ffff);
}

/* bzImage */

#define SETUP_SECTS 4
#define BZ_SETUP    ((SETUP_SECTS + 1) * 512)
#define BZ_CODE	    8192

static size_t make_bzimage(struct fixture *f)
{
	struct setup_header *h = (void *)(f->image + 0x1f1);

	memset(f->image, 0, sizeof(f->image));
	h->setup_sects = SETUP_SECTS;
	h->syssize = BZ_CODE / 16;
	h->boot_flag = 0xaa55;
	h->jump = 0x66eb; /* to 0x268 */
	h->header = 0x53726448;
	h->version = 0x20f;
	h->loadflags = LOADED_HIGH;
	h->xloadflags = XLF_KERNEL_64;
	h->initrd_addr_max = 0x7fffffff;
	h->cmdline_size = 2047;
	h->pref_address = MIB(16);
	h->init_size = MIB(20);
	memset(f->image + BZ_SETUP, 0xc3, BZ_CODE);
	return BZ_SETUP + BZ_CODE;
}

/* Follows the 2 MiB mapping of a linear address below 4 GiB. */
static uint64_t translate(struct fixture *f, uint64_t cr3, uint64_t va)
{
	const uint64_t *t = guest(f, cr3, PAGE_SIZE);

	t = guest(f, t[va >> 39] & PAGE_MASK, PAGE_SIZE);
	t = guest(f, t[(va >> 30) & 511] & PAGE_MASK, PAGE_SIZE);
	assert_int_equal(t[(va >> 21) & 511] & 0x83, 0x83);
	return (t[(va >> 21) & 511] & PAGE_MASK) + (va & (MIB(2) - 1));
}

static void test_bzimage(void **state)
{
	struct fixture *f = *state;
	const struct boot_params *bp;
	struct boot_entry e;
	size_t len = make_bzimage(f);

	add_initrd(f);
	assert_int_equal(load(f, len, &e), 0);
	assert_int_equal(e.mode, BOOT_LONG64);
	assert_int_equal(e.rip, MIB(16) + 0x200);
	check_gdt(f, &e, true);
	assert_int_equal(translate(f, e.cr3, 0), 0);
	assert_int_equal(translate(f, e.cr3, 0xfee00123), 0xfee00123);
	assert_memory_equal(guest(f, MIB(16), BZ_CODE), f->image + BZ_SETUP, BZ_CODE);

	bp = guest(f, e.rsi, sizeof(*bp));
	assert_int_equal(bp->hdr.header, 0x53726448);
	assert_int_equal(bp->hdr.type_of_loader, 0xff);
	assert_int_equal(bp->acpi_rsdp_addr, 0xe0000);
	assert_string_equal(guest(f, bp->hdr.cmd_line_ptr, 64), "console=ttyS0");
	assert_int_equal(bp->hdr.ramdisk_size, 5000);
	assert_int_equal(bp->hdr.ramdisk_image, MIB(64) - KIB(16) - 8192);
	assert_int_equal(*(uint8_t *)guest(f, bp->hdr.ramdisk_image + 4999, 1), 0x5a);
	assert_true(bp->e820_entries > 5);
	assert_int_equal(bp->e820_table[0].size, 0x9fc00);
}

static void test_bzimage_bad(void **state)
{
	struct fixture *f = *state;
	struct setup_header *h = (void *)(f->image + 0x1f1);
	struct boot_entry e;
	size_t len = make_bzimage(f);

	assert_int_equal(load(f, len - 16, &e), -ENOEXEC);
	assert_int_equal(load(f, 0x300, &e), -ENOEXEC);
	assert_int_equal(load(f, 0x210, &e), -ENOEXEC);
	assert_int_equal(load(f, 0, &e), -ENOEXEC);
	h->version = 0x20b;
	assert_int_equal(load(f, len, &e), -ENOEXEC);
	h->version = 0x20f;
	h->xloadflags = 0;
	assert_int_equal(load(f, len, &e), -ENOEXEC);
	h->xloadflags = XLF_KERNEL_64;
	h->init_size = MIB(64);
	assert_int_equal(load(f, len, &e), -ENOMEM);
	h->init_size = MIB(20);
	h->header = 0;
	assert_int_equal(load(f, len, &e), -ENOEXEC);
	h->header = 0x53726448;
	h->cmdline_size = 4;
	assert_int_equal(load(f, len, &e), -E2BIG);
	h->cmdline_size = 2047;
	f->cfg.initrd_path = "/nonexistent";
	assert_int_equal(load(f, len, &e), -ENOENT);
	f->cfg.kernel_path = "/nonexistent";
	assert_int_equal(boot_load(&f->cfg, &f->gm, &e), -ENOENT);
	f->cfg.kernel_path = "/tmp";
	assert_int_equal(boot_load(&f->cfg, &f->gm, &e), -ENOEXEC);
}

/* The initrd may not come to lie on the kernel. */
static void test_initrd_too_big(void **state)
{
	struct fixture *f = *state;
	struct setup_header *h = (void *)(f->image + 0x1f1);
	struct boot_entry e;
	size_t len = make_bzimage(f);

	add_initrd(f);
	h->init_size = MIB(48) - KIB(20);
	assert_int_equal(load(f, len, &e), -ENOMEM);
	h->init_size = MIB(48) - KIB(24);
	assert_int_equal(load(f, len, &e), 0);
}

/* ELF */

#define ELF_CODE_OFF 0x1000
#define ELF_NOTE_OFF 0x800
#define ELF_LOAD     MIB(1)

static void put_note(struct fixture *f)
{
	const Elf64_Nhdr other = {4, 8, 1}, n = {4, 4, 18};
	const uint32_t entry = ELF_LOAD + 0x40;
	uint8_t *p = f->image + ELF_NOTE_OFF;

	memcpy(p, &other, sizeof(other));
	memcpy(p + 12, "GNU", 4);
	memcpy(p + 24, &n, sizeof(n));
	memcpy(p + 36, "Xen", 4);
	memcpy(p + 40, &entry, sizeof(entry));
}

static size_t make_elf64(struct fixture *f)
{
	Elf64_Ehdr h = {.e_type = ET_EXEC,
			.e_machine = EM_X86_64,
			.e_version = 1,
			.e_entry = 0xffffffff81000010,
			.e_phoff = sizeof(h),
			.e_phentsize = sizeof(Elf64_Phdr),
			.e_phnum = 2};
	Elf64_Phdr load = {.p_type = PT_LOAD,
			   .p_flags = PF_R | PF_W | PF_X,
			   .p_offset = ELF_CODE_OFF,
			   .p_vaddr = 0xffffffff81000000,
			   .p_paddr = ELF_LOAD,
			   .p_filesz = 0x1000,
			   .p_memsz = 0x3000};
	Elf64_Phdr note = {
		.p_type = PT_NOTE, .p_offset = ELF_NOTE_OFF, .p_filesz = 44, .p_memsz = 44};

	memset(f->image, 0, sizeof(f->image));
	memcpy(h.e_ident, ELFMAG, SELFMAG);
	h.e_ident[EI_CLASS] = ELFCLASS64;
	h.e_ident[EI_DATA] = ELFDATA2LSB;
	memcpy(f->image, &h, sizeof(h));
	memcpy(f->image + sizeof(h), &load, sizeof(load));
	memcpy(f->image + sizeof(h) + sizeof(load), &note, sizeof(note));
	put_note(f);
	memset(f->image + ELF_CODE_OFF, 0xcc, 0x1000);
	return ELF_CODE_OFF + 0x1000;
}

static size_t make_elf32(struct fixture *f)
{
	Elf32_Ehdr h = {.e_type = ET_EXEC,
			.e_machine = EM_386,
			.e_version = 1,
			.e_entry = ELF_LOAD + 0x30,
			.e_phoff = sizeof(h),
			.e_phentsize = sizeof(Elf32_Phdr),
			.e_phnum = 1};
	Elf32_Phdr load = {.p_type = PT_LOAD,
			   .p_flags = PF_R | PF_W | PF_X,
			   .p_offset = ELF_CODE_OFF,
			   .p_vaddr = ELF_LOAD,
			   .p_paddr = ELF_LOAD,
			   .p_filesz = 0x1000,
			   .p_memsz = 0x3000};
	uint32_t mb[3] = {0x1badb002, 0, -0x1badb002u};

	memset(f->image, 0, sizeof(f->image));
	memcpy(h.e_ident, ELFMAG, SELFMAG);
	h.e_ident[EI_CLASS] = ELFCLASS32;
	h.e_ident[EI_DATA] = ELFDATA2LSB;
	memcpy(f->image, &h, sizeof(h));
	memcpy(f->image + sizeof(h), &load, sizeof(load));
	memset(f->image + ELF_CODE_OFF, 0xcc, 0x1000);
	memcpy(f->image + ELF_CODE_OFF + 16, mb, sizeof(mb));
	return ELF_CODE_OFF + 0x1000;
}

static void test_pvh(void **state)
{
	struct fixture *f = *state;
	const uint8_t dirty[0x3000] = {[0 ... 0x2fff] = 0xee};
	size_t len = make_elf64(f);
	const uint32_t *info;
	const uint64_t *mod, *map;
	struct boot_entry e;

	add_initrd(f);
	assert_int_equal(gmem_write(&f->gm, ELF_LOAD, dirty, sizeof(dirty)), 0);
	assert_int_equal(load(f, len, &e), 0);
	assert_int_equal(e.mode, BOOT_PROT32);
	assert_int_equal(e.rip, ELF_LOAD + 0x40);
	check_gdt(f, &e, false);
	assert_int_equal(*(uint8_t *)guest(f, ELF_LOAD + 0xfff, 1), 0xcc);
	assert_int_equal(*(uint8_t *)guest(f, ELF_LOAD + 0x1000, 1), 0);
	assert_int_equal(*(uint8_t *)guest(f, ELF_LOAD + 0x2fff, 1), 0);

	info = guest(f, e.rbx, 56);
	assert_int_equal(info[0], 0x336ec578);
	assert_int_equal(info[1], 1);
	assert_int_equal(info[3], 1);
	mod = guest(f, info[4], 32);
	assert_int_equal(mod[1], 5000);
	assert_int_equal(*(uint8_t *)guest(f, mod[0], 1), 0x5a);
	assert_string_equal(guest(f, info[6], 64), "console=ttyS0");
	assert_int_equal(info[8], 0xe0000);
	map = guest(f, info[10], 24);
	assert_int_equal(map[0], 0);
	assert_int_equal(map[1], 0x9fc00);
	assert_true(info[12] > 5);
}

static void test_multiboot_elf32(void **state)
{
	struct fixture *f = *state;
	size_t len = make_elf32(f);
	const uint32_t *info, *mod;
	struct boot_entry e;
	char line[128];

	add_initrd(f);
	assert_int_equal(load(f, len, &e), 0);
	assert_int_equal(e.mode, BOOT_PROT32);
	assert_int_equal(e.rip, ELF_LOAD + 0x30);
	assert_int_equal(e.rax, 0x2badb002);
	info = guest(f, e.rbx, 120);
	assert_int_equal(info[0] & 0x4d, 0x4d);
	assert_int_equal(info[1], 639);
	assert_int_equal(info[2], (MIB(63) - KIB(16)) >> 10);
	snprintf(line, sizeof(line), "%s console=ttyS0", f->path);
	assert_string_equal(guest(f, info[4], 64), line);
	assert_int_equal(info[5], 1);
	mod = guest(f, info[6], 16);
	assert_int_equal(mod[1] - mod[0], 5000);
	assert_string_equal(guest(f, mod[2], 64), f->initrd);
	assert_int_equal(*(uint32_t *)guest(f, info[12], 4), 20);
	assert_int_equal(info[11] % 24, 0);
}

/* A 64-bit ELF file is loaded as its multiboot header says, here with an entry by physical address.
 */
static void test_multiboot_elf64(void **state)
{
	struct fixture *f = *state;
	size_t len = make_elf64(f);
	uint32_t mb[8] = {0x1badb002,	   0,
			  -0x1badb002u,	   MIB(2) + 0x800,
			  MIB(2),	   MIB(2) + 0x1800,
			  MIB(2) + 0x4000, MIB(2) + 0x999};
	struct boot_entry e;

	memcpy(f->image + 0x1800, mb, 12);
	assert_int_equal(load(f, len, &e), 0);
	assert_int_equal(e.rip, ELF_LOAD + 0x10);
	mb[1] = 1 << 16;
	mb[2] = -(mb[0] + mb[1]);
	memcpy(f->image + 0x1800, mb, sizeof(mb));
	assert_int_equal(load(f, len, &e), -ENOEXEC); /* load_end lies past the end of the file */
	mb[5] = MIB(2) + 0x1000;
	memcpy(f->image + 0x1800, mb, sizeof(mb));
	assert_int_equal(load(f, len, &e), 0);
	assert_int_equal(e.rip, MIB(2) + 0x999);
	assert_memory_equal(guest(f, MIB(2), 0x1000), f->image + 0x1000, 0x1000);
	mb[3] = MIB(2) - 4;
	memcpy(f->image + 0x1800, mb, sizeof(mb));
	assert_int_equal(load(f, len, &e), -ENOEXEC);
}

static void test_elf_bad(void **state)
{
	struct fixture *f = *state;
	Elf64_Ehdr *h = (void *)f->image;
	Elf64_Phdr *p = (void *)(f->image + sizeof(*h));
	struct boot_entry e;
	size_t len = make_elf64(f);

	assert_int_equal(load(f, len - 1, &e), -ENOEXEC);
	assert_int_equal(load(f, 20, &e), -ENOEXEC);
	assert_int_equal(load(f, 60, &e), -ENOEXEC);
	assert_int_equal(load(f, 70, &e), -ENOEXEC);
	h->e_machine = EM_AARCH64;
	assert_int_equal(load(f, len, &e), -ENOEXEC);
	h->e_machine = EM_X86_64;
	h->e_type = ET_REL;
	assert_int_equal(load(f, len, &e), -ENOEXEC);
	h->e_type = ET_EXEC;
	h->e_phnum = 65;
	assert_int_equal(load(f, len, &e), -ENOEXEC);
	h->e_phnum = 1; /* no note */
	assert_int_equal(load(f, len, &e), -ENOEXEC);
	h->e_phnum = 2;
	p->p_filesz = ~0ull;
	assert_int_equal(load(f, len, &e), -ENOEXEC);
	p->p_filesz = 0x1000;
	p->p_memsz = ~0ull;
	assert_int_equal(load(f, len, &e), -ENOMEM);
	p->p_memsz = 0x3000;
	p->p_paddr = 0x8f000; /* over the boot data */
	assert_int_equal(load(f, len, &e), -ENOMEM);
	p->p_paddr = 0x4000; /* low is fine */
	assert_int_equal(load(f, len, &e), 0);
	p->p_paddr = MIB(64) - 0x2000;
	assert_int_equal(load(f, len, &e), -ENOMEM);
	p->p_paddr = MIB(33) - 0x1800; /* over two slots, not page-aligned */
	assert_int_equal(load(f, len, &e), 0);
	assert_int_equal(*(uint8_t *)guest(f, MIB(33) - 0x801, 1), 0xcc);
	assert_int_equal(*(uint8_t *)guest(f, MIB(33) - 0x800, 1), 0);
}

static void test_e820(void **state)
{
	struct fixture *f = *state;
	const struct e820_range want[] = {
		{0, 0x9fc00, E820_RAM},
		{0x9fc00, 0x400, E820_RESERVED},
		{0xe0000, 0x20000, E820_RESERVED},
		{MIB(1), MIB(63) - KIB(16), E820_RAM},
		{MIB(64) - KIB(16), KIB(16), E820_ACPI},
		{0xb0000000, MIB(256), E820_RESERVED},
		{GIB(4), MIB(16), E820_RAM},
	};
	struct e820_map map;
	unsigned i;

	assert_int_equal(e820_build(&f->cfg, &map), 0);
	assert_int_equal(map.count, ARRAY_SIZE(want));
	for (i = 0; i < map.count; i++) {
		assert_int_equal(map.range[i].addr, want[i].addr);
		assert_int_equal(map.range[i].size, want[i].size);
		assert_int_equal(map.range[i].type, want[i].type);
	}
	assert_int_equal(e820_low_top(&map), MIB(64) - KIB(16));
	assert_true(e820_is_ram(&map, MIB(1), MIB(63) - KIB(16)));
	assert_false(e820_is_ram(&map, MIB(1), MIB(63) - KIB(16) + 1));
	assert_false(e820_is_ram(&map, MIB(1), ~0ull));
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test_setup_teardown(test_bzimage, setup, teardown),
		cmocka_unit_test_setup_teardown(test_bzimage_bad, setup, teardown),
		cmocka_unit_test_setup_teardown(test_initrd_too_big, setup, teardown),
		cmocka_unit_test_setup_teardown(test_pvh, setup, teardown),
		cmocka_unit_test_setup_teardown(test_multiboot_elf32, setup, teardown),
		cmocka_unit_test_setup_teardown(test_multiboot_elf64, setup, teardown),
		cmocka_unit_test_setup_teardown(test_elf_bad, setup, teardown),
		cmocka_unit_test_setup_teardown(test_e820, setup, teardown),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
