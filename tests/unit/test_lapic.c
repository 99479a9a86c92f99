/* Local APICs and the messages between them, with a clock that stands still unless moved. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <cmocka.h>

#include "smp/smp.h"

/* Two sockets of three cores: APIC ids 0, 1, 2 and 4, 5, 6. */
#define NCPUS 6

#define ID	0x20
#define TPR	0x80
#define PPR	0xa0
#define EOI	0xb0
#define LDR	0xd0
#define DFR	0xe0
#define SVR	0xf0
#define ISR	0x100
#define TMR	0x180
#define IRR	0x200
#define ESR	0x280
#define ICR	0x300
#define ICR2	0x310
#define TIMER	0x320
#define LINT0	0x350
#define ERR	0x370
#define INITIAL 0x380
#define CURRENT 0x390
#define DIVIDE	0x3e0

#define MASKED	 0x10000u
#define PERIODIC 0x20000u
#define DEADLINE 0x40000u
#define BY_1	 0xbu

struct fixture {
	struct clock clk;
	uint64_t now;
	struct gmem gm;
	struct smp *smp;
	unsigned eois, acks;
	uint8_t eoi_vector;
};

static uint64_t fake_now(struct clock *clk)
{
	return container_of(clk, struct fixture, clk)->now;
}

static void on_eoi(void *opaque, uint8_t vector)
{
	struct fixture *f = opaque;

	f->eois++;
	f->eoi_vector = vector;
}

static uint8_t on_extint_ack(void *opaque)
{
	struct fixture *f = opaque;

	f->acks++;
	return 0x30;
}

static struct vcpu *cpu(struct fixture *f, unsigned n)
{
	return f->smp->vcpu[n];
}

static uint32_t get(struct vcpu *v, unsigned reg)
{
	uint32_t value;

	lapic_mmio_read(v, reg, &value, 4);
	return value;
}

static void put(struct vcpu *v, unsigned reg, uint32_t value)
{
	lapic_mmio_write(v, reg, &value, 4);
}

static int setup(void **state)
{
	struct fixture *f = calloc(1, sizeof(*f));
	struct smp_config cfg = {
		.sockets = 2, .cores = 3, .threads = 1, .gmem = &f->gm, .clk = &f->clk};

	f->clk.now_ns = fake_now;
	f->now = 1000000;
	cfg.ops = (struct smp_ops){.eoi = on_eoi, .extint_ack = on_extint_ack, .opaque = f};
	assert_int_equal(gmem_init(&f->gm), 0);
	assert_int_equal(smp_create(&f->smp, &cfg), 0);
	for (unsigned n = 0; n < NCPUS; n++)
		put(cpu(f, n), SVR, 0x1ff);
	*state = f;
	return 0;
}

static int teardown(void **state)
{
	struct fixture *f = *state;

	smp_destroy(f->smp);
	gmem_fini(&f->gm);
	free(f);
	return 0;
}

/* The next interrupt as the run loop takes it, or -1. */
static int take(struct vcpu *v)
{
	vcpu_take_requests(v);
	lapic_check_timer(v);
	return vcpu_irq_pending(v) ? vcpu_ack_irq(v) : -1;
}

/* Each VCPU's next interrupt must be the vector if its bit is set in the mask, else none. */
static void expect_at(struct fixture *f, unsigned mask, int vector)
{
	for (unsigned n = 0; n < NCPUS; n++) {
		assert_int_equal(take(cpu(f, n)), mask >> n & 1 ? vector : -1);
		put(cpu(f, n), EOI, 0);
	}
}

static void send(struct fixture *f, unsigned from, uint32_t high, uint32_t low)
{
	put(cpu(f, from), ICR2, high);
	put(cpu(f, from), ICR, low);
}

/* What the access to a register makes of the CPU's events, as an instruction does it. */
static uint32_t events_of(struct vcpu *v, unsigned reg, uint32_t value)
{
	v->cpu.event = 0;
	v->cpu.ops->mmio_write(&v->cpu, 0xfee00000 + reg, &value, 4);
	return v->cpu.event;
}

