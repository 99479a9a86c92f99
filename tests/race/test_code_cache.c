/*
 * The code cache (src/engine/interp/code.h) under real concurrency: threads play VCPUs that find,
 * make, join and publish blocks in a cache so small that its memory is used again all the time,
 * while the frames that the blocks come from are stored to.
 *
 * The properties: nobody meets a block, a joined block or published code whose memory was used for
 * something else; and once a store has been told of and every VCPU has acknowledged, no VCPU uses a
 * block from before it.
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
#include "src/base/atomic.h"
#include "src/base/rcu.h"
#include "src/engine/interp/code.h"

#define VCPUS  3
#define FRAMES 24
#define BLOCKS 16 /* of a frame */
#define CODE   64 /* bytes published for a block */

#ifdef __SANITIZE_THREAD__
#define STEPS 100000u
#else
#define STEPS 400000u
#endif

/* A block as the test makes it. */
struct made {
	struct block b;
	uint64_t serial;     /* no two are alike */
	uint64_t version;    /* of the frame when it was read */
	struct made *joined; /* another block of the frame, or NULL; written under the lock */
	uint64_t joined_serial;
	char pad[KIB(6)]; /* so that memory runs out soon */
};

struct world {
	unsigned frames; /* in use: with all of them, live blocks alone fill the memory */
	unsigned stores; /* in 1024 steps */
	struct gmem gm;
	struct code_cache *cache;
	uint8_t *ram;
	struct shootdown_queue queue[VCPUS];
	/* Versions of each frame: stored, and such as nobody may miss any more. */
	uint64_t floor[FRAMES];
	pthread_mutex_t store[FRAMES]; /* one store at a time, so that versions grow */
	unsigned stale, broken, made, shared, joined, published, retired, refused;
};

struct actor {
	struct world *w;
	unsigned n;
	uint64_t seed;
	pthread_t thread;
	struct code_room room;
	/* As a jump cache: until blocks are forgotten. */
	struct known {
		struct made *m;
		uint64_t serial;
	} known[FRAMES][BLOCKS];
	uint64_t serial; /* of the last it made */
	struct {
		uint32_t word;
		uint64_t ticket[VCPUS];
	} pending[FRAMES];
	struct world sum; /* its own counts */
};

static uint64_t next_random(struct actor *a)
{
	a->seed ^= a->seed << 13;
	a->seed ^= a->seed >> 7;
	a->seed ^= a->seed << 17;
	return a->seed;
}

/* Where others should get a chance to come in between. */
static void dawdle(struct actor *a)
{
	uint64_t r = next_random(a);

	if (r % 8 == 0)
		sched_yield();
	/* Long enough for others to fill regions, if they need not wait. */
	for (unsigned n = 0; (r >> 8) % 8192 == 0 && n < 300; n++)
		sched_yield();
}

static void no_kick(void *arg)
{
}

static void handle(void *arg, enum shootdown_kind kind, uint64_t gfn)
{
	struct actor *a = arg;

	if (kind == SHOOTDOWN_DROP_CODE)
		code_drop(a->w->cache, gfn);
	else if (kind == SHOOTDOWN_FORGET_CODE)
		a->room = (struct code_room){0};
	else
		return;
	memset(a->known, 0, sizeof(a->known));
}

static void flush_all(void *arg)
{
	struct actor *a = arg;

	code_drop_stale(a->w->cache);
	a->room = (struct code_room){0};
	memset(a->known, 0, sizeof(a->known));
}

static void safepoint(struct actor *a)
{
	struct shootdown_sink sink = {handle, flush_all, a};

	shootdown_drain(&a->w->queue[a->n], &sink);
	rcu_quiescent();
}

/* Whoever waits keeps draining its own queue. */
static void wait_for_all(struct actor *a)
{
	uint64_t ticket[VCPUS];

	for (unsigned n = 0; n < VCPUS; n++)
		ticket[n] = shootdown_ticket(&a->w->queue[n]);
	for (unsigned n = 0; n < VCPUS; n++)
		for (unsigned spins = 1; !shootdown_acked(&a->w->queue[n], ticket[n]); spins++) {
			safepoint(a);
			if (spins % 64 == 0)
				sched_yield();
		}
}

static uint64_t *version(struct world *w, gfn_t gfn)
{
	return (uint64_t *)(w->ram + (gfn << PAGE_SHIFT));
}

