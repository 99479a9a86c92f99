#include "src/dev/uart.h"

#include <pthread.h>
#include <stdlib.h>

#include "src/dev/regs.h"

/* Registers and bits: PC16550D data sheet, table II. */
#define REG_DATA 0 /* or divisor low */
#define REG_IER	 1 /* or divisor high */
#define REG_IIR	 2 /* FCR when written */
#define REG_LCR	 3
#define REG_MCR	 4
#define REG_LSR	 5
#define REG_MSR	 6
#define REG_SCR	 7

#define IER_RX	  0x01
#define IER_THRE  0x02
#define IER_LINE  0x04
#define IER_MODEM 0x08
#define IER_MASK  0x0f

#define IIR_MODEM   0x00
#define IIR_NONE    0x01
#define IIR_THRE    0x02
#define IIR_RX	    0x04
#define IIR_LINE    0x06
#define IIR_TIMEOUT 0x0c
#define IIR_FIFO    0xc0

#define FCR_ENABLE   0x01
#define FCR_CLEAR_RX 0x02
#define FCR_CLEAR_TX 0x04
#define FCR_KEPT     0xc9

#define LCR_DLAB  0x80
#define LCR_BREAK 0x40

#define MCR_DTR	 0x01
#define MCR_RTS	 0x02
#define MCR_OUT1 0x04
#define MCR_OUT2 0x08
#define MCR_LOOP 0x10
#define MCR_MASK 0x1f

#define LSR_DR	   0x01
#define LSR_OE	   0x02
#define LSR_BREAK  0x10
#define LSR_THRE   0x20
#define LSR_TEMT   0x40
#define LSR_ERRORS 0x1e

#define MSR_DELTA 0x0f
#define MSR_TERI  0x04
#define MSR_CTS	  0x10
#define MSR_DSR	  0x20
#define MSR_RI	  0x40
#define MSR_DCD	  0x80
#define MSR_LINES 0xf0

#define FIFO_SIZE     16
#define BASE_BAUD     115200
#define BITS_A_CHAR   10
#define TIMEOUT_CHARS 4

struct fifo {
	uint8_t data[FIFO_SIZE];
	unsigned head, len;
};

struct uart {
	struct device dev;
	pthread_mutex_t lock; /* protects all below; taken before the chardev's and the line's */
	struct chardev *cd;
	struct evloop *loop;
	struct clock *clk;
	struct irq_line irq;
	struct ev_timer rx_timer; /* the character timeout of a FIFO below its trigger level */
	struct fifo rx, tx;
	uint16_t divisor;
	uint8_t ier, fcr, lcr, mcr, msr, scr;
	uint8_t lsr;	   /* errors only; the rest follows from the FIFOs */
	bool thre_pending; /* cleared by reading IIR or writing data */
	bool rx_timeout;
};

static bool fifo_enabled(const struct uart *u)
{
	return u->fcr & FCR_ENABLE;
}

static unsigned fifo_capacity(const struct uart *u)
{
	return fifo_enabled(u) ? FIFO_SIZE : 1;
}

static void fifo_push(struct fifo *f, uint8_t c)
{
	f->data[(f->head + f->len++) % FIFO_SIZE] = c;
}

static uint8_t fifo_pop(struct fifo *f)
{
	uint8_t c = f->data[f->head];

	f->head = (f->head + 1) % FIFO_SIZE;
	f->len--;
	return c;
}

static unsigned trigger_level(const struct uart *u)
{
	static const uint8_t levels[] = {1, 4, 8, 14};

	return fifo_enabled(u) ? levels[u->fcr >> 6] : 1;
}

/* The highest-priority pending interrupt, without the FIFO bits. */
static uint8_t interrupt_id(const struct uart *u)
{
	if ((u->ier & IER_LINE) && (u->lsr & LSR_ERRORS))
		return IIR_LINE;
	if ((u->ier & IER_RX) && u->rx.len >= trigger_level(u))
		return IIR_RX;
	if ((u->ier & IER_RX) && u->rx_timeout)
		return IIR_TIMEOUT;
	if ((u->ier & IER_THRE) && u->thre_pending)
		return IIR_THRE;
	if ((u->ier & IER_MODEM) && (u->msr & MSR_DELTA))
		return IIR_MODEM;
	return IIR_NONE;
}

static void update_irq_locked(struct uart *u)
{
	irq_set(&u->irq, interrupt_id(u) != IIR_NONE);
}

/* Restarts the character timeout after the receive FIFO was filled or read. */
static void restart_timeout_locked(struct uart *u)
{
	uint64_t divisor = u->divisor ? u->divisor : 1;

	u->rx_timeout = false;
	if (u->rx.len && fifo_enabled(u))
		evloop_timer_arm(u->loop, &u->rx_timer,
				 clock_now(u->clk) + divisor * BITS_A_CHAR * TIMEOUT_CHARS *
							     NSEC_PER_SEC / BASE_BAUD);
}

