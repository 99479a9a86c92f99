/* The software TLB: address space numbers, global pages, page flushes and their reach. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <cmocka.h>

#include "mmu/tlb.h"

#define LOW  0x0000000000401000ull
#define HIGH 0xffffffff81000000ull
#define HOST 0x7f0000000000ull

static int setup(void **state)
{
	struct tlb *tlb = aligned_alloc(PAGE_SIZE, ALIGN_UP(sizeof(*tlb), PAGE_SIZE));

	memset(tlb, 0, sizeof(*tlb));
	tlb_init(tlb);
	*state = tlb;
	return 0;
}

static int teardown(void **state)
{
	free(*state);
	return 0;
}

static struct tlb_fill fill_of(gva_t gva)
{
	return (struct tlb_fill){
		.gva = gva,
		.hva = HOST + (gva & 0xffffff),
		.gfn = (gva & 0xffffff) >> PAGE_SHIFT,
		.allow = TLB_READS | TLB_WRITES | TLB_FETCHES,
		.page_size = PAGE_SIZE,
	};
}

/* In both levels, as far as it is allowed. */
static void fill(struct tlb *tlb, enum tlb_ctx ctx, const struct tlb_fill *f)
{
	const struct tlb2_entry *e = tlb2_insert(tlb, f);

	if (f->allow & TLB_READ(ctx))
		tlb_copy(tlb, tlb->e[ctx], TLB_LOADS, f->gva, e);
	if (f->allow & TLB_WRITE(ctx))
		tlb_copy(tlb, tlb->e[ctx], TLB_STORES, f->gva, e);
}

static void insert(struct tlb *tlb, gva_t gva, bool global)
{
	struct tlb_fill f = fill_of(gva);

	f.global = global;
	fill(tlb, TLB_SUPER, &f);
}

static bool in_first(struct tlb *tlb, enum tlb_ctx ctx, enum tlb_kind kind, gva_t gva)
{
	struct tlb_entry *e = &tlb->e[ctx][kind][tlb_index(gva)];

	if (e->tag != tlb_tag(tlb, gva))
		return false;
	assert_int_equal(gva + e->addend, HOST + (gva & 0xffffff));
	return true;
}

static bool hit(struct tlb *tlb, gva_t gva)
{
	return in_first(tlb, TLB_SUPER, TLB_LOADS, gva);
}

static bool write_hit(struct tlb *tlb, gva_t gva)
{
	return in_first(tlb, TLB_SUPER, TLB_STORES, gva);
}

static void test_insert_and_contexts(void **state)
{
	struct tlb *tlb = *state;
	struct tlb_fill f = fill_of(LOW + 0x123);

	assert_false(hit(tlb, LOW));
	f.allow = TLB_READS;
	fill(tlb, TLB_SUPER, &f);
	assert_true(hit(tlb, LOW));
	assert_false(write_hit(tlb, LOW));
	f.allow |= TLB_WRITES;
	fill(tlb, TLB_SUPER, &f);
	assert_true(write_hit(tlb, LOW));
	/* Other contexts, and the page with the same index, know nothing of it. */
	assert_false(in_first(tlb, TLB_USER, TLB_LOADS, LOW));
	assert_false(in_first(tlb, TLB_USER, TLB_STORES, LOW));
	assert_false(hit(tlb, LOW + TLB_SIZE * PAGE_SIZE));
}

static void test_flush_page(void **state)
{
	struct tlb *tlb = *state;
	uint64_t gen;

	insert(tlb, LOW, false);
	insert(tlb, LOW + PAGE_SIZE, false);
	insert(tlb, HIGH, true);
	gen = tlb->code_gen;
	tlb_flush_page(tlb, LOW + 0xfff);
	assert_false(hit(tlb, LOW));
	assert_true(hit(tlb, LOW + PAGE_SIZE));
	assert_true(hit(tlb, HIGH));
	assert_int_equal(tlb->code_gen, gen);
	tlb_flush_page(tlb, HIGH);
	assert_false(hit(tlb, HIGH));
	/* The last page of the address space, whose tag comes nearest to "invalid". */
	insert(tlb, 0xfffffffffffff000ull, false);
	assert_true(hit(tlb, 0xfffffffffffff000ull));
	tlb_flush_page(tlb, ~0ull);
	assert_false(hit(tlb, 0xfffffffffffff000ull));
}

