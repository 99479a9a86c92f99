/* Code maps: what address spaces are asked, and that none runs under the tag of another's code. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <cmocka.h>

#include "mmu/code_map.h"

#define BASE	 0x400000ull
#define ROOT(n)	 (((n) + 1) * 0x1000ull)
#define ANYTHING 7 /* a frame that no space has at first */

static int setup(void **state)
{
	*state = calloc(1, sizeof(struct code_maps));
	return *state ? 0 : -1;
}

static int teardown(void **state)
{
	free(*state);
	return 0;
}

static gva_t page(unsigned n)
{
	return BASE + n * PAGE_SIZE;
}

/* Searches for an address space that has page n in frame first + n, but for the page `not`. */
static uint16_t settle(struct code_maps *m, uint16_t pcid, gfn_t first, unsigned not,
		       unsigned *asked)
{
	const struct code_map_page *p;

	*asked = 0;
	if (code_maps_over(m))
		code_maps_forget(m);
	code_maps_search(m, pcid, ROOT(pcid));
	while ((p = code_maps_ask(m))) {
		unsigned n = ((p->key & PAGE_MASK) - BASE) / PAGE_SIZE;

		code_maps_answer(m, n != not &&p->gfn == first + n);
		++*asked;
	}
	return code_maps_tag(m);
}

static void note(struct code_maps *m, gfn_t first, unsigned from, unsigned to)
{
	for (unsigned n = from; n < to; n++)
		code_maps_note(m, page(n) + 0x123, true, first + n);
}

static void test_flush(void **state)
{
	struct code_maps *m = *state;
	unsigned asked, none = ~0u;
	uint16_t tag = settle(m, 0, 100, none, &asked);

	assert_int_not_equal(tag, 0);
	note(m, 100, 0, 5);
	/* Only switched to again. */
	assert_int_equal(settle(m, 0, 100, none, &asked), tag);
	assert_int_equal(asked, 0);
	code_maps_flush(m, 0);
	assert_int_equal(settle(m, 0, 100, none, &asked), tag);
	assert_int_equal(asked, 5);
	/* One page is not what it was: no further is asked about. */
	code_maps_flush(m, 0);
	assert_int_not_equal(settle(m, 0, 100, 2, &asked), tag);
	assert_int_equal(asked, 3);
}

static void test_flush_page(void **state)
{
	struct code_maps *m = *state;
	unsigned asked, none = ~0u;
	uint16_t tag = settle(m, 0, 100, none, &asked);

	code_maps_note(m, page(1), true, 101);
	code_maps_note(m, page(3), false, 103);
	assert_false(code_maps_flush_page(m, page(2)));
	assert_int_equal(settle(m, 0, 100, none, &asked), tag);
	assert_int_equal(asked, 0);
	for (unsigned n = 1; n <= 3; n += 2) {
		assert_true(code_maps_flush_page(m, page(n) + 0xfff));
		assert_int_equal(settle(m, 0, 100, none, &asked), tag);
		assert_int_equal(asked, 2);
	}
	code_maps_forget(m);
	assert_false(code_maps_flush_page(m, page(1)));
}

/* Two address spaces that agree share a map, and each is asked about what the other adds. */
static void test_share(void **state)
{
	struct code_maps *m = *state;
	unsigned asked, none = ~0u;
	uint16_t tag = settle(m, 0, 100, none, &asked);

	note(m, 100, 0, 4);
	assert_int_equal(settle(m, 1, 100, none, &asked), tag);
	assert_int_equal(asked, 4);
	note(m, 100, 2, 6);
	assert_int_equal(settle(m, 0, 100, none, &asked), tag);
	assert_int_equal(asked, 2);
	/* A third has another frame in place of one of them, and does not come to them. */
	assert_int_not_equal(settle(m, 2, 100, 5, &asked), tag);
	note(m, 200, 5, 6);
	assert_int_equal(settle(m, 0, 100, none, &asked), tag);
	assert_int_equal(asked, 0);
}

/*
 * Address spaces that came to differ and agree again share a map once more, on whichever of them it
 * is to move, and however they take turns; and do so for good.
 */
static void join(struct code_maps *m, unsigned larger, bool flush)
{
	unsigned asked, none = ~0u, n, sharing = 0;
	uint16_t first, second;

	code_maps_forget(m);
	first = settle(m, 0, 100, none, &asked);
	note(m, 100, 0, larger == 0 ? 6 : 4);
	second = settle(m, 1, 100, 3, &asked);
	assert_int_not_equal(second, first);
	note(m, 100, 0, 3);
	note(m, 100, 4, larger == 1 ? 8 : 5);
	code_maps_flush(m, 1);
	for (n = 0; n < 80; n++) {
		if (flush)
			code_maps_flush(m, n % 2);
		if (n % 2 == 0)
			first = settle(m, 0, 100, none, &asked);
		else
			second = settle(m, 1, 100, none, &asked);
		if (second == first)
			sharing++;
		else
			assert_int_equal(sharing, 0);
	}
	assert_in_range(sharing, 80 - 2 * 18, 80);
}

static void test_join(void **state)
{
	for (unsigned larger = 0; larger < 3; larger++) {
		join(*state, larger, false);
		join(*state, larger, true);
	}
}

