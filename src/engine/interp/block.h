/*
 * How one VCPU finds and fills the code cache (code.h): from virtual addresses to blocks, and from
 * the guest's bytes to new ones. Everything here belongs to the VCPU's thread. Until a frame is
 * known to be protected on every VCPU, blocks decoded from it run once and are not kept
 * (docs/concurrency.md, "Code pages").
 */
#ifndef ENGINE_INTERP_BLOCK_H
#define ENGINE_INTERP_BLOCK_H

#include "src/base/atomic.h"
#include "src/engine/interp/code.h"
#include "src/engine/interp/decode.h"
#include "src/x86/mem.h"

#define BLOCK_MAX_INSNS 48
/* Two slots for each vector instruction, and one for op_end. */
#define BLOCK_MAX_SLOTS (2 * BLOCK_MAX_INSNS + 1)

#define KEPT	    (1u << 15)
#define PENDING_MAX 16

/* A frame whose protection waits for the acknowledgement of every VCPU. */
struct pending {
	gfn_t gfn;
	uint32_t word; /* 0: unused */
	uint64_t *ticket;
};

struct block_cache {
	struct cpu *cpu;
	struct code_cache *code;
	struct code_room room;
	struct decoder decoder;
	struct block *kept[KEPT]; /* found lately, by address; some may be dead */
	struct pending pending[PENDING_MAX];
	unsigned next_pending;
	uint64_t jump_gen;     /* changes when blocks are forgotten */
	uint64_t branch_gen;   /* ... when latches of branches lead to old code */
	uint64_t branch_epoch; /* of the generations that these latches tell apart */
	struct block *once;    /* a block that is not kept */
	uint8_t bytes[BLOCK_MAX_INSNS * INSN_MAX_BYTES]; /* of the block being decoded */
	void *no_native; /* where compiled code goes that finds a block without any */
	unsigned self;	 /* number of our own queue in gmem; ~0: none */
};

/* Options of a look-up. */
#define BLOCK_SINGLE (1u << 15) /* one instruction per block */

/* self: number of the CPU's own shootdown queue in its gmem, or ~0u. */
int block_cache_init(struct block_cache *bc, struct cpu *cpu, unsigned self,
		     struct code_cache *code);
void block_cache_fini(struct block_cache *bc);
/* New room; false: none now. */
bool block_cache_take_room(struct block_cache *bc);
/* No block that was found is used again. */
void block_cache_forget(struct block_cache *bc);
/* The same, and the room is given up. */
void block_cache_forget_room(struct block_cache *bc);
/* A frame was stored to: drops its blocks from the code cache, and forgets. */
void block_cache_drop(struct block_cache *bc, gfn_t gfn);

#define BLOCK_KEY_CTX(ctx) ((ctx) << 16)
/*
 * What a virtual address means as code: mode bits of CS, options, the context of its memory
 * accesses, the half of addresses that it lies in and whether the privilege level is 0.
 */
static inline uint32_t block_key(const struct cpu *cpu, uint64_t rip, uint32_t options)
{
	return (cpu->seg[SEG_CS].attr & (SEG_L | SEG_DB)) | options | BLOCK_KEY_CTX(cpu->ctx) |
	       (rip >> 63) << 18 | (cpu->cpl == 0) << 19;
}
static inline unsigned block_key_ctx(uint32_t key)
{
	return key >> 16 & 3;
}
static inline bool block_key_cpl0(uint32_t key)
{
	return key >> 19 & 1;
}
static inline bool block_key_upper(uint32_t key)
{
	return key >> 18 & 1;
}

/* The slow path of block_find(); raises the faults of fetching. */
struct block *block_find_slow(struct block_cache *bc, uint64_t rip, uint32_t key);

/* block_find.c: the block, of one page, or NULL. */
struct block *block_kept(struct block_cache *bc, gpa_t gpa, uint32_t key);
/* From now on the jump cache leads from rip to the block. */
struct jump_entry *block_note_jump(struct block_cache *bc, uint64_t rip, uint32_t options,
				   struct block *b);
/*
 * Where the compiled code for rip is, if the jump cache has it or what it takes to find it is at
 * hand; NULL: block_find() may know more.
 */
const struct jump_entry *block_find_compiled(struct block_cache *bc, uint64_t rip);

/* Spreads the same code in several address spaces over the jump cache. */
static inline uint64_t block_jump_salt(const struct cpu *cpu, uint64_t rip)
{
	return cpu->tlb.code_tag[rip >> 63];
}

/* As compiled code does it, too. */
static inline struct jump_entry *block_jump_entry(struct block_cache *bc, uint64_t rip)
{
	uint64_t hash = block_jump_salt(bc->cpu, rip);

	__asm__("crc32q %1, %0" : "+r"(hash) : "rm"(rip));
	return &bc->cpu->jump[hash / sizeof(struct jump_entry) % JUMP_CACHE];
}

static inline uint64_t block_jump_key(const struct block_cache *bc, uint64_t rip, uint32_t options)
{
	const struct cpu *cpu = bc->cpu;

	return (cpu->tlb.code_gen + bc->jump_gen) << 20 | block_key(cpu, rip, options) |
	       cpu->tlb.code_tag[rip >> 63];
}

/*
 * Direct branches of compiled code to other pages have latches (mmu/latch.h): the page that the
 * branch was in, plus this tag, and the target's host code. A branch is of one mode, so what tells
 * targets apart is the address space, in the low 12 bits, and the generation, in the 15 upper bits:
 * sums with different canonical pages differ, too. When generations come round all are cleared.
 */
#define BRANCH_GEN_BITS 15

static inline uint64_t block_branch_gen(const struct block_cache *bc)
{
	return bc->cpu->tlb.code_gen + bc->jump_gen + bc->branch_gen;
}

/* Whether block_clear_branches() has to be called before the tag is used. */
static inline bool block_branches_over(const struct block_cache *bc)
{
	return unlikely(block_branch_gen(bc) >> BRANCH_GEN_BITS != bc->branch_epoch);
}

static inline uint64_t block_branch_tag(const struct block_cache *bc, uint64_t rip)
{
	return block_branch_gen(bc) << (64 - BRANCH_GEN_BITS) | bc->cpu->tlb.code_tag[rip >> 63];
}

void block_clear_branches(struct block_cache *bc);

/* Where compiled code goes on that comes to the block. */
static inline void *block_entry(const struct block_cache *bc, struct block *b)
{
	/* Pairs with the release of native: far_native was set before. */
	return atomic_load_acquire(&b->native) ? atomic_load_relaxed(&b->far_native)
					       : bc->no_native;
}

/* The other place where rip may be. */
static inline struct jump_entry *block_jump_second(struct block_cache *bc, struct jump_entry *e)
{
	return &bc->cpu->jump[(e - bc->cpu->jump) ^ 1];
}

static inline struct block *block_find(struct block_cache *bc, uint64_t rip, uint32_t options)
{
	struct cpu *cpu = bc->cpu;
	struct jump_entry *e;

	mem_settle_code(cpu, rip);
	e = block_jump_entry(bc, rip);
	if (likely(e->rip == rip && e->key == block_jump_key(bc, rip, options)))
		return e->block;
	return block_find_slow(bc, rip, block_key(cpu, rip, options));
}

#endif
