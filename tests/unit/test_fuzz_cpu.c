/*
 * Random code on a processor in a random state, in every mode and on both engines: whatever a guest
 * executes, the monitor stands. The sanitizers judge.
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <sys/mman.h>
#include <cmocka.h>

#include "smp/smp.h"
#include "src/base/rcu.h"
#include "src/engine/interp/interp.h"

#define RAM_SIZE MIB(1)
#define ROUNDS	 2000
#define SLICES	 20
#define SLICE	 200

#define TABLES 0x80000u
#define GDT    0x7000u
#define IDT    0x6000u
#define TSS    0x8000u
#define CODE   0x10000u

struct machine {
	struct clock clk;
	uint64_t now, seed;
	struct gmem gm;
	uint8_t *ram;
	struct smp *smp;
	struct interp *in;
};

static uint64_t random64(struct machine *m)
{
	m->seed ^= m->seed << 13;
	m->seed ^= m->seed >> 7;
	return m->seed ^= m->seed << 17;
}

static bool one_in(struct machine *m, unsigned n)
{
	return random64(m) % n == 0;
}

static uint64_t fake_now(struct clock *clk)
{
	return container_of(clk, struct machine, clk)->now += 100;
}

static void bus_read(void *opaque, gpa_t gpa, void *data, unsigned len)
{
	memset(data, gpa, len);
}

static void bus_write(void *opaque, gpa_t gpa, const void *data, unsigned len)
{
}

static void port_read(void *opaque, uint16_t port, void *data, unsigned len)
{
	memset(data, port, len);
}

static void port_write(void *opaque, uint16_t port, const void *data, unsigned len)
{
}

static uint8_t extint_ack(void *opaque)
{
	return 0x20;
}

static void eoi(void *opaque, uint8_t vector)
{
}

static struct machine *create(bool translate)
{
	struct machine *m = calloc(1, sizeof(*m));
	struct memslot slot = {.size = RAM_SIZE};
	struct smp_config cfg = {
		.sockets = 1, .cores = 1, .threads = 1, .gmem = &m->gm, .clk = &m->clk};
	struct interp_config icfg = {
		.self = 0, .cache_bytes = MIB(1), .translate = translate, .translate_after = 2};

	rcu_thread_init();
	m->seed = 88172645463325252ull;
	m->clk.now_ns = fake_now;
	m->ram = mmap(NULL, RAM_SIZE, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
	assert_ptr_not_equal(m->ram, MAP_FAILED);
	slot.hva = (hva_t)m->ram;
	assert_int_equal(gmem_init(&m->gm), 0);
	assert_int_equal(gmem_add_slot(&m->gm, &slot), 0);
	cfg.ops = (struct smp_ops){bus_read, bus_write, port_read, port_write, extint_ack, eoi, m};
	assert_int_equal(smp_create(&m->smp, &cfg), 0);
	icfg.requests = &m->smp->vcpu[0]->requests;
	assert_int_equal(interp_create(&m->in, &m->smp->vcpu[0]->cpu, &icfg), 0);
	if (translate)
		interp_enter_thread(m->in);
	return m;
}

static void destroy(struct machine *m)
{
	interp_destroy(m->in);
	smp_destroy(m->smp);
	gmem_fini(&m->gm);
	munmap(m->ram, RAM_SIZE);
	free(m);
	rcu_thread_exit();
}

/* --- memory --------------------------------------------------------------------------------- */

/* Opcodes that are rare in random bytes but interesting. */
static const char *const pieces[] = {
	"\x0f\x20\xc0",
	"\x0f\x22\xc0",
	"\x0f\x22\xd8",
	"\x0f\x22\xe0",
	"\x0f\x01\x10",
	"\x0f\x01\x18",
	"\x0f\x01\x3f",
	"\x0f\x30",
	"\x0f\x32",
	"\x0f\x05",
	"\x0f\x07",
	"\x0f\x34",
	"\x0f\x35",
	"\xcf",
	"\x48\xcf",
	"\xcb",
	"\xcc",
	"\xcd\x21",
	"\x9d",
	"\x9c",
	"\xf4",
	"\xfb",
	"\xfa",
	"\x8e\xd0",
	"\x8e\xd8",
	"\x0f\x00\xd8",
	"\x0f\x00\xd0",
	"\xff\x2f",
	"\xff\x1f",
	"\x0f\xae\x07",
	"\x0f\xae\x0f",
	"\x0f\xc7\x0f",
	"\xf0\x0f\xb1\x0f",
	"\xf3\xa4",
	"\xf3\xaa",
	"\xf3\x48\xa5",
	"\xf2\xae",
	"\x66\x0f\x38\x82\x07",
	"\x0f\x23\xf8",
	"\x0f\x23\xc0",
	"\xc8\x10\x20\x05",
	"\xc9",
	"\x61",
	"\x60",
	"\x62\x07",
	"\x0f\x09",
	"\x0f\xc7\xf0",
	"\xeb\xfe",
	"\xe2\xf0",
	"\x0f\x01\xf8",
	"\x0f\xae\x27",
	"\x0f\xae\x2f",
	"\xd9\x37",
	"\xdd\x27",
	"\x0f\x01\xc1",
};

