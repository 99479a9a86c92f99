/* What gdb is told of compiled code: its list of ELF files is read as gdb would. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <elf.h>
#include <cmocka.h>

#include "src/engine/bt/bt_int.h"
#include "tests/unit/guest_cpu.h"

#define MAX_SYMBOLS 30000
#define FUNCTIONS   20000
#define STRIDE	    16
#define HEAP_GPA    0x30000u

_Static_assert(HEAP_GPA + FUNCTIONS * STRIDE <= TABLES_GPA, "functions lie below the tables");

/* As gdb's manual has them. */
struct jit_code_entry {
	struct jit_code_entry *next_entry, *prev_entry;
	const char *symfile_addr;
	uint64_t symfile_size;
};

extern struct {
	uint32_t version, action_flag;
	struct jit_code_entry *relevant_entry, *first_entry;
} __jit_debug_descriptor;

struct symbol {
	uint64_t start, end;
	const char *name;
};

static struct symbol found[MAX_SYMBOLS];
static unsigned nfound, nfiles;

static void read_symbols(const struct jit_code_entry *entry, const Elf64_Shdr *sh, const char *elf)
{
	const Elf64_Shdr *tab = sh;
	const Elf64_Sym *sym;
	const char *strings;

	while (tab->sh_type != SHT_SYMTAB)
		tab++;
	sym = (const void *)(elf + tab->sh_offset);
	strings = elf + sh[tab->sh_link].sh_offset;
	assert_true(tab->sh_offset + tab->sh_size <= entry->symfile_size);
	assert_int_equal(tab->sh_info, tab->sh_size / sizeof(*sym));
	for (unsigned n = 1; n < tab->sh_size / sizeof(*sym); n++) {
		const Elf64_Shdr *text = &sh[sym[n].st_shndx];
		struct symbol *s = &found[nfound++];

		assert_true(nfound < MAX_SYMBOLS);
		assert_int_equal(text->sh_type, SHT_NOBITS);
		assert_int_equal(text->sh_flags, SHF_ALLOC | SHF_EXECINSTR);
		assert_int_equal(ELF64_ST_TYPE(sym[n].st_info), STT_FUNC);
		assert_true(sym[n].st_value + sym[n].st_size <= text->sh_size);
		assert_true(sym[n].st_name < sh[tab->sh_link].sh_size);
		*s = (struct symbol){text->sh_addr + sym[n].st_value, 0, strings + sym[n].st_name};
		s->end = s->start + sym[n].st_size;
	}
}

static int by_start(const void *a, const void *b)
{
	const struct symbol *s = a, *t = b;

	return s->start < t->start ? -1 : s->start > t->start;
}

/* Reads the whole list. No address has two names. */
static void read_list(void)
{
	const struct jit_code_entry *prev = NULL;

	nfound = nfiles = 0;
	assert_int_equal(__jit_debug_descriptor.version, 1);
	for (const struct jit_code_entry *f = __jit_debug_descriptor.first_entry; f;
	     prev = f, f = f->next_entry) {
		const Elf64_Ehdr *h = (const void *)f->symfile_addr;

		assert_ptr_equal(f->prev_entry, prev);
		assert_memory_equal(h->e_ident, ELFMAG, SELFMAG);
		assert_int_equal(h->e_machine, EM_X86_64);
		assert_true(h->e_shoff + h->e_shnum * sizeof(Elf64_Shdr) <= f->symfile_size);
		read_symbols(f, (const void *)(f->symfile_addr + h->e_shoff), f->symfile_addr);
		nfiles++;
	}
	qsort(found, nfound, sizeof(found[0]), by_start);
	for (unsigned n = 1; n < nfound; n++)
		assert_true(found[n - 1].end <= found[n].start);
}

/* The name at an address in the list as last read, or "". */
static const char *name_at(const void *p)
{
	uint64_t at = (uint64_t)p;

	for (unsigned n = 0; n < nfound; n++)
		if (found[n].start <= at && at < found[n].end)
			return found[n].name;
	return "";
}

static void assert_unit_named(struct guest_cpu *g, uint32_t gpa)
{
	const struct bt *bt = g->cpu->bt.owner;
	const struct block *b = code_find(bt->bc->code, gpa, block_key(g->cpu, gpa, 0), NO_GFN);
	char name[32];

	assert_non_null(b);
	assert_non_null(b->native);
	/* One of its two entries is out of line. */
	snprintf(name, sizeof(name), "guest-%x%s", gpa,
		 strstr(name_at(b->native), "-slow") ? "-slow" : "");
	assert_string_equal(name_at(b->native), name);
}

static int setup(void **state)
{
	struct guest_cpu *g = guest_cpu_create(true);

	guest_cpu_translate_as(g, (struct interp_config){.translate_after = 1, .gdb_jit = true});
	*state = g;
	return 0;
}

/* With its end nothing has a name any more. */
static int teardown(void **state)
{
	guest_cpu_destroy(*state);
	return __jit_debug_descriptor.first_entry ? -1 : 0;
}

