/*
 * The code cache that the VCPUs of a VM share: blocks of decoded instructions, found by
 * guest-physical address and mode, and the host code that was compiled from them.
 *
 * Each thread that uses it is a VCPU's, with a shootdown queue among those of the gmem. Blocks are
 * found without a lock, and what was found may be used until the thread next drains its queue: at
 * SHOOTDOWN_DROP_CODE or SHOOTDOWN_FORGET_CODE it forgets all blocks, and at the second its room,
 * too. Whatever else is done is done under the cache's lock, but for filling memory: each thread
 * fills room of its own, and nobody sees what it made there before it is inserted. Memory is
 * divided into regions that are filled in turn; the oldest one is given up as a whole.
 * docs/concurrency.md, "The code cache", says why that is right.
 */
#ifndef ENGINE_INTERP_CODE_H
#define ENGINE_INTERP_CODE_H

#include "mmu/gmem.h"
#include "src/x86/insn.h"

#define NO_GFN ~0ull

struct bt_exit;

/* Blocks that were compiled as one: each may be followed by the next. All lie in one page. */
struct block_unit {
	unsigned n;
	const struct block *block[];
};

/* Blocks of one frame, for dropping; a block that crosses into a second page is in two lists. */
struct block_link {
	struct block *block;
	struct block_link *next;
};

/*
 * What is not marked does not change once the block can be found. *: atomically, by any thread;
 * +: under the cache's lock.
 */
struct block {
	gpa_t gpa;
	gfn_t gfn2;   /* of the second page for an instruction that crosses, else NO_GFN */
	uint32_t key; /* mode and options: block_key() */
	uint16_t insns;
	uint16_t bytes;
	uint32_t heat; /* *times interpreted, until it is compiled */
	uint32_t time; /* *code_now() at half of that; compiled: when it was last left, as below */
	uint16_t left_often; /* *compiled: how often accesses left it to the interpreter lately */
	uint8_t faded;	     /* *compiled: how often one of by_hand turned out not to need that */
	bool any_half;	     /* *compiled: data may be in the half that the code is not in */
	bool runs_long;	     /* *compiled: a loop that was seldom left */
	bool strip;	     /* *native begins with the head of a strip of that loop */
	bool seldom;	     /* *compiled: it runs so seldom that it has no latches */
	bool dead;	     /* +it is not found any more; read by any thread */
	/*
	 * *Compiled, a bit for each group of accesses, by its first instruction: those that are
	 * looked up each time, those that may soon be, and those that are kept narrow. by_hand:
	 * instructions that go to their handler, since they access devices.
	 */
	uint64_t lookups, lookups_next, narrow, by_hand;
	const uint8_t *code;	       /* the guest's bytes; NULL for a block that is not kept */
	void *native;		       /* *compiled code, or NULL; far_native is set before */
	void *far_native;	       /* *where it is entered with the flags in cpu->bt.flags */
	const struct block_unit *unit; /* *what native is of; only if compiled code is checked */
	struct bt_exit *links;	       /* +jumps that were patched to lead to native */
	struct block *hash_next;       /* * */
	struct block_link link[2];     /* + */
	struct insn slot[];
};

/* The host's clock in a unit that 32 bits last for some minutes. */
#define CODE_TICK 1024
static inline uint32_t code_now(void)
{
	return __builtin_ia32_rdtsc() / CODE_TICK;
}

/* Memory that one thread fills. All zero: none. */
struct code_room {
	unsigned region;	  /* its number + 1 */
	uint64_t opened;	  /* how many regions were, since the first, when its own was */
	uint8_t *hot, *hot_end;	  /* host code, in the writable mapping */
	uint8_t *cold, *cold_end; /* host code that seldom runs: kept apart */
	char *data, *data_end;	  /* blocks, and what compiled code refers to */
	uint32_t latch[2], latch_end[2]; /* numbers of each VCPU's latches, by the code's half */
	uint32_t half_latch;		 /* offset of a half of one that is free; 0: none */
	uint32_t count, count_end;	 /* numbers of each VCPU's counts */
};

struct code_cache;

/* code_bytes: 0 if nothing is going to be compiled. Sizes are rounded up to what works. */
int code_cache_create(struct code_cache **cc, struct gmem *gm, size_t data_bytes,
		      size_t code_bytes);
/* When no thread uses it any more. */
void code_cache_destroy(struct code_cache *cc);

/* Room for code that lives as long as the cache; writable addresses. */
uint8_t *code_stubs(struct code_cache *cc, size_t *size);
/* All memory that code runs in. */
const uint8_t *code_exec(const struct code_cache *cc, size_t *size);
/* Has that be writable, too, which a debugger's breakpoints need. 0 or -errno. */
int code_let_patch(const struct code_cache *cc);
/* Executable address - writable address. */
ptrdiff_t code_to_exec(const struct code_cache *cc);

/* A block, or NULL. gfn2: see struct block. */
struct block *code_find(const struct code_cache *cc, gpa_t gpa, uint32_t key, gfn_t gfn2);
/* Whether there is one with some second page. */
bool code_crosses(const struct code_cache *cc, gpa_t gpa, uint32_t key);

/*
 * Takes new room, whatever is left of the old. False: none for now, since VCPUs have yet to forget
 * what was in the oldest region. *retired: whether a region was given up for it.
 */
bool code_take_room(struct code_cache *cc, struct code_room *room, bool *retired);
/* 16-byte aligned, from the room's data; NULL if there is too little. */
void *code_alloc(struct code_room *room, size_t size);
/*
 * The number of a latch of each VCPU that runs the code, NO_LATCH if there is none left. Whoever
 * forgets the room's region clears its own latches.
 */
uint32_t code_alloc_latch(struct code_room *room, bool upper);
/* The same of a branch's, which is half of one, for code in either half: its offset in bytes. */
uint32_t code_alloc_branch_latch(struct code_room *room);
/* The same of a count of runs (struct cpu.bt_count), which may begin anywhere. */
#define NO_COUNT ~0u
uint32_t code_alloc_count(struct code_room *room);

/*
 * Lets others find a block that lies in the caller's room, decoded from bytes read after the code
 * words of its frames (word[1]: of gfn2) were seen to be these, both STABLE. Returns what is found
 * from now on: the block or an equal one; or NULL if it cannot be kept. Unless the block itself is
 * returned its memory is the caller's to use again.
 */
struct block *code_insert(struct code_cache *cc, const struct code_room *room, struct block *b,
			  const uint32_t word[2]);

/* Drops what was decoded from a frame if it has been stored to; how many blocks that were. */
unsigned code_drop(struct code_cache *cc, gfn_t gfn);
/* Drops what was decoded from any such frame. */
void code_drop_stale(struct code_cache *cc);
/* Drops everything. */
void code_drop_all(struct code_cache *cc);

/* For what the translator does to blocks under the lock. */
void code_lock(struct code_cache *cc);
void code_unlock(struct code_cache *cc);
/*
 * Lock held. Code compiled from b lies in the caller's room, with all it refers to: whether it may
 * be published. If so it is dropped with the block from now on.
 */
bool code_may_publish(struct code_cache *cc, const struct code_room *room, struct block *b);

#endif
