#include <linux/futex.h>
#include <stdlib.h>
#include <sys/syscall.h>
#include <time.h>
#include <unistd.h>

#include "smp/smp.h"
#include "src/base/atomic.h"
#include "src/base/log.h"
#include "src/base/rcu.h"
#include "src/x86/sys.h"

static struct vcpu *to_vcpu(struct cpu *cpu)
{
	return container_of(cpu, struct vcpu, cpu);
}

/* --- requests ------------------------------------------------------------------------------- */

static void futex_wake(uint32_t *word)
{
	syscall(SYS_futex, word, FUTEX_WAKE_PRIVATE, 1, NULL, NULL, 0);
}

void vcpu_request(struct vcpu *v, uint32_t bits)
{
	atomic_fetch_or_seq(&v->requests, bits);
	/* Compiled code looks at this only; bt_unkick() resets it before it reads requests. */
	cpu_kick(&v->cpu);
	/*
	 * The bits are visible before sleeping is read; pairs with vcpu_block(), which sets
	 * sleeping before it reads the bits. One of the two sees the other.
	 */
	if (atomic_load_seq(&v->sleeping) && atomic_xchg_seq(&v->sleeping, 0))
		futex_wake(&v->sleeping);
}

/* From posters of shootdowns: a blocked VCPU is offline and need not wake. */
static void kick_shootdown(void *arg)
{
	struct vcpu *v = arg;

	atomic_fetch_or_seq(&v->requests, REQ_SHOOTDOWN);
	cpu_kick(&v->cpu);
}

/* An absolute CLOCK_MONOTONIC timeout, or NULL. */
static void sleep_until(struct vcpu *v, const struct timespec *timeout)
{
	/* Pairs with vcpu_request(). */
	atomic_store_seq(&v->sleeping, 1);
	while (!(atomic_load_seq(&v->requests) & ~REQ_SHOOTDOWN) && atomic_load_seq(&v->sleeping)) {
		long r = syscall(SYS_futex, &v->sleeping, FUTEX_WAIT_BITSET_PRIVATE, 1, timeout,
				 NULL, FUTEX_BITSET_MATCH_ANY);

		if (r < 0 && errno == ETIMEDOUT)
			break;
	}
	atomic_store_seq(&v->sleeping, 0);
}

void vcpu_block(struct vcpu *v, const struct shootdown_sink *sink)
{
	uint64_t deadline = v->mp_state == VCPU_HALTED ? v->lapic.timer_deadline_ns : 0, ns = 0;
	struct timespec ts, *timeout = NULL;

	if (deadline) {
		ns = clock_host_ns(v->smp->clk, deadline);
		ts.tv_sec = ns / NSEC_PER_SEC;
		ts.tv_nsec = ns % NSEC_PER_SEC;
		timeout = &ts;
	}
	rcu_offline();
	shootdown_offline(&v->queue);
	if (!sched_poll(&v->poll, &v->smp->host, &v->requests, ~REQ_SHOOTDOWN, ns)) {
		sched_host_leave(&v->smp->host);
		sleep_until(v, timeout);
		sched_poll_woken(&v->poll, &v->smp->host);
	}
	rcu_online();
	shootdown_online(&v->queue, sink);
}

static void do_init(struct vcpu *v)
{
	cpu_reset(&v->cpu, false);
	lapic_reset(v, false);
	v->nmi_pending = false;
	v->mp_state = v->index ? VCPU_WAIT_SIPI : VCPU_RUNNING;
}

static void do_sipi(struct vcpu *v)
{
	uint32_t vector = atomic_load_seq(&v->sipi_vector);

	if (v->mp_state != VCPU_WAIT_SIPI)
		return;
	v->cpu.seg[SEG_CS].sel = vector << 8;
	v->cpu.seg[SEG_CS].base = vector << 12;
	v->cpu.rip = 0;
	v->mp_state = VCPU_RUNNING;
}

void vcpu_follow_clock(struct vcpu *v)
{
	struct clock_scale scale;
	uint32_t seq;

	clock_follow(v->smp->clk);
	seq = clock_scale(v->smp->clk, &scale);
	if (likely(seq == v->clock_seq))
		return;
	v->clock_seq = seq;
	scale.ns0 += v->tsc_offset;
	v->cpu.bt.tsc = scale;
}

uint32_t vcpu_take_requests(struct vcpu *v)
{
	uint32_t bits = atomic_load_relaxed(&v->requests);

	if (bits) {
		bits = atomic_xchg_seq(&v->requests, 0);
		if (bits & REQ_INIT)
			do_init(v);
		if (bits & REQ_SIPI)
			do_sipi(v);
		if (bits & REQ_NMI)
			v->nmi_pending = true;
		if (bits & REQ_IRQ)
			lapic_merge_posted(&v->lapic);
	}
	return bits;
}

/* --- interrupts ------------------------------------------------------------------------------ */

