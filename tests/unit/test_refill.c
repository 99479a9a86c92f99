/*
 * The stubs by which compiled code refills the first level of the TLB from the second, against
 * tlb2_find(): random entries, rights, address spaces and addresses.
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <cmocka.h>

#include "src/engine/bt/bt_int.h"
#include "tests/unit/guest_cpu.h"

#define STEPS 200000
#define NPCID 3u

enum outcome { FILLED, WRONG_HALF, NOT_CANONICAL, OUT_OF_PAGE, ABSENT, NO_RIGHT, OUTCOMES };

struct fixture {
	struct guest_cpu *g;
	struct bt *bt;
	struct tlb *tlb;
	uint64_t seed;
	unsigned seen[OUTCOMES];
	unsigned places; /* bits: in which of its places a page was found */
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

static int setup(void **state)
{
	struct interp_config cfg = {.self = 0, .cache_bytes = MIB(1), .translate = true};
	struct fixture *f = calloc(1, sizeof(*f));

	f->g = guest_cpu_create(true);
	interp_destroy(f->g->in);
	cfg.requests = &f->g->requests;
	assert_int_equal(interp_create(&f->g->in, f->g->cpu, &cfg), 0);
	interp_enter_thread(f->g->in);
	f->bt = f->g->cpu->bt.owner;
	f->tlb = &f->g->cpu->tlb;
	f->seed = 1;
	*state = f;
	return 0;
}

static int teardown(void **state)
{
	struct fixture *f = *state;

	guest_cpu_destroy(f->g);
	free(f);
	return 0;
}

/* A page of few, many of which have the same places in the second level. */
static gva_t random_page(struct fixture *f)
{
	gva_t page = 0x123456000 ^ (rnd(f) % 6 << TLB2_BITS | rnd(f) % 2) << PAGE_SHIFT;

	return one_in(f, 2) ? page | 0xffff800000000000 : page;
}

static void change(struct fixture *f)
{
	struct tlb_fill fill = {
		.gva = random_page(f),
		.hva = (uintptr_t)(1 + rnd(f) % 1000) << 24 | rnd(f) % 16 << PAGE_SHIFT,
		.gfn = rnd(f) % 100,
		.allow = one_in(f, 2) ? TLB_READS | TLB_WRITES | TLB_FETCHES : rnd(f) % 8 * 0x11,
		.global = one_in(f, 2),
		.page_size = PAGE_SIZE,
	};

	switch (rnd(f) % 8) {
	case 0: tlb_switch(f->tlb, rnd(f) % NPCID, one_in(f, 2)); break;
	case 1: tlb_flush_page(f->tlb, fill.gva); break;
	case 2: tlb_protect_gfn(f->tlb, fill.gfn); break;
	default: tlb2_insert(f->tlb, &fill);
	}
}

/* upper: the half that the tag was made for. */
static enum outcome expected(struct fixture *f, unsigned need, bool upper, gva_t lo, gva_t last)
{
	const struct tlb2_entry *e;

	if ((lo ^ last) & PAGE_MASK)
		return OUT_OF_PAGE;
	if (!gva_canonical(lo))
		return NOT_CANONICAL;
	if (upper != lo >> 63)
		return WRONG_HALF;
	e = tlb2_find(f->tlb, lo);
	if (!e)
		return ABSENT;
	f->places |= 1u << (tlb2_index(lo) ^ (e - f->tlb->e2)) / TLB2_SETS;
	return e->where & need ? FILLED : NO_RIGHT;
}

struct regs {
	uint64_t r10, r11, rax;
	bool cf;
};

static void call(const uint8_t *stub, struct regs *r)
{
	register uint64_t r10 __asm__("r10") = r->r10;
	register uint64_t r11 __asm__("r11") = r->r11;

	/* Below the red zone. */
	__asm__ volatile("lea -128(%%rsp), %%rsp; call *%[stub]; setc %[cf]; lea 128(%%rsp), %%rsp"
			 : "+r"(r10), "+r"(r11), "+a"(r->rax), [cf] "=&d"(r->cf)
			 : [stub] "S"(stub)
			 : "memory", "cc");
	r->r10 = r10;
	r->r11 = r11;
}

static gva_t random_address(struct fixture *f)
{
	gva_t a = random_page(f) | rnd(f) % PAGE_SIZE;

	return one_in(f, 8) ? a ^ 1ull << (47 + rnd(f) % 17) : a;
}

static void check(struct fixture *f)
{
	enum tlb_ctx ctx = rnd(f) % TLB_ALIGN;
	enum tlb_kind kind = rnd(f) % TLB_KINDS;
	gva_t lo = random_address(f), last = lo + (one_in(f, 8) ? PAGE_SIZE : 0);
	bool upper = one_in(f, 4) ? one_in(f, 2) : lo >> 63;
	unsigned need = (kind == TLB_STORES ? TLB_WRITE(0) : TLB_READ(0)) << ctx;
	enum outcome want = expected(f, need, upper, lo, last);
	struct tlb_entry *e = &f->tlb->e[ctx][kind][tlb_index(lo)], before = *e;
	uint64_t rax = rnd(f);
	struct regs r = {.r10 = (last & PAGE_MASK) + f->tlb->tag[upper],
			 .r11 = tlb_index(lo) * sizeof(*e),
			 .rax = rax};

	call(e_exec(&f->bt->stubs->e, f->bt->stubs->refill[ctx][kind]), &r);
	assert_int_equal(r.rax, rax);
	assert_int_equal(r.cf, want != FILLED);
	f->seen[want]++;
	if (want == FILLED) {
		assert_int_equal(r.r11, tlb2_addend(tlb2_find(f->tlb, lo)));
		assert_int_equal(e->tag, tlb_tag(f->tlb, lo));
		assert_int_equal(e->addend, r.r11);
	} else {
		assert_memory_equal(e, &before, sizeof(before));
	}
}

static void test_against_find(void **state)
{
	struct fixture *f = *state;

	for (unsigned n = 0; n < STEPS; n++) {
		change(f);
		check(f);
	}
	/* That all of it was met. */
	for (unsigned o = 0; o < OUTCOMES; o++)
		assert_true(f->seen[o] > 1000);
	assert_int_equal(f->places, (1u << TLB2_WAYS) - 1);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test_setup_teardown(test_against_find, setup, teardown),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
