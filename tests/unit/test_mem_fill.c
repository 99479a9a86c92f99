/*
 * mem_fill() and the raising path against a walk of the tables written once more here: random page
 * tables, rights, contexts, PCIDs, flushes of every kind, code frames and breakpoints. Whatever was
 * flushed is held against the tables exactly; what was not may be stale, as on a processor.
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <cmocka.h>

#include "src/x86/mem.h"
#include "src/x86/sys.h"
#include "tests/unit/guest_cpu.h"
#include "tests/unit/paging_model.h"

#define ROUNDS 60
#define STEPS  4000

#define NPCID	3u
#define NGVA	24u
#define NTABLES 12u /* frames of the tables below, after the NPCID top ones */
#define NFRAMES 12u /* data: RAM, then two of ROM, then two of nothing */

#define TABLE(n)   (0x40000u + (n)*0x1000u)
#define DATA(n)	   (0x80000u + (n)*0x1000u)
#define ROM_GPA	   0x10000000u
#define NOWHERE	   0x20000000u
#define LARGE_GPA  0x40000000u /* 1 GiB of RAM, never touched but where tests look */
#define LARGE_SIZE GIB(1)

enum outcome { FILLED, FAULT, NO_RAM, BOOKKEEPING, WATCHED, ALIGNED, NOT_CANONICAL, OUTCOMES };

struct fixture {
	struct guest_cpu *g;
	struct cpu *c;
	uint8_t *rom, *large;
	uint64_t seed;
	gva_t gva[NGVA];
	bool fresh[NGVA][NPCID]; /* flushed since the last change of any table */
	bool globals;		 /* this round's tables have global pages */
	unsigned pcid;
	unsigned seen[OUTCOMES][2];
	jmp_buf unwind;
	struct insn insn;
};

static uint64_t rnd(struct fixture *f)
{
	f->seed ^= f->seed << 13;
	f->seed ^= f->seed >> 7;
	f->seed ^= f->seed << 17;
	return f->seed * 0x2545f4914f6cdd1dull >> 20;
}

static bool one_in(struct fixture *f, unsigned n)
{
	return rnd(f) % n == 0;
}

/* --- what is to be expected ------------------------------------------------------------------- */

static bool is_ram(const struct fixture *f, gpa_t gpa)
{
	return gpa < RAM_SIZE || gpa - LARGE_GPA < LARGE_SIZE;
}

static uint8_t *host(const struct fixture *f, gpa_t gpa)
{
	if (gpa < RAM_SIZE)
		return f->g->ram + gpa;
	if (gpa - ROM_GPA < 0x2000)
		return f->rom + (gpa - ROM_GPA);
	return f->large + (gpa - LARGE_GPA);
}

/* Whether the walk has to store to a table that holds code, of which others must be told. */
static bool tells(struct fixture *f, const struct truth *t, bool write)
{
	for (unsigned n = 0; n < t->npath; n++) {
		bool leaf = n + 1 == t->npath;
		uint64_t set = leaf && write ? PTE_A | PTE_D : PTE_A;
		gfn_t gfn = ((uint8_t *)t->path[n] - f->g->ram) >> PAGE_SHIFT;

		if ((set & ~*t->path[n]) && gmem_code_word(&f->g->gm, gfn) % 4 != CODE_NONE)
			return true;
	}
	return false;
}

static enum outcome expected(struct fixture *f, gva_t gva, bool write, const struct truth *t)
{
	const struct cpu *c = f->c;

	if (!gva_canonical(gva))
		return NOT_CANONICAL;
	if (c->cpl == 3 && (c->rflags & FLAG_AC) && (c->cr0 & CR0_AM))
		return ALIGNED;
	if (t->fault)
		return FAULT;
	if (!is_ram(f, t->gpa) && t->gpa - ROM_GPA >= 0x2000)
		return NO_RAM;
	if ((c->dr7 & 3) && ((c->dr[0] ^ gva) & PAGE_MASK) == 0)
		return WATCHED;
	if (write && (!is_ram(f, t->gpa) ||
		      gmem_code_word(&f->g->gm, t->gpa >> PAGE_SHIFT) % 4 != CODE_NONE))
		return BOOKKEEPING;
	return tells(f, t, write) ? BOOKKEEPING : FILLED;
}