static void test_flush_page_reaches_other_address_spaces(void **state)
{
	struct tlb *tlb = *state;

	tlb_switch(tlb, 1, false);
	insert(tlb, LOW, false);
	tlb_switch(tlb, 2, false);
	tlb_flush_page(tlb, LOW);
	tlb_switch(tlb, 1, true);
	assert_false(hit(tlb, LOW));
}

static void test_large_pages(void **state)
{
	struct tlb *tlb = *state;
	struct tlb_fill f = fill_of(LOW);

	insert(tlb, HIGH, true);
	f.page_size = MIB(2);
	fill(tlb, TLB_SUPER, &f);
	f = fill_of(LOW + 5 * PAGE_SIZE);
	f.page_size = MIB(2);
	fill(tlb, TLB_SUPER, &f);
	insert(tlb, LOW + MIB(2), false);
	/* INVLPG of any address in the large page drops all of it, and no more ... */
	tlb_flush_page(tlb, (LOW & ~(MIB(2) - 1)) + MIB(2) - 1);
	assert_false(hit(tlb, LOW));
	assert_false(hit(tlb, LOW + 5 * PAGE_SIZE));
	assert_true(hit(tlb, LOW + MIB(2)));
	assert_true(hit(tlb, HIGH));
	/* ... and a full flush forgets where large pages were. */
	tlb_flush_all(tlb);
	insert(tlb, LOW, false);
	tlb_flush_page(tlb, LOW + PAGE_SIZE);
	assert_true(hit(tlb, LOW));
}

static void test_giga_pages(void **state)
{
	struct tlb *tlb = *state;
	struct tlb_fill f = fill_of(HIGH);

	f.global = true;
	f.page_size = GIB(1);
	fill(tlb, TLB_SUPER, &f);
	insert(tlb, LOW, false);
	/* A large page in the upper half does not widen the lower half's range. */
	tlb_flush_page(tlb, LOW + PAGE_SIZE);
	assert_true(hit(tlb, LOW));
	tlb_flush_page(tlb, HIGH | (GIB(1) - 1));
	assert_false(hit(tlb, HIGH));
	tlb_flush_all(tlb);
	insert(tlb, HIGH, true);
	tlb_flush_page(tlb, HIGH & ~(GIB(1) - 1));
	assert_true(hit(tlb, HIGH));
}

static void test_switch_without_pcid(void **state)
{
	struct tlb *tlb = *state;

	insert(tlb, LOW, false);
	insert(tlb, HIGH, true);
	tlb_switch(tlb, 0, false);
	assert_false(hit(tlb, LOW));
	assert_true(hit(tlb, HIGH));
	/* A page of the upper half that is not global goes, and may take its neighbours along. */
	insert(tlb, HIGH + PAGE_SIZE, false);
	tlb_switch(tlb, 0, false);
	assert_false(hit(tlb, HIGH + PAGE_SIZE));
	insert(tlb, HIGH, true);
	tlb_switch(tlb, 0, false);
	assert_true(hit(tlb, HIGH));
}

static void test_pcid_switching(void **state)
{
	struct tlb *tlb = *state;

	tlb_switch(tlb, 5, false);
	insert(tlb, LOW, false);
	tlb_switch(tlb, 6, false);
	assert_false(hit(tlb, LOW));
	insert(tlb, LOW + PAGE_SIZE, false);
	tlb_switch(tlb, 5, true);
	assert_true(hit(tlb, LOW));
	assert_false(hit(tlb, LOW + PAGE_SIZE));
	tlb_switch(tlb, 6, true);
	assert_false(hit(tlb, LOW));
	assert_true(hit(tlb, LOW + PAGE_SIZE));
	/* Without the no-flush bit the space is emptied. */
	tlb_switch(tlb, 5, false);
	assert_false(hit(tlb, LOW));
	/* A non-global page of the upper half belongs to one space only. */
	insert(tlb, HIGH, false);
	tlb_switch(tlb, 6, true);
	assert_false(hit(tlb, HIGH));
}

static void test_flush_pcid(void **state)
{
	struct tlb *tlb = *state;

	tlb_switch(tlb, 5, false);
	insert(tlb, LOW, false);
	tlb_switch(tlb, 6, false);
	insert(tlb, LOW + PAGE_SIZE, false);
	insert(tlb, HIGH, true);
	tlb_flush_pcid(tlb, 5);
	assert_true(hit(tlb, LOW + PAGE_SIZE));
	assert_true(hit(tlb, HIGH));
	tlb_flush_pcid(tlb, 6);
	assert_false(hit(tlb, LOW + PAGE_SIZE));
	assert_true(hit(tlb, HIGH));
	tlb_switch(tlb, 5, true);
	assert_false(hit(tlb, LOW));
}

