/*
 * The set of VCPUs of one VM and the APIC bus between them.
 *
 * A VCPU thread is the only writer of its struct vcpu, but for the fields under "posted by others",
 * which anyone changes atomically and follows by a request bit: see docs/concurrency.md,
 * "Requests".
 */
#ifndef SMP_SMP_H
#define SMP_SMP_H

#include <pthread.h>

#include "mmu/gmem.h"
#include "mmu/shootdown.h"
#include "sched/poll.h"
#include "smp/irq.h"
#include "smp/lapic.h"
#include "src/base/clock.h"
#include "src/base/stats.h"
#include "src/x86/cpu.h"
#include "src/x86/cpuid.h"

#define SMP_MAX_VCPUS 1024

struct smp;

/* Request bits: what a VCPU must look at before it runs its next guest instruction. */
#define REQ_SHOOTDOWN (1u << 0) /* its shootdown queue */
#define REQ_IRQ	      (1u << 1) /* posted interrupts, the PIC's line */
#define REQ_NMI	      (1u << 2)
#define REQ_INIT      (1u << 3)
#define REQ_SIPI      (1u << 4)
#define REQ_STOP      (1u << 5) /* leave the run loop */
#define REQ_TICK      (1u << 6) /* time to look at the local APIC's timer */
#define REQ_TIMER     (1u << 7) /* from the owner itself: the timer was set */

enum vcpu_mp_state { VCPU_RUNNING, VCPU_HALTED, VCPU_WAIT_SIPI };

struct vcpu {
	struct cpu cpu;
	struct lapic lapic;
	struct stats stats;
	struct smp *smp;
	unsigned index;
	enum vcpu_mp_state mp_state;
	bool nmi_pending;
	uint64_t kvmclock_gpa; /* 0: off */
	uint32_t kvmclock_version;
	uint64_t tsc_offset; /* guest TSC = guest time in ns + offset, modulo 2^64 */
	uint32_t clock_seq;  /* of the clock's scale that cpu.bt.tsc was made from; 0: none */
	struct sched_poll poll;
	void *engine_data;
	pthread_t thread;

	/* Posted by others. */
	uint32_t requests __attribute__((aligned(64)));
	uint32_t sleeping; /* futex: 1 while blocked or about to block */
	uint32_t extint;   /* level of the PIC's INTR line */
	uint32_t sipi_vector;
	struct shootdown_queue queue;
};

/* What the VCPUs need of the rest of the machine; set once by the VM builder. */
struct smp_ops {
	void (*mmio_read)(void *opaque, gpa_t gpa, void *data, unsigned len);
	void (*mmio_write)(void *opaque, gpa_t gpa, const void *data, unsigned len);
	void (*pio_read)(void *opaque, uint16_t port, void *data, unsigned len);
	void (*pio_write)(void *opaque, uint16_t port, const void *data, unsigned len);
	uint8_t (*extint_ack)(void *opaque);	   /* INTA cycle of the PIC */
	void (*eoi)(void *opaque, uint8_t vector); /* of a level-triggered vector */
	void *opaque;
};

struct smp {
	struct vcpu **vcpu;
	unsigned n;
	struct gmem *gmem;
	struct clock *clk;
	struct sched_host host;
	struct smp_ops ops;
	unsigned threads, cores;	   /* guest topology: threads a core, cores a socket */
	unsigned core_shift, socket_shift; /* of APIC ids */
	uint32_t lowest_rr;		   /* round-robin of lowest-priority delivery */
	int *by_apic_id;		   /* VCPU index or -1 */
	unsigned napic_ids;
	void *engine_data; /* the engine's, for all VCPUs */
};

struct smp_config {
	unsigned sockets, cores, threads; /* cores a socket, threads a core */
	struct gmem *gmem;
	struct clock *clk;
	struct smp_ops ops;
};

/* VCPU 0 is the boot processor; all are in power-on state. 0 or -errno. */
int smp_create(struct smp **smp, const struct smp_config *cfg);
/* All VCPU threads have ended. */
void smp_destroy(struct smp *smp);
/* Power-on state of every VCPU; no VCPU thread runs. */
void smp_reset(struct smp *smp);
uint32_t smp_apic_id(const struct smp *smp, unsigned index);

/* Any thread. Sets request bits and sees that the VCPU looks at them soon. */
void vcpu_request(struct vcpu *v, uint32_t bits);

/* Any thread. source: the sending VCPU, or NULL for a device or IOAPIC. */
void smp_deliver(struct smp *smp, const struct apic_msg *msg, struct vcpu *source);
struct apic_sink smp_apic_sink(struct smp *smp);
struct msi_sink smp_msi_sink(struct smp *smp);
/* The PIC's INTR line, wired to LINT0 of the boot processor. */
struct irq_line smp_pic_line(struct smp *smp);

/* --- owner thread ------------------------------------------------------------------------- */

static inline uint64_t vcpu_now(struct vcpu *v)
{
	return clock_now(v->smp->clk);
}

/* At every safepoint: keeps the guest's TSC with the clock. */
void vcpu_follow_clock(struct vcpu *v);
/* Takes the request bits, acts on INIT, SIPI, NMI and posted interrupts; returns the bits. */
uint32_t vcpu_take_requests(struct vcpu *v);
/* Whether an interrupt would be taken if RFLAGS.IF allowed it. */
bool vcpu_irq_pending(struct vcpu *v);
/* The vector to deliver now, acknowledged; -1 if the PIC has taken its request back. */
int vcpu_ack_irq(struct vcpu *v);
/* Blocks until a request or the LAPIC timer's deadline. The queue is offline meanwhile. */
void vcpu_block(struct vcpu *v, const struct shootdown_sink *sink);

/* pv.c: KVM's paravirtual MSRs. 0 or -EINVAL. */
int pv_read_msr(struct vcpu *v, uint32_t msr, uint64_t *value);
int pv_write_msr(struct vcpu *v, uint32_t msr, uint64_t value);
/* tsc_offset has changed. */
void pv_tsc_moved(struct vcpu *v);

#endif