/* The CPU leaves its block behind an access if that had it asked for something, or unmasks. */
static void test_leaving(void **state)
{
	struct vcpu *v = cpu(*state, 0);

	vcpu_take_requests(v);
	assert_int_equal(events_of(v, SVR, 0x1ff), CPU_EVENT_YIELD);
	assert_int_equal(events_of(v, LINT0, 0x700), CPU_EVENT_YIELD);
	assert_int_equal(events_of(v, TPR, 0), 0);
	assert_int_equal(events_of(v, EOI, 0), 0);
	assert_int_equal(events_of(v, ICR, 0x44040), CPU_EVENT_YIELD);
	assert_int_equal(take(v), 0x40);
	assert_int_equal(events_of(v, EOI, 0), 0);
}

/* --- registers and priorities ------------------------------------------------------------------
 */

static void test_reset_state(void **state)
{
	struct fixture *f = *state;
	static const unsigned ids[NCPUS] = {0, 1, 2, 4, 5, 6};
	uint64_t base;

	for (unsigned n = 0; n < NCPUS; n++) {
		assert_int_equal(get(cpu(f, n), ID), ids[n] << 24);
		assert_int_equal(lapic_read_msr(cpu(f, n), MSR_APIC_BASE, &base), 0);
		assert_int_equal(base,
				 APIC_DEFAULT_BASE | APIC_BASE_ENABLE | (n ? 0 : APIC_BASE_BSP));
		assert_int_equal(cpu(f, n)->mp_state, n ? VCPU_WAIT_SIPI : VCPU_RUNNING);
	}
	lapic_reset(cpu(f, 0), true);
	assert_int_equal(get(cpu(f, 0), SVR), 0xff);
	assert_int_equal(get(cpu(f, 0), DFR), ~0u);
	assert_int_equal(get(cpu(f, 0), LINT0), MASKED);
	assert_int_equal(get(cpu(f, 0), TPR), 0);
}

static void test_priorities(void **state)
{
	struct fixture *f = *state;
	struct vcpu *v = cpu(f, 0);

	lapic_post(&v->lapic, 0x31, false);
	lapic_post(&v->lapic, 0x92, false);
	lapic_post(&v->lapic, 0x91, false);
	vcpu_request(v, REQ_IRQ);
	assert_int_equal(take(v), 0x92);
	/* The same class, and lower ones, wait for EOI. */
	assert_int_equal(take(v), -1);
	assert_int_equal(get(v, PPR), 0x90);
	assert_int_equal(get(v, ISR + 0x40), 1u << 0x12);
	assert_int_equal(get(v, IRR + 0x40), 1u << 0x11);
	lapic_post(&v->lapic, 0xa0, false);
	vcpu_request(v, REQ_IRQ);
	assert_int_equal(take(v), 0xa0);
	put(v, EOI, 0);
	assert_int_equal(take(v), -1);
	put(v, EOI, 0);
	assert_int_equal(take(v), 0x91);
	put(v, EOI, 0);
	assert_int_equal(take(v), 0x31);
	put(v, EOI, 0);
	assert_int_equal(take(v), -1);
	put(v, EOI, 0); /* with nothing in service: nothing happens */
	assert_int_equal(f->eois, 0);
}

static void test_task_priority(void **state)
{
	struct fixture *f = *state;
	struct vcpu *v = cpu(f, 0);

	put(v, TPR, 0x45);
	assert_int_equal(v->cpu.ops->get_cr8(&v->cpu), 4);
	assert_int_equal(get(v, PPR), 0x45);
	lapic_post(&v->lapic, 0x4f, false);
	vcpu_request(v, REQ_IRQ);
	assert_int_equal(take(v), -1);
	v->requests = 0;
	/* The run loop hears that an interrupt became deliverable. */
	v->cpu.ops->set_cr8(&v->cpu, 3);
	assert_true(v->requests & REQ_IRQ);
	assert_int_equal(get(v, TPR), 0x30);
	assert_int_equal(take(v), 0x4f);
}