static void fill_code(struct machine *m, gpa_t at, unsigned len)
{
	while (len > 16) {
		unsigned n = 1 + random64(m) % 4;

		if (one_in(m, 3)) {
			const char *p = pieces[random64(m) % ARRAY_SIZE(pieces)];

			n = MAX(strlen(p), 1);
			memcpy(m->ram + at, p, n);
		} else {
			for (unsigned i = 0; i < n; i++)
				m->ram[at + i] = random64(m);
		}
		at += n;
		len -= n;
	}
}

static uint64_t address(struct machine *m)
{
	switch (random64(m) % 8) {
	case 0: return random64(m);
	case 1: return random64(m) & 0xffffffff;
	case 2: return RAM_SIZE - 4 + random64(m) % 8;
	case 3: return 0x800000000000 - random64(m) % 8;
	default: return random64(m) % RAM_SIZE;
	}
}

static void fill_descriptors(struct machine *m)
{
	uint64_t *gdt = (uint64_t *)(m->ram + GDT), *idt = (uint64_t *)(m->ram + IDT);

	for (unsigned n = 1; n < 32; n++) {
		uint64_t attr = 0x80 | random64(m) % 128;

		gdt[n] = 0x00cf00000000ffffull | attr << 40;
		if (one_in(m, 3))
			gdt[n] ^= 3ull << 53; /* L instead of D */
		if (one_in(m, 4))
			gdt[n] ^= 1ull << random64(m) % 64;
	}
	for (unsigned n = 0; n < 256; n++) {
		uint64_t off = CODE + random64(m) % 0x4000, type = 0x8e | random64(m) % 128;

		idt[n] = (off & 0xffff) | (random64(m) % 32 * 8) << 16 | (random64(m) % 8) << 32 |
			 type << 40 | (off >> 16) << 48;
	}
	for (unsigned n = 0; n < 128; n += 8) {
		uint64_t v = address(m);

		memcpy(m->ram + TSS + n, &v, 8);
	}
}

/* Mostly one to one; serves as tables of every format. */
static void fill_tables(struct machine *m)
{
	uint64_t *t = (uint64_t *)(m->ram + TABLES);

	memset(t, 0, 0x4000);
	t[0] = (TABLES + 0x1000) | 7;
	t[511] = t[0];
	t[512] = (TABLES + 0x2000) | 7;
	t[1024] = (TABLES + 0x3000) | 7;
	for (unsigned n = 0; n < 512; n++)
		t[1536 + n] = (uint64_t)(n % 256) << 12 | 7;
	for (unsigned n = random64(m) % 20; n-- > 0;)
		t[random64(m) % 2048] ^= 1ull << random64(m) % 64;
}

/* --- state ---------------------------------------------------------------------------------- */

static void choose_segments(struct machine *m, struct cpu *c, uint16_t mode)
{
	for (unsigned s = 0; s < SEG_NONE; s++) {
		c->seg[s] = (struct seg){
			.sel = random64(m),
			.limit = one_in(m, 3) ? 0xffff : 0xffffffff,
			.attr = SEG_P | SEG_S | SEG_RW | SEG_A | c->cpl << SEG_DPL_SHIFT |
				(one_in(m, 8) ? SEG_EC : 0) | (one_in(m, 2) ? SEG_DB : 0)};
		if (one_in(m, 3) && !(mode & SEG_L))
			c->seg[s].base = random64(m) % RAM_SIZE & ~15u;
	}
	c->seg[SEG_CS].attr =
		SEG_P | SEG_S | SEG_RW | SEG_A | SEG_CODE | c->cpl << SEG_DPL_SHIFT | mode;
	c->seg[SEG_TR] = (struct seg){.base = TSS, .limit = 0x80, .attr = SEG_P | 0xb};
	c->seg[SEG_LDTR] = (struct seg){.base = GDT, .limit = 0xff, .attr = SEG_P | 2};
	c->gdtr = (struct dtable){.base = GDT, .limit = 0xff};
	c->idtr = (struct dtable){.base = IDT, .limit = 0xfff};
}

