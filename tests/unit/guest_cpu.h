/*
 * One CPU with the interpreter over a little RAM, for tests that run a few instructions: long mode
 * with 4 KiB pages mapped one to one, or real mode. The code is assembled by the test's compiler.
 */
#ifndef TESTS_GUEST_CPU_H
#define TESTS_GUEST_CPU_H

#include <stdlib.h>
#include <sys/mman.h>

#include "src/base/rcu.h"
#include "src/engine/interp/interp.h"

#define RAM_SIZE   MIB(1)
#define CODE_GPA   0x10000u
#define DATA_GPA   0x20000u
#define STACK_TOP  0x30000u
#define TABLES_GPA 0x80000u
#define GDT_GPA	   0x7000u
#define IDT_GPA	   0x6000u

/* 64-bit machine code between name_code and name_end; .code16 and the like may be used inside. */
#define CODE(name, text)                                                           \
	__asm__(".pushsection .rodata\n" #name "_code:\n" text "\n.code64\n" #name \
		"_end:\n.popsection\n");                                           \
	extern const uint8_t name##_code[], name##_end[];

struct guest_cpu {
	struct cpu *cpu;
	struct interp *in;
	struct gmem gm;
	struct stats stats;
	struct shootdown_queue queue;
	struct shootdown_sink sink;
	uint8_t *ram;
	uint64_t *pt; /* entry n maps page n; present, writable, user */
	uint32_t requests;
	bool stop_on_exception;
};

static void guest_cpu_message(void *arg, enum shootdown_kind kind, uint64_t value)
{
	struct guest_cpu *g = arg;

	switch (kind) {
	case SHOOTDOWN_DROP_CODE: interp_drop_code(g->in, value); break;
	case SHOOTDOWN_PROTECT: tlb_protect_gfn(&g->cpu->tlb, value); break;
	case SHOOTDOWN_FORGET_CODE: interp_forget_code(g->in); break;
	case SHOOTDOWN_FLUSH_TLB: tlb_flush_all(&g->cpu->tlb); break;
	}
}

static void guest_cpu_everything(void *arg)
{
	struct guest_cpu *g = arg;

	interp_drop_stale(g->in);
	tlb_flush_all(&g->cpu->tlb);
}

static void guest_cpu_kick(void *arg)
{
}

static inline void guest_cpu_tables(struct guest_cpu *g)
{
	uint64_t *t = (uint64_t *)(g->ram + TABLES_GPA);

	t[0] = (TABLES_GPA + 0x1000) | PTE_P | PTE_W | PTE_U;
	t[512] = (TABLES_GPA + 0x2000) | PTE_P | PTE_W | PTE_U;
	t[1024] = (TABLES_GPA + 0x3000) | PTE_P | PTE_W | PTE_U;
	g->pt = t + 1536;
	for (unsigned n = 0; n < 512; n++)
		g->pt[n] = (uint64_t)n << PAGE_SHIFT | PTE_P | PTE_W | PTE_U;
}

static inline void guest_cpu_long_mode(struct guest_cpu *g)
{
	struct cpu *c = g->cpu;

	guest_cpu_tables(g);
	c->cr0 = CR0_PE | CR0_PG | CR0_WP | CR0_NE;
	c->cr4 = CR4_PAE | CR4_PGE;
	c->cr3 = TABLES_GPA;
	c->efer = EFER_LME | EFER_LMA | EFER_NXE;
	for (unsigned s = SEG_ES; s <= SEG_GS; s++)
		c->seg[s] = (struct seg){.sel = s == SEG_CS ? 8 : 16,
					 .limit = ~0u,
					 .attr = SEG_P | SEG_S | SEG_RW | SEG_A | SEG_G |
						 (s == SEG_CS ? SEG_CODE | SEG_L : SEG_DB)};
	c->idtr = (struct dtable){.base = IDT_GPA};
	c->rip = CODE_GPA;
	c->gpr[RSP] = STACK_TOP;
	tlb_flush_all(&c->tlb);
	cpu_update_ctx(c);
}

static inline void set_cpl(struct cpu *c, unsigned cpl)
{
	static const uint8_t segs[] = {SEG_CS, SEG_SS};

	for (unsigned n = 0; n < ARRAY_SIZE(segs); n++) {
		struct seg *s = &c->seg[segs[n]];

		s->attr = (s->attr & ~SEG_DPL) | cpl << SEG_DPL_SHIFT;
		s->sel = (s->sel & ~3u) | cpl;
	}
	c->cpl = cpl;
	cpu_update_ctx(c);
}

