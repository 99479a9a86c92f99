/*
 * The protocol of code frames (mmu/gmem.h) under real concurrency: threads play VCPUs that store to
 * frames on a fast and a slow path, and cache what they read from stable frames, as the engines do.
 *
 * The property: once a store is complete, has been told by gmem_code_written() if it took the slow
 * path, and every VCPU has acknowledged, no VCPU uses a cached copy from before the store.
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <pthread.h>
#include <sched.h>
#include <stdlib.h>
#include <sys/mman.h>
#include <cmocka.h>

#include "mmu/gmem.h"
#include "mmu/npt.h"
#include "src/base/atomic.h"
#include "src/base/rcu.h"

#define VCPUS	3
#define DEVICES 1
#define WRITERS (VCPUS + DEVICES)
#define FRAMES	4

#ifdef __SANITIZE_THREAD__
#define STEPS 200000u
#else
#define STEPS 3000000u
#endif

/* What lies in a frame: the latest version stored by each writer. */
struct frame {
	uint64_t version[WRITERS];
	char pad[PAGE_SIZE - WRITERS * sizeof(uint64_t)];
};

struct world {
	struct gmem gm;
	struct frame *ram;
	struct shootdown_queue queue[VCPUS];
	/* Versions that nobody may miss any more. */
	uint64_t floor[FRAMES][WRITERS];
	unsigned stale, cached, fast_stores, slow_stores;
};

struct actor {
	struct world *w;
	unsigned n;
	uint64_t seed;
	pthread_t thread;
	/* A VCPU's own caches. */
	bool fast[FRAMES];  /* stores need no bookkeeping */
	bool valid[FRAMES]; /* copy[] holds the frame's content */
	uint64_t copy[FRAMES][WRITERS];
	uint64_t next_version;
	/* A protection that waits for acknowledgements. */
	struct {
		uint32_t word;
		uint64_t ticket[VCPUS];
	} pending[FRAMES];
	unsigned cached, fast_stores, slow_stores;
};

static uint64_t next_random(struct actor *a)
{
	a->seed ^= a->seed << 13;
	a->seed ^= a->seed >> 7;
	a->seed ^= a->seed << 17;
	return a->seed;
}

static void no_kick(void *arg)
{
}

static void handle(void *arg, enum shootdown_kind kind, uint64_t gfn)
{
	struct actor *a = arg;

	if (kind == SHOOTDOWN_PROTECT)
		a->fast[gfn] = false;
	else if (kind == SHOOTDOWN_DROP_CODE)
		a->valid[gfn] = false;
}

static void flush_all(void *arg)
{
	struct actor *a = arg;

	memset(a->fast, 0, sizeof(a->fast));
	memset(a->valid, 0, sizeof(a->valid));
}

static void safepoint(struct actor *a)
{
	struct shootdown_sink sink = {handle, flush_all, a};

	if (a->n < VCPUS)
		shootdown_drain(&a->w->queue[a->n], &sink);
	rcu_quiescent();
}

/* Whoever waits keeps draining its own queue. */
static void wait_for_all(struct actor *a)
{
	uint64_t ticket[VCPUS];

	for (unsigned n = 0; n < VCPUS; n++)
		ticket[n] = shootdown_ticket(&a->w->queue[n]);
	for (unsigned n = 0; n < VCPUS; n++) {
		for (unsigned spins = 1; !shootdown_acked(&a->w->queue[n], ticket[n]); spins++) {
			safepoint(a);
			if (spins % 64 == 0)
				sched_yield();
		}
	}
}

static uint64_t *cell(struct world *w, gfn_t gfn, unsigned writer)
{
	return &w->ram[gfn].version[writer];
}

/* As x86/mem.c: the fast path if it is open, else the slow one, which may open it. */
static void vcpu_store(struct actor *a, gfn_t gfn)
{
	struct world *w = a->w;
	uint64_t version = ++a->next_version;
	bool fast = a->fast[gfn];

	if (!fast && code_word_state(gmem_code_word(&w->gm, gfn)) == CODE_NONE)
		a->fast[gfn] = true;
	atomic_store_relaxed(cell(w, gfn, a->n), version);
	if (!fast)
		gmem_code_written(&w->gm, gfn);
	a->fast_stores += fast;
	a->slow_stores += !fast;
	if (next_random(a) % 4 == 0) {
		wait_for_all(a);
		atomic_store_seq(&w->floor[gfn][a->n], version);
	}
}

