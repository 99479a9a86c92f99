/* One program and the states that it starts from. */
#include "tests/diff/prog_gen.h"

const char *const prog_kind_names[PROG_KINDS] = {"flow",   "memory", "flags", "vector",
						 "string", "smc",    "mixed"};

void prog_filler(struct prog_gen *g)
{
	static void (*const fill[])(struct prog_gen * g) = {
		[PROG_FLOW] = fill_random,   [PROG_MEMORY] = fill_memory, [PROG_FLAGS] = fill_flags,
		[PROG_VECTOR] = fill_vector, [PROG_STRING] = fill_string, [PROG_SMC] = fill_patch,
	};
	unsigned kind = g->opt->kind;

	if (kind == PROG_MIXED || rng_chance(&g->r, 15))
		kind = rng_below(&g->r, ARRAY_SIZE(fill));
	/* Code may be stored to only where the sides are set up for it. */
	if (kind == PROG_SMC && !g->p->patches)
		kind = PROG_FLAGS;
	fill[kind](g);
}

static uint64_t draw_fuel(struct rng *r)
{
	switch (rng_below(r, 8)) {
	case 0: return 600 + rng_below(r, 600); /* recursion beyond the stack */
	case 1:
	case 2: return 40 + rng_below(r, 260);
	default: return 3 + rng_below(r, 40);
	}
}

/* Returns that nobody called for end the program: the stack is full of its end. */
static void fill_stack(const struct prog_gen *g, struct diff_state *st)
{
	const uint64_t end = CODE_BASE + g->p->offset[g->p->label_item[g->end]];

	for (unsigned n = 0; n < STACK_SIZE; n += 8)
		memcpy(st->stack + n, &end, 8);
}

static void draw_state(struct prog_gen *g, struct diff_state *st)
{
	static const uint8_t pointers[] = {RBX, RBP, R14};

	gen_state(&g->r, false, st);
	for (unsigned n = 0; n < sizeof(pointers); n++)
		st->gpr[pointers[n]] = gen_address(&g->r);
	st->gpr[FUEL] = draw_fuel(&g->r);
	st->gpr[RSP] = STACK_BASE + STACK_SIZE - 8 * (8 + rng_below(&g->r, 64));
	fill_stack(g, st);
}

/* Gaps between functions are given up if the code would not fit with them. */
static void fit(struct program *p)
{
	size_t at = 0;

	for (unsigned n = 0; n < p->count; n++)
		at = MAX(at, p->item[n].place) + p->item[n].len;
	for (unsigned n = 0; n < p->count && at >= CODE_SIZE - 64; n++)
		p->item[n].place = 0;
}

static void draw_pace(struct rng *r, struct guest_pace *pace)
{
	*pace = (struct guest_pace){.seed = rng_next(r)};
	if (rng_chance(r, 40))
		pace->slice = 1 + rng_below(r, 100);
	pace->disturb = rng_chance(r, 30);
}

void prog_generate(struct program *p, uint64_t seed, const struct prog_options *opt)
{
	struct prog_gen g = {.p = p, .opt = opt, .r = {rng_next(&(struct rng){seed})}};
	static struct diff_image scratch;

	ZydisDecoderInit(&g.dec, ZYDIS_MACHINE_MODE_LONG_64, ZYDIS_STACK_WIDTH_64);
	p->count = p->labels = p->ntable = 0;
	p->patches = opt->kind == PROG_SMC || opt->kind == PROG_MIXED;
	flow_program(&g);
	fit(p);
	prog_layout(p, &scratch);
	for (unsigned n = 0; n < ARRAY_SIZE(p->init); n++)
		draw_state(&g, &p->init[n]);
	draw_pace(&g.r, &p->pace);
}
