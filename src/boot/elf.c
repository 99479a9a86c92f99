#include "src/boot/elf.h"

#include <elf.h>
#include <stdlib.h>

#include "src/base/log.h"
#include "src/boot/layout.h"

#define NOTES_MAX KIB(64)

static int refuse(const struct image *img, const char *why)
{
	log_err("kernel '%s' %s", img->path, why);
	return -ENOEXEC;
}

bool elf_detect(const uint8_t *head, size_t len)
{
	return len >= SELFMAG && !memcmp(head, ELFMAG, SELFMAG);
}

static int parse_segment(const struct image *img, uint64_t off, bool is64, struct elf_segment *seg)
{
	union {
		Elf32_Phdr p32;
		Elf64_Phdr p64;
	} u;
	int r = image_read(img, off, &u, is64 ? sizeof(u.p64) : sizeof(u.p32));

	if (r)
		return r;
	if (is64)
		*seg = (struct elf_segment){u.p64.p_type,  u.p64.p_flags, u.p64.p_offset,
					    u.p64.p_vaddr, u.p64.p_paddr, u.p64.p_filesz,
					    u.p64.p_memsz};
	else
		*seg = (struct elf_segment){u.p32.p_type,  u.p32.p_flags, u.p32.p_offset,
					    u.p32.p_vaddr, u.p32.p_paddr, u.p32.p_filesz,
					    u.p32.p_memsz};
	if (seg->offset > img->size || seg->file_size > img->size - seg->offset)
		return refuse(img, "is truncated");
	if (seg->type == PT_LOAD && seg->file_size > seg->mem_size)
		return refuse(img, "has a malformed ELF segment");
	return 0;
}

static int parse_segments(const struct image *img, struct elf_file *elf, uint64_t off,
			  unsigned count, unsigned stride)
{
	unsigned i;
	int r;

	if (count > ELF_MAX_SEGMENTS)
		return refuse(img, "has too many ELF segments");
	if (stride < (elf->is64 ? sizeof(Elf64_Phdr) : sizeof(Elf32_Phdr)) || off > img->size)
		return refuse(img, "has a malformed ELF header");
	for (i = 0; i < count; i++) {
		r = parse_segment(img, off + (uint64_t)i * stride, elf->is64, &elf->segment[i]);
		if (r)
			return r;
	}
	elf->nsegments = count;
	return 0;
}

int elf_parse(const struct image *img, struct elf_file *elf)
{
	union {
		unsigned char ident[EI_NIDENT];
		Elf32_Ehdr e32;
		Elf64_Ehdr e64;
	} u;
	int r = image_read(img, 0, &u, sizeof(u.e32));

	memset(elf, 0, sizeof(*elf));
	if (r)
		return r;
	/* The first fields are the same in both classes. */
	if (u.ident[EI_DATA] != ELFDATA2LSB ||
	    (u.e32.e_machine != EM_386 && u.e32.e_machine != EM_X86_64))
		return refuse(img, "is built for another machine, not for x86");
	if (u.e32.e_type != ET_EXEC && u.e32.e_type != ET_DYN)
		return refuse(img, "is not an executable");
	if (u.ident[EI_CLASS] == ELFCLASS32) {
		elf->entry = u.e32.e_entry;
		return parse_segments(img, elf, u.e32.e_phoff, u.e32.e_phnum, u.e32.e_phentsize);
	}
	if (u.ident[EI_CLASS] != ELFCLASS64)
		return refuse(img, "has a malformed ELF header");
	r = image_read(img, 0, &u, sizeof(u.e64));
	if (r)
		return r;
	elf->is64 = true;
	elf->entry = u.e64.e_entry;
	return parse_segments(img, elf, u.e64.e_phoff, u.e64.e_phnum, u.e64.e_phentsize);
}

int elf_check_range(const struct image *img, const struct e820_map *map, gpa_t gpa, uint64_t size)
{
	if (e820_is_ram(map, gpa, size) &&
	    (gpa >= BOOT_DATA_END || gpa + size <= BOOT_DATA_START) && gpa + size <= GIB(4))
		return 0;
	log_err("kernel '%s' wants %#llx bytes at %#llx, where the guest has no free memory",
		img->path, (unsigned long long)size, (unsigned long long)gpa);
	return -ENOMEM;
}

int elf_load(const struct image *img, const struct elf_file *elf, struct gmem *gm,
	     const struct e820_map *map, gpa_t *end)
{
	unsigned i, loaded = 0;

	*end = BOOT_HIGH_MEMORY;
	for (i = 0; i < elf->nsegments; i++) {
		const struct elf_segment *seg = &elf->segment[i];
		int r;

		if (seg->type != PT_LOAD || !seg->mem_size)
			continue;
		r = elf_check_range(img, map, seg->paddr, seg->mem_size);
		if (!r)
			r = image_load(img, seg->offset, seg->file_size, gm, seg->paddr);
		if (!r)
			r = image_zero(img, seg->mem_size - seg->file_size, gm,
				       seg->paddr + seg->file_size);
		if (r)
			return r;
		*end = MAX(*end, ALIGN_UP(seg->paddr + seg->mem_size, PAGE_SIZE));
		loaded++;
	}
	return loaded ? 0 : refuse(img, "has nothing to load");
}

uint64_t elf_entry_paddr(const struct elf_file *elf)
{
	unsigned i;

	for (i = 0; i < elf->nsegments; i++) {
		const struct elf_segment *seg = &elf->segment[i];

		if (seg->type == PT_LOAD && (seg->flags & PF_X) && elf->entry >= seg->vaddr &&
		    elf->entry - seg->vaddr < seg->mem_size)
			return elf->entry - seg->vaddr + seg->paddr;
	}
	return elf->entry;
}

/* Walks the notes in buf. Elf32_Nhdr and Elf64_Nhdr are the same. */
static int scan_notes(const uint8_t *buf, uint64_t len, const char *name, uint32_t type,
		      uint32_t *value)
{
	uint64_t off = 0;

	while (len - off >= sizeof(Elf64_Nhdr)) {
		Elf64_Nhdr n;
		uint64_t desc;

		memcpy(&n, buf + off, sizeof(n));
		off += sizeof(n);
		desc = off + ALIGN_UP((uint64_t)n.n_namesz, 4);
		if (desc > len || n.n_descsz > len - desc)
			break;
		if (n.n_type == type && n.n_namesz == strlen(name) + 1 &&
		    !memcmp(buf + off, name, n.n_namesz) && n.n_descsz >= 4) {
			memcpy(value, buf + desc, 4);
			return 0;
		}
		off = MIN(desc + ALIGN_UP((uint64_t)n.n_descsz, 4), len);
	}
	return -ENOENT;
}

int elf_find_note(const struct image *img, const struct elf_file *elf, const char *name,
		  uint32_t type, uint32_t *value)
{
	int r = -ENOENT;
	unsigned i;

	for (i = 0; r == -ENOENT && i < elf->nsegments; i++) {
		const struct elf_segment *seg = &elf->segment[i];
		uint64_t len = MIN(seg->file_size, NOTES_MAX);
		uint8_t *buf;

		if (seg->type != PT_NOTE)
			continue;
		buf = malloc(len + 1);
		if (!buf)
			return -ENOMEM;
		r = image_read(img, seg->offset, buf, len);
		if (!r)
			r = scan_notes(buf, len, name, type, value);
		free(buf);
	}
	return r;
}
