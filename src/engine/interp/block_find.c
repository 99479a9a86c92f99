/*
 * Finding blocks that are there, without faults and without decoding. Compiled code calls this with
 * the guest's vector registers live: it and all it calls use none.
 */
#include "src/engine/interp/block.h"

struct block *block_kept(struct block_cache *bc, gpa_t gpa, uint32_t key)
{
	struct block **place = &bc->kept[(gpa ^ gpa >> 15 ^ key >> 16) % KEPT], *b = *place;

	if (b && b->gpa == gpa && b->key == key && !atomic_load_relaxed(&b->dead))
		return b;
	b = code_find(bc->code, gpa, key, NO_GFN);
	if (b)
		*place = b;
	return b;
}

struct jump_entry *block_note_jump(struct block_cache *bc, uint64_t rip, uint32_t options,
				   struct block *b)
{
	struct jump_entry *j = block_jump_entry(bc, rip);

	*block_jump_second(bc, j) = *j;
	j->rip = rip;
	j->key = block_jump_key(bc, rip, options);
	j->block = b;
	j->native = block_entry(bc, b);
	return j;
}

const struct jump_entry *block_find_compiled(struct block_cache *bc, uint64_t rip)
{
	const struct itlb_entry *e;
	struct jump_entry *j;
	struct block *b;
	uint64_t key;

	mem_settle_code(bc->cpu, rip);
	j = block_jump_entry(bc, rip);
	key = block_jump_key(bc, rip, 0);
	if (j->rip != rip || j->key != key)
		j = block_jump_second(bc, j);
	if (j->rip != rip || j->key != key) {
		e = cpu_code64(bc->cpu) ? mem_fetch_quick(bc->cpu, rip) : NULL;
		b = e ? block_kept(bc, e->gfn << PAGE_SHIFT | (rip & ~PAGE_MASK),
				   block_key(bc->cpu, rip, 0))
		      : NULL;
		if (!b)
			return NULL;
		j = block_note_jump(bc, rip, 0, b);
	}
	if (j->native == bc->no_native)
		j->native = block_entry(bc, j->block);
	return j->native == bc->no_native ? NULL : j;
}
