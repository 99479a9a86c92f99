#include "smp/ioapic.h"

#include <pthread.h>
#include <stdlib.h>

#include "src/base/atomic.h"

#define IOREGSEL 0x00
#define IOWIN	 0x10
#define IOEOI	 0x40

#define REG_ID	  0x00
#define REG_VER	  0x01
#define REG_ARB	  0x02
#define REG_REDIR 0x10 /* two registers for each pin */

#define VERSION	 0x20
#define ID_MASK	 0x0f000000u
#define ID_SHIFT 24

/* Redirection entry, 82093AA data sheet 3.2.4. */
#define RTE_VECTOR	   0xffull
#define RTE_DELIVERY_SHIFT 8
#define RTE_LOGICAL	   (1ull << 11)
#define RTE_STATUS	   (1ull << 12)
#define RTE_REMOTE_IRR	   (1ull << 14)
#define RTE_LEVEL	   (1ull << 15)
#define RTE_MASKED	   (1ull << 16)
#define RTE_DEST_SHIFT	   56
/* Destination bits 14:8, as KVM's paravirtual interface (KVM_FEATURE_MSI_EXT_DEST_ID) has them. */
#define RTE_EXT_DEST_SHIFT 49
#define RTE_READ_ONLY	   (RTE_STATUS | RTE_REMOTE_IRR)

struct ioapic {
	pthread_mutex_t lock; /* protects everything below but the vectors */
	struct apic_sink sink;
	uint8_t index;
	uint32_t id;
	uint32_t initial_id;
	uint32_t level; /* of the pins, a bit each */
	uint64_t rte[IOAPIC_PINS];
	uint64_t vectors[4]; /* set of vectors of level-triggered entries; written under the lock */
};

int ioapic_create(struct ioapic **out, uint8_t id, const struct apic_sink *sink)
{
	struct ioapic *io = calloc(1, sizeof(*io));

	if (!io)
		return -ENOMEM;
	pthread_mutex_init(&io->lock, NULL);
	io->sink = *sink;
	io->initial_id = (uint32_t)id << ID_SHIFT & ID_MASK;
	ioapic_reset(io);
	*out = io;
	return 0;
}

void ioapic_destroy(struct ioapic *io)
{
	if (!io)
		return;
	pthread_mutex_destroy(&io->lock);
	free(io);
}

static bool keeps_remote_irr(uint64_t rte)
{
	unsigned mode = rte >> RTE_DELIVERY_SHIFT & 7;

	return (rte & RTE_LEVEL) && (mode == APIC_FIXED || mode == APIC_LOWEST);
}

static void update_vectors_locked(struct ioapic *io)
{
	uint64_t set[4] = {0};
	unsigned i;

	for (i = 0; i < IOAPIC_PINS; i++) {
		uint8_t v = io->rte[i] & RTE_VECTOR;

		if (keeps_remote_irr(io->rte[i]))
			set[v / 64] |= 1ull << v % 64;
	}
	for (i = 0; i < ARRAY_SIZE(set); i++)
		atomic_store_seq(&io->vectors[i], set[i]);
}

void ioapic_reset(struct ioapic *io)
{
	unsigned i;

	pthread_mutex_lock(&io->lock);
	io->index = 0;
	io->id = io->initial_id;
	for (i = 0; i < IOAPIC_PINS; i++)
		io->rte[i] = RTE_MASKED;
	update_vectors_locked(io);
	pthread_mutex_unlock(&io->lock);
}

static void send_locked(struct ioapic *io, uint64_t rte)
{
	struct apic_msg msg = {
		.dest = (rte >> RTE_DEST_SHIFT) | (rte >> RTE_EXT_DEST_SHIFT & 0x7f) << 8,
		.logical = rte & RTE_LOGICAL,
		.level = rte & RTE_LEVEL,
		.assert = true,
		.vector = rte & RTE_VECTOR,
		.delivery = rte >> RTE_DELIVERY_SHIFT & 7,
		.shorthand = APIC_DEST,
	};

	io->sink.deliver(io->sink.opaque, &msg);
}

/* Fires an asserted level-triggered pin unless an earlier message still waits for its EOI. */
static void service_level_locked(struct ioapic *io, unsigned pin)
{
	uint64_t *rte = &io->rte[pin];

	if (!keeps_remote_irr(*rte) || *rte & (RTE_MASKED | RTE_REMOTE_IRR) ||
	    !(io->level & 1u << pin))
		return;
	*rte |= RTE_REMOTE_IRR;
	send_locked(io, *rte);
}

