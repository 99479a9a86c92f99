#include "smp/lapic.h"

#include "smp/smp.h"
#include "src/base/atomic.h"

#define REG_ID	      0x20
#define REG_VERSION   0x30
#define REG_TPR	      0x80
#define REG_APR	      0x90
#define REG_PPR	      0xa0
#define REG_EOI	      0xb0
#define REG_LDR	      0xd0
#define REG_DFR	      0xe0
#define REG_SVR	      0xf0
#define REG_ISR	      0x100
#define REG_TMR	      0x180
#define REG_IRR	      0x200
#define REG_ESR	      0x280
#define REG_LVT_CMCI  0x2f0
#define REG_ICR_LOW   0x300
#define REG_ICR_HIGH  0x310
#define REG_LVT_TIMER 0x320
#define REG_LVT_ERROR 0x370
#define REG_INITIAL   0x380
#define REG_CURRENT   0x390
#define REG_DIVIDE    0x3e0
#define REG_SELF_IPI  0x3f0

#define SVR_ENABLE	(1u << 8)
#define SVR_NO_EOI_CAST (1u << 12)

#define LVT_MASKED	   (1u << 16)
#define LVT_TIMER_MODE	   (3u << 17)
#define LVT_TIMER_PERIODIC (1u << 17)
#define LVT_TIMER_DEADLINE (2u << 17)

#define ESR_SEND_ILLEGAL (1u << 5)
#define ESR_RECV_ILLEGAL (1u << 6)
#define ESR_REG_ILLEGAL	 (1u << 7)

#define ICR_BUSY (1u << 12)

/* Later than anything ends, and yet far from an overflow of the host's time. */
#define FOREVER_NS (1ull << 62)

static bool x2apic(const struct lapic *l)
{
	return l->base & APIC_BASE_X2APIC;
}

static uint32_t x2apic_ldr(const struct lapic *l)
{
	return (l->id >> 4) << 16 | 1u << (l->id & 15);
}

static void clear_private(struct lapic *l)
{
	size_t from = offsetof(struct lapic, tpr), to = offsetof(struct lapic, posted);

	memset((char *)l + from, 0, to - from);
}

/* Others may look at us and post meanwhile. */
void lapic_reset(struct vcpu *v, bool cold)
{
	struct lapic *l = &v->lapic;

	/* INIT keeps the mode (SDM volume 3, 11.12.5.1). */
	if (cold)
		atomic_store_relaxed(&l->base, APIC_DEFAULT_BASE | APIC_BASE_ENABLE |
						       (v->index == 0 ? APIC_BASE_BSP : 0));
	atomic_store_relaxed(&l->svr, 0xff);
	atomic_store_relaxed(&l->dfr, ~0u);
	atomic_store_relaxed(&l->ldr, x2apic(l) ? x2apic_ldr(l) : 0);
	for (unsigned n = 0; n < 8; n++) {
		atomic_store_seq(&l->posted.irr[n], 0);
		atomic_store_seq(&l->posted.level[n], 0);
	}
	clear_private(l);
	for (unsigned n = 0; n < LVT_COUNT; n++)
		l->lvt[n] = LVT_MASKED;
}

void lapic_virtual_wire(struct vcpu *v)
{
	struct lapic *l = &v->lapic;

	atomic_store_relaxed(&l->svr, 0xff | SVR_ENABLE);
	l->lvt[LVT_LINT0] = APIC_EXTINT << 8;
	l->lvt[LVT_LINT1] = APIC_NMI << 8;
}

bool lapic_accepts(const struct lapic *l)
{
	return (atomic_load_relaxed(&l->base) & APIC_BASE_ENABLE) &&
	       (atomic_load_relaxed(&l->svr) & SVR_ENABLE);
}

void lapic_post(struct lapic *l, uint8_t vector, bool level)
{
	/* The level bit first: who sees the vector sees how it is triggered. */
	if (level)
		atomic_fetch_or_seq(&l->posted.level[vector / 32], 1u << (vector % 32));
	atomic_fetch_or_seq(&l->posted.irr[vector / 32], 1u << (vector % 32));
}