/* --- checks ----------------------------------------------------------------------------------- */

/* A load or a store by the raising path: the vector, or -1. */
static int raising(struct fixture *f, gva_t gva, bool write)
{
	f->c->unwind = &f->unwind;
	f->c->cur = &f->insn;
	if (setjmp(f->unwind))
		return f->c->next_exc.vector;
	if (write)
		mem_probe_write(f->c, gva, 1);
	else
		mem_read_slow(f->c, gva, 1);
	return -1;
}

static void check_raising(struct fixture *f, gva_t gva, bool write, const struct truth *t)
{
	int vector = raising(f, gva, write);

	if (!gva_canonical(gva)) {
		assert_int_equal(vector, EXC_GP);
	} else if (t->fault) {
		assert_int_equal(vector, EXC_PF);
		assert_int_equal(f->c->next_exc.error, t->error);
		assert_int_equal(f->c->next_exc.cr2, gva);
	} else {
		assert_int_equal(vector, -1);
	}
}

/* The fast path after a fill that was good. */
static void check_filled(struct fixture *f, gva_t gva, bool write, const struct truth *t)
{
	void *p = write ? mem_fast_write(f->c, gva, 1) : mem_fast_read(f->c, gva, 1);
	struct truth store;

	assert_ptr_equal(p, host(f, t->gpa));
	for (unsigned n = 0; n < t->npath; n++)
		assert_true(*t->path[n] & PTE_A);
	if (mem_fast_write(f->c, gva, 1)) {
		look(f->c, f->g->ram, gva, true, &store);
		assert_int_equal(expected(f, gva, true, &store), FILLED);
		assert_true(*t->path[t->npath - 1] & PTE_D);
	}
}

static void check(struct fixture *f, unsigned n, gva_t gva, bool write)
{
	struct truth t;
	enum outcome want;
	bool filled;

	look(f->c, f->g->ram, gva, write, &t);
	want = expected(f, gva, write, &t);
	/* That the map is filled on first use is another test's business. */
	if (!t.fault)
		gmem_translate(&f->g->gm, t.gpa >> PAGE_SHIFT);
	filled = mem_fill(f->c, gva, write);
	if (n < NGVA && !f->fresh[n][f->pcid])
		return;
	assert_int_equal(filled, want == FILLED);
	f->seen[want][write]++;
	if (filled)
		check_filled(f, gva, write, &t);
	check_raising(f, gva, write, &t);
}

/* --- changes ---------------------------------------------------------------------------------- */

static void set_fresh(struct fixture *f, unsigned n, unsigned pcid, bool fresh)
{
	for (unsigned i = n < NGVA ? n : 0; i < (n < NGVA ? n + 1 : NGVA); i++)
		for (unsigned p = pcid < NPCID ? pcid : 0; p < (pcid < NPCID ? pcid + 1 : NPCID);
		     p++)
			f->fresh[i][p] = fresh;
}

static uint64_t random_entry(struct fixture *f, bool may_be_large, uint64_t address)
{
	uint64_t e = address | PTE_P | PTE_W | PTE_U;

	if (one_in(f, 12))
		e &= ~PTE_P;
	if (one_in(f, 5))
		e &= ~PTE_W;
	if (one_in(f, 4))
		e &= ~PTE_U;
	if (one_in(f, 3))
		e |= PTE_A;
	if (one_in(f, 3))
		e |= PTE_A | PTE_D;
	if (one_in(f, 8))
		e |= PTE_NX;
	if (f->globals && one_in(f, 2))
		e |= PTE_G;
	if (one_in(f, 40))
		e |= 1ull << (40 + rnd(f) % 12);
	if (may_be_large && one_in(f, 4))
		e = (e & ~0xfffffff000) | PTE_PS |
		    (LARGE_GPA + (one_in(f, 8) ? 1 << 13 : rnd(f) % 8 * MIB(2)));
	return e;
}

static uint64_t random_leaf(struct fixture *f)
{
	unsigned n = rnd(f) % (NFRAMES + 1);
	gpa_t gpa = n < NFRAMES - 4   ? DATA(n)
		    : n < NFRAMES - 2 ? ROM_GPA + (n & 1) * PAGE_SIZE
		    : n < NFRAMES     ? NOWHERE
				      : TABLE(rnd(f) % (NPCID + NTABLES));

	return random_entry(f, false, gpa);
}

