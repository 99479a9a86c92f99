#include "src/dev/pic.h"

#include <pthread.h>
#include <stdlib.h>

#include "src/dev/regs.h"

/* Command words: 8259A data sheet, figures 7 and 8. */
#define ICW1	  0x10
#define ICW1_ICW4 0x01
#define ICW1_SNGL 0x02
#define ICW1_LTIM 0x08
#define ICW4_AEOI 0x02
#define ICW4_SFNM 0x10

#define OCW3		0x08
#define OCW3_READ_ISR	0x01
#define OCW3_READ	0x02
#define OCW3_POLL	0x04
#define OCW3_SMM	0x20
#define OCW3_SMM_ENABLE 0x40

/* Rotate, specific and EOI bits of OCW2. */
#define OCW2_CLEAR_AEOI_ROTATE 0
#define OCW2_EOI	       1
#define OCW2_SPECIFIC_EOI      3
#define OCW2_SET_AEOI_ROTATE   4
#define OCW2_ROTATE_EOI	       5
#define OCW2_SET_PRIORITY      6
#define OCW2_ROTATE_SPECIFIC   7

#define CASCADE	 2
#define SPURIOUS 7

#define MASTER_ELCR_MASK 0xf8 /* IRQ 0, 1 and 2 are always edges */
#define SLAVE_ELCR_MASK	 0xde /* IRQ 8 and 13 too */

enum init_state { READY, WANT_ICW2, WANT_ICW3, WANT_ICW4 };

struct chip {
	struct device dev;
	struct pic *pic;
	uint8_t level; /* of the inputs */
	uint8_t irr, imr, isr;
	uint8_t elcr, elcr_mask;
	uint8_t base;
	uint8_t lowest; /* input of lowest priority */
	enum init_state init;
	bool icw4, single, level_mode;
	bool read_isr, poll, special_mask;
	bool auto_eoi, rotate_auto_eoi, special_nested;
};

struct pic {
	pthread_mutex_t lock; /* protects all below; taken before that of intr */
	struct irq_line intr;
	struct chip chip[2]; /* master, slave */
	struct device elcr;
};

static bool is_master(const struct chip *c)
{
	return c == &c->pic->chip[0];
}

/* Distance from the input of highest priority of the best bit in set; 8 for the empty set. */
static unsigned best(const struct chip *c, uint8_t set)
{
	unsigned first = (c->lowest + 1) & 7, i;

	for (i = 0; i < 8; i++)
		if (set & 1u << ((first + i) & 7))
			return i;
	return 8;
}

/* The input to be served now, or -1. */
static int request(const struct chip *c)
{
	uint8_t in_service = c->isr;
	unsigned r = best(c, c->irr & ~c->imr);

	if (r == 8)
		return -1;
	/* Masked levels no longer hold back lower ones. */
	if (c->special_mask)
		in_service &= ~c->imr;
	/* The slave may interrupt again while one of its requests is in service. */
	if (c->special_nested && is_master(c))
		in_service &= ~(1u << CASCADE);
	if (r >= best(c, in_service))
		return -1;
	return (c->lowest + 1 + r) & 7;
}

static bool is_level(const struct chip *c, unsigned n)
{
	return c->level_mode || (c->elcr & 1u << n);
}

static void set_input(struct chip *c, unsigned n, bool level)
{
	uint8_t bit = 1u << n;

	if (is_level(c, n))
		c->irr = level ? c->irr | bit : c->irr & ~bit;
	else if (level && !(c->level & bit))
		c->irr |= bit;
	c->level = level ? c->level | bit : c->level & ~bit;
}

static void update_locked(struct pic *p)
{
	set_input(&p->chip[0], CASCADE, request(&p->chip[1]) >= 0);
	if (request(&p->chip[1]) < 0)
		p->chip[0].irr &= ~(1u << CASCADE);
	irq_set(&p->intr, request(&p->chip[0]) >= 0);
}

/* First half of an acknowledge: the request goes into service. */
static void serve(struct chip *c, unsigned n)
{
	if (!is_level(c, n))
		c->irr &= ~(1u << n);
	if (!c->auto_eoi)
		c->isr |= 1u << n;
	else if (c->rotate_auto_eoi)
		c->lowest = n;
}

static uint8_t ack_slave(struct chip *c)
{
	int n = request(c);

	if (n >= 0)
		serve(c, n);
	return c->base + (n >= 0 ? n : SPURIOUS);
}

