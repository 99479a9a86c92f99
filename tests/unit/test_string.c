/* String instructions against a model that does one element after the other. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>

#include "tests/unit/guest_cpu.h"

#define AREA	  (3 * PAGE_SIZE)
#define ROUNDS	  20000
#define MAX_INSNS 1000000

static int setup(void **state)
{
	*state = guest_cpu_create(true);
	return 0;
}

static int teardown(void **state)
{
	guest_cpu_destroy(*state);
	return 0;
}

enum op { MOVS, CMPS, STOS, LODS, SCAS, OPS };

static const uint8_t opcode[OPS] = {0xa4, 0xa6, 0xaa, 0xac, 0xae};

struct round {
	enum op op;
	unsigned size; /* log 2 */
	bool addr32, down;
	uint8_t rep; /* 0, 0xf2 or 0xf3 */
};

struct regs {
	uint64_t rax, rcx, rsi, rdi;
	bool cf, zf;
};

static uint64_t random64(void)
{
	static uint64_t x = 88172645463325252ull;

	x ^= x << 13;
	x ^= x >> 7;
	return x ^= x << 17;
}

static uint64_t get(const uint8_t *ram, uint64_t at, unsigned size)
{
	uint64_t v = 0;

	memcpy(&v, ram + at, 1u << size);
	return v;
}

static uint64_t advance(const struct round *r, uint64_t reg)
{
	reg += r->down ? -(1ll << r->size) : 1ll << r->size;
	return r->addr32 ? (uint32_t)reg : reg;
}

static void compare(struct regs *g, uint64_t a, uint64_t b)
{
	g->cf = a < b;
	g->zf = a == b;
}

static void element(const struct round *r, struct regs *g, uint8_t *ram)
{
	uint64_t mask = r->size == 3 ? ~0ull : (1ull << (8u << r->size)) - 1;
	uint64_t si = r->addr32 ? (uint32_t)g->rsi : g->rsi;
	uint64_t di = r->addr32 ? (uint32_t)g->rdi : g->rdi, v;

	switch (r->op) {
	case MOVS:
		v = get(ram, si, r->size);
		memcpy(ram + di, &v, 1u << r->size);
		break;
	case CMPS: compare(g, get(ram, si, r->size), get(ram, di, r->size)); break;
	case STOS: memcpy(ram + di, &g->rax, 1u << r->size); break;
	case LODS:
		v = get(ram, si, r->size);
		g->rax = r->size >= 2 ? v : (g->rax & ~mask) | v;
		break;
	default: compare(g, g->rax & mask, get(ram, di, r->size));
	}
	if (r->op != STOS && r->op != SCAS)
		g->rsi = advance(r, g->rsi);
	if (r->op != LODS)
		g->rdi = advance(r, g->rdi);
}

static void model(const struct round *r, struct regs *g, uint8_t *ram)
{
	if (!r->rep) {
		element(r, g, ram);
		return;
	}
	while (r->addr32 ? (uint32_t)g->rcx : g->rcx) {
		element(r, g, ram);
		g->rcx = r->addr32 ? (uint32_t)(g->rcx - 1) : g->rcx - 1;
		if ((r->op == CMPS || r->op == SCAS) && g->zf != (r->rep == 0xf3))
			break;
	}
}

static void write_code(uint8_t *p, const struct round *r)
{
	if (r->addr32)
		*p++ = 0x67;
	if (r->size == 1)
		*p++ = 0x66;
	if (r->rep)
		*p++ = r->rep;
	if (r->size == 3)
		*p++ = 0x48;
	*p++ = opcode[r->op] | (r->size > 0);
	*p = 0xf4;
}

/* Addresses from which the longest run stays in the area; often close to each other. */
static void choose_regs(const struct round *r, struct regs *g)
{
	uint64_t n = random64() % 4 ? random64() % 40 : random64() % 400, len = (n + 1) << r->size;
	uint64_t si = random64() % (AREA - len), di = random64() % (AREA - len);

	if (random64() % 2)
		di = MIN(si + random64() % 24, AREA - len);
	if (r->down) {
		si += len - (1u << r->size);
		di += len - (1u << r->size);
	}
	*g = (struct regs){.rax = random64() % 8 ? random64() : 0,
			   .rcx = n,
			   .rsi = DATA_GPA + si,
			   .rdi = DATA_GPA + di};
	/* Only the lower half counts with 32-bit addresses. */
	if (r->addr32 && n) {
		g->rcx |= random64() << 32;
		g->rsi |= random64() << 32;
		g->rdi |= random64() << 32;
	}
}

