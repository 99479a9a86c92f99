#include "src/engine/interp/block.h"

#include <stdlib.h>
#include <sys/mman.h>

#include "src/base/log.h"
#include "src/engine/interp/ops.h"

#define NO_GFN ~0ull

int block_cache_init(struct block_cache *bc, struct cpu *cpu, unsigned self, size_t arena_size)
{
	bc->cpu = cpu;
	bc->self = self;
	decoder_init(&bc->decoder);
	bc->arena_size = arena_size;
	bc->arena = mmap(NULL, arena_size, PROT_READ | PROT_WRITE,
			 MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
	bc->once = malloc(sizeof(*bc->once) + BLOCK_MAX_SLOTS * sizeof(struct insn));
	if (bc->arena == MAP_FAILED || !bc->once) {
		log_err("cannot allocate the code cache of a VCPU: %s", strerror(errno));
		if (bc->arena != MAP_FAILED)
			munmap(bc->arena, arena_size);
		free(bc->once);
		return -ENOMEM;
	}
	block_cache_flush(bc);
	return 0;
}

void block_cache_fini(struct block_cache *bc)
{
	munmap(bc->arena, bc->arena_size);
	free(bc->once);
	for (unsigned n = 0; n < PENDING_MAX; n++)
		free(bc->pending[n].ticket);
}

/*
 * No entry made before this matches any more. (A key of 0, which new entries have, never matches:
 * the number of an address space is never 0.)
 */
static void forget_jumps(struct block_cache *bc)
{
	bc->jump_gen++;
}

void block_cache_flush(struct block_cache *bc)
{
	/* Memory of a cache that was never used stays untouched. */
	if (bc->arena_used) {
		memset(bc->hash, 0, sizeof(bc->hash));
		memset(bc->page, 0, sizeof(bc->page));
		bc->arena_used = 0;
	}
	bc->flushed = true;
	forget_jumps(bc);
}

static unsigned hash_block(gpa_t gpa, uint32_t key)
{
	return ((gpa ^ (uint64_t)key << 32) * 0x9e3779b97f4a7c15ull) >> (64 - BLOCK_HASH_BITS);
}

struct block *block_cache_peek(const struct block_cache *bc, gpa_t gpa, uint32_t key)
{
	struct block *b = bc->hash[hash_block(gpa, key)];

	while (b && (b->gpa != gpa || b->key != key))
		b = b->hash_next;
	return b;
}

static struct code_page **find_page(struct block_cache *bc, gfn_t gfn)
{
	struct code_page **p = &bc->page[gfn % PAGE_HASH];

	while (*p && (*p)->gfn != gfn)
		p = &(*p)->next;
	return p;
}

static void unlink_block(struct block_cache *bc, struct block *b)
{
	struct block **p = &bc->hash[hash_block(b->gpa, b->key)];

	while (*p && *p != b)
		p = &(*p)->hash_next;
	if (*p)
		*p = b->hash_next;
}

void block_cache_drop(struct block_cache *bc, gfn_t gfn)
{
	struct code_page **p = find_page(bc, gfn), *page = *p;

	for (unsigned n = 0; n < PENDING_MAX; n++)
		if (bc->pending[n].gfn == gfn)
			bc->pending[n].word = 0;
	if (!page)
		return;
	for (struct block_link *l = page->blocks; l; l = l->next) {
		unlink_block(bc, l->block);
		STAT_INC(bc->cpu->stats, blocks_dropped);
	}
	*p = page->next;
	forget_jumps(bc);
}

/* The caller has seen that there is room. */
static void *arena_alloc(struct block_cache *bc, size_t size)
{
	void *p = bc->arena + bc->arena_used;

	bc->arena_used += ALIGN_UP(size, 16);
	return p;
}

/* Room for one block of this size and its place in two lists. */
static void arena_reserve(struct block_cache *bc, size_t size)
{
	size_t extra = 2 * (sizeof(struct code_page) + sizeof(struct block_link)) + 5 * 16;

	if (bc->arena_used + size + extra > bc->arena_size) {
		block_cache_flush(bc);
		STAT_INC(bc->cpu->stats, block_flushes);
	}
}

/* --- protection of frames ------------------------------------------------------------------- */

static bool all_acked(struct gmem *gm, const struct pending *pd)
{
	for (unsigned n = 0; n < gm->nqueues; n++)
		if (pd->ticket[n] != ~0ull && !shootdown_acked(gm->queues[n], pd->ticket[n]))
			return false;
	return true;
}

static struct pending *find_pending(struct block_cache *bc, gfn_t gfn)
{
	for (unsigned n = 0; n < PENDING_MAX; n++)
		if (bc->pending[n].word && bc->pending[n].gfn == gfn)
			return &bc->pending[n];
	return NULL;
}

/* Starts the protection of a frame: from here on its acknowledgements can be asked for. */
static struct pending *start_protection(struct block_cache *bc, gfn_t gfn)
{
	struct gmem *gm = bc->cpu->gmem;
	struct pending *pd = &bc->pending[bc->next_pending++ % PENDING_MAX];

	pd->word = 0;
	if (!pd->ticket && gm->nqueues) {
		pd->ticket = calloc(gm->nqueues, sizeof(*pd->ticket));
		if (!pd->ticket)
			return NULL;
	}
	pd->gfn = gfn;
	pd->word = gmem_code_protect(gm, gfn);
	/* The post is before the ticket: a drain that begins after the ticket sees the post. */
	for (unsigned n = 0; n < gm->nqueues; n++)
		pd->ticket[n] = shootdown_ticket(gm->queues[n]);
	/* Our own cached translations go at once, so our own acknowledgement is not needed. */
	tlb_protect_gfn(&bc->cpu->tlb, gfn);
	if (bc->self < gm->nqueues)
		pd->ticket[bc->self] = ~0ull;
	return pd;
}

/* Whether code decoded from the frame from now on may be kept. */
static bool frame_stable(struct block_cache *bc, gfn_t gfn)
{
	struct gmem *gm = bc->cpu->gmem;
	uint32_t word = gmem_code_word(gm, gfn);
	struct pending *pd;

	if (code_word_state(word) == CODE_STABLE)
		return true;
	pd = find_pending(bc, gfn);
	if (!pd || pd->word != word)
		pd = start_protection(bc, gfn);
	if (!pd)
		return false;
	if (code_word_state(pd->word) == CODE_NONE || code_word_state(pd->word) == CODE_DROPPING) {
		pd->word = 0;
		return false;
	}
	if (code_word_state(pd->word) == CODE_PROTECTING) {
		if (!all_acked(gm, pd) || !gmem_code_stabilise(gm, gfn, pd->word)) {
			/* Stabilised by another VCPU meanwhile, or written. */
			return code_word_state(gmem_code_word(gm, gfn)) == CODE_STABLE;
		}
	}
	pd->word = 0;
	return true;
}

/* --- decoding ------------------------------------------------------------------------------- */

static unsigned code_mode(const struct cpu *cpu)
{
	return cpu_code64(cpu) ? 8 : cpu->seg[SEG_CS].attr & SEG_DB ? 4 : 2;
}

static gva_t code_linear(const struct cpu *cpu, uint64_t rip)
{
	return cpu_code64(cpu) ? rip : (uint32_t)(cpu->seg[SEG_CS].base + rip);
}

/* Where the bytes of a block come from. */
struct source {
	gva_t linear;
	gfn_t gfn, gfn2;
	const uint8_t *page;  /* host address of the first page, NULL: not RAM */
	const uint8_t *page2; /* of the next page, once an instruction needed it */
};

/* Copies up to 15 bytes at off; fetches the next page only if asked to. */
static unsigned copy_bytes(struct cpu *cpu, struct source *s, unsigned off, bool cross,
			   uint8_t buf[INSN_MAX_BYTES])
{
	unsigned at = (s->linear & ~PAGE_MASK) + off, n;

	n = at < PAGE_SIZE ? MIN(PAGE_SIZE - at, INSN_MAX_BYTES) : 0;
	if (s->page)
		memcpy(buf, s->page + at, n);
	else
		memset(buf, 0xff, n);
	if (n == INSN_MAX_BYTES || !cross)
		return n;
	if (s->gfn2 == NO_GFN) {
		const struct itlb_entry *e = mem_fetch(cpu, (s->linear & PAGE_MASK) + PAGE_SIZE);

		s->gfn2 = e ? e->gfn : s->gfn;
		s->page2 = e ? (const uint8_t *)e->hva : NULL;
	}
	if (s->page2)
		memcpy(buf + n, s->page2, INSN_MAX_BYTES - n);
	else
		memset(buf + n, 0xff, INSN_MAX_BYTES - n);
	return INSN_MAX_BYTES;
}

/*
 * Decodes into slots. An instruction that crosses into the next page stands alone in its block, so
 * that its fetch faults are its own. Returns the number of slots.
 */
static unsigned decode_block(struct block_cache *bc, struct source *s, unsigned max,
			     struct block *b)
{
	struct cpu *cpu = bc->cpu;
	unsigned mode = code_mode(cpu), off = 0, n = 0, insns = 0;
	uint8_t buf[INSN_MAX_BYTES];

	while (insns < max) {
		unsigned avail = copy_bytes(cpu, s, off, false, buf), slots;
		int r = avail ? decode_insn(&bc->decoder, cpu, mode, buf, avail, off, &b->slot[n],
					    &slots)
			      : -EAGAIN;

		if (r == -EAGAIN) {
			if (insns)
				break;
			copy_bytes(cpu, s, off, true, buf);
			r = decode_insn(&bc->decoder, cpu, mode, buf, INSN_MAX_BYTES, off,
					&b->slot[n], &slots);
			max = 1;
		}
		memcpy(bc->bytes + off, buf, b->slot[n].len);
		off += b->slot[n].len;
		n += slots;
		insns++;
		if (r == 1)
			break;
	}
	b->slot[n] = (struct insn){.exec = op_end, .off = off, .mode = mode};
	b->insns = insns;
	b->bytes = off;
	return n + 1;
}

static void keep_on_page(struct block_cache *bc, struct block *b, gfn_t gfn)
{
	struct code_page **p = find_page(bc, gfn);
	struct block_link *l = arena_alloc(bc, sizeof(*l));

	if (!*p) {
		struct code_page *page = arena_alloc(bc, sizeof(*page));

		*page = (struct code_page){.gfn = gfn};
		*p = page;
	}
	*l = (struct block_link){.block = b, .next = (*p)->blocks};
	(*p)->blocks = l;
}

static struct block *build(struct block_cache *bc, struct source *s, uint32_t key)
{
	struct cpu *cpu = bc->cpu;
	struct block *b = bc->once;
	/* Asked before the bytes are read: a store after the answer is noticed. */
	bool keep = s->page && frame_stable(bc, s->gfn);
	unsigned max = key & BLOCK_SINGLE ? 1 : BLOCK_MAX_INSNS;
	unsigned slots = decode_block(bc, s, max, b);
	size_t size;

	if (keep && s->gfn2 != NO_GFN) {
		/* Only now is the second page known, so the bytes are read again. */
		keep = s->page2 && frame_stable(bc, s->gfn2);
		slots = decode_block(bc, s, max, b);
	}
	b->gpa = s->gfn << PAGE_SHIFT | (s->linear & ~PAGE_MASK);
	b->gfn2 = s->gfn2;
	b->key = key;
	b->heat = 0;
	b->straddles = 0;
	b->lookups = b->lookups_next = 0;
	b->single_checks = b->any_half = false;
	b->code = NULL;
	b->native = b->far_native = NULL;
	b->unit = NULL;
	STAT_INC(cpu->stats, blocks_decoded);
	if (!keep) {
		STAT_INC(cpu->stats, blocks_uncached);
		return b;
	}
	size = sizeof(*b) + slots * sizeof(struct insn);
	arena_reserve(bc, size + b->bytes);
	b = memcpy(arena_alloc(bc, size + b->bytes), b, size);
	b->code = memcpy((char *)b + size, bc->bytes, b->bytes);
	keep_on_page(bc, b, s->gfn);
	if (s->gfn2 != NO_GFN)
		keep_on_page(bc, b, s->gfn2);
	b->hash_next = bc->hash[hash_block(b->gpa, key)];
	bc->hash[hash_block(b->gpa, key)] = b;
	return b;
}

/* Whether the second page of a crossing block is mapped where it was. */
static bool second_page_ok(struct cpu *cpu, const struct block *b, gva_t linear)
{
	const struct itlb_entry *e;

	if (b->gfn2 == NO_GFN)
		return true;
	e = mem_fetch(cpu, (linear & PAGE_MASK) + PAGE_SIZE);
	return e && e->gfn == b->gfn2;
}

/* Whether rip is in its other place; then the two change places. */
static bool find_second(struct block_cache *bc, uint64_t rip, uint32_t options)
{
	struct jump_entry *j = block_jump_entry(bc, rip), *k = block_jump_second(bc, j), old = *j;

	if (k->rip != rip || k->key != block_jump_key(bc, rip, options))
		return false;
	*j = *k;
	*k = old;
	return true;
}

struct block *block_find_slow(struct block_cache *bc, uint64_t rip, uint32_t key)
{
	struct cpu *cpu = bc->cpu;
	struct source s = {.gfn2 = NO_GFN};
	const struct itlb_entry *e;
	struct block *b;
	gpa_t gpa;
	bool ram, near_limit = false;

	if (find_second(bc, rip, key & BLOCK_SINGLE))
		return block_jump_entry(bc, rip)->block;
	STAT_INC(cpu->stats, jump_misses);
	if (!cpu_code64(cpu)) {
		if (rip > cpu->seg[SEG_CS].limit)
			cpu_raise_gp(cpu);
		/* Within a block's length of the limit, each instruction is held against it. */
		near_limit = cpu->seg[SEG_CS].limit - rip < BLOCK_MAX_INSNS * INSN_MAX_BYTES;
		if (near_limit)
			key |= BLOCK_SINGLE;
	}
	s.linear = code_linear(cpu, rip);
	e = mem_fetch(cpu, s.linear);
	ram = e != NULL;
	s.gfn = e ? e->gfn : 0;
	s.page = e ? (const uint8_t *)e->hva : NULL;
	gpa = s.gfn << PAGE_SHIFT | (s.linear & ~PAGE_MASK);
	for (b = ram ? bc->hash[hash_block(gpa, key)] : NULL; b; b = b->hash_next)
		if (b->gpa == gpa && b->key == key && second_page_ok(cpu, b, s.linear))
			break;
	if (!b)
		b = build(bc, &s, key);
	if (near_limit && rip + b->bytes - 1 > cpu->seg[SEG_CS].limit)
		cpu_raise_gp(cpu);
	if (b != bc->once && !near_limit) {
		struct jump_entry *j = block_jump_entry(bc, rip);

		*block_jump_second(bc, j) = *j;
		j->rip = rip;
		j->key = block_jump_key(bc, rip, key & BLOCK_SINGLE);
		j->block = b;
		j->native = b->native ? b->far_native : bc->no_native;
	}
	return b;
}
