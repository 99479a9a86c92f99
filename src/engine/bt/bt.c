#include "src/engine/bt/bt.h"

#include <asm/prctl.h>
#include <stdlib.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <unistd.h>

#include "src/base/atomic.h"
#include "src/base/log.h"
#include "src/engine/bt/translate.h"

#define CODE_SIZE MIB(48)
#define HOT_SIZE  MIB(24)
#define META_SIZE MIB(64)
#define MAX_SLICE 30000u
/* Of the host's stack: guest calls that returns are predicted for, 24 bytes each. */
#define SHADOW_BYTES KIB(192)

/*
 * Two mappings of the same memory: an anonymous shared one, which perf looks up in its map of
 * symbols, and a copy that runs.
 */
static int map_code(struct bt *bt)
{
	bt->rw = mmap(NULL, bt->size, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
	if (bt->rw == MAP_FAILED)
		return -errno;
	bt->rx = mremap(bt->rw, 0, bt->size, MREMAP_MAYMOVE);
	if (bt->rx == MAP_FAILED || mprotect(bt->rx, bt->size, PROT_READ | PROT_EXEC))
		return -errno;
	return 0;
}

static void init_emit(struct bt *bt)
{
	ptrdiff_t to_exec = bt->rx - bt->rw;

	bt->e = (struct emit){.p = bt->rw, .end = bt->rw + HOT_SIZE, .to_exec = to_exec};
	bt->cold = (struct emit){.p = bt->e.end, .end = bt->rw + bt->size, .to_exec = to_exec};
	bt_emit_stubs(bt);
	bt->first = bt->e.p;
	bt->bc->no_native = e_exec(&bt->e, bt->stubs->no_native);
}

int bt_create(struct bt **out, struct block_cache *bc, const struct bt_config *cfg)
{
	struct bt *bt = calloc(1, sizeof(*bt));
	int r;

	if (!bt)
		return -ENOMEM;
	bt->bc = bc;
	bt->cpu = bc->cpu;
	bt->hot = cfg->hot;
	bt->counted = cfg->counted;
	bt->single = cfg->single;
	bt->log = cfg->log;
	bt->perf_map = cfg->perf_map;
	bt->size = CODE_SIZE;
	bt->meta_size = META_SIZE;
	host_isa_probe(&bt->isa);
	bt->stubs = calloc(1, sizeof(*bt->stubs));
	bt->tr_space = malloc(sizeof(*bt->tr_space));
	bt->meta = mmap(NULL, META_SIZE, PROT_READ | PROT_WRITE,
			MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
	r = bt->stubs && bt->tr_space && bt->meta != MAP_FAILED ? map_code(bt) : -ENOMEM;
	if (r) {
		log_err("cannot allocate the code buffer of a VCPU: %s", strerror(-r));
		bt_destroy(bt);
		return r;
	}
	ZydisDecoderInit(&bt->decoder, ZYDIS_MACHINE_MODE_LONG_64, ZYDIS_STACK_WIDTH_64);
	ZydisDecoderEnableMode(&bt->decoder, ZYDIS_DECODER_MODE_AMD_BRANCHES, ZYAN_TRUE);
	ZydisDecoderEnableMode(&bt->decoder, ZYDIS_DECODER_MODE_MPX, ZYAN_FALSE);
	init_emit(bt);
	bt->cpu->bt.self = bt->cpu;
	bt->cpu->bt.owner = bt;
	bt->cpu->bt.host_mxcsr = MXCSR_INIT;
	*out = bt;
	return 0;
}

void bt_destroy(struct bt *bt)
{
	if (!bt)
		return;
	if (bt->rw && bt->rw != MAP_FAILED)
		munmap(bt->rw, bt->size);
	if (bt->rx && bt->rx != MAP_FAILED)
		munmap(bt->rx, bt->size);
	if (bt->meta && bt->meta != MAP_FAILED)
		munmap(bt->meta, bt->meta_size);
	free(bt->tr_space);
	free(bt->stubs);
	free(bt);
}

void bt_enter_thread(struct cpu *cpu)
{
	syscall(SYS_arch_prctl, ARCH_SET_GS, cpu);
}

void bt_flush(struct bt *bt)
{
	bt->e.p = bt->first;
	bt->cold.p = bt->rw + HOT_SIZE;
	bt->meta_used = 0;
	tlb_clear_latches(&bt->cpu->tlb);
	bt->latches = bt->cpu->tlb.latches.used = 0;
	bt->redo = NULL;
	bt->cpu->bt.exit = NULL;
}

void *bt_meta_alloc(struct bt *bt, size_t size)
{
	void *p = bt->meta + bt->meta_used;

	size = ALIGN_UP(size, 16);
	if (bt->meta_used + size > bt->meta_size)
		return NULL;
	bt->meta_used += size;
	return p;
}

uint32_t bt_latch_alloc(struct bt *bt)
{
	if (bt->latches == LATCHES)
		return NO_LATCH;
	bt->cpu->tlb.latches.used = bt->latches + 1;
	return bt->latches++;
}

static void divert(struct bt *bt, uint8_t *from, uint8_t *to)
{
	struct emit e = {.p = from - bt->e.to_exec, .end = from - bt->e.to_exec + 5};

	e_jmp_to(&e, to - bt->e.to_exec);
}

/* The unit is compiled again, and whoever comes by the old code is sent to the new. */
static void redo(struct bt *bt)
{
	struct block *unit = bt->redo;
	uint8_t *near = unit->native, *far = unit->far_native;

	bt->redo = NULL;
	if (!bt_translate(bt, unit))
		return;
	divert(bt, near, unit->native);
	if (far != near)
		divert(bt, far, unit->far_native);
}

static void finish(struct bt *bt)
{
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

void bt_enter_block(struct bt *bt)
{
	struct cpu *c = bt->cpu;

	c->bt.page = c->rip & PAGE_MASK;
	c->bt.key = block_jump_key(bt->bc, c->rip, 0);
	c->bt.salt = block_jump_salt(c, c->rip);
	c->bt.flags = bt_flags_pack(c);
}

void bt_run(struct bt *bt, const struct block *b, uint32_t max_insns)
{
	struct cpu *c = bt->cpu;
	void (*enter)(void *native) = (void (*)(void *))e_exec(&bt->e, bt->stubs->enter);

	c->bt.jump = bt->bc->jump;
	bt_enter_block(bt);
	c->bt.exit = NULL;
	c->bt.branch = NULL;
	/* At least one unit runs, or a caller with a small budget would not get on. */
	bt->slice = MAX(MIN(max_insns, MAX_SLICE), UNIT_MAX_INSNS);
	c->bt.left = bt->slice;
	bt->in_cpu = false;
	bt->running = true;
	enter(b->native);
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

void bt_landed(struct bt *bt)
{
	finish(bt);
	bt->cpu->bt.exit = NULL;
}

void bt_link(struct bt *bt, const struct block *next)
{
	const struct bt_exit *x = bt->cpu->bt.exit;

	bt->cpu->bt.exit = NULL;
	if (next->native && next->gpa == x->gpa && next->key == x->key && !bt->single)
		e_patch(x->jump,
			(uint8_t *)(x->mem ? next->far_native : next->native) - bt->e.to_exec);
}

void bt_unlink(struct bt *bt)
{
	bt->cpu->bt.exit = NULL;
}
