/* The guest page table walk, against tables built here: every mode, right, reserved bit and A/D. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <sys/mman.h>
#include <cmocka.h>

#include "mmu/tlb.h"
#include "mmu/walk.h"
#include "src/base/rcu.h"

#define P  (1ull << 0)
#define W  (1ull << 1)
#define U  (1ull << 2)
#define A  (1ull << 5)
#define D  (1ull << 6)
#define PS (1ull << 7)
#define G  (1ull << 8)
#define NX (1ull << 63)

#define PF_P	1u
#define PF_W	2u
#define PF_U	4u
#define PF_RSVD 8u
#define PF_I	16u

#define RAM_SIZE KIB(64)
/* Tables, one frame each; the data frame need not be RAM. */
#define PML4 0x1000u
#define PDPT 0x2000u
#define PD   0x3000u
#define PT   0x4000u
#define DATA 0x123456000ull

#define GVA 0x00007f1234567abcull

struct fixture {
	struct gmem gm;
	uint8_t *ram;
	struct walk_regs regs;
	struct walk_result res;
	uint64_t *e[5]; /* the entries on the path, by level 1-4 */
	uint64_t pdpte[4];
};

static uint64_t *entry(struct fixture *f, unsigned table, unsigned index)
{
	return (uint64_t *)(f->ram + table) + index;
}

static void build_4level(struct fixture *f)
{
	f->regs = (struct walk_regs){.mode = PAGING_4LEVEL, .cr3 = PML4, .nxe = true, .wp = true};
	f->e[4] = entry(f, PML4, GVA >> 39 & 511);
	f->e[3] = entry(f, PDPT, GVA >> 30 & 511);
	f->e[2] = entry(f, PD, GVA >> 21 & 511);
	f->e[1] = entry(f, PT, GVA >> 12 & 511);
	*f->e[4] = PDPT | P | W | U;
	*f->e[3] = PD | P | W | U;
	*f->e[2] = PT | P | W | U;
	*f->e[1] = DATA | P | W | U;
}