/* As a device: by DMA, with the whole cell replaced through the gate. */
static void device_store(struct actor *a, gfn_t gfn)
{
	struct world *w = a->w;
	uint64_t version = ++a->next_version;

	atomic_store_relaxed(cell(w, gfn, a->n), version);
	gmem_wrote(&w->gm, (gfn << PAGE_SHIFT) + a->n * sizeof(uint64_t), sizeof(uint64_t));
	wait_for_all(a);
	atomic_store_seq(&w->floor[gfn][a->n], version);
}

static bool all_acked(struct actor *a, gfn_t gfn)
{
	for (unsigned n = 0; n < VCPUS; n++)
		if (n != a->n && !shootdown_acked(&a->w->queue[n], a->pending[gfn].ticket[n]))
			return false;
	return true;
}

/* As the engines: content read from now on may be kept. Never waits. */
static bool frame_stable(struct actor *a, gfn_t gfn)
{
	struct gmem *gm = &a->w->gm;
	uint32_t word = gmem_code_word(gm, gfn);

	if (code_word_state(word) == CODE_STABLE)
		return true;
	if (!a->pending[gfn].word || a->pending[gfn].word != word) {
		a->pending[gfn].word = gmem_code_protect(gm, gfn);
		for (unsigned n = 0; n < VCPUS; n++)
			a->pending[gfn].ticket[n] = shootdown_ticket(&a->w->queue[n]);
		a->fast[gfn] = false;
	}
	word = a->pending[gfn].word;
	if (code_word_state(word) == CODE_STABLE)
		return true;
	return all_acked(a, gfn) && gmem_code_stabilise(gm, gfn, word);
}

static void vcpu_fetch(struct actor *a, gfn_t gfn)
{
	struct world *w = a->w;
	uint64_t floor[WRITERS];

	if (!a->valid[gfn]) {
		if (!frame_stable(a, gfn))
			return;
		for (unsigned n = 0; n < WRITERS; n++)
			a->copy[gfn][n] = atomic_load_relaxed(cell(w, gfn, n));
		a->valid[gfn] = true;
		a->cached++;
		return;
	}
	for (unsigned n = 0; n < WRITERS; n++)
		floor[n] = atomic_load_seq(&w->floor[gfn][n]);
	for (unsigned n = 0; n < WRITERS; n++)
		if (a->copy[gfn][n] < floor[n])
			atomic_fetch_add_relaxed(&w->stale, 1);
}

static void vcpu_offline(struct actor *a)
{
	struct shootdown_sink sink = {handle, flush_all, a};

	rcu_offline();
	shootdown_offline(&a->w->queue[a->n]);
	sched_yield();
	rcu_online();
	shootdown_online(&a->w->queue[a->n], &sink);
}

static void vcpu_step(struct actor *a)
{
	uint64_t r = next_random(a);
	gfn_t gfn = r % FRAMES;

	r = r >> 8 & 255;
	if (r < 20)
		vcpu_store(a, gfn);
	else if (r < 21)
		vcpu_offline(a);
	else
		vcpu_fetch(a, gfn);
	if (r & 1)
		safepoint(a);
}

static void *actor_main(void *arg)
{
	struct actor *a = arg;
	struct world *w = a->w;
	struct shootdown_sink sink = {handle, flush_all, a};

	rcu_thread_init();
	if (a->n < VCPUS)
		shootdown_online(&w->queue[a->n], &sink);
	for (unsigned n = 0; n < STEPS; n++) {
		if (a->n < VCPUS)
			vcpu_step(a);
		else if (n % 16 == 0)
			device_store(a, next_random(a) % FRAMES);
		else
			safepoint(a);
		if (a->n >= VCPUS && n % 64 == 0)
			sched_yield();
	}
	if (a->n < VCPUS)
		shootdown_offline(&w->queue[a->n]);
	atomic_fetch_add_relaxed(&w->cached, a->cached);
	atomic_fetch_add_relaxed(&w->fast_stores, a->fast_stores);
	atomic_fetch_add_relaxed(&w->slow_stores, a->slow_stores);
	rcu_thread_exit();
	return NULL;
}

