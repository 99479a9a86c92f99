#include "src/engine/interp/code.h"

#include <pthread.h>
#include <stdlib.h>
#include <sys/mman.h>

#include "src/base/atomic.h"
#include "src/base/huge.h"
#include "src/base/log.h"
#include "src/x86/cpu.h"

/* Sized for a database server and its kernel; what is not used stays untouched. */
#define HASH_BITS 17
#define HASH	  (1u << HASH_BITS)
#define PAGES	  (1u << 13)

#define REGIONS	   8
#define MAX_ROOMS  32 /* of a region */
#define STUB_BYTES KIB(64)
/*
 * Between hot and cold code of all rooms. Processors tell branches apart by some low bits of their
 * addresses (Intel's Golden Cove by 24). Both parts of a unit lie about as far from the beginning
 * of their rooms, and these are a power of two apart: without this they would often be taken for
 * each other. An odd number of pages, whatever the power is.
 */
#define COLD_SKEW (157 * PAGE_SIZE)
/* Of a room: a unit of the greatest size fits. */
#define MIN_DATA KIB(64)
#define MIN_CODE KIB(64) /* hot and cold each */

struct code_page {
	gfn_t gfn;
	uint32_t word;	  /* the frame's code word while the blocks are good */
	uint32_t regions; /* bits: where there is something that belongs to them */
	struct block_link *blocks;
	struct code_page *next;
};

/* All under the cache's lock. */
struct code_region {
	unsigned rooms;	  /* handed out */
	bool retired;	  /* nothing in it is found or kept any more */
	uint64_t *ticket; /* of each queue, from when it was retired */
};

struct code_cache {
	struct gmem *gm;
	pthread_mutex_t lock;
	struct block *hash[HASH]; /* written under the lock */
	struct code_page *page[PAGES];
	struct code_region region[REGIONS];
	unsigned open;	    /* the region that rooms are taken from */
	uint64_t opened;    /* how many regions were, after the first */
	unsigned rooms;	    /* of each region */
	size_t data, code;  /* bytes of a room; code: hot and cold each */
	char *data_mem;	    /* rooms one after the other */
	uint8_t *code_mem;  /* writable mapping: hot code of all rooms, cold code, stubs */
	uint8_t *code_exec; /* the mapping that runs */
};

/* Where cold code begins. */
static size_t cold_at(const struct code_cache *cc)
{
	return REGIONS * cc->rooms * cc->code + COLD_SKEW;
}

/* Hot and cold code of all rooms. */
static size_t rooms_size(const struct code_cache *cc)
{
	return cold_at(cc) + REGIONS * cc->rooms * cc->code;
}

static size_t code_size(const struct code_cache *cc)
{
	return rooms_size(cc) + STUB_BYTES;
}

/*
 * Two mappings of the same memory: an anonymous shared one, which perf looks up in its map of
 * symbols, and a copy that runs. That is in the lowest 2 GiB of addresses if there is room, where
 * code reaches struct cpu by shorter instructions (emit.h).
 */
static int map_code(struct code_cache *cc)
{
	const int shared = MAP_SHARED | MAP_ANONYMOUS | MAP_FIXED,
		  move = MREMAP_MAYMOVE | MREMAP_FIXED;
	size_t size = code_size(cc);

	cc->code_mem = huge_map(size, PROT_NONE, 0);
	cc->code_exec = huge_map(size, PROT_NONE, MAP_32BIT);
	if (!cc->code_exec)
		cc->code_exec = huge_map(size, PROT_NONE, 0);
	if (!cc->code_mem || !cc->code_exec)
		return -ENOMEM;
	if (mmap(cc->code_mem, size, PROT_READ | PROT_WRITE, shared, -1, 0) == MAP_FAILED ||
	    mremap(cc->code_mem, 0, size, move, cc->code_exec) == MAP_FAILED ||
	    mprotect(cc->code_exec, size, PROT_READ | PROT_EXEC))
		return -errno;
	return 0;
}

static int allocate(struct code_cache *cc, bool code)
{
	cc->data_mem = huge_map(REGIONS * cc->rooms * cc->data, PROT_READ | PROT_WRITE, 0);
	if (!cc->data_mem)
		return -errno;
	for (unsigned n = 0; n < REGIONS; n++) {
		cc->region[n].ticket = calloc(MAX(cc->gm->nqueues, 1), sizeof(uint64_t));
		if (!cc->region[n].ticket)
			return -ENOMEM;
	}
	return code ? map_code(cc) : 0;
}