static void test_software_disable(void **state)
{
	struct fixture *f = *state;
	struct vcpu *v = cpu(f, 0);

	put(v, TIMER, 0x50);
	assert_int_equal(get(v, TIMER), 0x50);
	put(v, SVR, 0xff);
	assert_int_equal(get(v, TIMER), MASKED | 0x50);
	put(v, TIMER, 0x51);
	assert_int_equal(get(v, TIMER), MASKED | 0x51);
	send(f, 1, 0, 0x60);
	expect_at(f, 0, 0);
	/* NMI and INIT need no enabled APIC. */
	send(f, 1, 0, 0x4400);
	assert_true(vcpu_take_requests(v) & REQ_NMI);
	assert_true(v->nmi_pending);
}

static void test_level_triggered_eoi(void **state)
{
	struct fixture *f = *state;
	struct apic_sink sink = smp_apic_sink(f->smp);
	struct apic_msg m = {.vector = 0x61, .level = true, .assert = true};

	sink.deliver(sink.opaque, &m);
	assert_int_equal(take(cpu(f, 0)), 0x61);
	assert_int_equal(get(cpu(f, 0), TMR + 0x30), 1u << 1);
	put(cpu(f, 0), EOI, 0);
	assert_int_equal(f->eois, 1);
	assert_int_equal(f->eoi_vector, 0x61);
	/* The same vector, edge-triggered: no message to the IOAPIC. */
	m.level = false;
	sink.deliver(sink.opaque, &m);
	assert_int_equal(take(cpu(f, 0)), 0x61);
	assert_int_equal(get(cpu(f, 0), TMR + 0x30), 0);
	put(cpu(f, 0), EOI, 0);
	assert_int_equal(f->eois, 1);
}

static void test_errors(void **state)
{
	struct fixture *f = *state;
	struct vcpu *v = cpu(f, 0);

	put(v, ERR, 0xfe);
	send(f, 0, 0, 0x05); /* an illegal vector */
	assert_int_equal(get(v, ESR), 0);
	put(v, ESR, 0);
	assert_int_equal(get(v, ESR), 1u << 5);
	vcpu_request(v, REQ_IRQ);
	assert_int_equal(take(v), 0xfe);
	put(v, ESR, 0);
	assert_int_equal(get(v, ESR), 0);
	get(v, 0x40); /* no such register */
	put(v, ESR, 0);
	assert_int_equal(get(v, ESR), 1u << 7);
}

static void test_mmio_widths(void **state)
{
	struct fixture *f = *state;
	struct vcpu *v = cpu(f, 3);
	uint8_t b;
	uint64_t q;

	lapic_mmio_read(v, ID + 3, &b, 1);
	assert_int_equal(b, 4);
	lapic_mmio_read(v, ID + 4, &q, 8);
	assert_int_equal(q, 0);
	b = 0x50;
	lapic_mmio_write(v, TPR, &b, 1); /* ignored: registers are written as a whole */
	assert_int_equal(get(v, TPR), 0);
}

/* --- timer ---------------------------------------------------------------------------------------
 */

static void test_one_shot(void **state)
{
	struct fixture *f = *state;
	struct vcpu *v = cpu(f, 0);

	put(v, DIVIDE, BY_1);
	put(v, TIMER, 0x70);
	put(v, INITIAL, 1000);
	assert_int_equal(get(v, CURRENT), 1000);
	f->now += 400;
	assert_int_equal(get(v, CURRENT), 600);
	f->now += 599;
	assert_int_equal(take(v), -1);
	f->now += 1;
	assert_int_equal(take(v), 0x70);
	assert_int_equal(get(v, CURRENT), 0);
	put(v, EOI, 0);
	f->now += 100000;
	assert_int_equal(take(v), -1);
	/* Cancelled by an initial count of 0. */
	put(v, INITIAL, 1000);
	put(v, INITIAL, 0);
	f->now += 100000;
	assert_int_equal(take(v), -1);
}

static void test_dividers(void **state)
{
	struct fixture *f = *state;
	struct vcpu *v = cpu(f, 0);
	static const struct {
		uint32_t reg, divide;
	} cases[] = {{0, 2}, {1, 4}, {2, 8}, {3, 16}, {8, 32}, {9, 64}, {0xa, 128}, {0xb, 1}};

	put(v, TIMER, 0x70);
	for (unsigned n = 0; n < ARRAY_SIZE(cases); n++) {
		put(v, DIVIDE, cases[n].reg);
		put(v, INITIAL, 100);
		f->now += 100 * cases[n].divide - 1;
		assert_int_equal(take(v), -1);
		f->now += 1;
		assert_int_equal(take(v), 0x70);
		put(v, EOI, 0);
	}
}