static void choose_memory(uint8_t *ram)
{
	uint64_t kind = random64() % 3;

	for (unsigned n = 0; n < AREA; n++)
		ram[DATA_GPA + n] = kind == 0 ? random64() : kind == 1 ? 0x11 : n % 3 == 0;
}

static void check_round(struct guest_cpu *g, uint8_t *copy)
{
	struct round r = {.op = random64() % OPS,
			  .size = random64() % 4,
			  .addr32 = random64() % 3 == 0,
			  .down = random64() % 2,
			  .rep = (uint8_t[]){0, 0xf2, 0xf3}[random64() % 3]};
	struct cpu *c = g->cpu;
	struct regs m;

	choose_regs(&r, &m);
	write_code(g->ram + CODE_GPA, &r);
	interp_drop_all(g->in);
	memcpy(copy, g->ram, RAM_SIZE);
	c->rip = CODE_GPA;
	c->gpr[RAX] = m.rax;
	c->gpr[RCX] = m.rcx;
	c->gpr[RSI] = m.rsi;
	c->gpr[RDI] = m.rdi;
	c->rflags = r.down ? FLAG_DF : 0;
	flags_set_arith(c, 0);
	model(&r, &m, copy);
	assert_int_equal(guest_cpu_run(g, MAX_INSNS, false), INTERP_HALT);
	assert_memory_equal(g->ram + DATA_GPA, copy + DATA_GPA, AREA);
	assert_int_equal(c->gpr[RAX], m.rax);
	assert_int_equal(c->gpr[RCX], m.rcx);
	assert_int_equal(c->gpr[RSI], m.rsi);
	assert_int_equal(c->gpr[RDI], m.rdi);
	assert_int_equal(flag_zf(c), m.zf);
	assert_int_equal(flag_cf(c), m.cf);
}

static void test_random(void **state)
{
	struct guest_cpu *g = *state;
	uint8_t *copy = malloc(RAM_SIZE);

	for (unsigned n = 0; n < ROUNDS; n++) {
		if (n % 100 == 0)
			choose_memory(g->ram);
		check_round(g, copy);
	}
	free(copy);
}

/* A fault in the middle leaves the registers at the element that faulted, also across pages. */
static void test_fault_in_the_middle(void **state)
{
	struct guest_cpu *g = *state;
	struct cpu *c = g->cpu;
	unsigned page = DATA_GPA >> PAGE_SHIFT;

	for (unsigned size = 0; size < 4; size++) {
		struct round r = {.op = MOVS, .size = size, .rep = 0xf3};
		uint64_t before = 100, n = 200, step = 1u << size;

		write_code(g->ram + CODE_GPA, &r);
		interp_drop_all(g->in);
		c->rip = CODE_GPA;
		c->gpr[RCX] = n;
		c->gpr[RSI] = DATA_GPA + 4 * PAGE_SIZE;
		c->gpr[RDI] = DATA_GPA + PAGE_SIZE - before * step;
		g->pt[page + 1] &= ~PTE_P;
		tlb_flush_all(&c->tlb);
		assert_int_equal(guest_cpu_run(g, MAX_INSNS, false), INTERP_EXCEPTION);
		assert_int_equal(c->exc.vector, EXC_PF);
		assert_int_equal(c->exc.cr2, DATA_GPA + PAGE_SIZE);
		assert_int_equal(c->rip, CODE_GPA);
		assert_int_equal(c->gpr[RCX], n - before);
		assert_int_equal(c->gpr[RSI], DATA_GPA + 4 * PAGE_SIZE + before * step);
		assert_int_equal(c->gpr[RDI], DATA_GPA + PAGE_SIZE);
		c->exc_pending = false;
		c->event = 0;
		g->pt[page + 1] |= PTE_P;
		assert_int_equal(guest_cpu_run(g, MAX_INSNS, false), INTERP_HALT);
		assert_int_equal(c->gpr[RCX], 0);
	}
}

#define TEST(fn) cmocka_unit_test_setup_teardown(fn, setup, teardown)

int main(void)
{
	const struct CMUnitTest tests[] = {TEST(test_random), TEST(test_fault_in_the_middle)};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
