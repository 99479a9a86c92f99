/*
 * The interpreter in long mode at CPL 3, with page tables that map the same addresses. Every vector
 * has a gate to a HLT of its own, so the run ends there with the exception's frame on the stack.
 */
#include <asm/prctl.h>
#include <stdlib.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <unistd.h>

#include "src/base/rcu.h"
#include "src/engine/interp/interp.h"
#include "src/x86/vec.h"
#include "tests/diff/diff.h"
#include "tests/diff/rng.h"

/* Guest-physical layout. */
enum {
	PML4 = 0x1000,
	PDPT_LOW = 0x2000,
	PD_LOW = 0x3000,
	PT_CODE = 0x4000,
	PT_DATA = 0x5000,
	PDPT_HIGH = 0x6000,
	PD_HIGH = 0x7000,
	PT_HIGH = 0x8000,
	SYSTEM = 0x9000, /* four supervisor pages: GDT and TSS, IDT, handlers, stack */
	CODE = 0x10000,
	DATA = 0x14000,
	RO = 0x16000,
	STACK = 0x17000,
	SAVED = 0x19000,
	TABLE = 0x1a000,
	RAM_SIZE = 0x20000,
};

#define SYSTEM_VA 0xffff900000000000ull
#define GDT_VA	  SYSTEM_VA
#define TSS_VA	  (SYSTEM_VA + 0x800)
#define IDT_VA	  (SYSTEM_VA + 0x1000)
#define HLT_VA	  (SYSTEM_VA + 0x2000)
#define STACK_TOP (SYSTEM_VA + 0x4000)
#define STACK_GPA (SYSTEM + 0x4000)

#define KERNEL_CS     0x08
#define HANDLER_SHIFT 4
#define MAX_INSNS     1000000

struct guest {
	struct cpu *cpu;
	struct gmem gmem;
	struct stats stats;
	struct shootdown_queue queue;
	struct shootdown_sink sink;
	uint32_t requests;
	struct interp *interp;
	uint8_t *ram;
};

static void put64(struct guest *g, gpa_t gpa, uint64_t v)
{
	memcpy(g->ram + gpa, &v, 8);
}

static uint64_t get64(const struct guest *g, gpa_t gpa)
{
	uint64_t v;

	memcpy(&v, g->ram + gpa, 8);
	return v;
}

static unsigned index_at(uint64_t va, unsigned level)
{
	return va >> (12 + 9 * level) & 511;
}

/* Entries for neighbouring pages, in one table. */
static void map_pages(struct guest *g, gpa_t table, uint64_t va, gpa_t gpa, size_t size,
		      uint64_t bits)
{
	for (uint64_t off = 0; off < size; off += PAGE_SIZE)
		put64(g, table + 8 * index_at(va + off, 0), (gpa + off) | bits);
}

static void build_tables(struct guest *g, bool code_writable)
{
	const uint64_t user = PTE_P | PTE_W | PTE_U | PTE_A, system = PTE_P | PTE_W | PTE_A | PTE_D;
	const uint64_t readable = PTE_P | PTE_U | PTE_A;

	put64(g, PML4 + 8 * index_at(CODE_BASE, 3), PDPT_LOW | user);
	put64(g, PDPT_LOW + 8 * index_at(CODE_BASE, 2), PD_LOW | user);
	put64(g, PD_LOW + 8 * index_at(CODE_BASE, 1), PT_CODE | user);
	put64(g, PD_LOW + 8 * index_at(DATA_BASE, 1), PT_DATA | user);
	map_pages(g, PT_CODE, CODE_BASE, CODE, CODE_SIZE, code_writable ? user | PTE_D : readable);
	map_pages(g, PT_DATA, DATA_BASE, DATA, DATA_SIZE, user | PTE_D | PTE_NX);
	map_pages(g, PT_DATA, STACK_BASE, STACK, STACK_SIZE, user | PTE_D | PTE_NX);
	map_pages(g, PT_DATA, SAVED_BASE, SAVED, SAVED_SIZE, user | PTE_D | PTE_NX);
	map_pages(g, PT_DATA, TABLE_BASE, TABLE, TABLE_SIZE, readable | PTE_NX);
	map_pages(g, PT_DATA, RO_BASE, RO, RO_SIZE, readable | PTE_NX);
	put64(g, PML4 + 8 * index_at(SYSTEM_VA, 3), PDPT_HIGH | system);
	put64(g, PDPT_HIGH + 8 * index_at(SYSTEM_VA, 2), PD_HIGH | system);
	put64(g, PD_HIGH + 8 * index_at(SYSTEM_VA, 1), PT_HIGH | system);
	map_pages(g, PT_HIGH, SYSTEM_VA, SYSTEM, 4 * PAGE_SIZE, system);
}