static void test_periodic(void **state)
{
	struct fixture *f = *state;
	struct vcpu *v = cpu(f, 0);

	put(v, DIVIDE, BY_1);
	put(v, TIMER, PERIODIC | 0x71);
	put(v, INITIAL, 1000);
	for (unsigned n = 0; n < 5; n++) {
		f->now += 1000;
		assert_int_equal(take(v), 0x71);
		put(v, EOI, 0);
		assert_int_equal(take(v), -1);
	}
	/* A late look keeps the phase and makes up for nothing. */
	f->now += 3500;
	assert_int_equal(take(v), 0x71);
	put(v, EOI, 0);
	assert_int_equal(take(v), -1);
	assert_int_equal(get(v, CURRENT), 500);
	f->now += 500;
	assert_int_equal(take(v), 0x71);
	put(v, EOI, 0);
	/* Masked it goes on counting. */
	put(v, TIMER, MASKED | PERIODIC | 0x71);
	f->now += 1300;
	assert_int_equal(take(v), -1);
	assert_int_equal(get(v, CURRENT), 700);
}

static void test_tsc_deadline(void **state)
{
	struct fixture *f = *state;
	struct vcpu *v = cpu(f, 0);
	uint64_t value;

	/* Outside its mode the MSR ignores writes. */
	assert_int_equal(lapic_write_msr(v, MSR_TSC_DEADLINE, 5000000), 0);
	assert_int_equal(lapic_read_msr(v, MSR_TSC_DEADLINE, &value), 0);
	assert_int_equal(value, 0);
	v->tsc_offset = 70000;
	put(v, TIMER, DEADLINE | 0x72);
	assert_int_equal(lapic_write_msr(v, MSR_TSC_DEADLINE, f->now + 70000 + 500), 0);
	put(v, INITIAL, 10); /* ignored in this mode */
	assert_int_equal(get(v, CURRENT), 0);
	f->now += 499;
	assert_int_equal(take(v), -1);
	f->now += 1;
	assert_int_equal(take(v), 0x72);
	put(v, EOI, 0);
	assert_int_equal(lapic_read_msr(v, MSR_TSC_DEADLINE, &value), 0);
	assert_int_equal(value, 0);
	/* In the past: at once. 0 disarms, and so does another mode. */
	assert_int_equal(lapic_write_msr(v, MSR_TSC_DEADLINE, 1), 0);
	assert_int_equal(take(v), 0x72);
	put(v, EOI, 0);
	assert_int_equal(lapic_write_msr(v, MSR_TSC_DEADLINE, f->now + 70000 + 10), 0);
	assert_int_equal(lapic_write_msr(v, MSR_TSC_DEADLINE, 0), 0);
	f->now += 1000;
	assert_int_equal(take(v), -1);
	assert_int_equal(lapic_write_msr(v, MSR_TSC_DEADLINE, f->now + 70000 + 10), 0);
	put(v, TIMER, 0x72);
	f->now += 1000;
	assert_int_equal(take(v), -1);
}

/* --- destinations
 * --------------------------------------------------------------------------------- */

static void test_physical_destinations(void **state)
{
	struct fixture *f = *state;

	send(f, 0, 1u << 24, 0x60);
	expect_at(f, 1u << 1, 0x60);
	/* The fourth VCPU has APIC id 4; 3 is nobody. */
	send(f, 0, 4u << 24, 0x60);
	expect_at(f, 1u << 3, 0x60);
	send(f, 0, 3u << 24, 0x60);
	expect_at(f, 0, 0);
	send(f, 0, 9u << 24, 0x60);
	expect_at(f, 0, 0);
	send(f, 2, 0xffu << 24, 0x60);
	expect_at(f, 0x3f, 0x60);
}