static void store(struct actor *a, gfn_t gfn)
{
	struct world *w = a->w;
	uint64_t v;

	if (pthread_mutex_trylock(&w->store[gfn]))
		return;
	v = atomic_load_relaxed(version(w, gfn)) + 1;
	atomic_store_relaxed(version(w, gfn), v);
	gmem_wrote(&w->gm, gfn << PAGE_SHIFT, 8);
	wait_for_all(a);
	atomic_store_seq(&w->floor[gfn], v);
	pthread_mutex_unlock(&w->store[gfn]);
}

static bool all_acked(struct actor *a, gfn_t gfn)
{
	for (unsigned n = 0; n < VCPUS; n++)
		if (n != a->n && !shootdown_acked(&a->w->queue[n], a->pending[gfn].ticket[n]))
			return false;
	return true;
}

/* As the engines. Every store here is told of, so that there is no fast path to close. */
static bool frame_stable(struct actor *a, gfn_t gfn, uint32_t *word)
{
	struct gmem *gm = &a->w->gm;

	*word = gmem_code_word(gm, gfn);
	if (code_word_state(*word) == CODE_STABLE)
		return true;
	if (!a->pending[gfn].word || a->pending[gfn].word != *word) {
		a->pending[gfn].word = gmem_code_protect(gm, gfn);
		for (unsigned n = 0; n < VCPUS; n++)
			a->pending[gfn].ticket[n] = shootdown_ticket(&a->w->queue[n]);
	}
	if (code_word_state(a->pending[gfn].word) == CODE_PROTECTING && all_acked(a, gfn))
		gmem_code_stabilise(gm, gfn, a->pending[gfn].word);
	*word = gmem_code_word(gm, gfn);
	return code_word_state(*word) == CODE_STABLE;
}

static gpa_t address(gfn_t gfn, unsigned k)
{
	return (gfn << PAGE_SHIFT) + 16 * k;
}

static struct made *make(struct actor *a, gfn_t gfn, unsigned k)
{
	struct world *w = a->w;
	uint32_t word[2];
	struct made *m;
	struct block *found;
	char *was = a->room.data;
	bool retired;

	if (!frame_stable(a, gfn, &word[0]))
		return NULL;
	m = code_alloc(&a->room, sizeof(*m));
	if (!m) {
		if (!code_take_room(w->cache, &a->room, &retired)) {
			a->sum.refused++;
			return NULL;
		}
		a->sum.retired += retired;
		was = a->room.data;
		m = code_alloc(&a->room, sizeof(*m));
	}
	memset(m, 0, sizeof(*m));
	m->b.gpa = address(gfn, k);
	m->b.gfn2 = NO_GFN;
	m->serial = a->serial += VCPUS;
	m->version = atomic_load_relaxed(version(w, gfn));
	dawdle(a);
	found = code_insert(w->cache, &a->room, &m->b, word);
	if (found != &m->b)
		a->room.data = was;
	a->sum.made += found == &m->b;
	a->sum.shared += found && found != &m->b;
	return (struct made *)found;
}

/* As the translator: one block in the room's host code, by whoever comes first. */
static void publish(struct actor *a, struct made *m)
{
	struct code_room *room = &a->room;
	uint8_t *code = room->hot;

	if (!room->region || room->hot_end - room->hot < CODE || atomic_load_acquire(&m->b.native))
		return;
	for (unsigned n = 0; n < CODE / 8; n++)
		((uint64_t *)code)[n] = m->serial;
	dawdle(a);
	code_lock(a->w->cache);
	if (!m->b.native && code_may_publish(a->w->cache, room, &m->b)) {
		atomic_store_release(&m->b.native, code);
		room->hot += CODE;
		a->sum.published++;
	}
	code_unlock(a->w->cache);
}

static void join(struct actor *a, struct made *from, const struct known *to)
{
	code_lock(a->w->cache);
	if (!from->b.dead && !to->m->b.dead && !from->joined) {
		from->joined_serial = to->serial;
		atomic_store_release(&from->joined, to->m);
		a->sum.joined++;
	}
	code_unlock(a->w->cache);
}

static void look_at(struct actor *a, const struct known *k, gpa_t page, uint64_t floor)
{
	const struct made *m = k->m;
	const uint64_t *code = atomic_load_acquire(&m->b.native);
	bool good = m->serial == k->serial && (m->b.gpa & PAGE_MASK) == page;

	for (unsigned n = 0; code && n < CODE / 8; n++)
		good &= code[n] == k->serial;
	a->sum.broken += !good;
	a->sum.stale += m->version < floor;
}

/* What is known of a block; m is NULL if nothing can be. */
static struct known *look_up(struct actor *a, gfn_t gfn, unsigned k)
{
	struct known *known = &a->known[gfn][k];

	if (known->m)
		return known;
	known->m = (struct made *)code_find(a->w->cache, address(gfn, k), 0, NO_GFN);
	if (!known->m)
		known->m = make(a, gfn, k);
	if (known->m)
		known->serial = known->m->serial;
	return known;
}

