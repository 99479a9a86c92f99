/*
 * Scenarios for tests of compiled code: some code runs several rounds from states that differ, on
 * the interpreter and on the translator, and what they leave must be the same.
 */
#ifndef TESTS_BT_SCENARIO_H
#define TESTS_BT_SCENARIO_H

#include "tests/unit/guest_cpu.h"

#define MAX_INSNS  100000
#define ROUNDS	   56u
#define KERNEL_GPA (CODE_GPA + 0x1000)

struct outcome {
	enum interp_exit exit;
	uint64_t rip, gpr[16], flags, cr2;
	struct seg seg[SEG_GS + 1];
	uint32_t error, event;
	uint8_t cpl, vector;
	bool nmi_blocked;
	uint8_t data[64], stack[128];
};

struct scenario {
	const uint8_t *code, *code_end, *kernel, *kernel_end;
	/* Behind a common beginning: RIP at the code, CPL 0, registers by the round. */
	void (*prepare)(struct guest_cpu *g, unsigned round);
	bool once;	/* until the first exit, be it a yield */
	bool deliver;	/* exceptions, until HLT */
	unsigned after; /* compile what was interpreted so often, rather than at once */
};

#define SCENARIO(fn, text, prepare_fn, ...)                                                       \
	static const struct scenario fn##_scenario = {                                            \
		.code = text##_code, .code_end = text##_end, .prepare = prepare_fn, __VA_ARGS__}; \
	static void test_##fn(void **state)                                                       \
	{                                                                                         \
		compare(&fn##_scenario);                                                          \
	}
#define KERNEL(text) .kernel = text##_code, .kernel_end = text##_end

static void begin(struct guest_cpu *g, const struct scenario *s, unsigned round)
{
	struct cpu *c = g->cpu;

	guest_cpu_long_mode(g);
	c->exc_pending = c->delivering = false;
	c->event = 0;
	c->nmi_blocked = false;
	c->rflags = round & 1 ? FLAG_IF : 0;
	allow_syscall(c, KERNEL_GPA);
	c->sfmask = 0;
	for (unsigned r = 0; r < 16; r++)
		if (r != RSP)
			c->gpr[r] = (round + 1) * (r + 3) * 0x9e3779b97f4a7c15ull >> (r % 3 * 16);
	c->gpr[RDI] = DATA_GPA;
	c->gpr[R12] = 3 + round % 5;
	flags_set_arith(c, c->gpr[RAX]);
	memset(g->ram + DATA_GPA, round, 64);
	memset(g->ram + STACK_TOP - 128, 0, 128);
	set_cpl(c, 0);
	if (s->prepare)
		s->prepare(g, round);
	tlb_flush_all(&c->tlb);
	cpu_update_ctx(c);
}

static void take(struct guest_cpu *g, enum interp_exit exit, struct outcome *o)
{
	const struct cpu *c = g->cpu;

	memset(o, 0, sizeof(*o));
	o->exit = exit;
	o->rip = c->rip;
	memcpy(o->gpr, c->gpr, sizeof(o->gpr));
	o->flags = flags_get(c);
	memcpy(o->seg, c->seg, sizeof(o->seg));
	o->nmi_blocked = c->nmi_blocked;
	o->event = c->event;
	o->cpl = c->cpl;
	memcpy(o->data, g->ram + DATA_GPA, sizeof(o->data));
	memcpy(o->stack, g->ram + STACK_TOP - sizeof(o->stack), sizeof(o->stack));
	if (!c->exc_pending)
		return;
	o->vector = c->exc.vector;
	o->error = c->exc.has_error ? c->exc.error : 0;
	o->cr2 = c->exc.vector == EXC_PF ? c->exc.cr2 : 0;
	/* In the frame of a fault these may be any: scenarios store them before. */
	o->flags &= ~(uint64_t)FLAGS_ARITH;
}

static uint64_t fixed_tsc(struct cpu *cpu)
{
	return 0xfedcba9876543210ull;
}

static const struct cpu_ops ops = {.rdtsc = fixed_tsc};

static struct guest_cpu *create(bool translate, bool deliver)
{
	struct guest_cpu *g = guest_cpu_create(!deliver);

	if (translate)
		guest_cpu_translate(g, false);
	g->cpu->ops = &ops;
	return g;
}

static void run(const struct scenario *s, bool translate, struct outcome out[ROUNDS])
{
	struct guest_cpu *g = create(translate, s->deliver);

	if (translate && s->after)
		guest_cpu_translate_after(g, s->after, false);
	memcpy(g->ram + CODE_GPA, s->code, s->code_end - s->code);
	if (s->kernel)
		memcpy(g->ram + KERNEL_GPA, s->kernel, s->kernel_end - s->kernel);
	for (unsigned n = 0; n < ROUNDS; n++) {
		enum interp_exit e;

		begin(g, s, n);
		shootdown_drain(&g->queue, &g->sink);
		e = s->once ? interp_run(g->in, MAX_INSNS, false)
			    : guest_cpu_run(g, MAX_INSNS, false);
		take(g, e, &out[n]);
	}
	assert_int_equal(g->stats.blocks_compiled > 0, translate);
	guest_cpu_destroy(g);
}

static void compare(const struct scenario *s)
{
	static struct outcome want[ROUNDS], got[ROUNDS];

	run(s, false, want);
	run(s, true, got);
	for (unsigned n = 0; n < ROUNDS; n++) {
		for (unsigned r = 0; r < 16; r++)
			assert_int_equal(got[n].gpr[r], want[n].gpr[r]);
		assert_int_equal(got[n].exit, want[n].exit);
		assert_int_equal(got[n].vector, want[n].vector);
		assert_int_equal(got[n].rip, want[n].rip);
		assert_int_equal(got[n].flags, want[n].flags);
		assert_memory_equal(&got[n], &want[n], sizeof(want[n]));
	}
}

#define TEST(fn) cmocka_unit_test(test_##fn)

#endif