/* The PIC reaches the processor through LINT0 in ExtINT mode, or directly with the APIC off. */
static bool extint_pending(struct vcpu *v)
{
	const struct lapic *l = &v->lapic;

	if (!atomic_load_relaxed(&v->extint))
		return false;
	if (!(l->base & APIC_BASE_ENABLE))
		return true;
	return !(l->lvt[LVT_LINT0] & (1u << 16)) && (l->lvt[LVT_LINT0] >> 8 & 7) == APIC_EXTINT;
}

bool vcpu_irq_pending(struct vcpu *v)
{
	return lapic_pending(&v->lapic) >= 0 || extint_pending(v);
}

int vcpu_ack_irq(struct vcpu *v)
{
	int vector;

	if (extint_pending(v))
		return v->smp->ops.extint_ack(v->smp->ops.opaque);
	vector = lapic_pending(&v->lapic);
	if (vector >= 0)
		lapic_ack(&v->lapic, vector);
	return vector;
}

/* --- hooks of struct cpu ---------------------------------------------------------------------- */

static bool in_apic_page(const struct vcpu *v, gpa_t gpa)
{
	uint64_t base = v->lapic.base;

	return (base & (APIC_BASE_ENABLE | APIC_BASE_X2APIC)) == APIC_BASE_ENABLE &&
	       (gpa & PAGE_MASK) == (base & PAGE_MASK);
}

/*
 * Behind an access. What it asked of its own VCPU is done before the next instruction, as software
 * that lets interrupts in for a moment only expects.
 */
static void accessed(struct vcpu *v)
{
	if (unlikely(atomic_load_relaxed(&v->requests)))
		v->cpu.event |= CPU_EVENT_YIELD;
}

static void hook_mmio_read(struct cpu *cpu, gpa_t gpa, void *data, unsigned len)
{
	struct vcpu *v = to_vcpu(cpu);

	if (in_apic_page(v, gpa))
		lapic_mmio_read(v, gpa & ~PAGE_MASK, data, len);
	else
		v->smp->ops.mmio_read(v->smp->ops.opaque, gpa, data, len);
	accessed(v);
}

static void hook_mmio_write(struct cpu *cpu, gpa_t gpa, const void *data, unsigned len)
{
	struct vcpu *v = to_vcpu(cpu);

	if (in_apic_page(v, gpa))
		lapic_mmio_write(v, gpa & ~PAGE_MASK, data, len);
	else
		v->smp->ops.mmio_write(v->smp->ops.opaque, gpa, data, len);
	accessed(v);
}

static void hook_pio_read(struct cpu *cpu, uint16_t port, void *data, unsigned len)
{
	struct smp *smp = to_vcpu(cpu)->smp;

	smp->ops.pio_read(smp->ops.opaque, port, data, len);
}

static void hook_pio_write(struct cpu *cpu, uint16_t port, const void *data, unsigned len)
{
	struct smp *smp = to_vcpu(cpu)->smp;

	smp->ops.pio_write(smp->ops.opaque, port, data, len);
}

static int hook_rdmsr(struct cpu *cpu, uint32_t msr, uint64_t *value)
{
	struct vcpu *v = to_vcpu(cpu);
	int r = lapic_read_msr(v, msr, value);

	return r == -ENOENT ? pv_read_msr(v, msr, value) : r;
}

static int hook_wrmsr(struct cpu *cpu, uint32_t msr, uint64_t value)
{
	struct vcpu *v = to_vcpu(cpu);
	int r = lapic_write_msr(v, msr, value);

	if (r == -ENOENT)
		return pv_write_msr(v, msr, value);
	/* An end of interrupt or a lower priority may let another one through. */
	cpu->event |= CPU_EVENT_YIELD;
	return r;
}

static uint8_t hook_get_cr8(struct cpu *cpu)
{
	return to_vcpu(cpu)->lapic.tpr >> 4;
}

static void hook_set_cr8(struct cpu *cpu, uint8_t value)
{
	lapic_set_tpr(to_vcpu(cpu), value << 4);
}

static uint64_t hook_rdtsc(struct cpu *cpu)
{
	struct vcpu *v = to_vcpu(cpu);

	/* As compiled code does it. */
	if (v->clock_seq)
		return clock_scaled(&cpu->bt.tsc, __builtin_ia32_rdtsc());
	return vcpu_now(v) + v->tsc_offset;
}

/* What follows from the TSC follows it. */
static void hook_move_tsc(struct cpu *cpu, uint64_t delta)
{
	struct vcpu *v = to_vcpu(cpu);

	v->tsc_offset += delta;
	cpu->bt.tsc.ns0 += delta;
	lapic_tsc_moved(v);
	pv_tsc_moved(v);
	cpu->event |= CPU_EVENT_YIELD;
}

static uint64_t hook_hypercall(struct cpu *cpu, uint64_t nr, const uint64_t arg[4])
{
	return -1000; /* KVM_ENOSYS: the feature leaf offers no hypercall */
}

static void hook_cpuid(struct cpu *cpu, uint32_t leaf, uint32_t subleaf, uint32_t out[4])
{
	struct vcpu *v = to_vcpu(cpu);
	struct cpuid_topology t = {
		.apic_id = v->lapic.id,
		.ncpus = v->smp->n,
		.threads = v->smp->threads,
		.cores = v->smp->cores,
		.tsc_khz = 1000000, /* the TSC counts nanoseconds */
	};

	cpuid_query(&t, leaf, subleaf, out);
}