void lapic_merge_posted(struct lapic *l)
{
	for (unsigned n = 0; n < 8; n++) {
		uint32_t irr, level;

		if (!atomic_load_relaxed(&l->posted.irr[n]))
			continue;
		irr = atomic_xchg_seq(&l->posted.irr[n], 0);
		level = atomic_fetch_and_seq(&l->posted.level[n], ~irr) & irr;
		l->tmr[n] = (l->tmr[n] & ~irr) | level;
		l->irr[n] |= irr;
	}
}

static int highest(const uint32_t map[8])
{
	for (int n = 7; n >= 0; n--)
		if (map[n])
			return n * 32 + 31 - __builtin_clz(map[n]);
	return -1;
}

static uint32_t ppr(const struct lapic *l)
{
	int isr = highest(l->isr);
	uint32_t isrv = isr < 0 ? 0 : isr;

	return (l->tpr & 0xf0) >= (isrv & 0xf0) ? l->tpr & 0xff : isrv & 0xf0;
}

int lapic_pending(struct lapic *l)
{
	int v;

	if (!lapic_accepts(l))
		return -1;
	v = highest(l->irr);
	return v >= 0 && (unsigned)(v & 0xf0) > (ppr(l) & 0xf0) ? v : -1;
}

void lapic_ack(struct lapic *l, uint8_t vector)
{
	l->irr[vector / 32] &= ~(1u << (vector % 32));
	l->isr[vector / 32] |= 1u << (vector % 32);
}

/* What was held back by priority may be deliverable now: the run loop must look again. */
static void priority_fell(struct vcpu *v)
{
	if (lapic_pending(&v->lapic) >= 0)
		vcpu_request(v, REQ_IRQ);
}

void lapic_set_tpr(struct vcpu *v, uint8_t tpr)
{
	v->lapic.tpr = tpr;
	priority_fell(v);
}

static void eoi(struct vcpu *v)
{
	struct lapic *l = &v->lapic;
	int vector = highest(l->isr);
	uint32_t bit;

	if (vector < 0)
		return;
	bit = 1u << (vector % 32);
	l->isr[vector / 32] &= ~bit;
	if ((l->tmr[vector / 32] & bit) && !(l->svr & SVR_NO_EOI_CAST))
		v->smp->ops.eoi(v->smp->ops.opaque, vector);
	priority_fell(v);
}

static void error(struct vcpu *v, uint32_t bit)
{
	struct lapic *l = &v->lapic;

	l->esr_next |= bit;
	if (l->lvt[LVT_ERROR] & LVT_MASKED)
		return;
	lapic_post(l, l->lvt[LVT_ERROR], false);
	vcpu_request(v, REQ_IRQ);
}

/* --- timer: counts nanoseconds of guest time ------------------------------------------------ */

static unsigned divide_shift(const struct lapic *l)
{
	unsigned d = (l->timer_divide & 3) | (l->timer_divide >> 1 & 4);

	return d == 7 ? 0 : d + 1;
}

static uint64_t period_ns(const struct lapic *l)
{
	return (uint64_t)l->timer_initial << divide_shift(l);
}

static bool deadline_mode(const struct lapic *l)
{
	return (l->lvt[LVT_TIMER] & LVT_TIMER_MODE) == LVT_TIMER_DEADLINE;
}

static void timer_start(struct vcpu *v)
{
	struct lapic *l = &v->lapic;

	l->timer_start_ns = vcpu_now(v);
	l->timer_deadline_ns = l->timer_initial ? l->timer_start_ns + period_ns(l) : 0;
	vcpu_request(v, REQ_TIMER);
}