/* An entry of a table of the given level, 4 the top. Each level has its own tables. */
static uint64_t random_of_level(struct fixture *f, unsigned level)
{
	unsigned own = NTABLES / 3;

	if (level == 1)
		return random_leaf(f);
	return random_entry(f, level < 4, TABLE(NPCID + (4 - level) * own + rnd(f) % own));
}

/* One entry on the path that one of the addresses could take. */
static void change_entry(struct fixture *f)
{
	gva_t gva = f->gva[rnd(f) % NGVA];
	unsigned level = one_in(f, 8) ? 4 : one_in(f, 5) ? 3 : one_in(f, 3) ? 2 : 1;
	unsigned own = NTABLES / 3;
	unsigned table = level == 4 ? rnd(f) % NPCID : NPCID + (3 - level) * own + rnd(f) % own;

	((uint64_t *)(f->g->ram + TABLE(table)))[gva >> (12 + 9 * (level - 1)) & 511] =
		random_of_level(f, level);
	set_fresh(f, NGVA, NPCID, false);
}

static void write_cr(struct fixture *f, unsigned cr, uint64_t v)
{
	unsigned cpl = f->c->cpl;

	f->c->cpl = 0;
	sys_write_cr(f->c, cr, v);
	f->c->cpl = cpl;
	cpu_update_ctx(f->c);
}

static void switch_space(struct fixture *f)
{
	unsigned pcid = rnd(f) % NPCID;
	bool keep = one_in(f, 2);

	f->pcid = pcid;
	/* Who has global pages has them in all address spaces. */
	write_cr(f, 3, TABLE(f->globals ? 0 : pcid) | pcid | (keep ? CR3_NOFLUSH : 0));
	/* Global pages survive. */
	if (!keep && !f->globals)
		set_fresh(f, NGVA, pcid, true);
}

static void flush_something(struct fixture *f)
{
	unsigned n = rnd(f) % NGVA, pcid = rnd(f) % NPCID, cpl = f->c->cpl;

	f->c->cpl = 0;
	switch (rnd(f) % 6) {
	case 0: /* INVLPG */
		tlb_flush_page(&f->c->tlb, f->gva[n] ^ (rnd(f) & 0xfff));
		set_fresh(f, n, f->pcid, true);
		break;
	case 1:
		sys_invpcid(f->c, 0, pcid, f->gva[n]);
		if (!f->globals)
			set_fresh(f, n, pcid, true);
		break;
	case 2:
		sys_invpcid(f->c, 1, pcid, 0);
		if (!f->globals)
			set_fresh(f, NGVA, pcid, true);
		break;
	case 3:
		sys_invpcid(f->c, 2, 0, 0);
		set_fresh(f, NGVA, NPCID, true);
		break;
	case 4:
		sys_invpcid(f->c, 3, 0, 0);
		if (!f->globals)
			set_fresh(f, NGVA, NPCID, true);
		break;
	default: switch_space(f);
	}
	f->c->cpl = cpl;
	cpu_update_ctx(f->c);
}

static void flush_for(struct fixture *f, unsigned n)
{
	unsigned cpl = f->c->cpl;

	f->c->cpl = 0;
	switch (f->globals ? 0 : rnd(f) % 4) {
	case 0: tlb_flush_page(&f->c->tlb, f->gva[n]); break;
	case 1: sys_invpcid(f->c, 0, f->pcid, f->gva[n]); break;
	case 2: sys_invpcid(f->c, 1, f->pcid, 0); break;
	default: sys_write_cr(f->c, 3, TABLE(f->pcid) | f->pcid);
	}
	f->c->cpl = cpl;
	set_fresh(f, n, f->pcid, true);
}

/* An entry that was just used changes, and the least is done that makes the change be seen. */
static void change_used(struct fixture *f)
{
	unsigned n = rnd(f) % NGVA, level;
	struct truth t;

	check(f, n, f->gva[n], one_in(f, 2));
	look(f->c, f->g->ram, f->gva[n], false, &t);
	level = rnd(f) % t.npath;
	*t.path[level] = random_of_level(f, 4 - level);
	set_fresh(f, NGVA, NPCID, false);
	flush_for(f, n);
	check(f, n, f->gva[n], one_in(f, 2));
}