static void build_gates(struct guest *g)
{
	const uint64_t code64 = 0x00209b0000000000ull;

	put64(g, SYSTEM + KERNEL_CS, code64);
	put64(g, SYSTEM + 0x800 + 4, STACK_TOP); /* RSP0 */
	/* The I/O map lies beyond the limit: no port is allowed. */
	memcpy(g->ram + SYSTEM + 0x800 + 0x66, &(uint16_t){0x8000}, 2);
	for (unsigned v = 0; v < 256; v++) {
		uint64_t to = HLT_VA + (v << HANDLER_SHIFT);
		gpa_t gate = SYSTEM + 0x1000 + 16 * v;

		/* A present 64-bit interrupt gate that CPL 3 may use by INT3. */
		put64(g, gate,
		      (to & 0xffff) | KERNEL_CS << 16 | 0xeeull << 40 | (to >> 16 & 0xffff) << 48);
		put64(g, gate + 8, to >> 32);
		g->ram[SYSTEM + 0x2000 + (v << HANDLER_SHIFT)] = 0xf4;
	}
}

static uint64_t no_tsc(struct cpu *cpu)
{
	return 0;
}

static int msr_none(struct cpu *cpu, uint32_t msr, uint64_t *value)
{
	return -EINVAL;
}

static int msr_none_set(struct cpu *cpu, uint32_t msr, uint64_t value)
{
	return -EINVAL;
}

static const struct cpu_ops ops = {
	.rdtsc = no_tsc,
	.rdmsr = msr_none,
	.wrmsr = msr_none_set,
};

static void on_message(void *arg, enum shootdown_kind kind, uint64_t value)
{
	struct guest *g = arg;

	switch (kind) {
	case SHOOTDOWN_DROP_CODE: interp_drop_code(g->interp, value); break;
	case SHOOTDOWN_PROTECT: tlb_protect_gfn(&g->cpu->tlb, value); break;
	case SHOOTDOWN_FORGET_CODE: interp_forget_code(g->interp); break;
	case SHOOTDOWN_FLUSH_TLB: tlb_flush_all(&g->cpu->tlb); break;
	}
}

void guest_forget(struct guest *g)
{
	interp_drop_all(g->interp);
	tlb_flush_all(&g->cpu->tlb);
}

static void on_overflow(void *arg)
{
	struct guest *g = arg;

	interp_drop_stale(g->interp);
	tlb_flush_all(&g->cpu->tlb);
}

static void on_kick(void *arg)
{
}