/* Guest time of tsc_deadline; one that is past fires at once. */
static void arm_deadline(struct vcpu *v)
{
	struct lapic *l = &v->lapic;
	uint64_t now = vcpu_now(v), tsc = now + v->tsc_offset;

	if (!l->tsc_deadline)
		l->timer_deadline_ns = 0;
	else if (l->tsc_deadline <= tsc)
		l->timer_deadline_ns = MAX(now, 1);
	else
		l->timer_deadline_ns = now + MIN(l->tsc_deadline - tsc, FOREVER_NS);
	vcpu_request(v, REQ_TIMER);
}

static void set_tsc_deadline(struct vcpu *v, uint64_t tsc)
{
	if (!deadline_mode(&v->lapic))
		return;
	v->lapic.tsc_deadline = tsc;
	arm_deadline(v);
}

void lapic_tsc_moved(struct vcpu *v)
{
	if (deadline_mode(&v->lapic))
		arm_deadline(v);
}

void lapic_check_timer(struct vcpu *v)
{
	struct lapic *l = &v->lapic;
	uint64_t now;

	if (!l->timer_deadline_ns)
		return;
	now = vcpu_now(v);
	if (now < l->timer_deadline_ns)
		return;
	if ((l->lvt[LVT_TIMER] & LVT_TIMER_MODE) == LVT_TIMER_PERIODIC) {
		uint64_t period = period_ns(l), late = now - l->timer_deadline_ns;

		/* Ticks missed while the host was busy are not made up for. */
		l->timer_deadline_ns += (late / period + 1) * period;
	} else {
		l->timer_deadline_ns = 0;
		l->tsc_deadline = 0;
	}
	if (!(l->lvt[LVT_TIMER] & LVT_MASKED)) {
		lapic_post(l, l->lvt[LVT_TIMER], false);
		lapic_merge_posted(l);
	}
}

static uint32_t timer_current(struct vcpu *v)
{
	struct lapic *l = &v->lapic;
	uint64_t now = vcpu_now(v);

	if (!l->timer_deadline_ns || deadline_mode(l) || now >= l->timer_deadline_ns)
		return 0;
	return (l->timer_deadline_ns - now) >> divide_shift(l);
}

/* --- registers ------------------------------------------------------------------------------ */

/* high and low are the command register's halves. */
static void send(struct vcpu *v, uint32_t high, uint32_t low)
{
	struct lapic *l = &v->lapic;
	struct apic_msg m = {
		.vector = low,
		.delivery = low >> 8 & 7,
		.logical = low >> 11 & 1,
		.assert = low >> 14 & 1,
		.level = low >> 15 & 1,
		.shorthand = low >> 18 & 3,
		.wide = x2apic(l),
		.dest = x2apic(l) ? high : high >> 24,
	};

	if (m.vector < 16 && (m.delivery == APIC_FIXED || m.delivery == APIC_LOWEST)) {
		error(v, ESR_SEND_ILLEGAL);
		return;
	}
	STAT_INC(&v->stats, ipis);
	smp_deliver(v->smp, &m, v);
}

static int lvt_index(unsigned reg)
{
	if (reg == REG_LVT_CMCI)
		return LVT_CMCI;
	if (reg >= REG_LVT_TIMER && reg <= REG_LVT_ERROR)
		return LVT_TIMER + (reg - REG_LVT_TIMER) / 0x10;
	return -1;
}

/* False: no such register. */
static bool reg_read(struct vcpu *v, unsigned reg, uint32_t *value)
{
	struct lapic *l = &v->lapic;
	int lvt = lvt_index(reg);

	if (lvt >= 0) {
		*value = l->lvt[lvt];
		return true;
	}
	if (reg >= REG_ISR && reg < REG_ESR) {
		const uint32_t *map = reg < REG_TMR ? l->isr : reg < REG_IRR ? l->tmr : l->irr;

		*value = map[reg >> 4 & 7];
		return true;
	}
	switch (reg) {
	case REG_ID: *value = x2apic(l) ? l->id : l->id << 24; return true;
	case REG_VERSION: *value = 0x15 | (LVT_COUNT - 1) << 16 | 1u << 24; return true;
	case REG_TPR: *value = l->tpr; return true;
	case REG_APR: *value = 0; return true;
	case REG_PPR: *value = ppr(l); return true;
	case REG_EOI: *value = 0; return !x2apic(l);
	case REG_LDR: *value = l->ldr; return true;
	case REG_DFR: *value = l->dfr; return !x2apic(l);
	case REG_SVR: *value = l->svr; return true;
	case REG_ESR: *value = l->esr; return true;
	case REG_ICR_LOW: *value = l->icr_low; return true;
	case REG_ICR_HIGH: *value = l->icr_high; return !x2apic(l);
	case REG_INITIAL: *value = l->timer_initial; return true;
	case REG_CURRENT: *value = timer_current(v); return true;
	case REG_DIVIDE: *value = l->timer_divide; return true;
	default: return false;
	}
}

