#include "src/engine/interp/block.h"

#include <stdlib.h>

#include "src/base/log.h"
#include "src/engine/interp/ops.h"

int block_cache_init(struct block_cache *bc, struct cpu *cpu, unsigned self,
		     struct code_cache *code)
{
	bc->cpu = cpu;
	bc->self = self;
	bc->code = code;
	decoder_init(&bc->decoder);
	tlb_clear_latches(&cpu->tlb);
	bc->once = malloc(sizeof(*bc->once) + BLOCK_MAX_SLOTS * sizeof(struct insn));
	return bc->once ? 0 : -ENOMEM;
}

void block_cache_fini(struct block_cache *bc)
{
	free(bc->once);
	for (unsigned n = 0; n < PENDING_MAX; n++)
		free(bc->pending[n].ticket);
}

/*
 * No entry made before this matches any more. (A key of 0, which new entries have, never matches:
 * the number of an address space is never 0.)
 */
void block_cache_forget(struct block_cache *bc)
{
	bc->jump_gen++;
}

void block_cache_forget_room(struct block_cache *bc)
{
	bc->room = (struct code_room){0};
	memset(bc->kept, 0, sizeof(bc->kept));
	/* Other code is going to have them. */
	tlb_clear_latches(&bc->cpu->tlb);
	block_cache_forget(bc);
}

void block_cache_drop(struct block_cache *bc, gfn_t gfn)
{
	for (unsigned n = 0; n < PENDING_MAX; n++)
		if (bc->pending[n].gfn == gfn)
			bc->pending[n].word = 0;
	bc->cpu->stats->blocks_dropped += code_drop(bc->code, gfn);
	block_cache_forget(bc);
}

void block_clear_branches(struct block_cache *bc)
{
	bc->branch_epoch = block_branch_gen(bc) >> BRANCH_GEN_BITS;
	tlb_clear_latches(&bc->cpu->tlb);
}

bool block_cache_take_room(struct block_cache *bc)
{
	bool retired, ok = code_take_room(bc->code, &bc->room, &retired);

	if (retired)
		STAT_INC(bc->cpu->stats, regions_retired);
	return ok;
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

/*
 * Whether code decoded from the frame from now on may be kept; *word is then its code word, which
 * is STABLE.
 */
static bool frame_stable(struct block_cache *bc, gfn_t gfn, uint32_t *out)
{
	struct gmem *gm = bc->cpu->gmem;
	uint32_t word = *out = gmem_code_word(gm, gfn);
	struct pending *pd;

	if (code_word_state(word) == CODE_STABLE)
		return true;
	pd = find_pending(bc, gfn);
	if (!pd || pd->word != word)
		pd = start_protection(bc, gfn);
	if (!pd)
		return false;
	if (code_word_state(pd->word) == CODE_PROTECTING && all_acked(gm, pd))
		gmem_code_stabilise(gm, gfn, pd->word);
	if (code_word_state(pd->word) != CODE_PROTECTING)
		pd->word = 0;
	/* Perhaps it was stabilised by another VCPU, or written. */
	*out = gmem_code_word(gm, gfn);
	return code_word_state(*out) == CODE_STABLE;
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

/* Puts a copy of the block that was just decoded into the cache; NULL if it cannot be kept. */
static struct block *keep(struct block_cache *bc, const struct block *b, size_t size,
			  const uint32_t word[2])
{
	char *was = bc->room.data;
	struct block *copy = code_alloc(&bc->room, size + b->bytes), *found;

	if (!copy) {
		if (!block_cache_take_room(bc))
			return NULL;
		was = bc->room.data;
		copy = code_alloc(&bc->room, size + b->bytes);
	}
	memcpy(copy, b, size);
	copy->code = memcpy((char *)copy + size, bc->bytes, b->bytes);
	found = code_insert(bc->code, &bc->room, copy, word);
	if (found != copy)
		bc->room.data = was;
	return found;
}

static struct block *build(struct block_cache *bc, struct source *s, uint32_t key)
{
	struct cpu *cpu = bc->cpu;
	struct block *b = bc->once, *kept;
	uint32_t word[2] = {0};
	/* Asked before the bytes are read: a store after the answer is noticed. */
	bool stable = s->page && frame_stable(bc, s->gfn, &word[0]);
	unsigned max = key & BLOCK_SINGLE ? 1 : BLOCK_MAX_INSNS;
	unsigned slots = decode_block(bc, s, max, b);

	if (stable && s->gfn2 != NO_GFN) {
		/* Only now is the second page known, so the bytes are read again. */
		stable = s->page2 && frame_stable(bc, s->gfn2, &word[1]);
		slots = decode_block(bc, s, max, b);
	}
	b->gpa = s->gfn << PAGE_SHIFT | (s->linear & ~PAGE_MASK);
	b->gfn2 = s->gfn2;
	b->key = key;
	b->heat = 0;
	b->time = b->left_often = b->faded = 0;
	b->lookups = b->lookups_next = b->narrow = b->by_hand = 0;
	b->any_half = b->runs_long = b->strip = b->seldom = b->dead = false;
	b->code = NULL;
	b->native = b->far_native = NULL;
	b->unit = NULL;
	b->links = NULL;
	STAT_INC(cpu->stats, blocks_decoded);
	kept = stable ? keep(bc, b, sizeof(*b) + slots * sizeof(struct insn), word) : NULL;
	if (kept)
		return kept;
	STAT_INC(cpu->stats, blocks_uncached);
	return b;
}

/*
 * The block in the cache, or NULL. An instruction that crosses into another page is looked for
 * under the page that is mapped there now; only if there is one at this place, for it may be
 * unmapped.
 */
static struct block *find_kept(struct block_cache *bc, const struct source *s, uint32_t key)
{
	gpa_t gpa = s->gfn << PAGE_SHIFT | (s->linear & ~PAGE_MASK);
	struct block *b = block_kept(bc, gpa, key);
	const struct itlb_entry *e;

	if (b || !code_crosses(bc->code, gpa, key))
		return b;
	e = mem_fetch(bc->cpu, (s->linear & PAGE_MASK) + PAGE_SIZE);
	return e ? code_find(bc->code, gpa, key, e->gfn) : NULL;
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
	bool near_limit = false;

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
	s.gfn = e ? e->gfn : 0;
	s.page = e ? (const uint8_t *)e->hva : NULL;
	b = e ? find_kept(bc, &s, key) : NULL;
	if (!b)
		b = build(bc, &s, key);
	if (near_limit && rip + b->bytes - 1 > cpu->seg[SEG_CS].limit)
		cpu_raise_gp(cpu);
	if (b != bc->once && !near_limit)
		block_note_jump(bc, rip, key & BLOCK_SINGLE, b);
	return b;
}
