#include "src/engine/interp/interp.h"

#include <stdlib.h>

#include "src/base/atomic.h"
#include "src/engine/bt/bt.h"
#include "src/engine/check/check.h"
#include "src/engine/interp/block.h"
#include "src/engine/interp/ops.h"
#include "src/x86/debug.h"
#include "src/x86/exc.h"

#define DEFAULT_CACHE MIB(64)
/* Exceptions delivered in one run, at most. */
#define MAX_DELIVERIES		1000
#define DEFAULT_TRANSLATE_AFTER 32

struct interp {
	struct cpu *cpu;
	const uint32_t *requests;
	bool stop_on_exception;
	bool inject;
	uint8_t inject_vector;
	unsigned deliveries;	       /* in this run */
	struct block *running;	       /* whose instructions were counted in advance */
	struct interp_vm *vm, *own_vm; /* own_vm: if it is not shared */
	struct block_cache blocks;
	struct bt *bt;	     /* NULL: interpret only */
	struct check *check; /* NULL: none */
	uint32_t translate_after;
};

struct interp_vm {
	struct code_cache *code;
	struct bt_stubs *stubs; /* NULL: interpret only */
};

static const uint32_t no_requests;

int interp_vm_create(struct interp_vm **out, struct gmem *gm, const struct interp_config *cfg)
{
	const struct bt_options opt = {.single = cfg->check_every,
				       .exact_flags = cfg->exact_flags,
				       .gdb_jit = cfg->gdb_jit};
	size_t bytes = cfg->cache_bytes ? cfg->cache_bytes : DEFAULT_CACHE;
	struct interp_vm *vm = calloc(1, sizeof(*vm));
	int r;

	if (!vm)
		return -ENOMEM;
	r = code_cache_create(&vm->code, gm, bytes, cfg->translate ? bytes : 0);
	if (!r && cfg->translate)
		r = bt_stubs_create(&vm->stubs, vm->code, &opt);
	if (r) {
		interp_vm_destroy(vm);
		return r;
	}
	*out = vm;
	return 0;
}

void interp_vm_destroy(struct interp_vm *vm)
{
	if (!vm)
		return;
	bt_stubs_destroy(vm->stubs);
	code_cache_destroy(vm->code);
	free(vm);
}

static int create_bt(struct interp *in, const struct interp_config *cfg)
{
	struct bt_config bt = {.stubs = in->vm->stubs,
			       .counted = !cfg->until_kicked,
			       .deliver = !cfg->stop_on_exception,
			       .log = cfg->bt_log,
			       .perf_map = cfg->perf_map};
	int r;

	in->translate_after = cfg->translate_after ? cfg->translate_after : DEFAULT_TRANSLATE_AFTER;
	bt.hot = in->translate_after / 2;
	r = bt_create(&in->bt, &in->blocks, &bt);
	if (!r && cfg->check_every)
		r = check_create(&in->check, in->cpu, cfg->check_every, cfg->exact_flags);
	return r;
}

int interp_create(struct interp **out, struct cpu *cpu, const struct interp_config *cfg)
{
	struct interp *in = calloc(1, sizeof(*in));
	int r = 0;

	if (!in)
		return -ENOMEM;
	in->cpu = cpu;
	in->requests = cfg->requests ? cfg->requests : &no_requests;
	in->stop_on_exception = cfg->stop_on_exception;
	in->vm = cfg->vm;
	if (!in->vm) {
		r = interp_vm_create(&in->own_vm, cpu->gmem, cfg);
		in->vm = in->own_vm;
	}
	if (!r)
		r = block_cache_init(&in->blocks, cpu, cfg->self, in->vm->code);
	if (!r && cfg->translate)
		r = create_bt(in, cfg);
	if (r) {
		interp_destroy(in);
		return r;
	}
	*out = in;
	return 0;
}

void interp_destroy(struct interp *in)
{
	if (!in)
		return;
	check_destroy(in->check);
	bt_destroy(in->bt);
	block_cache_fini(&in->blocks);
	interp_vm_destroy(in->own_vm);
	free(in);
}

struct check *interp_check(struct interp *in)
{
	return in->check;
}

void interp_enter_thread(struct interp *in)
{
	if (in->bt)
		bt_enter_thread(in->bt);
}

/* After blocks were forgotten. */
static void forget(struct interp *in)
{
	if (in->bt)
		bt_unlink(in->bt);
	if (in->check)
		check_forget(in->check);
}

void interp_drop_code(struct interp *in, gfn_t gfn)
{
	block_cache_drop(&in->blocks, gfn);
	forget(in);
}

void interp_forget_code(struct interp *in)
{
	block_cache_forget_room(&in->blocks);
	forget(in);
}

void interp_drop_stale(struct interp *in)
{
	code_drop_stale(in->vm->code);
	interp_forget_code(in);
}

void interp_drop_all(struct interp *in)
{
	code_drop_all(in->vm->code);
	block_cache_forget(&in->blocks);
	forget(in);
}

