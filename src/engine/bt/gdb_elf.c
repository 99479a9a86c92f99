#include "src/engine/bt/gdb_elf.h"

#include <elf.h>

#include "src/engine/bt/translate.h"

enum {
	SECTION_NONE,
	SECTION_TEXT, /* one for each part */
	SECTION_SYMTAB = SECTION_TEXT + GDB_PARTS,
	SECTION_STRTAB,
	SECTION_FRAMES,
	SECTIONS
};

static const char section_names[] = "\0.text\0.text.unlikely\0.symtab\0.strtab\0.debug_frame";
/* Where each name begins in that. */
static const uint8_t name_at[SECTIONS] = {0, 1, 7, 22, 30, 38};

/* --- files ----------------------------------------------------------------------------------- */

struct layout {
	size_t symbols, strings, strings_size, frames, size;
};

static struct layout layout_of(const struct gdb_contents *c)
{
	struct layout l = {.symbols = sizeof(Elf64_Ehdr) + SECTIONS * sizeof(Elf64_Shdr),
			   .strings_size = sizeof(section_names)};

	for (unsigned n = 0; n < c->nsymbols; n++)
		l.strings_size += strlen(c->symbols[n].name) + 1;
	l.strings = l.symbols + (c->nsymbols + 1) * sizeof(Elf64_Sym);
	l.frames = ALIGN_UP(l.strings + l.strings_size, 8);
	l.size = l.frames + c->frames_size;
	return l;
}

size_t gdb_elf_size(const struct gdb_contents *c)
{
	return layout_of(c).size;
}

static void write_header(Elf64_Ehdr *h)
{
	*h = (Elf64_Ehdr){
		.e_ident = {ELFMAG0, ELFMAG1, ELFMAG2, ELFMAG3, ELFCLASS64, ELFDATA2LSB, EV_CURRENT,
			    ELFOSABI_SYSV},
		.e_type = ET_REL,
		.e_machine = EM_X86_64,
		.e_version = EV_CURRENT,
		.e_shoff = sizeof(*h),
		.e_ehsize = sizeof(*h),
		.e_shentsize = sizeof(Elf64_Shdr),
		.e_shnum = SECTIONS,
		.e_shstrndx = SECTION_STRTAB,
	};
}

static void write_sections(const struct gdb_contents *c, const struct layout *l, Elf64_Shdr *s)
{
	memset(s, 0, SECTIONS * sizeof(*s));
	for (unsigned n = 0; n < GDB_PARTS; n++)
		s[SECTION_TEXT + n] = (Elf64_Shdr){.sh_type = SHT_NOBITS,
						   .sh_flags = SHF_ALLOC | SHF_EXECINSTR,
						   .sh_addr = c->part[n].start,
						   .sh_size = c->part[n].end - c->part[n].start,
						   .sh_addralign = 1};
	s[SECTION_SYMTAB] = (Elf64_Shdr){.sh_type = SHT_SYMTAB,
					 .sh_offset = l->symbols,
					 .sh_size = (c->nsymbols + 1) * sizeof(Elf64_Sym),
					 .sh_link = SECTION_STRTAB,
					 .sh_info = c->nsymbols + 1, /* all are local */
					 .sh_addralign = 8,
					 .sh_entsize = sizeof(Elf64_Sym)};
	s[SECTION_STRTAB] = (Elf64_Shdr){.sh_type = SHT_STRTAB,
					 .sh_offset = l->strings,
					 .sh_size = l->strings_size,
					 .sh_addralign = 1};
	s[SECTION_FRAMES] = (Elf64_Shdr){.sh_type = SHT_PROGBITS,
					 .sh_offset = l->frames,
					 .sh_size = c->frames_size,
					 .sh_addralign = 8};
	for (unsigned n = 0; n < SECTIONS; n++)
		s[n].sh_name = name_at[n];
}