static void choose_state(struct machine *m, struct cpu *c)
{
	unsigned kind = random64(m) % 6;
	uint16_t mode = kind >= 4 ? SEG_L : kind & 1 ? SEG_DB : 0;

	cpu_reset(c, true);
	c->cr0 = CR0_ET | (random64(m) & (CR0_WP | CR0_AM | CR0_NE));
	c->cr4 = random64(m) & (CR4_TSD | CR4_DE | CR4_PSE | CR4_PGE | CR4_OSFXSR | CR4_OSXMMEXCPT |
				CR4_UMIP | CR4_FSGSBASE | CR4_OSXSAVE | CR4_SMEP | CR4_SMAP);
	c->efer = EFER_SCE | (one_in(m, 2) ? EFER_NXE : 0);
	c->cr3 = TABLES;
	if (kind) /* 0: real mode */
		c->cr0 |= CR0_PE;
	if (kind >= 3) {
		c->cr0 |= CR0_PG;
		c->cr4 |= CR4_PAE;
		c->efer |= EFER_LME | EFER_LMA;
	}
	c->cpl = kind && one_in(m, 3) ? 3 : 0;
	choose_segments(m, c, mode);
	c->rflags = random64(m) & (FLAG_IF | FLAG_DF | FLAG_IOPL | FLAG_AC | FLAG_NT);
	if (one_in(m, 8))
		c->rflags |= FLAG_TF;
	for (unsigned r = RAX; r <= R15; r++)
		c->gpr[r] = address(m);
	c->rip = kind ? CODE : (c->seg[SEG_CS].base = CODE, 0);
	c->star = random64(m);
	c->lstar = c->cstar = CODE + random64(m) % 0x4000;
	c->sysenter_cs = 8 * (random64(m) % 16);
	c->sysenter_eip = CODE;
	c->xcr0 = 7;
	if (one_in(m, 8)) {
		c->dr7 = random64(m) & 0xffff00ff;
		for (unsigned n = 0; n < 4; n++)
			c->dr[n] = one_in(m, 2) ? CODE + random64(m) % 64 : address(m);
	}
	cpu_update_ctx(c);
}

/* --- runs ----------------------------------------------------------------------------------- */

static void message(void *arg, enum shootdown_kind kind, uint64_t value)
{
	struct machine *m = arg;

	switch (kind) {
	case SHOOTDOWN_DROP_CODE: interp_drop_code(m->in, value); break;
	case SHOOTDOWN_PROTECT: tlb_protect_gfn(&m->smp->vcpu[0]->cpu.tlb, value); break;
	case SHOOTDOWN_FORGET_CODE: interp_forget_code(m->in); break;
	case SHOOTDOWN_FLUSH_TLB: tlb_flush_all(&m->smp->vcpu[0]->cpu.tlb); break;
	}
}

static void everything(void *arg)
{
	struct machine *m = arg;

	interp_drop_stale(m->in);
	tlb_flush_all(&m->smp->vcpu[0]->cpu.tlb);
}

static void run(struct machine *m, const struct shootdown_sink *sink)
{
	struct vcpu *v = m->smp->vcpu[0];

	for (unsigned n = 0; n < SLICES; n++) {
		enum interp_exit e;

		vcpu_take_requests(v);
		shootdown_drain(&v->queue, sink);
		if (one_in(m, 4) && interp_interruptible(m->in) && (v->cpu.rflags & FLAG_IF))
			interp_inject(m->in, 32 + random64(m) % 16);
		e = interp_run(m->in, SLICE, false);
		if (e == INTERP_SHUTDOWN)
			break;
	}
}

static void fuzz(bool translate)
{
	struct machine *m = create(translate);
	struct vcpu *v = m->smp->vcpu[0];
	struct shootdown_sink sink = {message, everything, m};

	shootdown_online(&v->queue, &sink);
	for (unsigned n = 0; n < ROUNDS; n++) {
		if (n % 16 == 0) {
			fill_code(m, 0, RAM_SIZE);
			interp_drop_all(m->in);
		}
		fill_code(m, CODE, 0x4000);
		fill_descriptors(m);
		fill_tables(m);
		gmem_wrote(&m->gm, 0, RAM_SIZE);
		choose_state(m, &v->cpu);
		run(m, &sink);
	}
	destroy(m);
}

static void test_interpreter(void **state)
{
	fuzz(false);
}

static void test_translator(void **state)
{
	fuzz(true);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_interpreter),
		cmocka_unit_test(test_translator),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