int code_cache_create(struct code_cache **out, struct gmem *gm, size_t data_bytes,
		      size_t code_bytes)
{
	struct code_cache *cc = calloc(1, sizeof(*cc));
	size_t data = data_bytes / REGIONS, code = code_bytes / REGIONS / 2;
	int r;

	if (!cc)
		return -ENOMEM;
	cc->gm = gm;
	pthread_mutex_init(&cc->lock, NULL);
	cc->rooms = MAX(MIN(data / MIN_DATA, MAX_ROOMS), 4);
	cc->data = ALIGN_UP(MAX(data / cc->rooms, MIN_DATA), PAGE_SIZE);
	cc->code = code ? ALIGN_UP(MAX(code / cc->rooms, MIN_CODE), PAGE_SIZE) : 0;
	r = allocate(cc, code);
	if (r) {
		log_err("cannot allocate the code cache: %s", strerror(-r));
		code_cache_destroy(cc);
		return r;
	}
	*out = cc;
	return 0;
}

void code_cache_destroy(struct code_cache *cc)
{
	if (!cc)
		return;
	for (unsigned n = 0; n < PAGES; n++)
		for (struct code_page *p = cc->page[n], *next; p; p = next) {
			next = p->next;
			free(p);
		}
	for (unsigned n = 0; n < REGIONS; n++)
		free(cc->region[n].ticket);
	if (cc->data_mem)
		munmap(cc->data_mem, REGIONS * cc->rooms * cc->data);
	if (cc->code_mem)
		munmap(cc->code_mem, code_size(cc));
	if (cc->code_exec)
		munmap(cc->code_exec, code_size(cc));
	pthread_mutex_destroy(&cc->lock);
	free(cc);
}

uint8_t *code_stubs(struct code_cache *cc, size_t *size)
{
	*size = STUB_BYTES;
	return cc->code_mem + rooms_size(cc);
}

const uint8_t *code_exec(const struct code_cache *cc, size_t *size)
{
	*size = code_size(cc);
	return cc->code_exec;
}

int code_let_patch(const struct code_cache *cc)
{
	return mprotect(cc->code_exec, code_size(cc), PROT_READ | PROT_WRITE | PROT_EXEC) ? -errno
											  : 0;
}

ptrdiff_t code_to_exec(const struct code_cache *cc)
{
	return cc->code_exec - cc->code_mem;
}

void code_lock(struct code_cache *cc)
{
	pthread_mutex_lock(&cc->lock);
}

void code_unlock(struct code_cache *cc)
{
	pthread_mutex_unlock(&cc->lock);
}

/* --- finding and dropping ------------------------------------------------------------------- */

static unsigned hash_block(gpa_t gpa, uint32_t key)
{
	return ((gpa ^ (uint64_t)key << 32) * 0x9e3779b97f4a7c15ull) >> (64 - HASH_BITS);
}

/* The first block of a hash chain from b on that is at gpa. */
static struct block *at_address(struct block *b, gpa_t gpa, uint32_t key)
{
	while (b && (b->gpa != gpa || b->key != key))
		b = atomic_load_acquire(&b->hash_next);
	return b;
}

/* Acquire pairs with the release in insert(): the block is whole. */
static struct block *first_at(const struct code_cache *cc, gpa_t gpa, uint32_t key)
{
	return at_address(atomic_load_acquire(&cc->hash[hash_block(gpa, key)]), gpa, key);
}

struct block *code_find(const struct code_cache *cc, gpa_t gpa, uint32_t key, gfn_t gfn2)
{
	struct block *b = first_at(cc, gpa, key);

	while (b && b->gfn2 != gfn2)
		b = at_address(atomic_load_acquire(&b->hash_next), gpa, key);
	return b;
}

bool code_crosses(const struct code_cache *cc, gpa_t gpa, uint32_t key)
{
	const struct block *b = first_at(cc, gpa, key);

	while (b && b->gfn2 == NO_GFN)
		b = at_address(atomic_load_acquire(&b->hash_next), gpa, key);
	return b != NULL;
}

/* Readers that stand at the block still find their way on. */
static void unlink_block(struct code_cache *cc, struct block *b)
{
	struct block **p = &cc->hash[hash_block(b->gpa, b->key)];

	while (*p != b)
		p = &(*p)->hash_next;
	atomic_store_release(p, b->hash_next);
	atomic_store_relaxed(&b->dead, true);
}

static struct code_page **find_page(struct code_cache *cc, gfn_t gfn)
{
	struct code_page **p = &cc->page[gfn % PAGES];

	while (*p && (*p)->gfn != gfn)
		p = &(*p)->next;
	return p;
}