uint8_t pic_ack(struct pic *p)
{
	struct chip *m = &p->chip[0];
	uint8_t vector;
	int n;

	pthread_mutex_lock(&p->lock);
	n = request(m);
	if (n >= 0)
		serve(m, n);
	if (n == CASCADE)
		vector = ack_slave(&p->chip[1]);
	else
		vector = m->base + (n >= 0 ? n : SPURIOUS);
	/* The slave's output drops between two requests, which makes an edge at the master. */
	if (n == CASCADE)
		set_input(m, CASCADE, false);
	update_locked(p);
	pthread_mutex_unlock(&p->lock);
	return vector;
}

bool pic_pending(struct pic *p)
{
	bool pending;

	pthread_mutex_lock(&p->lock);
	pending = request(&p->chip[0]) >= 0;
	pthread_mutex_unlock(&p->lock);
	return pending;
}

static void line_set(void *opaque, unsigned n, bool level)
{
	struct pic *p = opaque;

	pthread_mutex_lock(&p->lock);
	set_input(&p->chip[n / 8], n % 8, level);
	update_locked(p);
	pthread_mutex_unlock(&p->lock);
}

struct irq_line pic_line(struct pic *p, unsigned n)
{
	return (struct irq_line){.set = line_set, .opaque = p, .n = n};
}

/* ICW1 clears the edge detection, the mask and the modes. */
static void start_init(struct chip *c, uint8_t v)
{
	uint8_t level_inputs = c->level & (v & ICW1_LTIM ? 0xff : c->elcr);

	c->irr = level_inputs;
	c->imr = c->isr = 0;
	c->lowest = 7;
	c->read_isr = c->poll = c->special_mask = false;
	c->auto_eoi = c->rotate_auto_eoi = c->special_nested = false;
	c->icw4 = v & ICW1_ICW4;
	c->single = v & ICW1_SNGL;
	c->level_mode = v & ICW1_LTIM;
	c->init = WANT_ICW2;
}

static void continue_init(struct chip *c, uint8_t v)
{
	switch (c->init) {
	case WANT_ICW2:
		c->base = v & 0xf8;
		c->init = !c->single ? WANT_ICW3 : c->icw4 ? WANT_ICW4 : READY;
		break;
	case WANT_ICW3: /* how the chips are cascaded is fixed */
		c->init = c->icw4 ? WANT_ICW4 : READY;
		break;
	default:
		c->special_nested = v & ICW4_SFNM;
		c->auto_eoi = v & ICW4_AEOI;
		c->init = READY;
	}
}

static void end_of_interrupt(struct chip *c, unsigned n, bool rotate)
{
	c->isr &= ~(1u << n);
	if (rotate)
		c->lowest = n;
}

/* The level in service that a non-specific EOI ends; special mask mode skips masked ones. */
static void nonspecific_eoi(struct chip *c, bool rotate)
{
	unsigned r = best(c, c->special_mask ? c->isr & ~c->imr : c->isr);

	if (r < 8)
		end_of_interrupt(c, (c->lowest + 1 + r) & 7, rotate);
}

static void ocw2(struct chip *c, uint8_t v)
{
	unsigned n = v & 7;

	switch (v >> 5) {
	case OCW2_CLEAR_AEOI_ROTATE: c->rotate_auto_eoi = false; break;
	case OCW2_SET_AEOI_ROTATE: c->rotate_auto_eoi = true; break;
	case OCW2_EOI: nonspecific_eoi(c, false); break;
	case OCW2_ROTATE_EOI: nonspecific_eoi(c, true); break;
	case OCW2_SPECIFIC_EOI: end_of_interrupt(c, n, false); break;
	case OCW2_ROTATE_SPECIFIC: end_of_interrupt(c, n, true); break;
	case OCW2_SET_PRIORITY: c->lowest = n; break;
	}
}

static void ocw3(struct chip *c, uint8_t v)
{
	if (v & OCW3_POLL)
		c->poll = true;
	if (v & OCW3_READ)
		c->read_isr = v & OCW3_READ_ISR;
	if (v & OCW3_SMM_ENABLE)
		c->special_mask = v & OCW3_SMM;
}

static void chip_write_locked(void *self, unsigned off, uint8_t v)
{
	struct chip *c = self;

	if (off == 0) {
		if (v & ICW1)
			start_init(c, v);
		else if (v & OCW3)
			ocw3(c, v);
		else
			ocw2(c, v);
	} else if (c->init != READY) {
		continue_init(c, v);
	} else {
		c->imr = v;
	}
	update_locked(c->pic);
}

