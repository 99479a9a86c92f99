/*
 * I/O APIC (Intel 82093AA data sheet, with the EOI register of version 0x20): 24 pins, each with a
 * redirection entry that turns it into a message on the APIC bus.
 *
 * Polarity bits are stored but mean nothing: a pin is asserted while its line's level is true.
 *
 * Any thread may call everything but create and destroy. Messages are sent with the IOAPIC's lock
 * held, so the sink must not call back into it.
 */
#ifndef SMP_IOAPIC_H
#define SMP_IOAPIC_H

#include "smp/irq.h"

#define IOAPIC_PINS	 24
#define IOAPIC_MMIO_BASE 0xfec00000u
#define IOAPIC_MMIO_SIZE 0x1000u

struct ioapic;

/* id: the initial content of the ID register. 0 or -ENOMEM. */
int ioapic_create(struct ioapic **io, uint8_t id, const struct apic_sink *sink);
void ioapic_destroy(struct ioapic *io);
/* All entries masked, as after power-on. Line levels stay. */
void ioapic_reset(struct ioapic *io);

/* Memory-mapped registers: 32-bit at offsets 0x00, 0x10, 0x40; others read 0 and ignore writes. */
void ioapic_read(struct ioapic *io, uint64_t off, void *data, unsigned len);
void ioapic_write(struct ioapic *io, uint64_t off, const void *data, unsigned len);

/* Input pin; n < IOAPIC_PINS. The handle stays valid until destroy. */
struct irq_line ioapic_line(struct ioapic *io, unsigned n);

/*
 * A local APIC broadcast the end of a level-triggered interrupt: entries with that vector lose
 * their remote IRR and fire again if their pin is still asserted.
 */
void ioapic_eoi(struct ioapic *io, uint8_t vector);

/* Whether ioapic_eoi() could find something: lets a local APIC skip the call. Lock-free. */
bool ioapic_handles_vector(struct ioapic *io, uint8_t vector);

#endif