static inline void allow_syscall(struct cpu *c, uint64_t entry)
{
	c->star = 0x0018000800000000ull;
	c->lstar = entry;
	c->efer |= EFER_SCE;
}

static inline struct guest_cpu *guest_cpu_create(bool stop_on_exception)
{
	struct guest_cpu *g = aligned_alloc(64, ALIGN_UP(sizeof(*g), 64));
	struct memslot slot = {.size = RAM_SIZE};
	struct shootdown_queue *q = &g->queue;
	struct interp_config cfg = {.self = 0,
				    .requests = &g->requests,
				    .cache_bytes = MIB(1),
				    .stop_on_exception = stop_on_exception};

	memset(g, 0, sizeof(*g));
	g->stop_on_exception = stop_on_exception;
	rcu_thread_init();
	g->ram = mmap(NULL, RAM_SIZE, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
	assert_ptr_not_equal(g->ram, MAP_FAILED);
	slot.hva = (hva_t)g->ram;
	assert_int_equal(gmem_init(&g->gm), 0);
	assert_int_equal(gmem_add_slot(&g->gm, &slot), 0);
	shootdown_queue_init(q, guest_cpu_kick, NULL);
	assert_int_equal(gmem_set_queues(&g->gm, &q, 1), 0);
	g->cpu = cpu_alloc(sizeof(*g->cpu));
	assert_non_null(g->cpu);
	g->cpu->gmem = &g->gm;
	g->cpu->stats = &g->stats;
	assert_int_equal(cpu_init(g->cpu), 0);
	assert_int_equal(interp_create(&g->in, g->cpu, &cfg), 0);
	g->sink = (struct shootdown_sink){guest_cpu_message, guest_cpu_everything, g};
	shootdown_online(&g->queue, &g->sink);
	guest_cpu_long_mode(g);
	return g;
}

/* Has the CPU run on compiled code, on this thread, in the way that cfg says. */
static inline void guest_cpu_translate_as(struct guest_cpu *g, struct interp_config cfg)
{
	cfg.requests = &g->requests;
	cfg.cache_bytes = MIB(1);
	cfg.stop_on_exception = g->stop_on_exception;
	cfg.translate = true;
	interp_destroy(g->in);
	assert_int_equal(interp_create(&g->in, g->cpu, &cfg), 0);
	interp_enter_thread(g->in);
}

/* What was interpreted so often is compiled, and, if check is set, all of it checked. */
static inline void guest_cpu_translate_after(struct guest_cpu *g, unsigned runs, bool check)
{
	guest_cpu_translate_as(
		g, (struct interp_config){.translate_after = runs, .check_every = check});
}

static inline void guest_cpu_translate(struct guest_cpu *g, bool check)
{
	guest_cpu_translate_after(g, 1, check);
}

static inline void guest_cpu_destroy(struct guest_cpu *g)
{
	interp_destroy(g->in);
	cpu_fini(g->cpu);
	gmem_fini(&g->gm);
	munmap(g->ram, RAM_SIZE);
	rcu_thread_exit();
	cpu_free(g->cpu, sizeof(*g->cpu));
	free(g);
}

#define guest_cpu_load(g, gpa, name) \
	memcpy((g)->ram + (gpa), name##_code, (size_t)(name##_end - name##_code))

/* Runs through yields, draining as a VCPU does, until anything else happens. */
static inline enum interp_exit guest_cpu_run(struct guest_cpu *g, uint64_t max, bool exact)
{
	uint64_t stop = g->stats.instructions + max;
	enum interp_exit e;

	do {
		shootdown_drain(&g->queue, &g->sink);
		e = interp_run(g->in, stop - g->stats.instructions, exact);
	} while (e == INTERP_YIELD || e == INTERP_PAUSE);
	return e;
}

/* The same from an address on; whatever exception ended the last run is forgotten. */
static inline enum interp_exit guest_cpu_run_at(struct guest_cpu *g, uint64_t rip, uint64_t max)
{
	g->cpu->exc_pending = false;
	g->cpu->event = 0;
	g->cpu->rip = rip;
	return guest_cpu_run(g, max, false);
}

#endif