static void test_shorthands(void **state)
{
	struct fixture *f = *state;

	send(f, 2, 0, 1u << 18 | 0x61);
	expect_at(f, 1u << 2, 0x61);
	send(f, 2, 0, 2u << 18 | 0x61);
	expect_at(f, 0x3f, 0x61);
	send(f, 2, 0, 3u << 18 | 0x61);
	expect_at(f, 0x3f & ~(1u << 2), 0x61);
}

static void test_logical_flat(void **state)
{
	struct fixture *f = *state;

	for (unsigned n = 0; n < NCPUS; n++)
		put(cpu(f, n), LDR, 1u << (24 + n));
	send(f, 0, 0x2au << 24, 0x800 | 0x62);
	expect_at(f, 0x2a, 0x62);
	send(f, 0, 0xc0u << 24, 0x800 | 0x62);
	expect_at(f, 0, 0);
	send(f, 0, 0xffu << 24, 0x800 | 0x62);
	expect_at(f, 0x3f, 0x62);
}

static void test_logical_cluster(void **state)
{
	struct fixture *f = *state;

	for (unsigned n = 0; n < NCPUS; n++) {
		put(cpu(f, n), DFR, 0x0fffffff);
		put(cpu(f, n), LDR, (n / 3) << 28 | 1u << (24 + n % 3));
	}
	send(f, 0, 0x15u << 24, 0x800 | 0x63); /* cluster 1, first and third */
	expect_at(f, 1u << 3 | 1u << 5, 0x63);
	send(f, 0, 0x2fu << 24, 0x800 | 0x63);
	expect_at(f, 0, 0);
}

static void test_lowest_priority(void **state)
{
	struct fixture *f = *state;
	unsigned got[NCPUS] = {0};

	for (unsigned n = 0; n < NCPUS; n++)
		put(cpu(f, n), LDR, 1u << (24 + n));
	put(cpu(f, 4), SVR, 0xff); /* accepts nothing */
	for (unsigned k = 0; k < 60; k++) {
		unsigned hits = 0;

		send(f, 0, 0x1eu << 24, 0x900 | 0x64);
		for (unsigned n = 0; n < NCPUS; n++) {
			if (take(cpu(f, n)) != 0x64)
				continue;
			put(cpu(f, n), EOI, 0);
			got[n]++;
			hits++;
		}
		assert_int_equal(hits, 1);
	}
	/* Of those addressed, each that accepts interrupts gets some. */
	for (unsigned n = 0; n < NCPUS; n++)
		assert_int_equal(got[n] > 0, n >= 1 && n <= 3);
}

static void test_msi(void **state)
{
	struct fixture *f = *state;
	struct msi_sink msi = smp_msi_sink(f->smp);

	msi_send(&msi, 0xfee00000 | 5 << 12, 0x65);
	expect_at(f, 1u << 4, 0x65);
	msi_send(&msi, 0xfed00000 | 5 << 12, 0x65); /* not an interrupt address */
	expect_at(f, 0, 0);
	msi_send(&msi, 0xfee00000, 0x400);
	assert_true(vcpu_take_requests(cpu(f, 0)) & REQ_NMI);
}

static void test_extint(void **state)
{
	struct fixture *f = *state;
	struct irq_line line = smp_pic_line(f->smp);
	struct vcpu *v = cpu(f, 0);

	irq_set(&line, true);
	assert_int_equal(take(v), -1); /* LINT0 is masked */
	put(v, LINT0, 0x700);
	assert_int_equal(take(v), 0x30);
	assert_int_equal(f->acks, 1);
	/* No EOI is due in the local APIC. */
	assert_int_equal(get(v, ISR + 0x10), 0);
	irq_set(&line, false);
	assert_int_equal(take(v), -1);
	/* With the APIC off the line reaches the processor directly. */
	put(v, LINT0, MASKED);
	assert_int_equal(lapic_write_msr(v, MSR_APIC_BASE, APIC_DEFAULT_BASE), 0);
	irq_set(&line, true);
	assert_int_equal(take(v), 0x30);
	irq_set(&line, false);
}

/* --- INIT and SIPI
 * --------------------------------------------------------------------------------- */

