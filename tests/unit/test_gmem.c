/* Guest memory: slots, the checked gate and the protocol of code frames. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <sys/mman.h>
#include <cmocka.h>

#include "mmu/npt.h"
#include "src/base/rcu.h"
#include "mmu/gmem.h"

#define NQUEUES 3
#define ROM_GPA MIB(4)

/* RAM at 0 and 64 KiB in two adjacent slots whose host memory is not adjacent, and a ROM. */
struct fixture {
	struct gmem gm;
	uint8_t *host[3];
	struct shootdown_queue queue[NQUEUES];
	unsigned kicks;
	gfn_t watch; /* frame whose state is noted when a queue is kicked */
	enum code_state state_at_kick;
	unsigned seen[3]; /* messages by kind */
	uint64_t last;
};

static const struct memslot layout[3] = {
	{.gpa = KIB(64), .size = KIB(64), .node = 1},
	{.gpa = 0, .size = KIB(64)},
	{.gpa = ROM_GPA, .size = KIB(8), .flags = MEMSLOT_READONLY},
};

static void kick(void *arg)
{
	struct fixture *f = arg;

	f->kicks++;
	f->state_at_kick = code_word_state(gmem_code_word(&f->gm, f->watch));
}

static int setup(void **state)
{
	struct fixture *f = aligned_alloc(64, ALIGN_UP(sizeof(*f), 64));
	struct shootdown_queue *q[NQUEUES];

	memset(f, 0, sizeof(*f));
	rcu_thread_init();
	assert_int_equal(gmem_init(&f->gm), 0);
	for (unsigned n = 0; n < 3; n++) {
		struct memslot s = layout[n];

		f->host[n] = mmap(NULL, s.size, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS,
				  -1, 0);
		assert_ptr_not_equal(f->host[n], MAP_FAILED);
		s.hva = (hva_t)f->host[n];
		assert_int_equal(gmem_add_slot(&f->gm, &s), 0);
	}
	for (unsigned n = 0; n < NQUEUES; n++) {
		q[n] = &f->queue[n];
		shootdown_queue_init(q[n], kick, f);
	}
	assert_int_equal(gmem_set_queues(&f->gm, q, NQUEUES), 0);
	*state = f;
	return 0;
}

static int teardown(void **state)
{
	struct fixture *f = *state;

	for (unsigned n = 0; n < 3; n++)
		munmap(f->host[n], layout[n].size);
	gmem_fini(&f->gm);
	rcu_thread_exit();
	free(f);
	return 0;
}

static void handle(void *arg, enum shootdown_kind kind, uint64_t value)
{
	struct fixture *f = arg;

	f->seen[kind]++;
	f->last = value;
}

static void flush_all(void *arg)
{
	fail();
}

static void drain(struct fixture *f)
{
	struct shootdown_sink sink = {handle, flush_all, f};

	memset(f->seen, 0, sizeof(f->seen));
	for (unsigned n = 0; n < NQUEUES; n++)
		shootdown_drain(&f->queue[n], &sink);
}

static void test_slots_are_sorted_and_checked(void **state)
{
	struct fixture *f = *state;
	struct memslot s = {.gpa = MIB(1), .size = PAGE_SIZE, .hva = PAGE_SIZE};

	assert_int_equal(f->gm.slots->count, 3);
	for (unsigned n = 0; n + 1 < f->gm.slots->count; n++)
		assert_true(f->gm.slots->slot[n].gpa < f->gm.slots->slot[n + 1].gpa);
	s.size = PAGE_SIZE - 1;
	assert_int_equal(gmem_add_slot(&f->gm, &s), -EINVAL);
	s.size = 0;
	assert_int_equal(gmem_add_slot(&f->gm, &s), -EINVAL);
	s.size = PAGE_SIZE;
	s.gpa = MIB(1) + 8;
	assert_int_equal(gmem_add_slot(&f->gm, &s), -EINVAL);
	s.gpa = MIB(1);
	s.hva++;
	assert_int_equal(gmem_add_slot(&f->gm, &s), -EINVAL);
	s.hva--;
	/* Beyond, and wrapping around, the physical address space. */
	s.gpa = 1ull << (NPT_GFN_BITS + PAGE_SHIFT);
	assert_int_equal(gmem_add_slot(&f->gm, &s), -EINVAL);
	s.gpa = PAGE_SIZE;
	s.size = -(uint64_t)PAGE_SIZE;
	assert_int_equal(gmem_add_slot(&f->gm, &s), -EINVAL);
}