/* An edge on a masked pin is lost, as in hardware. Delivery modes without an EOI are edges too. */
static void set_level(void *opaque, unsigned pin, bool level)
{
	struct ioapic *io = opaque;
	uint32_t bit = 1u << pin;
	bool rising;

	pthread_mutex_lock(&io->lock);
	rising = level && !(io->level & bit);
	io->level = level ? io->level | bit : io->level & ~bit;
	if (keeps_remote_irr(io->rte[pin]))
		service_level_locked(io, pin);
	else if (rising && !(io->rte[pin] & RTE_MASKED))
		send_locked(io, io->rte[pin]);
	pthread_mutex_unlock(&io->lock);
}

struct irq_line ioapic_line(struct ioapic *io, unsigned n)
{
	return (struct irq_line){.set = set_level, .opaque = io, .n = n};
}

static void eoi_locked(struct ioapic *io, uint8_t vector)
{
	unsigned i;

	for (i = 0; i < IOAPIC_PINS; i++) {
		if ((io->rte[i] & RTE_VECTOR) != vector || !(io->rte[i] & RTE_REMOTE_IRR))
			continue;
		io->rte[i] &= ~RTE_REMOTE_IRR;
		service_level_locked(io, i);
	}
}

void ioapic_eoi(struct ioapic *io, uint8_t vector)
{
	pthread_mutex_lock(&io->lock);
	eoi_locked(io, vector);
	pthread_mutex_unlock(&io->lock);
}

bool ioapic_handles_vector(struct ioapic *io, uint8_t vector)
{
	return atomic_load_acquire(&io->vectors[vector / 64]) >> vector % 64 & 1;
}

static uint32_t read_register_locked(struct ioapic *io)
{
	unsigned n = io->index - REG_REDIR;

	switch (io->index) {
	case REG_ID:
	case REG_ARB: return io->id;
	case REG_VER: return (IOAPIC_PINS - 1) << 16 | VERSION;
	}
	if (io->index < REG_REDIR || n / 2 >= IOAPIC_PINS)
		return 0;
	return io->rte[n / 2] >> (n & 1 ? 32 : 0);
}

/* Changing an entry to edge-triggered drops its remote IRR: system software uses that as an EOI. */
static void write_entry_locked(struct ioapic *io, unsigned n, uint32_t v)
{
	uint64_t *rte = &io->rte[n / 2];

	if (n & 1)
		*rte = (uint64_t)v << 32 | (uint32_t)*rte;
	else
		*rte = (*rte & (~0ull << 32 | RTE_READ_ONLY)) | (v & ~RTE_READ_ONLY & 0x1ffff);
	if (!keeps_remote_irr(*rte))
		*rte &= ~RTE_REMOTE_IRR;
	update_vectors_locked(io);
	service_level_locked(io, n / 2);
}

static void write_register_locked(struct ioapic *io, uint32_t v)
{
	unsigned n = io->index - REG_REDIR;

	if (io->index == REG_ID)
		io->id = v & ID_MASK;
	else if (io->index >= REG_REDIR && n / 2 < IOAPIC_PINS)
		write_entry_locked(io, n, v);
}

void ioapic_read(struct ioapic *io, uint64_t off, void *data, unsigned len)
{
	uint32_t v = 0;

	pthread_mutex_lock(&io->lock);
	if (off == IOREGSEL)
		v = io->index;
	else if (off == IOWIN)
		v = read_register_locked(io);
	pthread_mutex_unlock(&io->lock);
	memset(data, 0, len);
	memcpy(data, &v, MIN(len, sizeof(v)));
}

void ioapic_write(struct ioapic *io, uint64_t off, const void *data, unsigned len)
{
	uint32_t v = 0;

	memcpy(&v, data, MIN(len, sizeof(v)));
	pthread_mutex_lock(&io->lock);
	if (off == IOREGSEL)
		io->index = v;
	else if (off == IOWIN && len == 4)
		write_register_locked(io, v);
	else if (off == IOEOI && len == 4)
		eoi_locked(io, v);
	pthread_mutex_unlock(&io->lock);
}