static unsigned drop_page(struct code_cache *cc, struct code_page **p)
{
	struct code_page *page = *p;
	unsigned n = 0;

	for (struct block_link *l = page->blocks; l; l = l->next)
		if (!l->block->dead) {
			unlink_block(cc, l->block);
			n++;
		}
	*p = page->next;
	free(page);
	return n;
}

static bool is_stale(struct code_cache *cc, const struct code_page *page)
{
	return page->word != gmem_code_word(cc->gm, page->gfn);
}

unsigned code_drop(struct code_cache *cc, gfn_t gfn)
{
	struct code_page **p;
	unsigned n = 0;

	code_lock(cc);
	p = find_page(cc, gfn);
	if (*p && is_stale(cc, *p))
		n = drop_page(cc, p);
	code_unlock(cc);
	return n;
}

/* Lock held. */
static void drop_if(struct code_cache *cc,
		    bool (*bad)(struct code_cache *, const struct code_page *))
{
	for (unsigned n = 0; n < PAGES; n++)
		for (struct code_page **p = &cc->page[n]; *p;)
			if (bad(cc, *p))
				drop_page(cc, p);
			else
				p = &(*p)->next;
}

void code_drop_stale(struct code_cache *cc)
{
	code_lock(cc);
	drop_if(cc, is_stale);
	code_unlock(cc);
}

static bool is_any(struct code_cache *cc, const struct code_page *page)
{
	return true;
}

void code_drop_all(struct code_cache *cc)
{
	code_lock(cc);
	drop_if(cc, is_any);
	code_unlock(cc);
}

/* --- memory --------------------------------------------------------------------------------- */

/* Pages of a retired region have been dropped before, but for those of one just retired. */
static bool touches_retired(struct code_cache *cc, const struct code_page *page)
{
	for (unsigned n = 0; n < REGIONS; n++)
		if ((page->regions >> n & 1) && cc->region[n].retired)
			return true;
	return false;
}

/* Pages with anything in the region are dropped whole: their blocks refer to each other. */
static void retire(struct code_cache *cc, struct code_region *r)
{
	struct gmem *gm = cc->gm;

	r->retired = true;
	drop_if(cc, touches_retired);
	for (unsigned n = 0; n < gm->nqueues; n++) {
		/* The post is before the ticket: a drain that begins after the ticket sees it. */
		shootdown_post(gm->queues[n], SHOOTDOWN_FORGET_CODE, 0);
		r->ticket[n] = shootdown_ticket(gm->queues[n]);
	}
}

/* Whether every VCPU has forgotten what was in a retired region. */
static bool forgotten(const struct code_cache *cc, const struct code_region *r)
{
	const struct gmem *gm = cc->gm;

	for (unsigned n = 0; n < gm->nqueues; n++)
		if (!shootdown_acked(gm->queues[n], r->ticket[n]))
			return false;
	return true;
}

/*
 * Nobody has room in a region when it is retired: since it was open others were retired, and who
 * hears of that gives up its room before the next one is opened.
 *
 * The next region is the oldest, which was retired when the last one was opened: by now it is free,
 * as a rule. Its successor is retired in turn.
 */
static bool open_next(struct code_cache *cc, bool *retired)
{
	unsigned next = (cc->open + 1) % REGIONS;
	struct code_region *r = &cc->region[next], *oldest = &cc->region[(next + 1) % REGIONS];

	if (r->retired && !forgotten(cc, r))
		return false;
	r->retired = false;
	r->rooms = 0;
	cc->open = next;
	cc->opened++;
	*retired = oldest->rooms;
	if (*retired)
		retire(cc, oldest);
	return true;
}

/* The huge pages that begin in a room of code. */
static void use_huge(const struct code_cache *cc, uint8_t *code)
{
	uint8_t *first = (uint8_t *)ALIGN_UP((uintptr_t)code, HUGE_PAGE);
	uint8_t *end = (uint8_t *)ALIGN_UP((uintptr_t)code + cc->code, HUGE_PAGE);

	if (first < code + cc->code)
		huge_collapse(first, MIN(end, cc->code_mem + code_size(cc)) - first);
}

/* The next room of the open region. */
static void hand_out(struct code_cache *cc, struct code_room *room)
{
	size_t n = (size_t)cc->open * cc->rooms + cc->region[cc->open].rooms++;
	uint32_t counts = CPU_BT_COUNTS / (REGIONS * cc->rooms);

	room->region = cc->open + 1;
	room->opened = cc->opened;
	room->data = cc->data_mem + n * cc->data;
	room->data_end = room->data + cc->data;
	room->count = n * counts;
	room->count_end = room->count + counts;
	for (unsigned half = 0; half < 2; half++) {
		uint32_t latches = (LATCHES - LATCHES_STACK) / (REGIONS * cc->rooms);

		room->latch[half] = latch_number(half, LATCHES_STACK + n * latches);
		room->latch_end[half] = room->latch[half] + latches;
	}
	if (!cc->code)
		return;
	room->hot = cc->code_mem + n * cc->code;
	room->hot_end = room->hot + cc->code;
	room->cold = room->hot + cold_at(cc);
	room->cold_end = room->cold + cc->code;
	use_huge(cc, room->hot);
	use_huge(cc, room->cold);
}