/* Registers that say who may do what: a change of most of them flushes all. */
static void change_rights(struct fixture *f)
{
	struct cpu *c = f->c;

	switch (rnd(f) % 5) {
	case 0:
		write_cr(f, 0, c->cr0 ^ CR0_WP);
		set_fresh(f, NGVA, NPCID, true);
		break;
	case 1:
		write_cr(f, 4, c->cr4 ^ CR4_SMAP);
		set_fresh(f, NGVA, NPCID, true);
		break;
	case 2: c->cpl = one_in(f, 2) ? 3 : 0; break;
	case 3: c->rflags ^= FLAG_AC; break;
	default:
		if (one_in(f, 4))
			write_cr(f, 0, c->cr0 ^ CR0_AM);
	}
	cpu_update_ctx(c);
}

static void watch(struct fixture *f)
{
	unsigned cpl = f->c->cpl;

	f->c->cpl = 0;
	sys_write_dr(f->c, 0, f->gva[rnd(f) % NGVA]);
	/* Loads and stores of a byte, or nothing. */
	sys_write_dr(f->c, 7, one_in(f, 2) ? 0x30001 : 0);
	f->c->cpl = cpl;
	set_fresh(f, NGVA, NPCID, true);
}

/* Nothing in the TLB lets stores to the frame be fast. */
static void check_protected(struct fixture *f, gfn_t gfn)
{
	const struct tlb *tlb = &f->c->tlb;

	for (unsigned c = 0; c < TLB_NCTX; c++)
		for (unsigned n = 0; n < TLB_SIZE; n++) {
			const struct tlb_entry *e = &tlb->e[c][TLB_STORES][n];

			assert_true(e->tag == TLB_INVALID ||
				    (e->tag & PAGE_MASK) + e->addend !=
					    (uintptr_t)host(f, gfn << PAGE_SHIFT));
		}
	for (unsigned n = 0; n < TLB2_SIZE; n++)
		assert_false(tlb->frame[n].gfn == gfn && (tlb->e2[n].where & TLB_WRITES));
}

static void protect_or_store(struct fixture *f)
{
	gfn_t gfn =
		(one_in(f, 4) ? TABLE(rnd(f) % (NPCID + NTABLES)) : DATA(rnd(f) % (NFRAMES - 4))) >>
		PAGE_SHIFT;

	if (one_in(f, 2)) {
		gmem_code_protect(&f->g->gm, gfn);
		shootdown_drain(&f->g->queue, &f->g->sink);
		check_protected(f, gfn);
	} else {
		gmem_code_written(&f->g->gm, gfn);
		shootdown_drain(&f->g->queue, &f->g->sink);
	}
}

/* --- the tests -------------------------------------------------------------------------------- */

static void mmio_read(struct cpu *cpu, gpa_t gpa, void *data, unsigned len)
{
	memset(data, 0xff, len);
}

static const struct cpu_ops ops = {.mmio_read = mmio_read};

static void add_memory(struct fixture *f, gpa_t gpa, uint64_t size, unsigned flags, uint8_t **p)
{
	struct memslot slot = {.gpa = gpa, .size = size, .flags = flags};

	*p = mmap(NULL, size, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE,
		  -1, 0);
	assert_ptr_not_equal(*p, MAP_FAILED);
	slot.hva = (hva_t)*p;
	assert_int_equal(gmem_add_slot(&f->g->gm, &slot), 0);
}

static int setup(void **state)
{
	struct fixture *f = calloc(1, sizeof(*f));

	f->g = guest_cpu_create(false);
	f->c = f->g->cpu;
	f->c->ops = &ops;
	f->insn.mode = 8;
	f->seed = 0x9e3779b97f4a7c15ull;
	add_memory(f, ROM_GPA, 0x2000, MEMSLOT_READONLY, &f->rom);
	add_memory(f, LARGE_GPA, LARGE_SIZE, 0, &f->large);
	for (unsigned n = 0; n < RAM_SIZE / PAGE_SIZE; n++)
		gmem_translate(&f->g->gm, n);
	*state = f;
	return 0;
}

static int teardown(void **state)
{
	struct fixture *f = *state;

	guest_cpu_destroy(f->g);
	munmap(f->rom, 0x2000);
	munmap(f->large, LARGE_SIZE);
	free(f);
	return 0;
}