static void test_overlap(void **state)
{
	struct fixture *f = *state;
	struct memslot s = {.hva = PAGE_SIZE};
	static const struct {
		gpa_t gpa;
		uint64_t size;
		int expect;
	} cases[] = {
		{0, PAGE_SIZE, -EEXIST},
		{KIB(60), KIB(8), -EEXIST},
		{KIB(124), KIB(8), -EEXIST},
		{0, MIB(1), -EEXIST},
		{ROM_GPA - PAGE_SIZE, KIB(8), -EEXIST},
		{ROM_GPA - PAGE_SIZE, PAGE_SIZE, 0},
		{ROM_GPA + KIB(8), PAGE_SIZE, 0},
		{KIB(128), PAGE_SIZE, 0},
	};

	for (unsigned n = 0; n < ARRAY_SIZE(cases); n++) {
		s.gpa = cases[n].gpa;
		s.size = cases[n].size;
		assert_int_equal(gmem_add_slot(&f->gm, &s), cases[n].expect);
	}
}

static void test_ptr(void **state)
{
	struct fixture *f = *state;

	assert_ptr_equal(gmem_ptr(&f->gm, 0, KIB(64), true), f->host[1]);
	assert_ptr_equal(gmem_ptr(&f->gm, KIB(64) + 5, 1, true), f->host[0] + 5);
	/* Into the next slot, though that is RAM, too. */
	assert_null(gmem_ptr(&f->gm, KIB(64) - 1, 2, false));
	assert_null(gmem_ptr(&f->gm, KIB(128), 1, false));
	assert_null(gmem_ptr(&f->gm, KIB(128) - 1, 2, false));
	assert_null(gmem_ptr(&f->gm, 8, ~0ull, false));
	assert_null(gmem_ptr(&f->gm, ~0ull, 1, false));
	assert_ptr_equal(gmem_ptr(&f->gm, ROM_GPA, KIB(8), false), f->host[2]);
	assert_null(gmem_ptr(&f->gm, ROM_GPA, 1, true));
}

static void test_translate(void **state)
{
	struct fixture *f = *state;
	uint64_t pte = gmem_translate(&f->gm, 17);

	assert_int_equal(npt_hva(pte), (hva_t)f->host[0] + PAGE_SIZE);
	assert_int_equal(pte & ~PAGE_MASK, NPT_PRESENT);
	assert_int_equal(npt_lookup(f->gm.npt, 17), pte);
	pte = gmem_translate(&f->gm, ROM_GPA >> PAGE_SHIFT);
	assert_int_equal(pte & ~PAGE_MASK, NPT_PRESENT | NPT_READONLY);
	assert_int_equal(gmem_translate(&f->gm, 32), 0);
	assert_int_equal(gmem_translate(&f->gm, 1ull << NPT_GFN_BITS), 0);
	/* A frame number whose address does not fit into 64 bits. */
	assert_int_equal(gmem_translate(&f->gm, 1ull << 52), 0);
	assert_int_equal(gmem_translate(&f->gm, ~0ull), 0);
}

static void test_npt_first_install_stays(void **state)
{
	struct fixture *f = *state;

	assert_int_equal(npt_install(f->gm.npt, 1000000, 0x5000 | NPT_PRESENT), 0);
	assert_int_equal(npt_install(f->gm.npt, 1000000, 0x6000 | NPT_PRESENT), 0);
	assert_int_equal(npt_lookup(f->gm.npt, 1000000), 0x5000 | NPT_PRESENT);
	assert_int_equal(npt_install(f->gm.npt, 1ull << NPT_GFN_BITS, 1), -EINVAL);
	assert_null(npt_code_word(f->gm.npt, 1ull << NPT_GFN_BITS));
	assert_null(npt_code_word(f->gm.npt, (1ull << NPT_GFN_BITS) - 1));
}

