/*
 * How devices raise interrupts: a line with a level, or a message. Both are small handles that the
 * machine (src/vm) wires to the interrupt controllers; any thread may use them.
 */
#ifndef SMP_IRQ_H
#define SMP_IRQ_H

#include "src/base/types.h"

struct irq_line {
	void (*set)(void *opaque, unsigned n, bool level); /* idempotent for an unchanged level */
	void *opaque;
	unsigned n;
};

static inline void irq_set(const struct irq_line *line, bool level)
{
	if (line->set)
		line->set(line->opaque, line->n, level);
}

/* A low-high-low pulse for edge-triggered lines. */
static inline void irq_pulse(const struct irq_line *line)
{
	irq_set(line, true);
	irq_set(line, false);
}

struct msi_sink {
	void (*send)(void *opaque, uint64_t addr, uint32_t data);
	void *opaque;
};

static inline void msi_send(const struct msi_sink *sink, uint64_t addr, uint32_t data)
{
	sink->send(sink->opaque, addr, data);
}

/*
 * One interrupt message on the APIC bus, as an MSI, an IOAPIC entry or an ICR write describes it.
 * (Intel SDM volume 3, 11.6.1 "Interrupt command register" and 11.11 "Message signalled
 * interrupts".)
 */
enum apic_delivery {
	APIC_FIXED = 0,
	APIC_LOWEST = 1,
	APIC_SMI = 2,
	APIC_NMI = 4,
	APIC_INIT = 5,
	APIC_STARTUP = 6,
	APIC_EXTINT = 7,
};

enum apic_shorthand { APIC_DEST, APIC_SELF, APIC_ALL, APIC_ALL_BUT_SELF };

struct apic_msg {
	uint32_t dest; /* APIC id or logical destination; 0xff (xAPIC) or ~0u broadcasts */
	bool logical;  /* destination mode */
	bool level;    /* trigger mode: level */
	bool assert;   /* for INIT level de-assert */
	uint8_t vector;
	uint8_t delivery;  /* enum apic_delivery */
	uint8_t shorthand; /* enum apic_shorthand */
	bool wide;	   /* dest is a 32-bit x2APIC destination */
};

/* Decodes an MSI address and data pair (extended destination bits in address 11:5 included). */
void apic_msg_from_msi(uint64_t addr, uint32_t data, struct apic_msg *msg);

/* Where interrupt controllers send messages. */
struct apic_sink {
	void (*deliver)(void *opaque, const struct apic_msg *msg);
	void *opaque;
};

#endif