static void test_flush_all(void **state)
{
	struct tlb *tlb = *state;
	uint64_t gen = tlb->code_gen;

	tlb_switch(tlb, 5, false);
	insert(tlb, LOW, false);
	insert(tlb, HIGH, true);
	tlb_switch(tlb, 6, false);
	tlb_flush_all(tlb);
	assert_false(hit(tlb, HIGH));
	assert_int_not_equal(tlb->code_gen, gen);
	tlb_switch(tlb, 5, true);
	assert_false(hit(tlb, LOW));
}

/* Numbers run out and are given out again: no entry of their first use may come back to life. */
static void test_numbers_wrap(void **state)
{
	struct tlb *tlb = *state;

	for (unsigned n = 0; n < 3 * TLB_MAX_ASID; n++) {
		gva_t page = LOW + (n % TLB_SIZE) * PAGE_SIZE;

		tlb_switch(tlb, n % 7, false);
		assert_false(hit(tlb, page));
		insert(tlb, page, false);
		assert_true(hit(tlb, page));
		assert_true(tlb->tag[0] && tlb->tag[0] <= TLB_MAX_ASID);
		assert_true(tlb->tag[1] && tlb->tag[1] <= TLB_MAX_ASID);
		assert_int_not_equal(tlb->tag[0], tlb->tag[1]);
	}
	/* A space that was numbered before the wrap is unknown after it. */
	tlb_switch(tlb, 9, false);
	insert(tlb, LOW, false);
	for (unsigned n = 0; n < TLB_MAX_ASID + 2; n++)
		tlb_switch(tlb, 1, false);
	tlb_switch(tlb, 9, true);
	assert_false(hit(tlb, LOW));
	assert_null(tlb2_find(tlb, LOW));
	/* Chains begin anew as well. */
	tlb_protect_gfn(tlb, fill_of(LOW).gfn);
	insert(tlb, LOW, false);
	tlb_protect_gfn(tlb, fill_of(LOW).gfn);
	assert_false(write_hit(tlb, LOW));
}

static void test_protect_gfn(void **state)
{
	struct tlb *tlb = *state;
	struct tlb_fill f = fill_of(LOW);

	tlb_switch(tlb, 5, false);
	insert(tlb, LOW, false);
	/* The same frame under another address, context and address space. */
	tlb_switch(tlb, 6, false);
	f.gva = HIGH;
	f.gfn = (LOW & 0xffffff) >> PAGE_SHIFT;
	f.global = true;
	fill(tlb, TLB_USER, &f);
	insert(tlb, LOW + PAGE_SIZE, false);
	tlb_protect_gfn(tlb, f.gfn);
	assert_true(write_hit(tlb, LOW + PAGE_SIZE));
	assert_int_equal(tlb->e[TLB_USER][TLB_STORES][tlb_index(HIGH)].tag, TLB_INVALID);
	tlb_switch(tlb, 5, true);
	assert_true(hit(tlb, LOW));
	assert_false(write_hit(tlb, LOW));
}

/* Pages that have the same places in the second level, and the same index in the first. */
static gva_t rival(unsigned n)
{
	return LOW ^ (uint64_t)n << (TLB2_BITS + PAGE_SHIFT);
}

static void insert_rival(struct tlb *tlb, unsigned n)
{
	struct tlb_fill f = fill_of(rival(n));

	f.gfn = 0x1000 + n;
	fill(tlb, TLB_SUPER, &f);
}

/* An entry of the second level that makes room takes the right to stores along. */
static void test_eviction(void **state)
{
	struct tlb *tlb = *state;
	struct tlb_fill f = fill_of(LOW);

	fill(tlb, TLB_USER, &f);
	for (unsigned n = 1; n <= TLB2_WAYS; n++) {
		assert_non_null(tlb2_find(tlb, LOW));
		insert_rival(tlb, n);
	}
	assert_null(tlb2_find(tlb, LOW));
	assert_true(in_first(tlb, TLB_USER, TLB_LOADS, LOW));
	assert_int_equal(tlb->e[TLB_USER][TLB_STORES][tlb_index(LOW)].tag, TLB_INVALID);
}

static void insert_rivals(struct tlb *tlb, unsigned n)
{
	for (unsigned k = 0; k < n; k++)
		insert_rival(tlb, k);
}