/* A poll is an acknowledge by a read: bit 7 and the number of the request. */
static uint8_t poll(struct chip *c)
{
	int n = request(c);

	c->poll = false;
	if (n < 0)
		return 0;
	serve(c, n);
	update_locked(c->pic);
	return 0x80 | n;
}

static uint8_t chip_read_locked(void *self, unsigned off)
{
	struct chip *c = self;

	if (c->poll)
		return poll(c);
	if (off == 1)
		return c->imr;
	return c->read_isr ? c->isr : c->irr;
}

static void chip_read(struct device *dev, uint64_t off, void *data, unsigned len)
{
	struct chip *c = container_of(dev, struct chip, dev);

	pthread_mutex_lock(&c->pic->lock);
	reg_read_bytes(c, chip_read_locked, off, data, len);
	pthread_mutex_unlock(&c->pic->lock);
}

static void chip_write(struct device *dev, uint64_t off, const void *data, unsigned len)
{
	struct chip *c = container_of(dev, struct chip, dev);

	pthread_mutex_lock(&c->pic->lock);
	reg_write_bytes(c, chip_write_locked, off, data, len);
	pthread_mutex_unlock(&c->pic->lock);
}

static uint8_t elcr_read_locked(void *self, unsigned off)
{
	return ((struct pic *)self)->chip[off].elcr;
}

static void elcr_write_locked(void *self, unsigned off, uint8_t v)
{
	struct chip *c = &((struct pic *)self)->chip[off];

	c->elcr = v & c->elcr_mask;
	c->irr = (c->irr & ~c->elcr) | (c->level & c->elcr);
	update_locked(c->pic);
}

static void elcr_read(struct device *dev, uint64_t off, void *data, unsigned len)
{
	struct pic *p = container_of(dev, struct pic, elcr);

	pthread_mutex_lock(&p->lock);
	reg_read_bytes(p, elcr_read_locked, off, data, len);
	pthread_mutex_unlock(&p->lock);
}

static void elcr_write(struct device *dev, uint64_t off, const void *data, unsigned len)
{
	struct pic *p = container_of(dev, struct pic, elcr);

	pthread_mutex_lock(&p->lock);
	reg_write_bytes(p, elcr_write_locked, off, data, len);
	pthread_mutex_unlock(&p->lock);
}

/* Inputs are masked until software has initialised the chips. */
static void master_reset(struct device *dev)
{
	struct pic *p = container_of(dev, struct chip, dev)->pic;
	unsigned i;

	pthread_mutex_lock(&p->lock);
	for (i = 0; i < 2; i++) {
		struct chip *c = &p->chip[i];

		c->elcr = 0;
		start_init(c, 0);
		c->init = READY;
		c->imr = 0xff;
		c->base = 0;
	}
	update_locked(p);
	pthread_mutex_unlock(&p->lock);
}

static void master_destroy(struct device *dev)
{
	struct pic *p = container_of(dev, struct chip, dev)->pic;

	pthread_mutex_destroy(&p->lock);
	free(p);
}

static void part_destroy(struct device *dev)
{
	/* A part of struct pic, which master_destroy() frees. */
}

static const struct device_ops master_ops = {
	.name = "pic",
	.read = chip_read,
	.write = chip_write,
	.reset = master_reset,
	.destroy = master_destroy,
};

static const struct device_ops slave_ops = {
	.name = "pic-slave",
	.read = chip_read,
	.write = chip_write,
	.destroy = part_destroy,
};

static const struct device_ops elcr_ops = {
	.name = "pic-elcr",
	.read = elcr_read,
	.write = elcr_write,
	.destroy = part_destroy,
};

int pic_create(struct pic **out, struct pic_devices *devs, const struct irq_line *intr)
{
	struct pic *p = calloc(1, sizeof(*p));

	if (!p)
		return -ENOMEM;
	pthread_mutex_init(&p->lock, NULL);
	p->intr = *intr;
	p->chip[0].dev.ops = &master_ops;
	p->chip[1].dev.ops = &slave_ops;
	p->elcr.ops = &elcr_ops;
	p->chip[0].elcr_mask = MASTER_ELCR_MASK;
	p->chip[1].elcr_mask = SLAVE_ELCR_MASK;
	p->chip[0].pic = p->chip[1].pic = p;
	master_reset(&p->chip[0].dev);
	*devs = (struct pic_devices){&p->chip[0].dev, &p->chip[1].dev, &p->elcr};
	*out = p;
	return 0;
}
