#include "src/engine/bt/bt.h"

#include <asm/prctl.h>
#include <stdlib.h>
#include <sys/syscall.h>
#include <unistd.h>

#include "src/base/atomic.h"
#include "src/engine/bt/translate.h"

#define MAX_SLICE    30000u
#define HUGE_CYCLES  (1u << 28) /* a tenth of a second, about */
#define HUGE_LATCHES (LATCHES / CPU_HUGE_LATCHES)
#define HUGE_WORTH   8 /* one used page of so many makes a huge one worth it */
/* Of the host's stack: guest calls that returns are predicted for, 24 bytes each. */
#define SHADOW_BYTES KIB(192)
_Static_assert(SHADOW_BYTES < 1 << GDB_JIT_REACH_BITS, "with room for what lies below");

int bt_stubs_create(struct bt_stubs **out, struct code_cache *code, const struct bt_options *opt)
{
	struct bt_stubs *s = calloc(1, sizeof(*s));
	size_t size;
	int r;

	if (!s)
		return -ENOMEM;
	s->single = opt->single;
	s->exact_flags = opt->exact_flags;
	host_isa_probe(&s->isa);
	s->e.p = code_stubs(code, &size);
	s->e.end = s->e.p + size;
	s->e.to_exec = code_to_exec(code);
	bt_emit_stubs(s);
	r = opt->gdb_jit ? gdb_jit_create(&s->gdb_jit, code, s) : 0;
	if (r) {
		bt_stubs_destroy(s);
		return r;
	}
	*out = s;
	return 0;
}

void bt_stubs_destroy(struct bt_stubs *s)
{
	if (s)
		gdb_jit_destroy(s->gdb_jit);
	free(s);
}

int bt_create(struct bt **out, struct block_cache *bc, const struct bt_config *cfg)
{
	struct bt *bt = calloc(1, sizeof(*bt));

	if (!bt)
		return -ENOMEM;
	bt->tr_space = malloc(sizeof(*bt->tr_space));
	if (!bt->tr_space) {
		free(bt);
		return -ENOMEM;
	}
	bt->stubs = cfg->stubs;
	bt->bc = bc;
	bt->cpu = bc->cpu;
	bt->hot = cfg->hot;
	bt->counted = cfg->counted;
	bt->deliver = cfg->deliver && !cfg->stubs->single;
	bt->log = cfg->log;
	bt->perf_map = cfg->perf_map;
	bt->e.to_exec = bt->cold.to_exec = code_to_exec(bc->code);
	bc->no_native = e_exec(&bt->e, bt->stubs->no_native);
	ZydisDecoderInit(&bt->decoder, ZYDIS_MACHINE_MODE_LONG_64, ZYDIS_STACK_WIDTH_64);
	ZydisDecoderEnableMode(&bt->decoder, ZYDIS_DECODER_MODE_AMD_BRANCHES, ZYAN_TRUE);
	ZydisDecoderEnableMode(&bt->decoder, ZYDIS_DECODER_MODE_MPX, ZYAN_FALSE);
	bt->cpu->bt.self = bt->cpu;
	bt->cpu->bt.owner = bt;
	bt->cpu->bt.host_mxcsr = MXCSR_INIT;
	bt->gdb_cpu.base = &bt->cpu->bt.host_rsp;
	if (bt->stubs->gdb_jit)
		gdb_jit_add_cpu(bt->stubs->gdb_jit, &bt->gdb_cpu);
	*out = bt;
	return 0;
}

void bt_destroy(struct bt *bt)
{
	if (!bt)
		return;
	if (bt->stubs->gdb_jit)
		gdb_jit_remove_cpu(bt->stubs->gdb_jit, &bt->gdb_cpu);
	free(bt->tr_space);
	free(bt);
}

void bt_enter_thread(struct bt *bt)
{
	syscall(SYS_arch_prctl, ARCH_SET_GS, bt->cpu);
	if (!bt->counted)
		cpu_huge_caches(bt->cpu);
}

/* Latches go to a huge page if enough of the pieces that it holds, a page each, are used. */
static void huge_latches(struct bt *bt, bool upper, unsigned n)
{
	const unsigned pieces = CPU_HUGE_LATCHES / LATCH_PIECE;
	const uint8_t *touched = &bt->cpu->tlb.latches.touched[upper][n * pieces];
	unsigned used = 0;

	_Static_assert(HUGE_LATCHES <= 8, "bits");
	if (bt->huge[upper] >> n & 1)
		return;
	for (unsigned k = 0; k < pieces; k++)
		used += touched[k];
	if (used < pieces / HUGE_WORTH)
		return;
	bt->huge[upper] |= 1u << n;
	cpu_huge_latches(bt->cpu, upper, n * CPU_HUGE_LATCHES);
}

/* Every so often. */
static void make_huge(struct bt *bt)
{
	uint64_t now = __builtin_ia32_rdtsc();

	if (likely(now < bt->huge_next))
		return;
	bt->huge_next = now + HUGE_CYCLES;
	if (bt->counted)
		return;
	for (unsigned n = 0; n < HUGE_LATCHES; n++) {
		huge_latches(bt, true, n);
		huge_latches(bt, false, n);
	}
}