static const struct cpu_ops hooks = {
	.mmio_read = hook_mmio_read,
	.mmio_write = hook_mmio_write,
	.pio_read = hook_pio_read,
	.pio_write = hook_pio_write,
	.rdmsr = hook_rdmsr,
	.wrmsr = hook_wrmsr,
	.get_cr8 = hook_get_cr8,
	.set_cr8 = hook_set_cr8,
	.rdtsc = hook_rdtsc,
	.move_tsc = hook_move_tsc,
	.hypercall = hook_hypercall,
	.cpuid = hook_cpuid,
};

/* --- the set ---------------------------------------------------------------------------------- */

static unsigned bits_for(unsigned n)
{
	return n > 1 ? 32 - __builtin_clz(n - 1) : 0;
}

uint32_t smp_apic_id(const struct smp *smp, unsigned index)
{
	unsigned thread = index % smp->threads;
	unsigned core = index / smp->threads % smp->cores;
	unsigned socket = index / smp->threads / smp->cores;

	return socket << smp->socket_shift | core << smp->core_shift | thread;
}

static void reset_vcpu(struct vcpu *v)
{
	cpu_reset(&v->cpu, true);
	lapic_reset(v, true);
	v->mp_state = v->index ? VCPU_WAIT_SIPI : VCPU_RUNNING;
	v->nmi_pending = false;
	v->kvmclock_gpa = 0;
	v->tsc_offset = 0;
	v->clock_seq = 0;
	v->cpu.bt.tsc.mult = 0;
	/* The I/O thread goes on posting meanwhile. */
	atomic_store_seq(&v->requests, 0);
}

void smp_reset(struct smp *smp)
{
	for (unsigned n = 0; n < smp->n; n++)
		reset_vcpu(smp->vcpu[n]);
}

static int create_vcpu(struct smp *smp, unsigned index)
{
	/* Zeroed by the host: what a VCPU's TLB does not use takes no memory. */
	struct vcpu *v = (struct vcpu *)cpu_alloc(sizeof(*v));
	int r;

	if (!v)
		return -ENOMEM;
	v->smp = smp;
	v->index = index;
	v->lapic.id = smp_apic_id(smp, index);
	v->cpu.ops = &hooks;
	v->cpu.gmem = smp->gmem;
	v->cpu.stats = &v->stats;
	shootdown_queue_init(&v->queue, kick_shootdown, v);
	r = cpu_init(&v->cpu);
	if (r) {
		cpu_free(&v->cpu, sizeof(*v));
		return r;
	}
	reset_vcpu(v);
	smp->vcpu[index] = v;
	smp->by_apic_id[v->lapic.id] = index;
	return 0;
}

static int register_queues(struct smp *smp)
{
	struct shootdown_queue **q = calloc(smp->n, sizeof(*q));
	int r;

	if (!q)
		return -ENOMEM;
	for (unsigned n = 0; n < smp->n; n++)
		q[n] = &smp->vcpu[n]->queue;
	r = gmem_set_queues(smp->gmem, q, smp->n);
	free(q);
	return r;
}

int smp_create(struct smp **out, const struct smp_config *cfg)
{
	unsigned n = cfg->sockets * cfg->cores * cfg->threads;
	struct smp *smp;
	int r = 0;

	smp = calloc(1, sizeof(*smp));
	if (!smp)
		return -ENOMEM;
	smp->gmem = cfg->gmem;
	smp->clk = cfg->clk;
	sched_host_init(&smp->host);
	smp->ops = cfg->ops;
	smp->threads = cfg->threads;
	smp->cores = cfg->cores;
	smp->core_shift = bits_for(cfg->threads);
	smp->socket_shift = smp->core_shift + bits_for(cfg->cores);
	smp->napic_ids = smp_apic_id(smp, n - 1) + 1;
	smp->vcpu = calloc(n, sizeof(*smp->vcpu));
	smp->by_apic_id = malloc(smp->napic_ids * sizeof(int));
	if (!smp->vcpu || !smp->by_apic_id) {
		r = -ENOMEM;
		goto out;
	}
	memset(smp->by_apic_id, 0xff, smp->napic_ids * sizeof(int));
	for (; smp->n < n; smp->n++) {
		r = create_vcpu(smp, smp->n);
		if (r)
			goto out;
	}
	r = register_queues(smp);
out:
	if (r) {
		log_err("cannot create %u VCPUs: %s", n, strerror(-r));
		smp_destroy(smp);
		return r;
	}
	*out = smp;
	return 0;
}

void smp_destroy(struct smp *smp)
{
	if (!smp)
		return;
	for (unsigned n = 0; n < smp->n; n++) {
		cpu_fini(&smp->vcpu[n]->cpu);
		cpu_free(&smp->vcpu[n]->cpu, sizeof(*smp->vcpu[n]));
	}
	free(smp->vcpu);
	free(smp->by_apic_id);
	free(smp);
}