static void test_read_write_across_slots(void **state)
{
	struct fixture *f = *state;
	uint8_t out[300], in[300];

	for (unsigned n = 0; n < sizeof(out); n++)
		out[n] = n * 7 + 1;
	assert_int_equal(gmem_write(&f->gm, KIB(64) - 100, out, sizeof(out)), 0);
	assert_memory_equal(f->host[1] + KIB(64) - 100, out, 100);
	assert_memory_equal(f->host[0], out + 100, 200);
	assert_int_equal(gmem_read(&f->gm, KIB(64) - 100, in, sizeof(in)), 0);
	assert_memory_equal(in, out, sizeof(in));
	assert_int_equal(gmem_read(&f->gm, 0, in, 0), 0);
}

static void test_partly_absent_range_is_untouched(void **state)
{
	struct fixture *f = *state;
	uint8_t buf[64];

	memset(buf, 0xee, sizeof(buf));
	assert_int_equal(gmem_write(&f->gm, KIB(128) - 8, buf, 16), -EFAULT);
	assert_int_equal(f->host[0][KIB(64) - 8], 0);
	assert_int_equal(gmem_read(&f->gm, KIB(128) - 8, buf, 16), -EFAULT);
	assert_int_equal(buf[0], 0xee);
	assert_int_equal(gmem_write(&f->gm, ~0ull - 3, buf, 8), -EFAULT);
	/* ROM takes no store, and says nothing. */
	assert_int_equal(gmem_write(&f->gm, ROM_GPA, buf, 8), 0);
	assert_int_equal(f->host[2][0], 0);
}

static void test_code_word_states(void **state)
{
	struct fixture *f = *state;
	uint32_t w, again;

	/* No entry of the map near the frame: nothing can be protected. */
	assert_int_equal(gmem_code_word(&f->gm, 3), 0);
	assert_int_equal(gmem_code_protect(&f->gm, 3), 0);
	assert_false(gmem_code_written(&f->gm, 3));
	assert_false(gmem_code_stabilise(&f->gm, 3, 1));

	gmem_translate(&f->gm, 3);
	w = gmem_code_protect(&f->gm, 3);
	assert_int_equal(code_word_state(w), CODE_PROTECTING);
	assert_int_equal(gmem_code_word(&f->gm, 3), w);
	drain(f);
	assert_int_equal(f->seen[SHOOTDOWN_PROTECT], NQUEUES);
	assert_int_equal(f->last, 3);
	assert_int_equal(f->kicks, NQUEUES);
	/* A second protector posts, too: it waits for acknowledgements of its own posts. */
	again = gmem_code_protect(&f->gm, 3);
	assert_int_equal(again, w);
	drain(f);
	assert_int_equal(f->seen[SHOOTDOWN_PROTECT], NQUEUES);

	assert_false(gmem_code_stabilise(&f->gm, 3, w + 4));
	assert_true(gmem_code_stabilise(&f->gm, 3, w));
	assert_int_equal(code_word_state(gmem_code_word(&f->gm, 3)), CODE_STABLE);
	assert_false(gmem_code_stabilise(&f->gm, 3, w));
	/* Protection of a stable frame has nothing to say to anyone. */
	assert_int_equal(code_word_state(gmem_code_protect(&f->gm, 3)), CODE_STABLE);
	drain(f);
	assert_int_equal(f->seen[SHOOTDOWN_PROTECT], 0);

	assert_true(gmem_code_written(&f->gm, 3));
	drain(f);
	assert_int_equal(f->seen[SHOOTDOWN_DROP_CODE], NQUEUES);
	assert_int_equal(f->last, 3);
	assert_int_equal(code_word_state(gmem_code_word(&f->gm, 3)), CODE_NONE);
	assert_false(gmem_code_written(&f->gm, 3));
	/* Neighbours share nothing with it. */
	assert_int_equal(gmem_code_word(&f->gm, 2), 0);
	assert_int_equal(gmem_code_word(&f->gm, 4), 0);
}