static void write_symbols(const struct gdb_contents *c, Elf64_Sym *sym, char *strings)
{
	char *p = strings + sizeof(section_names);

	memcpy(strings, section_names, sizeof(section_names));
	*sym++ = (Elf64_Sym){0};
	for (unsigned n = 0; n < c->nsymbols; n++) {
		const struct gdb_symbol *s = &c->symbols[n];

		*sym++ = (Elf64_Sym){.st_name = p - strings,
				     .st_info = ELF64_ST_INFO(STB_LOCAL, STT_FUNC),
				     .st_shndx = SECTION_TEXT + s->part,
				     .st_value = s->at.start - c->part[s->part].start,
				     .st_size = s->at.end - s->at.start};
		p = stpcpy(p, s->name) + 1;
	}
}

void gdb_elf_write(const struct gdb_contents *c, uint8_t *to)
{
	struct layout l = layout_of(c);

	write_header((Elf64_Ehdr *)to);
	write_sections(c, &l, (Elf64_Shdr *)(to + sizeof(Elf64_Ehdr)));
	write_symbols(c, (Elf64_Sym *)(to + l.symbols), (char *)to + l.strings);
	if (c->frames_size)
		memcpy(to + l.frames, c->frames, c->frames_size);
}

/* --- unwinding ------------------------------------------------------------------------------- */

/* DWARF 4, 7.7.1 and 7.23. */
enum {
	DW_OP_deref = 0x06,
	DW_OP_const1u = 0x08,
	DW_OP_const8u = 0x0e,
	DW_OP_dup = 0x12,
	DW_OP_minus = 0x1c,
	DW_OP_plus_uconst = 0x23,
	DW_OP_shr = 0x25,
	DW_OP_bra = 0x28,
	DW_OP_breg7 = 0x77,
	DW_CFA_advance_loc = 0x40,
	DW_CFA_offset = 0x80,
	DW_CFA_nop = 0x00,
	DW_CFA_def_cfa = 0x0c,
	DW_CFA_def_cfa_offset = 0x0e,
	DW_CFA_def_cfa_expression = 0x0f,
};

/* The psABI's numbers. */
#define DWARF_RSP 7
#define DWARF_RIP 16

static unsigned dwarf_reg(unsigned host)
{
	static const uint8_t low[] = {[H_RAX] = 0, [H_RCX] = 2, [H_RDX] = 1, [H_RBX] = 3,
				      [H_RSP] = 7, [H_RBP] = 6, [H_RSI] = 4, [H_RDI] = 5};

	return host < ARRAY_SIZE(low) ? low[host] : host;
}

/* An entry of .debug_frame begins with its length; returns where that is. */
static uint8_t *begin_entry(struct emit *e, uint32_t cie)
{
	uint8_t *at = e->p;

	e32(e, 0);
	e32(e, cie);
	return at;
}

static void end_entry(struct emit *e, uint8_t *at)
{
	uint32_t length;

	while ((e->p - at) % 8 != 4)
		e8(e, DW_CFA_nop);
	length = e->p - at - 4;
	memcpy(at, &length, 4);
}

/* Rules as at a function's first instruction. */
static void emit_common(struct emit *e)
{
	uint8_t *at = begin_entry(e, ~0u);

	e_code(e, 1, 0);	       /* version, no augmentation */
	e_code(e, 1, 0x78, DWARF_RIP); /* units of code and of data (-8), return address */
	e_code(e, DW_CFA_def_cfa, DWARF_RSP, 8);
	e_code(e, DW_CFA_offset | DWARF_RIP, 1);
	end_entry(e, at);
}

static uint8_t *begin_range(struct emit *e, uintptr_t start, uintptr_t end)
{
	uint8_t *at = begin_entry(e, 0);

	e64(e, start);
	e64(e, end - start);
	return at;
}

