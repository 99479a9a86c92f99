/* Local APICs, interprocessor messages, requests and guest time, without running a guest. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <sys/mman.h>
#include <cmocka.h>

#include "smp/smp.h"
#include "src/base/rcu.h"
#include "src/x86/sys.h"

#define RAM_SIZE MIB(1)
#define PAGE_GPA 0x5000u
#define MS	 1000000ull

#define X2APIC_TPR	  0x808
#define X2APIC_LDR	  0x80d
#define X2APIC_DFR	  0x80e
#define X2APIC_SVR	  0x80f
#define X2APIC_ICR	  0x830
#define X2APIC_ICR_HIGH	  0x831
#define X2APIC_LVT_TIMER  0x832
#define X2APIC_LVT_LINT0  0x835
#define X2APIC_LVT_ERROR  0x837
#define X2APIC_SELF	  0x83f
#define MSR_KVMCLOCK	  0x4b564d01
#define TSC_DEADLINE_MODE (2u << 17)

struct machine {
	struct clock clk; /* first: the clock's callback finds us */
	uint64_t now, tick;
	struct gmem gm;
	uint8_t *ram;
	struct smp *smp;
};

static uint64_t fake_now(struct clock *clk)
{
	struct machine *m = container_of(clk, struct machine, clk);

	return m->now += m->tick;
}

static uint8_t fake_extint_ack(void *opaque)
{
	return 0x20;
}

static struct machine *machine_create(unsigned ncpus)
{
	struct machine *m = calloc(1, sizeof(*m));
	struct memslot slot = {.size = RAM_SIZE};
	struct smp_config cfg = {
		.sockets = 1, .cores = ncpus, .threads = 1, .gmem = &m->gm, .clk = &m->clk};