static void test_other_frame(void **state)
{
	struct code_maps *m = *state;
	unsigned asked, none = ~0u;
	uint16_t tag = settle(m, 0, 100, none, &asked);

	note(m, 100, 0, 2);
	code_maps_note(m, page(1), true, ANYTHING);
	assert_int_not_equal(code_maps_tag(m), tag);
	tag = code_maps_tag(m);
	/* The rights are part of what was found. */
	code_maps_note(m, page(1), false, ANYTHING);
	code_maps_note(m, page(1), true, ANYTHING);
	assert_int_equal(code_maps_tag(m), tag);
	assert_int_equal(m->map->n, 2);
}

static void test_full(void **state)
{
	struct code_maps *m = *state;
	unsigned asked, none = ~0u;
	uint16_t tag = settle(m, 0, 0, none, &asked);

	for (unsigned round = 0; round < 3; round++) {
		note(m, 0, 0, CODE_MAP_PAGES);
		assert_int_equal(code_maps_tag(m), tag);
		code_maps_flush(m, 0);
		assert_int_equal(settle(m, 0, 0, none, &asked), tag);
		assert_int_equal(asked, CODE_MAP_PAGES);
	}
	note(m, 0, CODE_MAP_PAGES, CODE_MAP_PAGES + 1);
	assert_int_not_equal(code_maps_tag(m), tag);
	assert_int_equal(m->map->n, 1);
}

/*
 * Address spaces change, are flushed and fetch at random. What was noted under a tag is what every
 * address space has, or had at its last flush, that gets it.
 */
#define SPACES 12
#define PAGES  40
#define FRAMES 3
#define STEPS  3000000

struct space {
	gfn_t now[PAGES];	/* what its tables say; 0: not there */
	unsigned cached[PAGES]; /* what the TLB may say, for the tables did: bits by frames */
};

struct model {
	struct code_maps *m;
	struct space space[SPACES];
	gfn_t noted[CODE_MAP_TAGS + 1][PAGES]; /* 0: nothing */
	unsigned in_use;
	uint16_t tag;
	unsigned kept; /* flushes that changed no tag */
};

static unsigned below(unsigned n)
{
	return rand() % n;
}

static void begin_round(struct model *o)
{
	if (!code_maps_over(o->m))
		return;
	code_maps_forget(o->m);
	memset(o->noted, 0, sizeof(o->noted));
}

static bool may_say(const struct space *sp, unsigned n, gfn_t gfn)
{
	return sp->now[n] == gfn || (sp->cached[n] >> gfn & 1);
}

static void use(struct model *o, unsigned s)
{
	const struct code_map_page *p;
	struct space *sp = &o->space[s];
	uint16_t was = o->tag;

	begin_round(o);
	code_maps_search(o->m, s, ROOT(s / 2));
	while ((p = code_maps_ask(o->m))) {
		unsigned n = ((p->key & PAGE_MASK) - BASE) / PAGE_SIZE;

		bool same = below(2) ? sp->now[n] == p->gfn : may_say(sp, n, p->gfn);

		/* To ask is as good as to fetch. */
		if (same)
			sp->cached[n] |= 1u << p->gfn;
		code_maps_answer(o->m, same);
	}
	o->tag = code_maps_tag(o->m);
	o->kept += s == o->in_use && o->tag == was;
	o->in_use = s;
	for (unsigned n = 0; n < PAGES; n++) {
		gfn_t g = o->noted[o->tag][n];

		assert_true(!g || may_say(sp, n, g));
	}
}

static void fetch(struct model *o, unsigned n)
{
	struct space *sp = &o->space[o->in_use];
	gfn_t gfn = 1 + below(FRAMES);

	if (!may_say(sp, n, gfn))
		return;
	sp->cached[n] |= 1u << gfn;
	begin_round(o);
	code_maps_note(o->m, page(n), true, gfn);
	o->tag = code_maps_tag(o->m);
	assert_true(!o->noted[o->tag][n] || o->noted[o->tag][n] == gfn);
	o->noted[o->tag][n] = gfn;
}

static void flush_page(struct model *o, unsigned n)
{
	for (unsigned s = 0; s < SPACES; s++)
		o->space[s].cached[n] = 0;
	if (code_maps_flush_page(o->m, page(n)))
		use(o, o->in_use);
}

static void test_random(void **state)
{
	struct model *o = calloc(1, sizeof(*o));

	o->m = *state;
	srand(1);
	for (unsigned s = 0; s < SPACES; s++)
		for (unsigned n = 0; n < PAGES; n++)
			o->space[s].now[n] = 1 + s / 6;
	use(o, 0);
	for (unsigned k = 0; k < STEPS; k++) {
		unsigned s = below(SPACES), n = below(PAGES);

		switch (below(40)) {
		case 0: o->space[s].now[n] = below(FRAMES + 1); break;
		case 1: o->space[s].now[n] = 1 + s / 6; break;
		case 2: flush_page(o, n); break;
		case 3:
			memset(o->space[s].cached, 0, sizeof(o->space[s].cached));
			code_maps_flush(o->m, s);
			use(o, s);
			break;
		case 4: use(o, s); break;
		default: fetch(o, n); break;
		}
	}
	assert_true(o->kept > 0);
	assert_true(o->m->next > CODE_MAP_TAGS);
	free(o);
}

#define TEST(fn) cmocka_unit_test_setup_teardown(fn, setup, teardown)

int main(void)
{
	const struct CMUnitTest tests[] = {
		TEST(test_flush), TEST(test_flush_page),  TEST(test_share),  TEST(test_join),
		TEST(test_full),  TEST(test_other_frame), TEST(test_random),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