static void write_lvt(struct vcpu *v, int n, uint32_t value)
{
	static const uint32_t valid[LVT_COUNT] = {
		[LVT_CMCI] = 0x107ff,  [LVT_TIMER] = 0x700ff, [LVT_THERMAL] = 0x107ff,
		[LVT_PERF] = 0x107ff,  [LVT_LINT0] = 0x1a7ff, [LVT_LINT1] = 0x1a7ff,
		[LVT_ERROR] = 0x100ff,
	};
	struct lapic *l = &v->lapic;
	uint32_t old = l->lvt[n];

	/* Bits 12 (delivery status) and 14 (remote IRR) are read-only. */
	value &= valid[n];
	if (!(l->svr & SVR_ENABLE))
		value |= LVT_MASKED;
	l->lvt[n] = value;
	if (n == LVT_TIMER && ((old ^ value) & LVT_TIMER_MODE) &&
	    ((old | value) & LVT_TIMER_DEADLINE)) {
		l->timer_deadline_ns = 0;
		l->tsc_deadline = 0;
	}
}

/* What waits may have been let through. */
static void look_again(struct vcpu *v)
{
	v->cpu.event |= CPU_EVENT_YIELD;
}

static bool xapic_only(unsigned reg)
{
	return reg == REG_ID || reg == REG_LDR || reg == REG_DFR || reg == REG_ICR_HIGH;
}

/* False: no such register, or not writable in x2APIC mode. */
static bool reg_write(struct vcpu *v, unsigned reg, uint32_t value)
{
	struct lapic *l = &v->lapic;
	int lvt = lvt_index(reg);

	if (x2apic(l) && xapic_only(reg))
		return false;
	if (lvt >= 0) {
		write_lvt(v, lvt, value);
		look_again(v);
		return true;
	}
	switch (reg) {
	case REG_ID: return true; /* the id is fixed, as in recent processors */
	case REG_TPR: lapic_set_tpr(v, value); return true;
	case REG_EOI: eoi(v); return true;
	case REG_LDR: atomic_store_relaxed(&l->ldr, value & 0xff000000); return true;
	case REG_DFR: atomic_store_relaxed(&l->dfr, value | 0x0fffffff); return true;
	case REG_SVR:
		atomic_store_relaxed(&l->svr, value & 0x11ff);
		if (!(value & SVR_ENABLE))
			for (unsigned n = 0; n < LVT_COUNT; n++)
				l->lvt[n] |= LVT_MASKED;
		look_again(v);
		return true;
	case REG_ESR:
		l->esr = l->esr_next;
		l->esr_next = 0;
		return true;
	case REG_ICR_LOW:
		l->icr_low = value & 0x000ccfff & ~ICR_BUSY;
		send(v, l->icr_high, l->icr_low);
		return true;
	case REG_ICR_HIGH: l->icr_high = value & 0xff000000; return true;
	case REG_INITIAL:
		if (!deadline_mode(l)) {
			l->timer_initial = value;
			timer_start(v);
		}
		return true;
	case REG_DIVIDE: l->timer_divide = value & 0xb; return true;
	case REG_SELF_IPI:
		if (!x2apic(l))
			return false;
		send(v, 0, (value & 0xff) | APIC_SELF << 18 | 1u << 14);
		return true;
	default: return false;
	}
}