static void fetch(struct actor *a, uint64_t r)
{
	gfn_t gfn = r % a->w->frames;
	uint64_t floor = atomic_load_seq(&a->w->floor[gfn]);
	struct known *known = look_up(a, gfn, (r >> 8) % BLOCKS), at = *known;
	const struct known *other = &a->known[gfn][(r >> 16) % BLOCKS];

	for (unsigned n = 0; at.m && n < 3; n++) {
		const struct made *m = at.m;

		look_at(a, &at, gfn << PAGE_SHIFT, floor);
		dawdle(a);
		look_at(a, &at, gfn << PAGE_SHIFT, floor);
		at.m = atomic_load_acquire(&m->joined);
		if (at.m)
			at.serial = m->joined_serial;
	}
	if (known->m && (r >> 32) % 8 == 0)
		publish(a, known->m);
	if (known->m && other->m && (r >> 40) % 8 == 0)
		join(a, known->m, other);
}

static void go_offline(struct actor *a)
{
	struct shootdown_sink sink = {handle, flush_all, a};

	rcu_offline();
	shootdown_offline(&a->w->queue[a->n]);
	sched_yield();
	rcu_online();
	shootdown_online(&a->w->queue[a->n], &sink);
}

static void *actor_main(void *arg)
{
	struct actor *a = arg;
	struct shootdown_sink sink = {handle, flush_all, a};

	rcu_thread_init();
	shootdown_online(&a->w->queue[a->n], &sink);
	for (unsigned n = 0; n < STEPS; n++) {
		uint64_t r = next_random(a), what = r >> 48 & 1023;

		if (what < a->w->stores)
			store(a, r % a->w->frames);
		else if (what < a->w->stores + 2)
			go_offline(a);
		else
			fetch(a, r);
		if (what & 1)
			safepoint(a);
	}
	shootdown_offline(&a->w->queue[a->n]);
	rcu_thread_exit();
	return NULL;
}

static void world_create(struct world *w)
{
	struct memslot slot = {.size = FRAMES * PAGE_SIZE};
	struct shootdown_queue *q[VCPUS];

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
	for (gfn_t gfn = 0; gfn < FRAMES; gfn++) {
		gmem_translate(&w->gm, gfn);
		pthread_mutex_init(&w->store[gfn], NULL);
	}
	assert_int_equal(code_cache_create(&w->cache, &w->gm, 1, MIB(1)), 0);
}

static void world_destroy(struct world *w)
{
	code_cache_destroy(w->cache);
	gmem_fini(&w->gm);
	rcu_thread_exit();
	munmap(w->ram, FRAMES * PAGE_SIZE);
}

static void add(struct world *w, const struct world *sum)
{
	w->stale += sum->stale;
	w->broken += sum->broken;
	w->made += sum->made;
	w->shared += sum->shared;
	w->joined += sum->joined;
	w->published += sum->published;
	w->retired += sum->retired;
	w->refused += sum->refused;
}

static void run(unsigned frames, unsigned stores)
{
	static struct world w __attribute__((aligned(64)));
	struct actor *a = calloc(VCPUS, sizeof(*a));

	memset(&w, 0, sizeof(w));
	w.frames = frames;
	w.stores = stores;
	world_create(&w);
	rcu_offline();
	for (unsigned n = 0; n < VCPUS; n++) {
		a[n].w = &w;
		a[n].n = a[n].serial = n;
		a[n].seed = 88172645463325252ull + n * 7919;
		assert_int_equal(pthread_create(&a[n].thread, NULL, actor_main, &a[n]), 0);
	}
	for (unsigned n = 0; n < VCPUS; n++) {
		pthread_join(a[n].thread, NULL);
		add(&w, &a[n].sum);
	}
	rcu_online();
	print_message("made %u, found to be made %u, joined %u, published %u, regions retired %u, "
		      "room refused %u\n",
		      w.made, w.shared, w.joined, w.published, w.retired, w.refused);
	assert_int_equal(w.broken, 0);
	assert_int_equal(w.stale, 0);
	/* All of it was really done. */
	assert_true(w.made > STEPS / 1000);
	assert_true(w.joined > STEPS / 1000);
	assert_true(w.published > STEPS / 1000);
	assert_true(w.retired > 20);
	world_destroy(&w);
	free(a);
}

static void test_memory_used_again(void **state)
{
	run(FRAMES, 4);
}

static void test_many_stores(void **state)
{
	run(4, 16);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_memory_used_again),
		cmocka_unit_test(test_many_stores),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