static void on_timeout(struct ev_timer *t)
{
	struct uart *u = container_of(t, struct uart, rx_timer);

	pthread_mutex_lock(&u->lock);
	u->rx_timeout = u->rx.len && fifo_enabled(u);
	update_irq_locked(u);
	pthread_mutex_unlock(&u->lock);
}

static void receive_locked(struct uart *u, uint8_t c)
{
	if (u->rx.len == fifo_capacity(u)) {
		u->lsr |= LSR_OE;
		if (fifo_enabled(u))
			return;
		fifo_pop(&u->rx); /* without a FIFO the new character replaces the old */
	}
	fifo_push(&u->rx, c);
	restart_timeout_locked(u);
}

/* Hands what waits to the back end; THRE becomes pending when all has gone. */
static void drain_tx_locked(struct uart *u)
{
	while (u->tx.len) {
		uint8_t c = u->tx.data[u->tx.head];

		if (u->cd && !chardev_write(u->cd, &c, 1))
			return;
		fifo_pop(&u->tx);
	}
	u->thre_pending = true;
}

static void transmit_locked(struct uart *u, uint8_t c)
{
	u->thre_pending = false;
	update_irq_locked(u); /* an edge for each THRE */
	if (u->mcr & MCR_LOOP) {
		receive_locked(u, c);
		u->thre_pending = true;
		return;
	}
	if (u->tx.len == fifo_capacity(u))
		return; /* written although THRE was clear: lost */
	fifo_push(&u->tx, c);
	drain_tx_locked(u);
}

static size_t input_room(void *opaque)
{
	struct uart *u = opaque;
	size_t room;

	pthread_mutex_lock(&u->lock);
	room = u->mcr & MCR_LOOP ? 0 : fifo_capacity(u) - u->rx.len;
	pthread_mutex_unlock(&u->lock);
	return room;
}

/* The guest may have changed the FIFO mode since input_room(): then the overrun is told. */
static void input(void *opaque, const uint8_t *data, size_t len)
{
	struct uart *u = opaque;

	pthread_mutex_lock(&u->lock);
	while (len--)
		receive_locked(u, *data++);
	update_irq_locked(u);
	pthread_mutex_unlock(&u->lock);
}

static void output_ready(void *opaque)
{
	struct uart *u = opaque;

	pthread_mutex_lock(&u->lock);
	if (u->tx.len) {
		drain_tx_locked(u);
		update_irq_locked(u);
	}
	pthread_mutex_unlock(&u->lock);
}

static const struct chardev_client client = {
	.room = input_room,
	.input = input,
	.output_ready = output_ready,
};

/* In loopback the modem inputs follow the outputs (PC16550D, 8.7); else a terminal is attached. */
static void update_modem_locked(struct uart *u)
{
	uint8_t old = u->msr & MSR_LINES, now = MSR_DCD | MSR_DSR | MSR_CTS;

	if (u->mcr & MCR_LOOP)
		now = (u->mcr & MCR_RTS ? MSR_CTS : 0) | (u->mcr & MCR_DTR ? MSR_DSR : 0) |
		      (u->mcr & MCR_OUT1 ? MSR_RI : 0) | (u->mcr & MCR_OUT2 ? MSR_DCD : 0);
	u->msr |= (old ^ now) >> 4 & ~MSR_TERI;
	if (old & ~now & MSR_RI)
		u->msr |= MSR_TERI; /* ring counts when it ends */
	u->msr = (u->msr & MSR_DELTA) | now;
}

static void input_freed_locked(struct uart *u)
{
	if (u->cd)
		chardev_input_ready(u->cd);
}

static uint8_t read_data_locked(struct uart *u)
{
	uint8_t c;

	if (!u->rx.len)
		return 0;
	c = fifo_pop(&u->rx);
	restart_timeout_locked(u);
	input_freed_locked(u);
	return c;
}

static uint8_t read_iir_locked(struct uart *u)
{
	uint8_t id = interrupt_id(u);

	if (id == IIR_THRE)
		u->thre_pending = false;
	return id | (fifo_enabled(u) ? IIR_FIFO : 0);
}

static uint8_t read_lsr_locked(struct uart *u)
{
	uint8_t v = u->lsr | (u->rx.len ? LSR_DR : 0) | (u->tx.len ? 0 : LSR_THRE | LSR_TEMT);

	u->lsr = 0;
	return v;
}

static uint8_t read_msr_locked(struct uart *u)
{
	uint8_t v = u->msr;

	u->msr &= ~MSR_DELTA;
	return v;
}

static uint8_t read_locked(void *self, unsigned off)
{
	struct uart *u = self;
	bool dlab = u->lcr & LCR_DLAB;

	switch (off) {
	case REG_DATA: return dlab ? u->divisor : read_data_locked(u);
	case REG_IER: return dlab ? u->divisor >> 8 : u->ier;
	case REG_IIR: return read_iir_locked(u);
	case REG_LCR: return u->lcr;
	case REG_MCR: return u->mcr;
	case REG_LSR: return read_lsr_locked(u);
	case REG_MSR: return read_msr_locked(u);
	default: return u->scr;
	}
}