/*
 * Addresses that share tables and, four of them, all sets of the second level: at a distance of 16
 * GiB with the same index in the first level, at one of 8 MiB + 4 KiB with another.
 */
static gva_t random_address(struct fixture *f)
{
	uint64_t top = one_in(f, 2) ? 0xffffff8000000000 : 0x0000008000000000;

	return top + rnd(f) % 6 * GIB(16) + rnd(f) % 2 * (MIB(8) + PAGE_SIZE) +
	       rnd(f) % 2 * MIB(2) + rnd(f) % 2 * 2 * PAGE_SIZE + (rnd(f) & 0xff8);
}

static void start_round(struct fixture *f)
{
	memset(f->g->ram + TABLE(0), 0, (NPCID + NTABLES) * PAGE_SIZE);
	for (unsigned n = 0; n < RAM_SIZE / PAGE_SIZE; n++)
		gmem_code_written(&f->g->gm, n);
	shootdown_drain(&f->g->queue, &f->g->sink);
	f->globals = one_in(f, 2);
	f->pcid = 0;
	f->c->cpl = 0;
	write_cr(f, 4, f->c->cr4 & ~(uint64_t)CR4_PCIDE);
	write_cr(f, 3, TABLE(0));
	write_cr(f, 4, f->c->cr4 | CR4_PCIDE);
	for (unsigned n = 0; n < NGVA; n++)
		f->gva[n] = random_address(f);
	for (unsigned n = 0; n < 600; n++)
		change_entry(f);
	tlb_flush_all(&f->c->tlb);
	set_fresh(f, NGVA, NPCID, true);
}

static void step(struct fixture *f)
{
	unsigned what = rnd(f) % 100, n = rnd(f) % NGVA;

	if (what < 1)
		change_entry(f);
	else if (what < 3)
		change_used(f);
	else if (what < 12)
		flush_something(f);
	else if (what < 22)
		change_rights(f);
	else if (what < 27)
		protect_or_store(f);
	else if (what < 28)
		watch(f);
	else if (what < 29)
		check(f, NGVA, f->gva[n] ^ 1ull << (48 + rnd(f) % 15), one_in(f, 2));
	else if (what < 31) /* all, and so more than a set of the second level holds */
		for (n = 0; n < NGVA; n++)
			check(f, n, f->gva[n], true);
	else
		check(f, n, f->gva[n] ^ (rnd(f) & 7), one_in(f, 2));
}

static void test_against_the_tables(void **state)
{
	struct fixture *f = *state;

	for (unsigned round = 0; round < ROUNDS; round++) {
		start_round(f);
		for (unsigned n = 0; n < STEPS; n++)
			step(f);
	}
	/* That all of it was met. */
	for (unsigned o = 0; o < OUTCOMES; o++)
		for (unsigned write = 0; write < 2; write++)
			assert_true(f->seen[o][write] > 100);
}

/* The map of guest memory is filled by the raising path only: that may allocate. */
static void test_frame_not_in_the_map(void **state)
{
	struct fixture *f = *state;
	struct truth t;

	f->g->pt[1] = (LARGE_GPA + MIB(64)) | PTE_P | PTE_W | PTE_U;
	assert_false(mem_fill(f->c, PAGE_SIZE, false));
	look(f->c, f->g->ram, PAGE_SIZE, false, &t);
	check_raising(f, PAGE_SIZE, false, &t);
	tlb_flush_all(&f->c->tlb);
	assert_true(mem_fill(f->c, PAGE_SIZE, false));
	check_filled(f, PAGE_SIZE, false, &t);
}

/* Paging of other kinds, and none, are filled for as well. */
static void test_no_paging(void **state)
{
	struct fixture *f = *state;

	cpu_reset(f->c, true);
	assert_true(mem_fill(f->c, DATA_GPA + 5, true));
	assert_ptr_equal(mem_fast_write(f->c, DATA_GPA + 5, 1), f->g->ram + DATA_GPA + 5);
	assert_false(mem_fill(f->c, NOWHERE, false));
}

#define TEST(fn) cmocka_unit_test_setup_teardown(fn, setup, teardown)

int main(void)
{
	const struct CMUnitTest tests[] = {
		TEST(test_against_the_tables),
		TEST(test_frame_not_in_the_map),
		TEST(test_no_paging),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
