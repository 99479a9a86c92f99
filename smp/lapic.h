/*
 * Local APIC and x2APIC (Intel SDM volume 3, chapter 11).
 *
 * Everything belongs to the VCPU's thread except `posted`, into which any thread ORs vectors, and
 * the fields that senders read.
 */
#ifndef SMP_LAPIC_H
#define SMP_LAPIC_H

#include "src/base/types.h"

struct vcpu;

enum lapic_lvt {
	LVT_CMCI,
	LVT_TIMER,
	LVT_THERMAL,
	LVT_PERF,
	LVT_LINT0,
	LVT_LINT1,
	LVT_ERROR,
	LVT_COUNT
};

#define APIC_BASE_BSP	  (1u << 8)
#define APIC_BASE_X2APIC  (1u << 10)
#define APIC_BASE_ENABLE  (1u << 11)
#define APIC_DEFAULT_BASE 0xfee00000u

struct lapic {
	/* Read by senders, stored atomically. */
	uint64_t base; /* IA32_APIC_BASE */
	uint32_t id;   /* x2APIC id, fixed; the xAPIC id is its low byte */
	uint32_t ldr, dfr, svr;
	/* The owner's alone. */
	uint32_t tpr, esr, esr_next, icr_low, icr_high;
	uint32_t lvt[LVT_COUNT];
	uint32_t isr[8], irr[8], tmr[8];
	uint32_t timer_initial, timer_divide;
	uint64_t timer_start_ns;
	uint64_t timer_deadline_ns; /* guest time of the next expiry, 0: not armed */
	uint64_t tsc_deadline;

	/* Posted by others: vectors, and those of them that are level-triggered. */
	struct {
		uint32_t irr[8], level[8];
	} posted __attribute__((aligned(64)));
};

void lapic_reset(struct vcpu *v, bool cold);
/* Any thread: posts a fixed interrupt. The caller requests REQ_IRQ. */
void lapic_post(struct lapic *l, uint8_t vector, bool level);
/* Any thread: software-enabled, so that it accepts interrupts. */
bool lapic_accepts(const struct lapic *l);

/* --- owner thread -------------------------------------------------------------------------- */

void lapic_merge_posted(struct lapic *l);
/* Highest deliverable vector by priority, or -1. */
int lapic_pending(struct lapic *l);
void lapic_ack(struct lapic *l, uint8_t vector);
/* The task priority, as the register holds it. */
void lapic_set_tpr(struct vcpu *v, uint8_t tpr);
/* Posts the timer interrupt if it is due. */
void lapic_check_timer(struct vcpu *v);
/* tsc_offset has changed: a deadline is a time of the TSC. */
void lapic_tsc_moved(struct vcpu *v);
/* What firmware leaves behind on the boot processor: the PIC reaches it through LINT0. */
void lapic_virtual_wire(struct vcpu *v);

/* xAPIC page; offset below 4096. */
void lapic_mmio_read(struct vcpu *v, unsigned off, void *data, unsigned len);
void lapic_mmio_write(struct vcpu *v, unsigned off, const void *data, unsigned len);
/* IA32_APIC_BASE, TSC_DEADLINE and 0x800-0x8ff. 0, or -EINVAL for #GP; -ENOENT: not an APIC MSR. */
int lapic_read_msr(struct vcpu *v, uint32_t msr, uint64_t *value);
int lapic_write_msr(struct vcpu *v, uint32_t msr, uint64_t value);

#endif