bool code_take_room(struct code_cache *cc, struct code_room *room, bool *retired)
{
	bool ok;

	*room = (struct code_room){0};
	*retired = false;
	code_lock(cc);
	ok = cc->region[cc->open].rooms < cc->rooms || open_next(cc, retired);
	if (ok)
		hand_out(cc, room);
	code_unlock(cc);
	return ok;
}

void *code_alloc(struct code_room *room, size_t size)
{
	void *p = room->data;

	size = ALIGN_UP(size, 16);
	if (size > (size_t)(room->data_end - room->data))
		return NULL;
	room->data += size;
	return p;
}

uint32_t code_alloc_latch(struct code_room *room, bool upper)
{
	return room->latch[upper] < room->latch_end[upper] ? room->latch[upper]++ : NO_LATCH;
}

uint32_t code_alloc_branch_latch(struct code_room *room)
{
	uint32_t half = room->half_latch, n;

	room->half_latch = 0;
	if (half)
		return half;
	n = code_alloc_latch(room, true);
	if (n == NO_LATCH)
		return NO_LATCH;
	room->half_latch = n * sizeof(struct latch) + sizeof(uint64_t);
	return n * sizeof(struct latch);
}

uint32_t code_alloc_count(struct code_room *room)
{
	return room->count < room->count_end ? room->count++ : NO_COUNT;
}

/* --- inserting ------------------------------------------------------------------------------ */

static uint32_t region_bit(const struct code_room *room)
{
	return 1u << (room->region - 1);
}

/* The frame's page, without blocks that were decoded from other bytes. NULL: out of memory. */
static struct code_page *fresh_page(struct code_cache *cc, gfn_t gfn, uint32_t word)
{
	struct code_page **p = find_page(cc, gfn);

	if (*p && (*p)->word != word) {
		drop_page(cc, p);
		p = find_page(cc, gfn);
	}
	if (!*p) {
		*p = calloc(1, sizeof(**p));
		if (*p)
			**p = (struct code_page){.gfn = gfn, .word = word};
	}
	return *p;
}

static bool find_places(struct code_cache *cc, const struct block *b, const uint32_t word[2],
			struct code_page *page[2])
{
	gfn_t gfn[2] = {b->gpa >> PAGE_SHIFT, b->gfn2};

	for (unsigned n = 0; n < 2 && gfn[n] != NO_GFN; n++) {
		/*
		 * Whoever makes the frame DROPPING after this posts after this, and the drop that
		 * follows finds the block.
		 */
		if (gmem_code_word(cc->gm, gfn[n]) != word[n])
			return false;
		page[n] = fresh_page(cc, gfn[n], word[n]);
		if (!page[n])
			return false;
	}
	return true;
}

static struct block *insert(struct code_cache *cc, const struct code_room *room, struct block *b,
			    const uint32_t word[2])
{
	struct block **head = &cc->hash[hash_block(b->gpa, b->key)], *other;
	struct code_page *page[2] = {NULL, NULL};

	if (!find_places(cc, b, word, page))
		return NULL;
	other = code_find(cc, b->gpa, b->key, b->gfn2);
	if (other)
		return other;
	for (unsigned n = 0; n < 2 && page[n]; n++) {
		b->link[n] = (struct block_link){.block = b, .next = page[n]->blocks};
		page[n]->blocks = &b->link[n];
		page[n]->regions |= region_bit(room);
	}
	b->hash_next = *head;
	/* Pairs with the acquire in first_at(). */
	atomic_store_release(head, b);
	return b;
}

struct block *code_insert(struct code_cache *cc, const struct code_room *room, struct block *b,
			  const uint32_t word[2])
{
	struct block *found;

	code_lock(cc);
	found = insert(cc, room, b, word);
	code_unlock(cc);
	return found;
}

bool code_may_publish(struct code_cache *cc, const struct code_room *room, struct block *b)
{
	if (b->dead)
		return false;
	(*find_page(cc, b->gpa >> PAGE_SHIFT))->regions |= region_bit(room);
	if (b->gfn2 != NO_GFN)
		(*find_page(cc, b->gfn2))->regions |= region_bit(room);
	return true;
}