	rcu_thread_init();
	m->clk.now_ns = fake_now;
	m->now = 5000 * MS;
	m->ram = mmap(NULL, RAM_SIZE, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
	assert_ptr_not_equal(m->ram, MAP_FAILED);
	slot.hva = (hva_t)m->ram;
	assert_int_equal(gmem_init(&m->gm), 0);
	assert_int_equal(gmem_add_slot(&m->gm, &slot), 0);
	cfg.ops.extint_ack = fake_extint_ack;
	assert_int_equal(smp_create(&m->smp, &cfg), 0);
	return m;
}

static void machine_destroy(struct machine *m)
{
	smp_destroy(m->smp);
	gmem_fini(&m->gm);
	munmap(m->ram, RAM_SIZE);
	free(m);
	rcu_thread_exit();
}

static int setup(void **state)
{
	*state = machine_create(2);
	return 0;
}

static int teardown(void **state)
{
	machine_destroy(*state);
	return 0;
}

static struct vcpu *vcpu(struct machine *m, unsigned n)
{
	return m->smp->vcpu[n];
}

static int wrmsr(struct vcpu *v, uint32_t msr, uint64_t value)
{
	return msr_write(&v->cpu, msr, value);
}

static uint64_t rdmsr(struct vcpu *v, uint32_t msr)
{
	uint64_t value = 0;

	assert_int_equal(msr_read(&v->cpu, msr, &value), 0);
	return value;
}

/* x2APIC mode, software-enabled. */
static void enable(struct vcpu *v)
{
	assert_int_equal(wrmsr(v, MSR_APIC_BASE, v->lapic.base | APIC_BASE_X2APIC), 0);
	assert_int_equal(wrmsr(v, X2APIC_SVR, 0x1ff), 0);
}

static int pending(struct vcpu *v)
{
	vcpu_take_requests(v);
	lapic_check_timer(v);
	return lapic_pending(&v->lapic);
}

/* --- interrupts --------------------------------------------------------------------------- */

/* The PIC may take its request back, on another thread, between the look and the acknowledge. */
static void test_request_withdrawn(void **state)
{
	struct machine *m = *state;
	struct vcpu *v = vcpu(m, 0);
	struct irq_line line = smp_pic_line(m->smp);

	enable(v);
	assert_int_equal(wrmsr(v, X2APIC_LVT_LINT0, APIC_EXTINT << 8), 0);
	irq_set(&line, true);
	assert_true(vcpu_irq_pending(v));
	irq_set(&line, false);
	assert_int_equal(vcpu_ack_irq(v), -1);
	for (unsigned n = 0; n < 8; n++)
		assert_int_equal(v->lapic.isr[n], 0);
	irq_set(&line, true);
	assert_int_equal(vcpu_ack_irq(v), 0x20);
}

/* An error of the APIC's own makes the VCPU look at once. */
static void test_error_interrupt(void **state)
{
	struct vcpu *v = vcpu(*state, 0);

	enable(v);
	assert_int_equal(wrmsr(v, X2APIC_LVT_ERROR, 0x55), 0);
	assert_int_equal(wrmsr(v, X2APIC_ICR, 5), 0); /* vectors below 16 are illegal */
	assert_int_equal(pending(v), 0x55);
}

/* An interrupt that TPR held back takes the engine to its safepoint once TPR lets it through. */
static void test_priority_changes_are_noticed(void **state)
{
	struct vcpu *v = vcpu(*state, 0);

	enable(v);
	v->cpu.ops->set_cr8(&v->cpu, 15);
	lapic_post(&v->lapic, 0x31, false);
	lapic_merge_posted(&v->lapic);
	v->requests = 0;
	v->cpu.ops->set_cr8(&v->cpu, 3); /* 0x31 is in class 3: still held back */
	assert_false(v->requests & REQ_IRQ);
	v->cpu.ops->set_cr8(&v->cpu, 2);
	assert_true(v->requests & REQ_IRQ);
	v->requests = 0;
	v->cpu.ops->set_cr8(&v->cpu, 15);
	assert_int_equal(wrmsr(v, X2APIC_TPR, 0), 0);
	assert_true(v->requests & REQ_IRQ);
}

/* --- registers in x2APIC mode ------------------------------------------------------------- */

static void test_x2apic_read_only(void **state)
{
	struct vcpu *v = vcpu(*state, 1);
	uint64_t ldr;

	enable(v);
	ldr = rdmsr(v, X2APIC_LDR);
	assert_int_equal(ldr, 2);
	assert_int_equal(wrmsr(v, X2APIC_LDR, 0xff000000), -EINVAL);
	assert_int_equal(rdmsr(v, X2APIC_LDR), ldr);
	assert_int_equal(wrmsr(v, X2APIC_DFR, 0), -EINVAL);
	assert_int_equal(v->lapic.dfr, ~0u);
	assert_int_equal(wrmsr(v, X2APIC_ICR, 1ull << 32 | 0x40), 0);
	assert_int_equal(wrmsr(v, X2APIC_ICR_HIGH, 0xff000000), -EINVAL);
	assert_int_equal(rdmsr(v, X2APIC_ICR), 1ull << 32 | 0x40);
}

static void test_self_ipi(void **state)
{
	struct vcpu *v = vcpu(*state, 0);

	enable(v);
	assert_int_equal(wrmsr(v, X2APIC_ICR, 1ull << 32 | 0x40), 0);
	assert_int_equal(wrmsr(v, X2APIC_SELF, 0x61), 0);
	assert_int_equal(pending(v), 0x61);
	assert_int_equal(rdmsr(v, X2APIC_ICR), 1ull << 32 | 0x40);
}

/* --- INIT and start-up -------------------------------------------------------------------- */

static void send(struct machine *m, unsigned delivery, uint8_t vector)
{
	struct apic_msg msg = {.dest = 1, .delivery = delivery, .assert = true, .vector = vector};

	smp_deliver(m->smp, &msg, vcpu(m, 0));
}

static void test_init_then_sipi(void **state)
{
	struct machine *m = *state;
	struct vcpu *v = vcpu(m, 1);

	send(m, APIC_INIT, 0);
	send(m, APIC_STARTUP, 0x9a);
	vcpu_take_requests(v);
	assert_int_equal(v->mp_state, VCPU_RUNNING);
	assert_int_equal(v->cpu.seg[SEG_CS].base, 0x9a000);
}

/* A start-up message that INIT overtakes belongs to the state before it. */
static void test_sipi_then_init(void **state)
{
	struct machine *m = *state;
	struct vcpu *v = vcpu(m, 1);

	send(m, APIC_STARTUP, 0x9a);
	send(m, APIC_INIT, 0);
	vcpu_take_requests(v);
	assert_int_equal(v->mp_state, VCPU_WAIT_SIPI);
}

/* --- destinations ------------------------------------------------------------------------- */

static void count_pending(struct machine *m, uint8_t vector, unsigned *n, unsigned *last)
{
	*n = 0;
	for (unsigned i = 0; i < m->smp->n; i++) {
		if (pending(vcpu(m, i)) == vector) {
			lapic_ack(&vcpu(m, i)->lapic, vector);
			memset(vcpu(m, i)->lapic.isr, 0, sizeof(vcpu(m, i)->lapic.isr));
			*last = i;
			++*n;
		}
	}
}

/* With destinations of 15 bits, 255 is a processor like any other. */
static void test_wide_destinations(void **state)
{
	struct machine *m = machine_create(300);
	struct msi_sink msi = smp_msi_sink(m->smp);
	unsigned n, last = 0;

	for (unsigned i = 0; i < m->smp->n; i++)
		enable(vcpu(m, i));
	msi_send(&msi, 0xfee00000 | 0xff << 12, 0x50);
	count_pending(m, 0x50, &n, &last);
	assert_int_equal(n, 1);
	assert_int_equal(last, 255);
	msi_send(&msi, 0xfee00000 | 0x20 << 12 | 1 << 5, 0x50);
	count_pending(m, 0x50, &n, &last);
	assert_int_equal(n, 1);
	assert_int_equal(last, 0x120);
	machine_destroy(m);
}

/* Logical: bits 8 and up of the destination name more processors of cluster 0. */
static void test_wide_logical(void **state)
{
	struct machine *m = machine_create(20);
	struct msi_sink msi = smp_msi_sink(m->smp);
	unsigned n, last = 0;

	for (unsigned i = 0; i < m->smp->n; i++)
		enable(vcpu(m, i));
	msi_send(&msi, 0xfee00004 | 2 << 5, 0x50); /* 0x200 */
	count_pending(m, 0x50, &n, &last);
	assert_int_equal(n, 1);
	assert_int_equal(last, 9);
	machine_destroy(m);
}

/* In xAPIC mode 255 reaches all. */
static void test_xapic_broadcast(void **state)
{
	struct machine *m = *state;
	struct msi_sink msi = smp_msi_sink(m->smp);
	uint32_t svr = 0x1ff;
	unsigned n, last;

	for (unsigned i = 0; i < m->smp->n; i++)
		lapic_mmio_write(vcpu(m, i), 0xf0, &svr, 4);
	msi_send(&msi, 0xfee00000 | 0xff << 12, 0x50);
	count_pending(m, 0x50, &n, &last);
	assert_int_equal(n, 2);
}

/* --- time --------------------------------------------------------------------------------- */

static void deadline_mode(struct vcpu *v)
{
	enable(v);
	assert_int_equal(wrmsr(v, X2APIC_LVT_TIMER, 0x60 | TSC_DEADLINE_MODE), 0);
}

static void test_deadline_after_tsc_was_set_back(void **state)
{
	struct machine *m = *state;
	struct vcpu *v = vcpu(m, 0);

	deadline_mode(v);
	assert_int_equal(wrmsr(v, MSR_TSC, 0), 0);
	assert_int_equal(wrmsr(v, MSR_TSC_DEADLINE, MS), 0);
	assert_int_equal(pending(v), -1);
	m->now += MS / 2;
	assert_int_equal(pending(v), -1);
	m->now += MS / 2;
	assert_int_equal(pending(v), 0x60);
}

/* The deadline is a time of the TSC, whatever is done to that meanwhile. */
static void test_tsc_moves_under_a_deadline(void **state)
{
	struct machine *m = *state;
	struct vcpu *v = vcpu(m, 0);
	uint64_t tsc = rdmsr(v, MSR_TSC);

	deadline_mode(v);
	assert_int_equal(wrmsr(v, MSR_TSC_DEADLINE, tsc + 10 * MS), 0);
	assert_int_equal(wrmsr(v, MSR_TSC_ADJUST, -20 * MS), 0);
	m->now += 20 * MS;
	assert_int_equal(pending(v), -1);
	assert_int_equal(wrmsr(v, MSR_TSC_ADJUST, 0), 0);
	assert_int_equal(pending(v), 0x60);
}

static void test_deadline_in_the_past(void **state)
{
	struct machine *m = *state;
	struct vcpu *v = vcpu(m, 0);

	deadline_mode(v);
	assert_int_equal(wrmsr(v, MSR_TSC_DEADLINE, rdmsr(v, MSR_TSC) - MS), 0);
	assert_int_equal(pending(v), 0x60);
	assert_int_equal(rdmsr(v, MSR_TSC_DEADLINE), 0);
}

/* The end of time, also as the host's time of a wait. */
static void test_deadline_never(void **state)
{
	struct machine *m = *state;
	struct vcpu *v = vcpu(m, 0);

	deadline_mode(v);
	assert_int_equal(wrmsr(v, MSR_TSC_DEADLINE, ~0ull), 0);
	m->now += 1000000 * MS;
	assert_int_equal(pending(v), -1);
	assert_true(v->lapic.timer_deadline_ns < 1ull << 63);
}

/* Time goes on between two looks at the clock; an adjustment is exact all the same. */
static void test_adjust_is_exact(void **state)
{
	struct machine *m = *state;
	struct vcpu *v = vcpu(m, 0);
	uint64_t offset = v->tsc_offset;

	m->tick = 7;
	assert_int_equal(wrmsr(v, MSR_TSC_ADJUST, 1000), 0);
	assert_int_equal(v->tsc_offset, offset + 1000);
	assert_int_equal(wrmsr(v, MSR_TSC, 12345), 0);
	assert_int_equal(wrmsr(v, MSR_TSC_ADJUST, 0), 0);
	assert_int_equal(v->tsc_offset, offset);
}

static void test_kvmclock_follows_the_tsc(void **state)
{
	struct machine *m = *state;
	struct vcpu *v = vcpu(m, 0);
	uint32_t version[2];
	uint64_t stamp;

	assert_int_equal(wrmsr(v, MSR_KVMCLOCK, PAGE_GPA | 1), 0);
	memcpy(&version[0], m->ram + PAGE_GPA, 4);
	assert_int_equal(wrmsr(v, MSR_TSC_ADJUST, 3 * MS), 0);
	memcpy(&version[1], m->ram + PAGE_GPA, 4);
	memcpy(&stamp, m->ram + PAGE_GPA + 8, 8);
	assert_int_equal(stamp, 3 * MS);
	assert_int_equal(version[1] & 1, 0);
	assert_int_not_equal(version[0], version[1]);
	/* TSCs that differ cannot stand for each other. */
	assert_int_equal(m->ram[PAGE_GPA + 29] & 1, 0);
	assert_int_equal(wrmsr(v, MSR_TSC_ADJUST, 0), 0);
	assert_int_equal(m->ram[PAGE_GPA + 29] & 1, 1);
}

#define TEST(fn) cmocka_unit_test_setup_teardown(fn, setup, teardown)

int main(void)
{
	const struct CMUnitTest tests[] = {
		TEST(test_request_withdrawn),
		TEST(test_error_interrupt),
		TEST(test_priority_changes_are_noticed),
		TEST(test_x2apic_read_only),
		TEST(test_self_ipi),
		TEST(test_init_then_sipi),
		TEST(test_sipi_then_init),
		cmocka_unit_test(test_wide_destinations),
		cmocka_unit_test(test_wide_logical),
		TEST(test_xapic_broadcast),
		TEST(test_deadline_after_tsc_was_set_back),
		TEST(test_tsc_moves_under_a_deadline),
		TEST(test_deadline_in_the_past),
		TEST(test_deadline_never),
		TEST(test_adjust_is_exact),
		TEST(test_kvmclock_follows_the_tsc),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