static void world_create(struct world *w)
{
	struct memslot slot = {.size = FRAMES * PAGE_SIZE};
	struct shootdown_queue *q[VCPUS];

	memset(w, 0, sizeof(*w));
	w->ram = mmap(NULL, slot.size, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
	assert_ptr_not_equal(w->ram, MAP_FAILED);
	slot.hva = (hva_t)w->ram;
	rcu_thread_init();
	assert_int_equal(gmem_init(&w->gm), 0);
	assert_int_equal(gmem_add_slot(&w->gm, &slot), 0);
	for (unsigned n = 0; n < VCPUS; n++) {
		q[n] = &w->queue[n];
		shootdown_queue_init(q[n], no_kick, NULL);
	}
	assert_int_equal(gmem_set_queues(&w->gm, q, VCPUS), 0);
	for (gfn_t gfn = 0; gfn < FRAMES; gfn++)
		gmem_translate(&w->gm, gfn);
}

static void world_destroy(struct world *w)
{
	rcu_online();
	gmem_fini(&w->gm);
	rcu_thread_exit();
	munmap(w->ram, FRAMES * PAGE_SIZE);
}

static void test_no_stale_copies(void **state)
{
	static struct world w __attribute__((aligned(64)));
	struct actor *a = calloc(WRITERS, sizeof(*a));

	world_create(&w);
	rcu_offline();
	for (unsigned n = 0; n < WRITERS; n++) {
		a[n].w = &w;
		a[n].n = n;
		a[n].seed = 88172645463325252ull + n * 7919;
		assert_int_equal(pthread_create(&a[n].thread, NULL, actor_main, &a[n]), 0);
	}
	for (unsigned n = 0; n < WRITERS; n++)
		pthread_join(a[n].thread, NULL);
	assert_int_equal(w.stale, 0);
	/* All paths were really taken. */
	assert_true(w.cached > STEPS / 1000);
	assert_true(w.fast_stores > STEPS / 1000);
	assert_true(w.slow_stores > STEPS / 1000);
	world_destroy(&w);
	free(a);
}

/* --- installers that race for the same entries and tables ----------------------------------------
 */

#define INSTALLERS 4
#define SPREAD	   64
#define STRIDE	   (1ull << 18) /* frames: each lands in a table of its own */

struct install {
	struct gmem gm;
	hva_t base;
	pthread_barrier_t barrier;
	uint64_t seen[INSTALLERS][2 * SPREAD];
	uint32_t *words[INSTALLERS][2 * SPREAD];
};

struct installer {
	struct install *in;
	unsigned n;
	pthread_t thread;
};

/* Pairs of neighbouring frames, far apart from the next pair. */
static gfn_t frame_number(unsigned k)
{
	return k / 2 * STRIDE + k % 2;
}

static void *installer_main(void *arg)
{
	struct installer *me = arg;
	struct install *in = me->in;

	rcu_thread_init();
	for (unsigned k = 0; k < 2 * SPREAD; k++) {
		rcu_offline();
		pthread_barrier_wait(&in->barrier);
		rcu_online();
		in->seen[me->n][k] = gmem_translate(&in->gm, frame_number(k));
		in->words[me->n][k] = npt_code_word(in->gm.npt, frame_number(k));
		/* Protection by several at once, and one write: the word's changes are not lost. */
		gmem_code_protect(&in->gm, frame_number(k));
	}
	rcu_thread_exit();
	return NULL;
}

static void test_racing_installers(void **state)
{
	static struct install in;
	struct installer me[INSTALLERS];

	memset(&in, 0, sizeof(in));
	rcu_thread_init();
	assert_int_equal(gmem_init(&in.gm), 0);
	for (unsigned k = 0; k < SPREAD; k++) {
		/* Never touched, so that any page-aligned address will do. */
		struct memslot slot = {.gpa = (k * STRIDE) << PAGE_SHIFT,
				       .size = 2 * PAGE_SIZE,
				       .hva = GIB(1) + k * MIB(1)};

		assert_int_equal(gmem_add_slot(&in.gm, &slot), 0);
	}
	pthread_barrier_init(&in.barrier, NULL, INSTALLERS);
	rcu_offline();
	for (unsigned n = 0; n < INSTALLERS; n++) {
		me[n] = (struct installer){.in = &in, .n = n};
		assert_int_equal(pthread_create(&me[n].thread, NULL, installer_main, &me[n]), 0);
	}
	for (unsigned n = 0; n < INSTALLERS; n++)
		pthread_join(me[n].thread, NULL);
	rcu_online();
	for (unsigned k = 0; k < 2 * SPREAD; k++) {
		hva_t hva = GIB(1) + k / 2 * MIB(1) + k % 2 * PAGE_SIZE;

		for (unsigned n = 0; n < INSTALLERS; n++) {
			assert_int_equal(in.seen[n][k], hva | NPT_PRESENT);
			assert_ptr_equal(in.words[n][k], in.words[0][k]);
		}
		/* However many protected it, it is one generation. */
		assert_int_equal(*in.words[0][k], gmem_code_word(&in.gm, frame_number(k)));
		assert_int_equal(*in.words[0][k] >> 2, 1);
	}
	pthread_barrier_destroy(&in.barrier);
	gmem_fini(&in.gm);
	rcu_thread_exit();
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_racing_installers),
		cmocka_unit_test(test_no_stale_copies),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