static unsigned rivals(struct tlb *tlb)
{
	unsigned n = 0;

	for (unsigned k = 0; k < TLB2_WAYS; k++)
		n += tlb2_find(tlb, rival(k)) != NULL;
	return n;
}

/* First to go are entries of numbers that were flushed; those of other address spaces stay. */
static void test_victims(void **state)
{
	struct tlb *tlb = *state;

	tlb_switch(tlb, 1, false);
	insert_rivals(tlb, TLB2_WAYS / 2);
	for (unsigned n = 0; n < 3; n++) {
		tlb_switch(tlb, 2, false);
		assert_int_equal(rivals(tlb), 0);
		insert_rivals(tlb, TLB2_WAYS / 2);
		tlb_switch(tlb, 1, true);
		assert_int_equal(rivals(tlb), TLB2_WAYS / 2);
	}
	tlb_flush_pcid(tlb, 2);
	insert_rivals(tlb, TLB2_WAYS);
	assert_int_equal(rivals(tlb), TLB2_WAYS);
	tlb_flush_all(tlb);
	insert_rivals(tlb, TLB2_WAYS);
	assert_int_equal(rivals(tlb), TLB2_WAYS);
	tlb_switch(tlb, 3, false);
	insert_rivals(tlb, TLB2_WAYS / 2);
	tlb_switch(tlb, 1, true);
	assert_true(rivals(tlb) < TLB2_WAYS);
}

/* Loads do not go on where a page was when stores to it go elsewhere. */
static void test_page_moved(void **state)
{
	struct tlb *tlb = *state;
	struct tlb_fill f = fill_of(LOW);

	f.allow = TLB_READS;
	fill(tlb, TLB_SUPER, &f);
	assert_true(hit(tlb, LOW));
	f.hva += PAGE_SIZE;
	f.gfn++;
	f.allow |= TLB_WRITES;
	tlb2_insert(tlb, &f);
	assert_false(hit(tlb, LOW));
}

/* Frames that share a chain: what leaves it at any place leaves the others on it. */
static void test_chains(void **state)
{
	struct tlb *tlb = *state;
	const unsigned frames = 5;

	for (unsigned gone = 0; gone < frames; gone++) {
		for (unsigned n = 0; n < frames; n++) {
			struct tlb_fill f = fill_of(LOW + n * PAGE_SIZE);

			f.gfn = 1 + n * TLB2_CHAINS;
			fill(tlb, TLB_SUPER, &f);
		}
		tlb_flush_page(tlb, LOW + gone * PAGE_SIZE);
		for (unsigned n = 0; n < frames; n++) {
			assert_true(n == gone || write_hit(tlb, LOW + n * PAGE_SIZE));
			tlb_protect_gfn(tlb, 1 + n * TLB2_CHAINS);
			assert_false(write_hit(tlb, LOW + n * PAGE_SIZE));
			assert_int_equal(hit(tlb, LOW + n * PAGE_SIZE), n != gone);
		}
		assert_int_equal(tlb->chain[1], 0);
	}
}

static void fetch_insert(struct tlb *tlb, const struct tlb_fill *f)
{
	tlb_fetch_copy(tlb, f->gva, false, tlb2_insert(tlb, f));
}

static void test_fetch(void **state)
{
	struct tlb *tlb = *state;
	struct tlb_fill f = fill_of(LOW);
	const struct itlb_entry *e;
	uint64_t gen;

	assert_null(tlb_fetch_lookup(tlb, LOW, false));
	fetch_insert(tlb, &f);
	e = tlb_fetch_lookup(tlb, LOW + 0x7ff, false);
	assert_non_null(e);
	assert_int_equal(e->hva, f.hva & PAGE_MASK);
	assert_int_equal(e->gfn, f.gfn);
	/* Rights were checked for one privilege level. */
	assert_null(tlb_fetch_lookup(tlb, LOW, true));

	/* A flush of a page that was fetched from tells the holders of cached code. */
	f = fill_of(HIGH);
	fetch_insert(tlb, &f);
	gen = tlb->code_gen;
	tlb_flush_page(tlb, HIGH);
	assert_null(tlb_fetch_lookup(tlb, HIGH, false));
	assert_int_not_equal(tlb->code_gen, gen);

	/* Also if its entry was evicted meanwhile by another page. */
	fetch_insert(tlb, &f);
	f = fill_of(HIGH + ITLB_SIZE * PAGE_SIZE);
	fetch_insert(tlb, &f);
	gen = tlb->code_gen;
	tlb_flush_page(tlb, HIGH);
	assert_int_not_equal(tlb->code_gen, gen);
}