/* The unit is compiled again: every VCPU that looks it up or jumps to it comes to the new code. */
static void redo(struct bt *bt)
{
	struct block *unit = bt->redo;

	bt->redo = NULL;
	/* What VCPUs find of the unit is former code once more. */
	bt->refreshed = NULL;
	if (bt_translate(bt, unit))
		return;
	/* No room now: once more, when it is found wanting again. */
	atomic_store_relaxed(&unit->any_half, false);
	atomic_store_relaxed(&unit->narrow, 0);
	atomic_store_relaxed(&unit->by_hand, 0);
	atomic_store_relaxed(&unit->lookups, 0);
	/* It may have been about to get latches. */
	atomic_store_relaxed(&unit->seldom, true);
}

static void finish(struct bt *bt)
{
	bt_of_code(bt->cpu);
	if (bt->counted)
		bt->cpu->stats->instructions += bt->slice - bt->cpu->bt.left;
	bt->running = false;
	if (unlikely(bt->redo))
		redo(bt);
}

/* Compiled code branched to a non-canonical address: the branch is undone, its handler faults. */
static void refault(struct bt *bt, struct bt_site *branch)
{
	struct cpu *c = bt->cpu;

	c->gpr[RSP] += branch->undo_rsp;
	c->gpr[REG_PC] = c->bt.page + branch->block_off;
	branch->slot[0].exec(c, &branch->slot[0]);
}

void bt_unkick(struct bt *bt)
{
	uintptr_t here = (uintptr_t)__builtin_frame_address(0);

	/* Before the caller reads what it may be kicked for: a kick after that is seen by the code.
	 */
	atomic_store_seq(&bt->cpu->bt.stack_limit, here - SHADOW_BYTES);
}

static void forget_exit(struct cpu *c)
{
	c->bt.exit = NULL;
	c->bt.far_exit = NULL;
}

void bt_run(struct bt *bt, const struct block *b, uint32_t max_insns)
{
	struct cpu *c = bt->cpu;
	void (*enter)(void *native) = (void (*)(void *))e_exec(&bt->e, bt->stubs->enter);

	make_huge(bt);
	if (!bt_same_place(bt))
		c->bt.kept_bytes = 0;
	bt_enter_block(bt);
	forget_exit(c);
	c->bt.branch = NULL;
	/* At least one unit runs, or a caller with a small budget would not get on. */
	bt->slice = MAX(MIN(max_insns, MAX_SLICE), UNIT_MAX_INSNS);
	c->bt.left = bt->slice;
	bt->in_cpu = false;
	bt->running = true;
	/* Another VCPU may be giving it better code: either will do. */
	enter(atomic_load_acquire(&b->native));
	finish(bt);
	/* A handler set rip itself, and raised what there was to raise. */
	if (bt->in_cpu)
		return;
	bt_flags_unpack(c, c->bt.flags);
	if (unlikely(!gva_canonical(c->rip) && c->bt.branch))
		refault(bt, c->bt.branch);
}

bool bt_running(const struct bt *bt)
{
	return bt->running;
}

void bt_show(struct bt *bt)
{
	if (bt->stubs->gdb_jit)
		gdb_jit_show(bt->stubs->gdb_jit);
}

void bt_landed(struct bt *bt)
{
	finish(bt);
	forget_exit(bt->cpu);
}

static void link_exit(struct bt *bt, struct bt_exit *x, struct block *next)
{
	if (next->gpa != x->gpa || next->key != x->key)
		return;
	/* Of a living block nothing has gone, and what two of a page have goes together. */
	if (next->gfn2 != NO_GFN) {
		/* It is there only while both of its pages are. */
		e_repatch(x->out, bt->stubs->elsewhere[x->mem]);
	} else if (!x->unit->dead && !next->dead && !x->joined) {
		x->joined = true;
		x->next = next->links;
		next->links = x;
		bt_join(&bt->e, x, next);
	}
}

static void link_far(struct bt *bt, struct bt_far *far, struct block *next)
{
	/* Something may have come in between. */
	if (bt->cpu->rip != bt->cpu->bt.far_rip || next->dead)
		return;
	/* Of two pages the second may be another one elsewhere. */
	if (next->gfn2 != NO_GFN || next->key != far->key ||
	    (far->gpa != NO_FAR_GPA && far->gpa != next->gpa)) {
		atomic_store_relaxed(&far->refused, next->far_native);
		return;
	}
	far->gpa = next->gpa;
	e_repatch(far->jump, (uint8_t *)next->far_native - bt->e.to_exec);
}

void bt_link(struct bt *bt, struct block *next)
{
	struct bt_exit *x = bt->cpu->bt.exit;
	struct bt_far *far = bt->cpu->bt.far_exit;

	forget_exit(bt->cpu);
	if (bt->stubs->single)
		return;
	code_lock(bt->bc->code);
	if (far)
		link_far(bt, far, next);
	else
		link_exit(bt, x, next);
	code_unlock(bt->bc->code);
}

void bt_unlink(struct bt *bt)
{
	forget_exit(bt->cpu);
	/* Nor is any on the stack: another thread may have that when the VCPU next runs. */
	bt->cpu->bt.host_rsp = 0;
}