/* Enabling the THRE interrupt while the transmitter is empty raises it at once. */
static void write_ier_locked(struct uart *u, uint8_t v)
{
	uint8_t risen = v & ~u->ier;

	u->ier = v & IER_MASK;
	if ((risen & IER_THRE) && !u->tx.len)
		u->thre_pending = true;
}

static void write_fcr_locked(struct uart *u, uint8_t v)
{
	uint8_t clear = v;

	if ((v ^ u->fcr) & FCR_ENABLE)
		clear |= FCR_CLEAR_RX | FCR_CLEAR_TX;
	u->fcr = v & FCR_ENABLE ? v & FCR_KEPT : 0;
	if (clear & FCR_CLEAR_RX) {
		u->rx.len = 0;
		u->rx_timeout = false;
		input_freed_locked(u);
	}
	if (clear & FCR_CLEAR_TX) {
		u->thre_pending |= u->tx.len != 0;
		u->tx.len = 0;
	}
}

/* In loopback a break is received as a null character with the break bit. */
static void write_lcr_locked(struct uart *u, uint8_t v)
{
	if ((u->mcr & MCR_LOOP) && (v & ~u->lcr & LCR_BREAK)) {
		receive_locked(u, 0);
		u->lsr |= LSR_BREAK;
	}
	u->lcr = v;
}

static void write_mcr_locked(struct uart *u, uint8_t v)
{
	bool left_loop = u->mcr & ~v & MCR_LOOP;

	u->mcr = v & MCR_MASK;
	update_modem_locked(u);
	if (left_loop)
		input_freed_locked(u);
}

static void write_locked(void *self, unsigned off, uint8_t v)
{
	struct uart *u = self;
	bool dlab = u->lcr & LCR_DLAB;

	switch (off) {
	case REG_DATA:
		if (dlab)
			u->divisor = (u->divisor & 0xff00) | v;
		else
			transmit_locked(u, v);
		break;
	case REG_IER:
		if (dlab)
			u->divisor = (u->divisor & 0x00ff) | v << 8;
		else
			write_ier_locked(u, v);
		break;
	case REG_IIR: write_fcr_locked(u, v); break;
	case REG_LCR: write_lcr_locked(u, v); break;
	case REG_MCR: write_mcr_locked(u, v); break;
	case REG_SCR: u->scr = v; break;
	}
}

static void uart_read(struct device *dev, uint64_t off, void *data, unsigned len)
{
	struct uart *u = container_of(dev, struct uart, dev);

	pthread_mutex_lock(&u->lock);
	reg_read_bytes(u, read_locked, off, data, len);
	update_irq_locked(u);
	pthread_mutex_unlock(&u->lock);
}

static void uart_write(struct device *dev, uint64_t off, const void *data, unsigned len)
{
	struct uart *u = container_of(dev, struct uart, dev);

	pthread_mutex_lock(&u->lock);
	reg_write_bytes(u, write_locked, off, data, len);
	update_irq_locked(u);
	pthread_mutex_unlock(&u->lock);
}

static void uart_reset(struct device *dev)
{
	struct uart *u = container_of(dev, struct uart, dev);

	pthread_mutex_lock(&u->lock);
	u->rx.len = u->tx.len = 0;
	u->divisor = 12; /* 9600 baud */
	u->ier = u->fcr = u->lcr = u->scr = u->lsr = 0;
	u->mcr = 0;
	u->msr = MSR_DCD | MSR_DSR | MSR_CTS;
	u->rx_timeout = false;
	u->thre_pending = false;
	update_irq_locked(u);
	input_freed_locked(u);
	pthread_mutex_unlock(&u->lock);
}

static void uart_destroy(struct device *dev)
{
	struct uart *u = container_of(dev, struct uart, dev);

	evloop_timer_cancel(u->loop, &u->rx_timer);
	pthread_mutex_destroy(&u->lock);
	free(u);
}

static const struct device_ops ops = {
	.name = "uart",
	.read = uart_read,
	.write = uart_write,
	.reset = uart_reset,
	.destroy = uart_destroy,
};

int uart_create(struct device **dev, struct chardev *cd, struct evloop *loop, struct clock *clk,
		const struct irq_line *irq)
{
	struct uart *u = calloc(1, sizeof(*u));

	if (!u)
		return -ENOMEM;
	pthread_mutex_init(&u->lock, NULL);
	u->dev.ops = &ops;
	u->loop = loop;
	u->clk = clk;
	u->irq = *irq;
	u->rx_timer.cb = on_timeout;
	uart_reset(&u->dev);
	u->cd = cd;
	if (cd)
		chardev_attach(cd, &client, u);
	*dev = &u->dev;
	return 0;
}