/* Searches for a code map; returns how many pages had to be asked about, which have not changed. */
static unsigned settle(struct tlb *tlb)
{
	struct code_maps *m;
	unsigned asked = 0;

	assert_int_equal(tlb->code_tag[0], 0);
	m = tlb_search_code(tlb, 0);
	for (; code_maps_ask(m); asked++)
		code_maps_answer(m, true);
	tlb_settle_code(tlb);
	return asked;
}

/* After which events the tables have to be asked about code of the lower half, and which. */
static void test_code_tag(void **state)
{
	struct tlb *tlb = *state;
	struct tlb_fill f = fill_of(LOW);
	uint64_t tag, upper;

	assert_int_equal(settle(tlb), 0);
	tag = tlb->code_tag[0];
	fetch_insert(tlb, &f);
	assert_int_equal(tlb->code_tag[0], tag);
	tlb_flush_page(tlb, LOW + PAGE_SIZE);
	assert_int_equal(tlb->code_tag[0], tag);
	tlb_flush_page(tlb, LOW + 1);
	assert_int_equal(settle(tlb), 1);
	tlb_switch(tlb, 0, false);
	assert_int_equal(settle(tlb), 1);
	tlb_switch(tlb, 0, true);
	assert_int_equal(settle(tlb), 0);
	tlb_flush_pcid(tlb, 0);
	assert_int_equal(settle(tlb), 1);
	tlb_switch(tlb, 1, false);
	assert_int_equal(settle(tlb), 1);
	tlb_flush_pcid(tlb, 0);
	assert_int_equal(tlb->code_tag[0], tag);
	tlb_switch(tlb, 0, true);
	assert_int_equal(settle(tlb), 1);
	assert_int_equal(tlb->code_tag[0], tag);
	/* Nothing is known of any mapping any more. */
	upper = tlb->code_tag[1];
	tlb_flush_all(tlb);
	assert_int_not_equal(tlb->code_tag[1], upper);
	assert_int_equal(tlb->code_tag[1], tlb->tag[1]);
	assert_int_equal(settle(tlb), 0);
	assert_int_not_equal(tlb->code_tag[0], tag);
}

/* Before a tag comes again what carries it is told to be old. */
static void test_code_tags_round(void **state)
{
	struct tlb *tlb = *state;
	uint64_t gen, tag;
	unsigned n;

	settle(tlb);
	tag = tlb->code_tag[0];
	gen = tlb->code_gen;
	for (n = 0; n < 2 * CODE_MAP_TAGS && tlb->code_gen == gen; n++) {
		struct tlb_fill f = fill_of(LOW);

		f.gfn += n;
		fetch_insert(tlb, &f);
		assert_true(n == 0 || tlb->code_tag[0] != tag || tlb->code_gen != gen);
	}
	assert_int_equal(tlb->code_tag[0], tag);
	assert_in_range(n, CODE_MAP_TAGS, CODE_MAP_TAGS + 1);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test_setup_teardown(test_insert_and_contexts, setup, teardown),
		cmocka_unit_test_setup_teardown(test_flush_page, setup, teardown),
		cmocka_unit_test_setup_teardown(test_flush_page_reaches_other_address_spaces, setup,
						teardown),
		cmocka_unit_test_setup_teardown(test_large_pages, setup, teardown),
		cmocka_unit_test_setup_teardown(test_giga_pages, setup, teardown),
		cmocka_unit_test_setup_teardown(test_switch_without_pcid, setup, teardown),
		cmocka_unit_test_setup_teardown(test_pcid_switching, setup, teardown),
		cmocka_unit_test_setup_teardown(test_flush_pcid, setup, teardown),
		cmocka_unit_test_setup_teardown(test_flush_all, setup, teardown),
		cmocka_unit_test_setup_teardown(test_numbers_wrap, setup, teardown),
		cmocka_unit_test_setup_teardown(test_protect_gfn, setup, teardown),
		cmocka_unit_test_setup_teardown(test_eviction, setup, teardown),
		cmocka_unit_test_setup_teardown(test_victims, setup, teardown),
		cmocka_unit_test_setup_teardown(test_page_moved, setup, teardown),
		cmocka_unit_test_setup_teardown(test_chains, setup, teardown),
		cmocka_unit_test_setup_teardown(test_fetch, setup, teardown),
		cmocka_unit_test_setup_teardown(test_code_tag, setup, teardown),
		cmocka_unit_test_setup_teardown(test_code_tags_round, setup, teardown),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