void interp_inject(struct interp *in, uint8_t vector)
{
	in->inject = true;
	in->inject_vector = vector;
}

bool interp_interruptible(const struct interp *in)
{
	const struct cpu *c = in->cpu;

	return !in->inject && !c->exc_pending &&
	       !(c->event & (CPU_EVENT_SHADOW | CPU_EVENT_SS_SHADOW | CPU_EVENT_EXC));
}

/* --- ends of blocks -------------------------------------------------------------------------- */

OP(op_end)
{
	uint64_t rip = c->gpr[REG_PC] + i->off;

	c->rip = i->mode == 8 ? rip : i->mode == 4 ? (uint32_t)rip : (uint16_t)rip;
}

/* How many instructions of the block lie behind slot i. */
static unsigned insns_behind(const struct block *b, const struct insn *i)
{
	unsigned done = 0;

	for (const struct insn *s = b->slot; s <= i; s++)
		if (s->exec != op_vector)
			done++;
	return b->insns - done;
}

OP(op_break)
{
	c->uncount = i;
	c->rip = next_rip(c, i);
}

OP(op_restart)
{
	uint64_t rip = c->gpr[REG_PC] + i->off;

	c->uncount = i;
	c->rip = i->mode == 8 ? rip : i->mode == 4 ? (uint32_t)rip : (uint16_t)rip;
}

/* --- the loop --------------------------------------------------------------------------------- */

/* Takes back what was counted but not run. */
static void uncount(struct interp *in, const struct insn *i)
{
	in->cpu->stats->instructions -= insns_behind(in->running, i);
}

static void landed(struct interp *in)
{
	struct cpu *c = in->cpu;

	if (in->bt && bt_running(in->bt)) {
		bt_landed(in->bt);
	} else if (in->running) {
		/* INT n is the last of its block; while it is delivered cur points elsewhere. */
		if (!c->delivering)
			uncount(in, c->cur);
		c->stats->instructions--;
		in->running = NULL;
	}
	exc_landed(c);
}

/* Traps that are due after an instruction; returns true if one was delivered. */
static bool debug_traps(struct cpu *c)
{
	uint64_t bits = 0;

	if (c->event & CPU_EVENT_TF)
		bits |= DR6_BS;
	if (c->event & CPU_EVENT_DATA_BP)
		bits |= c->dr6_pending;
	if (!bits || (c->event & CPU_EVENT_SS_SHADOW))
		return false;
	c->event &= ~(CPU_EVENT_TF | CPU_EVENT_DATA_BP);
	c->dr6_pending = 0;
	exc_debug_trap(c, bits);
	return true;
}

/* A code breakpoint is a fault before the instruction; RF holds it off once. */
static void code_breakpoint(struct cpu *c)
{
	gva_t rip = cpu_code64(c) ? c->rip : (uint32_t)(c->seg[SEG_CS].base + c->rip);
	uint32_t bits = debug_code_match(c, rip);

	if (bits && !(c->rflags & FLAG_RF))
		exc_debug_trap(c, bits);
}

/* One instruction with everything that may happen around it. */
static void run_single(struct interp *in)
{
	struct cpu *c = in->cpu;
	uint32_t shadow = c->event & (CPU_EVENT_SHADOW | CPU_EVENT_SS_SHADOW);
	uint32_t rf, tf;
	uint64_t rip;
	struct block *b;

	if (debug_active(c))
		code_breakpoint(c);
	c->gpr[REG_PC] = rip = c->rip;
	b = block_find(&in->blocks, c->rip, BLOCK_SINGLE);
	c->event &= ~shadow;
	c->stats->instructions++;
	tf = c->rflags & FLAG_TF;
	rf = c->rflags & FLAG_RF;
	/* Cleared before, for IRET may set it. */
	c->rflags &= ~FLAG_RF;
	in->running = b;
	c->uncount = NULL;
	c->no_step = false;
	b->slot[0].exec(c, &b->slot[0]);
	in->running = NULL;
	/* A string instruction left between two iterations is still the same instruction. */
	if (c->uncount && c->rip == rip)
		c->rflags |= rf;
	if (tf && !c->no_step)
		c->event |= CPU_EVENT_TF;
}

static bool needs_single(const struct cpu *c, uint64_t left, bool exact)
{
	return (c->event & (CPU_EVENT_SHADOW | CPU_EVENT_SS_SHADOW)) || (c->rflags & FLAG_TF) ||
	       debug_active(c) || (exact && left < BLOCK_MAX_INSNS);
}

/* Compiles a block that is often run. False: it is to be interpreted. */
static bool compile(struct interp *in, struct block *b)
{
	uint32_t heat;

	if (!b->code || !(b->key & SEG_L))
		return false;
	/* Counts of other VCPUs may get lost. */
	heat = atomic_load_relaxed(&b->heat) + 1;
	atomic_store_relaxed(&b->heat, heat);
	/* From then on to see how fast they come: what was long ago does not count. */
	if (heat == (in->translate_after + 1) / 2)
		atomic_store_relaxed(&b->time, code_now());
	if (heat != in->translate_after)
		return false;
	if (!bt_translate(in->bt, b))
		atomic_store_relaxed(&b->heat, 0); /* no room for now */
	return atomic_load_acquire(&b->native);
}