static void test_written_while_protecting_defeats_stabilise(void **state)
{
	struct fixture *f = *state;
	uint32_t w1, w2;

	gmem_translate(&f->gm, 3);
	w1 = gmem_code_protect(&f->gm, 3);
	assert_true(gmem_code_written(&f->gm, 3));
	assert_false(gmem_code_stabilise(&f->gm, 3, w1));
	w2 = gmem_code_protect(&f->gm, 3);
	assert_int_not_equal(w1, w2);
	/* The first protector's word is of an earlier generation. */
	assert_false(gmem_code_stabilise(&f->gm, 3, w1));
	assert_true(gmem_code_stabilise(&f->gm, 3, w2));
}

static void stable(struct fixture *f, gfn_t gfn)
{
	gmem_translate(&f->gm, gfn);
	assert_true(gmem_code_stabilise(&f->gm, gfn, gmem_code_protect(&f->gm, gfn)));
}

/* Who sees NONE may store in silence, so by then everyone must have been told of the last store. */
static void test_none_comes_after_the_posts(void **state)
{
	struct fixture *f = *state;
	uint32_t *word, old;

	f->watch = 3;
	stable(f, 3);
	assert_int_equal(f->state_at_kick, CODE_PROTECTING);
	assert_true(gmem_code_written(&f->gm, 3));
	assert_int_equal(f->state_at_kick, CODE_DROPPING);
	assert_int_equal(code_word_state(gmem_code_word(&f->gm, 3)), CODE_NONE);

	/* While another storer is between the two, nothing is protected, and stores post as well.
	 */
	word = npt_code_word(f->gm.npt, 3);
	old = *word += CODE_DROPPING;
	assert_int_equal(gmem_code_protect(&f->gm, 3), old);
	assert_false(gmem_code_stabilise(&f->gm, 3, old));
	drain(f);
	assert_true(gmem_code_written(&f->gm, 3));
	assert_int_equal(*word, old);
	drain(f);
	assert_int_equal(f->seen[SHOOTDOWN_DROP_CODE], NQUEUES);
}

static void test_device_writes_reach_code_frames(void **state)
{
	struct fixture *f = *state;
	uint8_t buf[PAGE_SIZE + 2] = {0};

	for (gfn_t gfn = 2; gfn <= 5; gfn++)
		stable(f, gfn);
	drain(f);
	/* The last byte of frame 2 to the first of frame 4. */
	assert_int_equal(gmem_write(&f->gm, 3 * PAGE_SIZE - 1, buf, sizeof(buf)), 0);
	drain(f);
	assert_int_equal(f->seen[SHOOTDOWN_DROP_CODE], 3 * NQUEUES);
	for (gfn_t gfn = 2; gfn <= 4; gfn++)
		assert_int_equal(code_word_state(gmem_code_word(&f->gm, gfn)), CODE_NONE);
	assert_int_equal(code_word_state(gmem_code_word(&f->gm, 5)), CODE_STABLE);
	gmem_wrote(&f->gm, 5 * PAGE_SIZE, 0);
	assert_int_equal(code_word_state(gmem_code_word(&f->gm, 5)), CODE_STABLE);
	gmem_wrote(&f->gm, 5 * PAGE_SIZE + 7, 1);
	assert_int_equal(code_word_state(gmem_code_word(&f->gm, 5)), CODE_NONE);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test_setup_teardown(test_slots_are_sorted_and_checked, setup, teardown),
		cmocka_unit_test_setup_teardown(test_overlap, setup, teardown),
		cmocka_unit_test_setup_teardown(test_ptr, setup, teardown),
		cmocka_unit_test_setup_teardown(test_translate, setup, teardown),
		cmocka_unit_test_setup_teardown(test_npt_first_install_stays, setup, teardown),
		cmocka_unit_test_setup_teardown(test_read_write_across_slots, setup, teardown),
		cmocka_unit_test_setup_teardown(test_partly_absent_range_is_untouched, setup,
						teardown),
		cmocka_unit_test_setup_teardown(test_code_word_states, setup, teardown),
		cmocka_unit_test_setup_teardown(test_written_while_protecting_defeats_stabilise,
						setup, teardown),
		cmocka_unit_test_setup_teardown(test_none_comes_after_the_posts, setup, teardown),
		cmocka_unit_test_setup_teardown(test_device_writes_reach_code_frames, setup,
						teardown),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