static void test_init_sipi(void **state)
{
	struct fixture *f = *state;
	struct vcpu *v = cpu(f, 1);

	v->cpu.gpr[RBX] = 77;
	v->mp_state = VCPU_RUNNING;
	/* A running processor ignores STARTUP. */
	send(f, 0, 1u << 24, 0x4600 | 0x12);
	vcpu_take_requests(v);
	assert_int_equal(v->cpu.gpr[RBX], 77);
	put(v, TPR, 0x20);
	send(f, 0, 1u << 24, 0x4500);
	vcpu_take_requests(v);
	assert_int_equal(v->mp_state, VCPU_WAIT_SIPI);
	assert_int_equal(v->cpu.gpr[RBX], 0);
	assert_int_equal(get(v, TPR), 0);
	assert_int_equal(get(v, ID), 1u << 24);
	send(f, 0, 1u << 24, 0x4600 | 0x9a);
	vcpu_take_requests(v);
	assert_int_equal(v->mp_state, VCPU_RUNNING);
	assert_int_equal(v->cpu.seg[SEG_CS].sel, 0x9a00);
	assert_int_equal(v->cpu.seg[SEG_CS].base, 0x9a000);
	assert_int_equal(v->cpu.rip, 0);
	/* INIT, level de-assert: an old way to number arbitration, without effect. */
	send(f, 0, 0, 2u << 18 | 0x8500);
	assert_int_equal(vcpu_take_requests(v) & REQ_INIT, 0);
	/* INIT and STARTUP that arrive together act in that order. */
	send(f, 0, 1u << 24, 0x4500);
	send(f, 0, 1u << 24, 0x4600 | 0x10);
	vcpu_take_requests(v);
	assert_int_equal(v->mp_state, VCPU_RUNNING);
	assert_int_equal(v->cpu.seg[SEG_CS].sel, 0x1000);
}

/* --- x2APIC
 * --------------------------------------------------------------------------------------- */

#define X2(reg) (MSR_X2APIC_BASE + (reg) / 16)

static void enter_x2apic(struct vcpu *v)
{
	uint64_t base;

	assert_int_equal(lapic_read_msr(v, MSR_APIC_BASE, &base), 0);
	assert_int_equal(lapic_write_msr(v, MSR_APIC_BASE, base | APIC_BASE_X2APIC), 0);
}

static uint64_t rd(struct vcpu *v, unsigned reg)
{
	uint64_t value;

	assert_int_equal(lapic_read_msr(v, X2(reg), &value), 0);
	return value;
}

static void wr(struct vcpu *v, unsigned reg, uint64_t value)
{
	assert_int_equal(lapic_write_msr(v, X2(reg), value), 0);
}

static void test_x2apic_modes(void **state)
{
	struct fixture *f = *state;
	struct vcpu *v = cpu(f, 5);
	uint64_t on = APIC_DEFAULT_BASE | APIC_BASE_ENABLE, value;

	assert_int_equal(lapic_read_msr(v, X2(ID), &value), -EINVAL);
	enter_x2apic(v);
	assert_int_equal(rd(v, ID), 6);
	assert_int_equal(rd(v, LDR), 1u << 6);
	assert_int_equal(lapic_write_msr(v, MSR_APIC_BASE, on), -EINVAL);
	assert_int_equal(lapic_write_msr(v, MSR_APIC_BASE, APIC_DEFAULT_BASE | APIC_BASE_X2APIC),
			 -EINVAL);
	assert_int_equal(lapic_write_msr(v, MSR_APIC_BASE, APIC_DEFAULT_BASE), 0);
	assert_int_equal(lapic_write_msr(v, MSR_APIC_BASE, on | APIC_BASE_X2APIC), -EINVAL);
	assert_int_equal(lapic_write_msr(v, MSR_APIC_BASE, on), 0);
	assert_int_equal(lapic_write_msr(v, MSR_APIC_BASE, on | 1), -EINVAL);
	/* Not an APIC MSR at all. */
	assert_int_equal(lapic_read_msr(v, 0x10, &value), -ENOENT);
}