static void test_stubs(void **state)
{
	struct guest_cpu *g = *state;
	const struct bt *bt = g->cpu->bt.owner;
	const struct bt_stubs *s = bt->stubs;

	read_list();
	assert_int_equal(nfiles, 1);
	assert_string_equal(name_at(e_exec(&s->e, s->enter)), "stub-enter");
	assert_string_equal(name_at(e_exec(&s->e, s->e.p - 1)), "stub-enter");
	assert_string_equal(name_at(e_exec(&s->e, s->e.p)), "");
	assert_string_equal(name_at(e_exec(&s->e, s->miss[0])), "stub-miss");
	assert_string_equal(name_at(e_exec(&s->e, s->miss[1])), "stub-miss");
	assert_string_equal(name_at(e_exec(&s->e, s->vec_save)), "stub-vec_save");
}

CODE(loop, "mov $100, %ecx; 1: movb $1, (%rsp); dec %ecx; jnz 1b; hlt")

/* A unit has a name when the CPU leaves compiled code, its code out of line another one. */
static void test_unit(void **state)
{
	struct guest_cpu *g = *state;
	unsigned hot = 0, slow = 0;

	guest_cpu_load(g, CODE_GPA, loop);
	assert_int_equal(guest_cpu_run_at(g, CODE_GPA, 10000), INTERP_HALT);
	assert_true(g->stats.blocks_compiled > 0);
	read_list();
	assert_int_equal(nfiles, 2);
	assert_unit_named(g, CODE_GPA + 5);
	for (unsigned n = 0; n < nfound; n++) {
		hot += !strcmp(found[n].name, "guest-10005") && found[n].end > found[n].start + 10;
		slow += !strcmp(found[n].name, "guest-10005-slow") &&
			found[n].end > found[n].start + 10;
	}
	assert_int_equal(hot, 1);
	assert_int_equal(slow, 1);
}

/* Functions of one instruction, all over memory: their number is that of units. */
static void load_functions(struct guest_cpu *g)
{
	static const uint8_t code[] = {0xff, 0xc3, 0xf4}; /* inc %ebx; hlt */

	for (unsigned n = 0; n < FUNCTIONS; n++)
		memcpy(g->ram + HEAP_GPA + n * STRIDE, code, sizeof(code));
}

static void run_function(struct guest_cpu *g, unsigned n)
{
	uint32_t gpa = HEAP_GPA + n * STRIDE;

	/* Until it is compiled: its page has to be protected, and there has to be room. */
	for (unsigned try = 0; try < 4; try++)
		assert_int_equal(guest_cpu_run_at(g, gpa, 1000), INTERP_HALT);
}

/* Files have many units, and there is one for each. */
static void test_many(void **state)
{
	struct guest_cpu *g = *state;

	load_functions(g);
	for (unsigned n = 0; n < 1000; n++)
		run_function(g, n);
	assert_int_equal(g->stats.regions_retired, 0);
	read_list();
	for (unsigned n = 0; n < 1000; n++)
		assert_unit_named(g, HEAP_GPA + n * STRIDE);
	assert_in_range(nfiles, 4, 40);
}

/* Memory that is used again has the name of what is there now only: read_list() looks for two. */
static void test_used_again(void **state)
{
	struct guest_cpu *g = *state;

	load_functions(g);
	for (unsigned n = 0; n < FUNCTIONS; n++) {
		run_function(g, n);
		if (n % 500)
			continue;
		read_list();
		assert_unit_named(g, HEAP_GPA + n * STRIDE);
	}
	assert_true(g->stats.regions_retired > 16);
	assert_true(g->stats.blocks_compiled > 2 * nfound);
}

/* Names of a region go before it is written to, and no others; until then they stay. */
static void test_retired(void **state)
{
	struct guest_cpu *g = *state;
	const struct bt *bt = g->cpu->bt.owner;
	struct gdb_jit *gdb = bt->stubs->gdb_jit;
	struct code_cache *code = bt->bc->code;
	const uint8_t *first = NULL, *last = NULL;
	struct code_room room;
	bool retired;

	for (unsigned n = 0; n < 1000; n++) {
		struct gdb_jit_unit u = {.gpa = n};

		shootdown_drain(&g->queue, &g->sink);
		assert_true(code_take_room(code, &room, &retired));
		u.hot = room.hot + code_to_exec(code);
		u.cold = room.cold + code_to_exec(code);
		u.hot_end = u.hot + 10;
		u.cold_end = u.cold + 10;
		read_list();
		if (u.hot == first)
			break;
		assert_string_equal(name_at(u.hot), "");
		gdb_jit_begin(gdb, &room);
		gdb_jit_name(gdb, &room, &u);
		gdb_jit_show(gdb);
		if (!first)
			first = u.hot;
		last = u.hot;
	}
	/* The first region again. */
	assert_string_equal(name_at(first), "guest-0");
	gdb_jit_begin(gdb, &room);
	read_list();
	assert_string_equal(name_at(first), "");
	assert_string_not_equal(name_at(last), "");
	assert_true(nfiles > 4);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test_setup_teardown(test_stubs, setup, teardown),
		cmocka_unit_test_setup_teardown(test_unit, setup, teardown),
		cmocka_unit_test_setup_teardown(test_many, setup, teardown),
		cmocka_unit_test_setup_teardown(test_used_again, setup, teardown),
		cmocka_unit_test_setup_teardown(test_retired, setup, teardown),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
