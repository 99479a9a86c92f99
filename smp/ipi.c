/* Delivery of messages on the APIC bus: which VCPUs a destination names, and what each is told. */
#include "smp/smp.h"
#include "src/base/atomic.h"

void apic_msg_from_msi(uint64_t addr, uint32_t data, struct apic_msg *msg)
{
	*msg = (struct apic_msg){
		/* Address bits 11-5 extend the destination to 15 bits (KVM's convention). */
		.dest = (addr >> 12 & 0xff) | (addr >> 5 & 0x7f) << 8,
		.logical = addr >> 2 & 1,
		.vector = data,
		.delivery = data >> 8 & 7,
		.level = data >> 15 & 1,
		.assert = true,
		.shorthand = APIC_DEST,
	};
}

static bool in_x2apic(const struct lapic *l)
{
	return atomic_load_relaxed(&l->base) & APIC_BASE_X2APIC;
}

static bool logical_match(const struct lapic *l, const struct apic_msg *m)
{
	uint32_t ldr = atomic_load_relaxed(&l->ldr);

	/* A destination of a device has no more than 15 bits and reaches cluster 0 only. */
	if (in_x2apic(l))
		return ldr >> 16 == m->dest >> 16 && (ldr & m->dest & 0xffff);
	ldr >>= 24;
	if (atomic_load_relaxed(&l->dfr) >> 28 == 0xf)
		return ldr & m->dest & 0xff;
	return ldr >> 4 == (m->dest >> 4 & 0xf) && (ldr & m->dest & 0xf);
}

static bool broadcast(const struct apic_msg *m)
{
	return m->wide ? m->dest == ~0u : m->dest == 0xff;
}

/* Where there are ids above 255, 255 is one of them to a processor in x2APIC mode. */
static bool broadcast_reaches(const struct vcpu *v, const struct apic_msg *m)
{
	return broadcast(m) && (m->wide || v->smp->napic_ids <= 255 || !in_x2apic(&v->lapic));
}

static bool matches(const struct vcpu *v, const struct apic_msg *m, const struct vcpu *source)
{
	switch (m->shorthand) {
	case APIC_SELF: return v == source;
	case APIC_ALL: return true;
	case APIC_ALL_BUT_SELF: return v != source;
	}
	if (broadcast_reaches(v, m))
		return true;
	if (m->logical)
		return logical_match(&v->lapic, m);
	return v->lapic.id == m->dest;
}

static void deliver_to(struct vcpu *v, const struct apic_msg *m)
{
	switch (m->delivery) {
	case APIC_FIXED:
	case APIC_LOWEST:
		if (m->vector < 16 || !lapic_accepts(&v->lapic))
			return;
		lapic_post(&v->lapic, m->vector, m->level);
		vcpu_request(v, REQ_IRQ);
		break;
	case APIC_NMI: vcpu_request(v, REQ_NMI); break;
	case APIC_INIT:
		/* The level de-assert form only synchronised arbitration ids long ago. */
		if (!m->assert && m->level)
			break;
		/* An older start-up message the target has not seen was for the state before. */
		atomic_fetch_and_seq(&v->requests, ~REQ_SIPI);
		vcpu_request(v, REQ_INIT);
		break;
	case APIC_STARTUP:
		atomic_store_seq(&v->sipi_vector, m->vector);
		vcpu_request(v, REQ_SIPI);
		break;
	default: break; /* SMI: there is no SMM. ExtINT comes by the PIC's line. */
	}
}

/* One of the VCPUs that match, in turn; waking a halted one is no better than any other. */
static void deliver_lowest(struct smp *smp, const struct apic_msg *m, struct vcpu *source)
{
	uint32_t start = atomic_fetch_add_relaxed(&smp->lowest_rr, 1);

	for (unsigned n = 0; n < smp->n; n++) {
		struct vcpu *v = smp->vcpu[(start + n) % smp->n];

		if (matches(v, m, source) && lapic_accepts(&v->lapic)) {
			deliver_to(v, m);
			return;
		}
	}
}

void smp_deliver(struct smp *smp, const struct apic_msg *m, struct vcpu *source)
{
	if (m->delivery == APIC_LOWEST && m->shorthand == APIC_DEST) {
		deliver_lowest(smp, m, source);
		return;
	}
	/* The common case needs no search. */
	if (m->shorthand == APIC_DEST && !m->logical && !broadcast(m)) {
		if (m->dest < smp->napic_ids && smp->by_apic_id[m->dest] >= 0)
			deliver_to(smp->vcpu[smp->by_apic_id[m->dest]], m);
		return;
	}
	for (unsigned n = 0; n < smp->n; n++)
		if (matches(smp->vcpu[n], m, source))
			deliver_to(smp->vcpu[n], m);
}

static void sink_deliver(void *opaque, const struct apic_msg *msg)
{
	smp_deliver(opaque, msg, NULL);
}

struct apic_sink smp_apic_sink(struct smp *smp)
{
	return (struct apic_sink){.deliver = sink_deliver, .opaque = smp};
}

static void sink_msi(void *opaque, uint64_t addr, uint32_t data)
{
	struct apic_msg m;

	if (addr >> 20 != 0xfee)
		return;
	apic_msg_from_msi(addr, data, &m);
	smp_deliver(opaque, &m, NULL);
}

struct msi_sink smp_msi_sink(struct smp *smp)
{
	return (struct msi_sink){.send = sink_msi, .opaque = smp};
}

/* LINT0 of the boot processor carries the PIC's INTR. */
static void set_pic_line(void *opaque, unsigned n, bool level)
{
	struct smp *smp = opaque;
	struct vcpu *v = smp->vcpu[0];

	atomic_store_seq(&v->extint, level);
	if (level)
		vcpu_request(v, REQ_IRQ);
}

struct irq_line smp_pic_line(struct smp *smp)
{
	return (struct irq_line){.set = set_pic_line, .opaque = smp};
}