static int setup(void **state)
{
	struct fixture *f = calloc(1, sizeof(*f));
	struct memslot s = {.size = RAM_SIZE};

	rcu_thread_init();
	f->ram = mmap(NULL, RAM_SIZE, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
	assert_ptr_not_equal(f->ram, MAP_FAILED);
	s.hva = (hva_t)f->ram;
	assert_int_equal(gmem_init(&f->gm), 0);
	assert_int_equal(gmem_add_slot(&f->gm, &s), 0);
	build_4level(f);
	*state = f;
	return 0;
}

static int teardown(void **state)
{
	struct fixture *f = *state;

	gmem_fini(&f->gm);
	munmap(f->ram, RAM_SIZE);
	rcu_thread_exit();
	free(f);
	return 0;
}

/* Whether a store in the context of the access needs no walk. */
static bool write_ok(const struct fixture *f, unsigned access)
{
	return f->res.allow & TLB_WRITE(access & WALK_USER ? TLB_USER : TLB_SUPER);
}

static void good(struct fixture *f, gva_t gva, unsigned access)
{
	f->res.pf_error = ~0u;
	assert_int_equal(walk(&f->gm, &f->regs, gva, access, &f->res), 0);
}

static void bad(struct fixture *f, gva_t gva, unsigned access, uint32_t error)
{
	assert_int_equal(walk(&f->gm, &f->regs, gva, access, &f->res), -EFAULT);
	assert_int_equal(f->res.pf_error, error);
}

static void test_off(void **state)
{
	struct fixture *f = *state;

	f->regs = (struct walk_regs){.mode = PAGING_OFF, .smep = true, .smap = true};
	good(f, 0x12345678, WALK_WRITE | WALK_USER);
	assert_int_equal(f->res.gpa, 0x12345678);
	assert_true(write_ok(f, WALK_WRITE | WALK_USER));
}

static void test_4level_accessed_dirty(void **state)
{
	struct fixture *f = *state;

	good(f, GVA, WALK_USER);
	assert_int_equal(f->res.gpa, DATA | (GVA & 0xfff));
	assert_int_equal(f->res.page_size, PAGE_SIZE);
	assert_false(f->res.global);
	assert_false(write_ok(f, WALK_USER)); /* D is clear: a store must walk */
	for (unsigned l = 1; l <= 4; l++)
		assert_int_equal(*f->e[l] & (A | D), A);
	good(f, GVA, WALK_USER | WALK_WRITE);
	assert_int_equal(*f->e[1] & (A | D), A | D);
	for (unsigned l = 2; l <= 4; l++)
		assert_int_equal(*f->e[l] & (A | D), A);
	assert_true(write_ok(f, WALK_USER | WALK_WRITE));
	good(f, GVA, WALK_USER);
	assert_true(write_ok(f, WALK_USER));
}

static void test_faults_set_no_bits(void **state)
{
	struct fixture *f = *state;

	*f->e[1] &= ~W;
	bad(f, GVA, WALK_USER | WALK_WRITE, PF_P | PF_W | PF_U);
	for (unsigned l = 1; l <= 4; l++)
		assert_int_equal(*f->e[l] & (A | D), 0);
	/* Readable but not writable: no later store may skip the walk. */
	*f->e[1] |= D;
	good(f, GVA, WALK_USER);
	assert_false(write_ok(f, WALK_USER));
}

static void test_not_present_at_each_level(void **state)
{
	struct fixture *f = *state;

	for (unsigned l = 1; l <= 4; l++) {
		*f->e[l] &= ~P;
		bad(f, GVA, 0, 0);
		bad(f, GVA, WALK_WRITE, PF_W);
		bad(f, GVA, WALK_USER, PF_U);
		bad(f, GVA, WALK_USER | WALK_FETCH, PF_U | PF_I);
		/* A non-present entry has no reserved bits. */
		*f->e[l] |= 1ull << 45;
		bad(f, GVA, 0, 0);
		*f->e[l] &= ~(1ull << 45);
		*f->e[l] |= P;
	}
	good(f, GVA, 0);
}

static void test_user_and_write_need_all_levels(void **state)
{
	struct fixture *f = *state;

	for (unsigned l = 1; l <= 4; l++) {
		*f->e[l] &= ~U;
		bad(f, GVA, WALK_USER, PF_P | PF_U);
		bad(f, GVA, WALK_USER | WALK_WRITE, PF_P | PF_U | PF_W);
		bad(f, GVA, WALK_USER | WALK_FETCH, PF_P | PF_U | PF_I);
		good(f, GVA, WALK_WRITE);
		*f->e[l] |= U;
		*f->e[l] &= ~W;
		bad(f, GVA, WALK_USER | WALK_WRITE, PF_P | PF_U | PF_W);
		good(f, GVA, WALK_USER);
		bad(f, GVA, WALK_WRITE, PF_P | PF_W);
		f->regs.wp = false;
		good(f, GVA, WALK_WRITE);
		bad(f, GVA, WALK_USER | WALK_WRITE, PF_P | PF_U | PF_W);
		f->regs.wp = true;
		*f->e[l] |= W;
	}
	good(f, GVA, WALK_USER | WALK_WRITE);
}

static void test_no_execute(void **state)
{
	struct fixture *f = *state;

	for (unsigned l = 1; l <= 4; l++) {
		*f->e[l] |= NX;
		bad(f, GVA, WALK_USER | WALK_FETCH, PF_P | PF_U | PF_I);
		bad(f, GVA, WALK_FETCH, PF_P | PF_I);
		good(f, GVA, WALK_USER | WALK_WRITE);
		/* Without EFER.NXE the bit is reserved, and fetches are not told apart. */
		f->regs.nxe = false;
		bad(f, GVA, WALK_USER, PF_P | PF_U | PF_RSVD);
		bad(f, GVA, WALK_FETCH, PF_P | PF_RSVD);
		f->regs.nxe = true;
		*f->e[l] &= ~NX;
	}
	good(f, GVA, WALK_FETCH);
}

static void test_fetch_bit_of_error_code(void **state)
{
	struct fixture *f = *state;

	*f->e[1] = 0;
	f->regs.nxe = false;
	bad(f, GVA, WALK_FETCH, 0);
	f->regs.smep = true;
	bad(f, GVA, WALK_FETCH, PF_I);
	f->regs.smep = false;
	f->regs.nxe = true;
	bad(f, GVA, WALK_FETCH, PF_I);
}

static void test_smep_smap(void **state)
{
	struct fixture *f = *state;

	f->regs.smep = true;
	good(f, GVA, WALK_USER | WALK_FETCH);
	good(f, GVA, WALK_WRITE);
	bad(f, GVA, WALK_FETCH, PF_P | PF_I);
	f->regs.smep = false;
	f->regs.smap = true;
	good(f, GVA, WALK_FETCH);
	bad(f, GVA, 0, PF_P);
	bad(f, GVA, WALK_WRITE, PF_P | PF_W);
	good(f, GVA, WALK_AC);
	good(f, GVA, WALK_AC | WALK_WRITE);
	good(f, GVA, WALK_USER | WALK_WRITE);
	/* A page is a user page only if every level says so. */
	*f->e[3] &= ~U;
	f->regs.smep = true;
	good(f, GVA, 0);
	good(f, GVA, WALK_FETCH);
}

static void test_large_pages(void **state)
{
	struct fixture *f = *state;

	*f->e[2] = (DATA & ~(MIB(2) - 1)) | P | W | U | PS | G;
	good(f, GVA, WALK_WRITE);
	assert_int_equal(f->res.gpa, (DATA & ~(MIB(2) - 1)) | (GVA & (MIB(2) - 1)));
	assert_int_equal(f->res.page_size, MIB(2));
	assert_true(f->res.global);
	assert_int_equal(*f->e[2] & (A | D), A | D);
	assert_int_equal(*f->e[1] & A, 0);
	*f->e[3] = (DATA & ~(GIB(1) - 1)) | P | W | U | PS;
	good(f, GVA, WALK_WRITE);
	assert_int_equal(f->res.gpa, (DATA & ~(GIB(1) - 1)) | (GVA & (GIB(1) - 1)));
	assert_int_equal(f->res.page_size, GIB(1));
	assert_false(f->res.global);
	assert_int_equal(*f->e[3] & (A | D), A | D);
	/* Bit 12 of a large page is the PAT bit, not an address bit. */
	*f->e[3] |= 1ull << 12;
	good(f, GVA, 0);
	assert_int_equal(f->res.gpa, (DATA & ~(GIB(1) - 1)) | (GVA & (GIB(1) - 1)));
}

static void test_reserved_bits_4level(void **state)
{
	struct fixture *f = *state;
	static const struct {
		unsigned level;
		uint64_t set;
	} cases[] = {
		{4, PS},
		{4, 1ull << 40},
		{4, 1ull << 51},
		{3, 1ull << 40},
		{3, 1ull << 51},
		{2, 1ull << 40},
		{1, 1ull << 40},
		{1, 1ull << 51},
		{3, PS | 1ull << 13},
		{3, PS | 1ull << 29},
		{2, PS | 1ull << 13},
		{2, PS | 1ull << 20},
	};

	for (unsigned n = 0; n < ARRAY_SIZE(cases); n++) {
		uint64_t old = *f->e[cases[n].level];

		*f->e[cases[n].level] = (cases[n].set & PS ? P | W | U : old) | cases[n].set;
		bad(f, GVA, WALK_USER | WALK_WRITE, PF_P | PF_RSVD | PF_U | PF_W);
		bad(f, GVA, WALK_FETCH, PF_P | PF_RSVD | PF_I);
		*f->e[cases[n].level] = old;
	}
	/* Ignored bits: 9-11 everywhere, 52-62, and PAT (bit 7) of a last-level entry. */
	for (unsigned l = 1; l <= 4; l++)
		*f->e[l] |= 0xe00ull | 0x7ffull << 52;
	*f->e[1] |= PS;
	good(f, GVA, WALK_USER | WALK_WRITE);
	assert_int_equal(f->res.gpa, DATA | (GVA & 0xfff));
}

static void test_tables_outside_memory(void **state)
{
	struct fixture *f = *state;

	*f->e[2] = 0x7000000 | P | W | U;
	bad(f, GVA, 0, PF_P | PF_RSVD);
}

static void test_written_code_frames_are_told(void **state)
{
	struct fixture *f = *state;
	gfn_t gfn = PT >> PAGE_SHIFT;

	good(f, GVA, 0);
	assert_true(gmem_code_stabilise(&f->gm, gfn, gmem_code_protect(&f->gm, gfn)));
	good(f, GVA, 0);
	assert_int_equal(code_word_state(gmem_code_word(&f->gm, gfn)), CODE_STABLE);
	good(f, GVA, WALK_WRITE); /* sets D in a frame that holds decoded code */
	assert_int_equal(code_word_state(gmem_code_word(&f->gm, gfn)), CODE_NONE);
}

/* --- PAE -------------------------------------------------------------------------------------- */

#define GVA32 0xc1234567u

static void build_pae(struct fixture *f)
{
	memset(f->ram, 0, RAM_SIZE);
	f->pdpte[GVA32 >> 30] = PD | P;
	f->regs =
		(struct walk_regs){.mode = PAGING_PAE, .pdpte = f->pdpte, .nxe = true, .wp = true};
	f->e[2] = entry(f, PD, GVA32 >> 21 & 511);
	f->e[1] = entry(f, PT, GVA32 >> 12 & 511);
	*f->e[2] = PT | P | W | U;
	*f->e[1] = DATA | P | W | U;
}

static void test_pae(void **state)
{
	struct fixture *f = *state;

	build_pae(f);
	good(f, GVA32, WALK_USER | WALK_WRITE);
	assert_int_equal(f->res.gpa, DATA | (GVA32 & 0xfff));
	assert_int_equal(*f->e[2] & (A | D), A);
	assert_int_equal(*f->e[1] & (A | D), A | D);
	bad(f, GVA32 & 0x3fffffff, WALK_USER, PF_U);
	*f->e[1] |= NX;
	bad(f, GVA32, WALK_FETCH, PF_P | PF_I);
	f->regs.nxe = false;
	bad(f, GVA32, 0, PF_P | PF_RSVD);
	*f->e[1] &= ~NX;
	good(f, GVA32, WALK_FETCH);
	/* Here bits 52-62 are reserved, too. */
	for (unsigned bit = 40; bit < 63; bit++) {
		*f->e[1] |= 1ull << bit;
		bad(f, GVA32, 0, PF_P | PF_RSVD);
		*f->e[1] &= ~(1ull << bit);
		*f->e[2] |= 1ull << bit;
		bad(f, GVA32, 0, PF_P | PF_RSVD);
		*f->e[2] &= ~(1ull << bit);
	}
	*f->e[2] = (DATA & ~(MIB(2) - 1)) | P | W | PS | G;
	good(f, GVA32, WALK_WRITE);
	assert_int_equal(f->res.gpa, (DATA & ~(MIB(2) - 1)) | (GVA32 & (MIB(2) - 1)));
	assert_int_equal(f->res.page_size, MIB(2));
	assert_true(f->res.global);
	bad(f, GVA32, WALK_USER, PF_P | PF_U);
	*f->e[2] |= 1ull << 13;
	bad(f, GVA32, 0, PF_P | PF_RSVD);
}

/* --- 32-bit ----------------------------------------------------------------------------------- */

static void test_32bit(void **state)
{
	struct fixture *f = *state;
	uint32_t *pde, *pte;

	memset(f->ram, 0, RAM_SIZE);
	f->regs = (struct walk_regs){.mode = PAGING_32, .cr3 = PD, .nxe = true, .wp = true};
	pde = (uint32_t *)(f->ram + PD) + (GVA32 >> 22);
	pte = (uint32_t *)(f->ram + PT) + (GVA32 >> 12 & 1023);
	*pde = PT | P | W | U;
	*pte = 0x89abc000 | P | W | U | G;
	/* The entries next to the path must stay as they are. */
	pde[1] = pte[1] = 0x5a5a5a5a;
	good(f, GVA32, WALK_USER | WALK_WRITE);
	assert_int_equal(f->res.gpa, 0x89abc000 | (GVA32 & 0xfff));
	assert_int_equal(f->res.page_size, PAGE_SIZE);
	assert_true(f->res.global);
	assert_int_equal(*pde & (A | D), A);
	assert_int_equal(*pte & (A | D), A | D);
	assert_int_equal(pde[1], 0x5a5a5a5a);
	assert_int_equal(pte[1], 0x5a5a5a5a);
	/* No NX here, whatever EFER.NXE: fetches are told apart only by SMEP. */
	*pte &= ~P;
	bad(f, GVA32, WALK_FETCH, 0);
	f->regs.smep = true;
	bad(f, GVA32, WALK_FETCH, PF_I);
	*pte |= P;
	bad(f, GVA32, WALK_FETCH, PF_P | PF_I);
	f->regs.smep = false;

	/* PS counts only with CR4.PSE. */
	*pde |= PS;
	good(f, GVA32, 0);
	assert_int_equal(f->res.page_size, PAGE_SIZE);
	f->regs.pse = true;
	*pde = 0x89800000 | P | W | U | PS;
	good(f, GVA32, WALK_WRITE);
	assert_int_equal(f->res.gpa, 0x89800000 | (GVA32 & (MIB(4) - 1)));
	assert_int_equal(f->res.page_size, MIB(4));
	assert_int_equal(*pde & (A | D), A | D);
	/* PSE-36: bits 13-20 are address bits 32-39, bit 21 is reserved. */
	*pde |= 0xa5u << 13;
	good(f, GVA32, 0);
	assert_int_equal(f->res.gpa, 0xa500000000ull | 0x89800000 | (GVA32 & (MIB(4) - 1)));
	*pde |= 1u << 21;
	bad(f, GVA32, 0, PF_P | PF_RSVD);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test_setup_teardown(test_off, setup, teardown),
		cmocka_unit_test_setup_teardown(test_4level_accessed_dirty, setup, teardown),
		cmocka_unit_test_setup_teardown(test_faults_set_no_bits, setup, teardown),
		cmocka_unit_test_setup_teardown(test_not_present_at_each_level, setup, teardown),
		cmocka_unit_test_setup_teardown(test_user_and_write_need_all_levels, setup,
						teardown),
		cmocka_unit_test_setup_teardown(test_no_execute, setup, teardown),
		cmocka_unit_test_setup_teardown(test_fetch_bit_of_error_code, setup, teardown),
		cmocka_unit_test_setup_teardown(test_smep_smap, setup, teardown),
		cmocka_unit_test_setup_teardown(test_large_pages, setup, teardown),
		cmocka_unit_test_setup_teardown(test_reserved_bits_4level, setup, teardown),
		cmocka_unit_test_setup_teardown(test_tables_outside_memory, setup, teardown),
		cmocka_unit_test_setup_teardown(test_written_code_frames_are_told, setup, teardown),
		cmocka_unit_test_setup_teardown(test_pae, setup, teardown),
		cmocka_unit_test_setup_teardown(test_32bit, setup, teardown),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