/* Runs a block as host code, which may have to be made first. False: interpret it. */
static bool run_translated(struct interp *in, struct block *b, uint64_t left)
{
	struct jump_entry *j = block_jump_entry(&in->blocks, in->cpu->rip);

	if (!atomic_load_acquire(&b->native) && !compile(in, b))
		return false;
	/* Perhaps it was compiled, by whomever, since the entry was made. */
	if (j->block == b)
		j->native = block_entry(&in->blocks, b);
	if (in->cpu->bt.exit || in->cpu->bt.far_exit)
		bt_link(in->bt, b);
	bt_unkick(in->bt);
	if (!atomic_load_seq(in->requests)) {
		if (unlikely(in->check))
			check_begin(in->check, b);
		bt_run(in->bt, b, MIN(left, UINT32_MAX));
	}
	return true;
}

/* Behind compiled code, left one way or the other: was it wrong? */
static bool differs(struct interp *in)
{
	return in->check && !check_end(in->check);
}

/* Whether what the run loop waits for could be injected now. */
static bool window_open(const struct interp *in)
{
	const struct cpu *c = in->cpu;
	bool irq = (c->event & CPU_EVENT_WINDOW) && (c->rflags & FLAG_IF);
	bool nmi = (c->event & CPU_EVENT_NMI_WINDOW) && !c->nmi_blocked;

	return (irq || nmi) && interp_interruptible(in);
}

/*
 * A delivery may raise the next exception for ever (an alignment check or a data breakpoint on the
 * handler's stack), with no instruction in between that would be counted or let a request through.
 */
static bool endless(struct interp *in)
{
	return atomic_load_relaxed(in->requests) || ++in->deliveries > MAX_DELIVERIES;
}

static enum interp_exit run(struct interp *in, uint64_t max_insns, bool exact)
{
	struct cpu *const c = in->cpu;
	struct block_cache *const bc = &in->blocks;
	static const struct insn fetching = {.mode = 8};
	const uint64_t stop = c->stats->instructions + max_insns;
	jmp_buf env;

	in->deliveries = 0;
	c->unwind = &env;
	if (_setjmp(env))
		landed(in);
	if (differs(in))
		return INTERP_DIFFERS;
	if (in->inject) {
		in->inject = false;
		exc_interrupt(c, in->inject_vector);
	}
	for (;;) {
		struct block *b;

		if (unlikely(c->event)) {
			if (c->event & CPU_EVENT_SHUTDOWN)
				return INTERP_SHUTDOWN;
			if (c->event & CPU_EVENT_EXC) {
				if (in->stop_on_exception)
					return INTERP_EXCEPTION;
				if (endless(in))
					return INTERP_BUDGET;
				exc_deliver(c);
				continue;
			}
			if ((c->event & (CPU_EVENT_TF | CPU_EVENT_DATA_BP)) && endless(in))
				return INTERP_BUDGET;
			if (debug_traps(c))
				continue;
			if (c->event & CPU_EVENT_HALT) {
				c->event &= ~CPU_EVENT_HALT;
				return INTERP_HALT;
			}
			if (c->event & CPU_EVENT_PAUSE) {
				c->event &= ~CPU_EVENT_PAUSE;
				return INTERP_PAUSE;
			}
			if (c->event & CPU_EVENT_YIELD) {
				c->event &= ~CPU_EVENT_YIELD;
				return INTERP_YIELD;
			}
			if (window_open(in)) {
				c->event &= ~(CPU_EVENT_WINDOW | CPU_EVENT_NMI_WINDOW);
				return INTERP_YIELD;
			}
		}
		if (unlikely(atomic_load_relaxed(in->requests)))
			return INTERP_REQUEST;
		if (unlikely(c->stats->instructions >= stop))
			return INTERP_BUDGET;
		/* A fault in fetching belongs to the instruction at rip. */
		c->gpr[REG_PC] = c->rip;
		c->cur = &fetching;
		if (unlikely(needs_single(c, stop - c->stats->instructions, exact))) {
			run_single(in);
			continue;
		}
		b = block_find(bc, c->rip, 0);
		c->rflags &= ~FLAG_RF;
		if (in->bt && !exact && run_translated(in, b, stop - c->stats->instructions)) {
			if (unlikely(differs(in)))
				return INTERP_DIFFERS;
			continue;
		}
		c->stats->instructions += b->insns;
		in->running = b;
		c->uncount = NULL;
		b->slot[0].exec(c, &b->slot[0]);
		if (unlikely(c->uncount))
			uncount(in, c->uncount);
		in->running = NULL;
	}
}

enum interp_exit interp_run(struct interp *in, uint64_t max_insns, bool exact)
{
	enum interp_exit e = run(in, max_insns, exact);

	if (in->bt)
		bt_show(in->bt);
	return e;
}