/* The register that an instruction at p pushes, or -1; and where the next one is. */
static int pushed(const uint8_t **p, const uint8_t *end)
{
	ZydisDecodedOperand op[ZYDIS_MAX_OPERAND_COUNT];
	ZydisDecodedInstruction in;
	ZydisDecoder d;

	ZydisDecoderInit(&d, ZYDIS_MACHINE_MODE_LONG_64, ZYDIS_STACK_WIDTH_64);
	if (!ZYAN_SUCCESS(ZydisDecoderDecodeFull(&d, *p, end - *p, &in, op))) {
		*p = end;
		return -1;
	}
	*p += in.length;
	return in.mnemonic == ZYDIS_MNEMONIC_PUSH ? tr_gpr(op[0].reg.value) : -1;
}

static bool callee_saved(unsigned reg)
{
	return reg == H_RBX || reg == H_RBP || reg >= H_R12;
}

/*
 * What the entry stub pushes, found in its code: where registers of its caller are. With step, from
 * which instruction on. Returns the number of words that lie on the stack then.
 */
static unsigned emit_pushes(struct emit *e, const struct bt_stubs *s, bool step)
{
	const uint8_t *p = s->enter, *was = p;
	unsigned depth = 1; /* the return address */

	while (p < s->entered) {
		int reg = pushed(&p, s->entered);

		if (reg < 0)
			continue;
		depth++;
		if (step) {
			e8(e, DW_CFA_advance_loc | (p - was));
			e_code(e, DW_CFA_def_cfa_offset, 8 * depth);
			was = p;
		}
		if (callee_saved(reg))
			e_code(e, DW_CFA_offset | dwarf_reg(reg), depth);
	}
	return depth;
}

/*
 * Compiled code may be anywhere on its stack, so the CFA is found by where that began, which is in
 * struct cpu: the one to which RSP is near.
 *
 *	for (cpu = *cpus; *cpu->base - rsp >> GDB_JIT_REACH_BITS; cpu = cpu->next);
 *	CFA = *cpu->base + 8 * depth
 */
static void emit_base(struct emit *e, struct gdb_jit_cpu *const *cpus, unsigned depth)
{
	const unsigned base = offsetof(struct gdb_jit_cpu, base);
	uint8_t *length, *loop;

	_Static_assert(!offsetof(struct gdb_jit_cpu, next), "the expression finds it there");
	e8(e, DW_CFA_def_cfa_expression);
	length = e->p;
	e8(e, 0);
	e8(e, DW_OP_const8u);
	e64(e, (uintptr_t)cpus);
	loop = e->p;
	e_code(e, DW_OP_deref, DW_OP_dup, DW_OP_plus_uconst, base, DW_OP_deref, DW_OP_deref);
	e_code(e, DW_OP_breg7, 0, DW_OP_minus, DW_OP_const1u, GDB_JIT_REACH_BITS, DW_OP_shr);
	e_code(e, DW_OP_bra, loop - (e->p + 3), 0xff);
	e_code(e, DW_OP_plus_uconst, base, DW_OP_deref, DW_OP_deref);
	e_code(e, DW_OP_plus_uconst, 8 * depth);
	*length = e->p - length - 1;
}

size_t gdb_elf_frames(uint8_t to[GDB_FRAMES_MAX], const struct gdb_range *code,
		      const struct bt_stubs *s, struct gdb_jit_cpu *const *cpus)
{
	struct emit e = {.p = to, .end = to + GDB_FRAMES_MAX};
	uintptr_t enter = (uintptr_t)e_exec(&s->e, s->enter),
		  entered = (uintptr_t)e_exec(&s->e, s->entered);
	const struct gdb_range inside[] = {{code->start, enter}, {entered, code->end}};
	uint8_t *at;

	emit_common(&e);
	at = begin_range(&e, enter, entered);
	emit_pushes(&e, s, true);
	end_entry(&e, at);
	for (unsigned n = 0; n < ARRAY_SIZE(inside); n++) {
		at = begin_range(&e, inside[n].start, inside[n].end);
		emit_base(&e, cpus, emit_pushes(&e, s, false));
		end_entry(&e, at);
	}
	return e.full ? 0 : e.p - to;
}