static void test_x2apic_registers(void **state)
{
	struct fixture *f = *state;
	struct vcpu *v = cpu(f, 0);
	uint64_t value;
	static const unsigned unreadable[] = {EOI, DFR, ICR2, 0x3f0, 0x10, 0x3f0 + 0x10};
	static const unsigned readonly[] = {ID, 0x30, PPR, LDR, ISR, TMR, IRR, CURRENT};

	enter_x2apic(v);
	for (unsigned n = 0; n < ARRAY_SIZE(unreadable); n++)
		assert_int_equal(lapic_read_msr(v, X2(unreadable[n]), &value), -EINVAL);
	for (unsigned n = 0; n < ARRAY_SIZE(readonly); n++) {
		assert_int_equal(lapic_read_msr(v, X2(readonly[n]), &value), 0);
		assert_int_equal(lapic_write_msr(v, X2(readonly[n]), 0), -EINVAL);
	}
	assert_int_equal(lapic_write_msr(v, X2(EOI), 1), -EINVAL);
	assert_int_equal(lapic_write_msr(v, X2(ESR), 1), -EINVAL);
	assert_int_equal(lapic_write_msr(v, X2(TPR), 0x100), -EINVAL);
	assert_int_equal(lapic_write_msr(v, X2(TIMER), 1ull << 32), -EINVAL);
	wr(v, TPR, 0x50);
	assert_int_equal(rd(v, PPR), 0x50);
	wr(v, TPR, 0);
	/* ICR is one register of 64 bits. */
	wr(v, ICR, 4ull << 32 | 0x66);
	assert_int_equal(rd(v, ICR), 4ull << 32 | 0x66);
	expect_at(f, 1u << 3, 0x66);
}

static void test_x2apic_destinations(void **state)
{
	struct fixture *f = *state;

	for (unsigned n = 0; n < NCPUS; n++)
		enter_x2apic(cpu(f, n));
	wr(cpu(f, 0), 0x3f0, 0x67);
	assert_int_equal(take(cpu(f, 0)), 0x67);
	wr(cpu(f, 0), EOI, 0);
	wr(cpu(f, 0), ICR, 0xffffffffull << 32 | 0x68);
	for (unsigned n = 0; n < NCPUS; n++) {
		assert_int_equal(take(cpu(f, n)), 0x68);
		wr(cpu(f, n), EOI, 0);
	}
	/* 0xff is an ordinary id here; logical: cluster 0 of ids 0-15, one bit each. */
	wr(cpu(f, 0), ICR, 0xffull << 32 | 0x69);
	wr(cpu(f, 0), ICR, 0x51ull << 32 | 0x800 | 0x6a);
	for (unsigned n = 0; n < NCPUS; n++) {
		bool hit = n == 0 || n == 3 || n == 5; /* ids 0, 4, 6 */

		assert_int_equal(take(cpu(f, n)), hit ? 0x6a : -1);
		wr(cpu(f, n), EOI, 0);
	}
	wr(cpu(f, 0), ICR, 0x10001ull << 32 | 0x800 | 0x6b);
	for (unsigned n = 0; n < NCPUS; n++)
		assert_int_equal(take(cpu(f, n)), -1);
	/* INIT keeps the mode. */
	wr(cpu(f, 0), ICR, 1ull << 32 | 0x4500);
	vcpu_take_requests(cpu(f, 1));
	assert_int_equal(rd(cpu(f, 1), ID), 1);
}

int main(void)
{
#define T(name) cmocka_unit_test_setup_teardown(name, setup, teardown)
	const struct CMUnitTest tests[] = {
		T(test_leaving),
		T(test_reset_state),
		T(test_priorities),
		T(test_task_priority),
		T(test_software_disable),
		T(test_level_triggered_eoi),
		T(test_errors),
		T(test_mmio_widths),
		T(test_one_shot),
		T(test_dividers),
		T(test_periodic),
		T(test_tsc_deadline),
		T(test_physical_destinations),
		T(test_shorthands),
		T(test_logical_flat),
		T(test_logical_cluster),
		T(test_lowest_priority),
		T(test_msi),
		T(test_extint),
		T(test_init_sipi),
		T(test_x2apic_modes),
		T(test_x2apic_registers),
		T(test_x2apic_destinations),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