static int build_memory(struct guest *g, bool code_writable)
{
	struct memslot slot = {.size = RAM_SIZE};
	struct shootdown_queue *q = &g->queue;
	int err;

	g->ram = mmap(NULL, RAM_SIZE, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
	if (g->ram == MAP_FAILED)
		return -ENOMEM;
	build_tables(g, code_writable);
	build_gates(g);
	slot.hva = (hva_t)g->ram;
	shootdown_queue_init(q, on_kick, NULL);
	err = gmem_init(&g->gmem);
	if (!err)
		err = gmem_add_slot(&g->gmem, &slot);
	return err ? err : gmem_set_queues(&g->gmem, &q, 1);
}

static int build_cpu(struct guest *g, const struct guest_options *opt)
{
	/* Every block is translated before its first run. */
	struct interp_config cfg = {.requests = &g->requests,
				    .cache_bytes = MIB(1),
				    .translate = opt->translate,
				    .exact_flags = opt->exact_flags,
				    .translate_after = 1};
	int err;

	g->cpu = cpu_alloc(sizeof(*g->cpu));
	if (!g->cpu)
		return -ENOMEM;
	g->cpu->gmem = &g->gmem;
	g->cpu->stats = &g->stats;
	g->cpu->ops = &ops;
	err = cpu_init(g->cpu);
	return err ? err : interp_create(&g->interp, g->cpu, &cfg);
}

uint64_t guest_translated(const struct guest *g)
{
	return g->stats.blocks_compiled;
}

/* A failure ends the process, which then gives everything back. */
int guest_create(struct guest **out, const struct guest_options *opt)
{
	struct guest *g = aligned_alloc(64, ALIGN_UP(sizeof(*g), 64));
	int err;

	if (!g)
		return -ENOMEM;
	memset(g, 0, sizeof(*g));
	rcu_thread_init();
	err = build_memory(g, opt->code_writable);
	if (!err)
		err = build_cpu(g, opt);
	if (err)
		return err;
	g->sink = (struct shootdown_sink){on_message, on_overflow, g};
	shootdown_online(&g->queue, &g->sink);
	*out = g;
	return 0;
}

void guest_destroy(struct guest *g)
{
	interp_destroy(g->interp);
	cpu_fini(g->cpu);
	cpu_free(g->cpu, sizeof(*g->cpu));
	gmem_fini(&g->gmem);
	munmap(g->ram, RAM_SIZE);
	free(g);
	rcu_thread_exit();
}

static void load_system(struct cpu *c, bool compat)
{
	const uint16_t code =
		SEG_P | SEG_S | SEG_CODE | SEG_RW | SEG_A | SEG_DPL | (compat ? SEG_DB : SEG_L);
	const uint16_t data = SEG_P | SEG_S | SEG_RW | SEG_A | SEG_DB | SEG_DPL;

	c->cr0 = CR0_PE | CR0_PG | CR0_NE | CR0_WP | CR0_MP | CR0_ET;
	c->cr3 = PML4;
	c->cr4 = CR4_PAE | CR4_OSFXSR | CR4_OSXMMEXCPT | CR4_OSXSAVE | CR4_FSGSBASE | CR4_UMIP;
	c->efer = EFER_LME | EFER_LMA | EFER_NXE | EFER_SCE;
	c->xcr0 = 7;
	for (unsigned s = 0; s < SEG_NONE; s++)
		c->seg[s] = (struct seg){0};
	c->seg[SEG_CS] = (struct seg){
		.sel = compat ? USER_CS32 : USER_CS, .limit = ~0u, .attr = code | SEG_G};
	c->seg[SEG_SS] = (struct seg){.sel = USER_SS, .limit = ~0u, .attr = data | SEG_G};
	if (compat)
		c->seg[SEG_DS] = c->seg[SEG_ES] = c->seg[SEG_SS];
	c->seg[SEG_GS].base = GS_BASE;
	c->seg[SEG_TR] =
		(struct seg){.sel = 0x40, .base = TSS_VA, .limit = 0x67, .attr = SEG_P | 0xb};
	c->gdtr = (struct dtable){.base = GDT_VA, .limit = 0x3f};
	c->idtr = (struct dtable){.base = IDT_VA, .limit = 0xfff};
	c->cpl = 3;
	c->event = 0;
	cpu_update_ctx(c);
}

static void load_state(struct guest *g, const struct diff_state *init)
{
	struct cpu *c = g->cpu;
	const uint32_t mxcsr = 0x1f80;

	load_system(c, init->compat);
	memcpy(c->gpr, init->gpr, sizeof(init->gpr));
	c->rip = init->rip;
	c->rflags = init->rflags & (FLAG_IF | FLAG_DF);
	flags_set_arith(c, init->rflags);
	memcpy(c->vec.ymm, init->ymm, sizeof(init->ymm));
	memcpy(c->vec.fx, init->fx, X87_BYTES);
	memcpy(c->vec.fx + 24, &mxcsr, 4);
	c->vec.mxcsr = init->mxcsr;
}

static bool has_error_code(unsigned vector)
{
	return vector == EXC_DF || (vector >= EXC_TS && vector <= EXC_PF) || vector == EXC_AC;
}

/* The frame that the gate pushed is at the top of the supervisor stack. */
static void save_frame(const struct guest *g, struct diff_result *res)
{
	gpa_t frame = STACK_GPA - 40;

	res->st.rip = get64(g, frame);
	res->st.rflags = get64(g, frame + 16);
	res->st.gpr[RSP] = get64(g, frame + 24);
	res->error = has_error_code(res->vector) ? get64(g, frame - 8) : 0;
	if (res->vector != EXC_PF)
		res->error = 0;
	res->cr2 = res->vector == EXC_PF ? g->cpu->cr2 : 0;
}

int guest_load(struct guest *g, const struct diff_image *image)
{
	if (gmem_write(&g->gmem, CODE, image->code, image->len) ||
	    gmem_write(&g->gmem, TABLE, image->table, TABLE_SIZE))
		return -EIO;
	return 0;
}

const uint8_t *guest_code(const struct guest *g)
{
	return g->ram + CODE;
}

void guest_memory(struct guest *g, const struct diff_state *init)
{
	memcpy(g->ram + DATA, init->data, DATA_SIZE);
	memcpy(g->ram + STACK, init->stack, STACK_SIZE);
	for (unsigned n = 0; n < SAVED_SIZE; n += 8)
		put64(g, SAVED + n, init->gpr[RSP]);
}

/* What happens between two slices must make no difference. */
static void disturb(struct guest *g, struct rng *r)
{
	switch (rng_below(r, 12)) {
	case 0: interp_drop_code(g->interp, (CODE >> PAGE_SHIFT) + rng_below(r, 4)); break;
	case 1: interp_drop_all(g->interp); break;
	case 2: tlb_flush_all(&g->cpu->tlb); break;
	case 3: tlb_flush_page(&g->cpu->tlb, DATA_BASE + PAGE_SIZE * rng_below(r, 2)); break;
	case 4: interp_forget_code(g->interp); break;
	case 5: tlb_flush_page(&g->cpu->tlb, CODE_BASE + PAGE_SIZE * rng_below(r, 4)); break;
	}
}

static enum interp_exit run_slices(struct guest *g, const struct guest_pace *pace)
{
	const uint64_t stop = g->stats.instructions + MAX_INSNS;
	struct rng r = {pace->seed};
	enum interp_exit why;

	do {
		unsigned slice = pace->slice ? 1 + rng_below(&r, pace->slice) : MAX_INSNS;

		shootdown_drain(&g->queue, &g->sink);
		if (pace->disturb)
			disturb(g, &r);
		why = interp_run(g->interp, slice, false);
		rcu_quiescent();
	} while ((why == INTERP_YIELD || why == INTERP_PAUSE || why == INTERP_BUDGET) &&
		 g->stats.instructions < stop);
	return why;
}

int guest_run(struct guest *g, const struct diff_state *init, const struct guest_pace *pace,
	      struct diff_result *res)
{
	struct cpu *c = g->cpu;
	enum interp_exit why;
	uint64_t gs;

	load_state(g, init);
	/* The native side needs its own GS base. */
	syscall(SYS_arch_prctl, ARCH_GET_GS, &gs);
	interp_enter_thread(g->interp);
	why = run_slices(g, pace);
	syscall(SYS_arch_prctl, ARCH_SET_GS, gs);
	if (why != INTERP_HALT || c->rip < HLT_VA)
		return -EIO;
	memcpy(res->st.gpr, c->gpr, sizeof(res->st.gpr));
	res->vector = (c->rip - 1 - HLT_VA) >> HANDLER_SHIFT;
	save_frame(g, res);
	memcpy(res->st.ymm, c->vec.ymm, sizeof(res->st.ymm));
	memcpy(res->st.fx, c->vec.fx, X87_BYTES);
	res->st.mxcsr = c->vec.mxcsr;
	memcpy(res->st.data, g->ram + DATA, DATA_SIZE);
	memcpy(res->st.stack, g->ram + STACK, STACK_SIZE);
	return 0;
}