void lapic_mmio_read(struct vcpu *v, unsigned off, void *data, unsigned len)
{
	uint32_t value = 0;

	/* Registers are 32 bits at 16-byte steps; other accesses are undefined and read 0. */
	if (!reg_read(v, off & ~15u, &value))
		error(v, ESR_REG_ILLEGAL);
	memset(data, 0, len);
	if (!(off & 12))
		memcpy(data, (char *)&value + (off & 3), MIN(len, 4 - (off & 3)));
}

void lapic_mmio_write(struct vcpu *v, unsigned off, const void *data, unsigned len)
{
	uint32_t value;

	if ((off & 15) || len < 4)
		return;
	memcpy(&value, data, 4);
	if (!reg_write(v, off, value))
		error(v, ESR_REG_ILLEGAL);
}

/* --- MSRs ----------------------------------------------------------------------------------- */

static int write_base(struct vcpu *v, uint64_t value)
{
	struct lapic *l = &v->lapic;
	uint64_t old = l->base;
	bool was_x2 = old & APIC_BASE_X2APIC, x2 = value & APIC_BASE_X2APIC;
	bool was_on = old & APIC_BASE_ENABLE, on = value & APIC_BASE_ENABLE;

	if (value >> GUEST_PHYS_BITS || (value & 0x2ff))
		return -EINVAL;
	/* SDM volume 3, figure 11-27: x2APIC is entered from xAPIC and left by disabling. */
	if ((x2 && !on) || (x2 && !was_x2 && !was_on) || (was_x2 && !x2 && on))
		return -EINVAL;
	value = (value & ~(uint64_t)APIC_BASE_BSP) | (v->index == 0 ? APIC_BASE_BSP : 0);
	atomic_store_relaxed(&l->base, value);
	if (was_on && !on) {
		lapic_reset(v, false);
		atomic_store_relaxed(&l->base, value);
	}
	if (x2 && !was_x2)
		atomic_store_relaxed(&l->ldr, x2apic_ldr(l));
	return 0;
}

int lapic_read_msr(struct vcpu *v, uint32_t msr, uint64_t *value)
{
	struct lapic *l = &v->lapic;
	unsigned reg = (msr - MSR_X2APIC_BASE) << 4;
	uint32_t low;

	switch (msr) {
	case MSR_APIC_BASE: *value = l->base; return 0;
	case MSR_TSC_DEADLINE: *value = l->tsc_deadline; return 0;
	}
	if (msr < MSR_X2APIC_BASE || msr > MSR_X2APIC_LAST)
		return -ENOENT;
	if (!x2apic(l))
		return -EINVAL;
	if (reg == REG_ICR_LOW) {
		*value = (uint64_t)l->icr_high << 32 | l->icr_low;
		return 0;
	}
	if (!reg_read(v, reg, &low))
		return -EINVAL;
	*value = low;
	return 0;
}

int lapic_write_msr(struct vcpu *v, uint32_t msr, uint64_t value)
{
	struct lapic *l = &v->lapic;
	unsigned reg = (msr - MSR_X2APIC_BASE) << 4;

	switch (msr) {
	case MSR_APIC_BASE: return write_base(v, value);
	case MSR_TSC_DEADLINE: set_tsc_deadline(v, value); return 0;
	}
	if (msr < MSR_X2APIC_BASE || msr > MSR_X2APIC_LAST)
		return -ENOENT;
	if (!x2apic(l))
		return -EINVAL;
	if (reg == REG_ICR_LOW) {
		l->icr_high = value >> 32;
		return reg_write(v, reg, value) ? 0 : -EINVAL;
	}
	/* Read-only registers, and values the registers do not have. */
	if (value >> 32 || (reg == REG_EOI && value) || (reg == REG_ESR && value) ||
	    (reg == REG_TPR && value > 0xff))
		return -EINVAL;
	return reg_write(v, reg, value) ? 0 : -EINVAL;
}
