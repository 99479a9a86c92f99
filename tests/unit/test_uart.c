#include <stdarg.h>
#include <stddef.h>
#include <setjmp.h>
#include <stdint.h>
#include <cmocka.h>
#include <stdlib.h>

#include "src/dev/uart.h"
#include "tests/unit/fake_machine.h"

/* A character device that takes what it is told to take. */
struct chardev {
	const struct chardev_client *client;
	void *opaque;
	uint8_t out[256];
	size_t nout;
	size_t room; /* how much more it takes */
	unsigned ready;
};

void chardev_attach(struct chardev *cd, const struct chardev_client *client, void *opaque)
{
	cd->client = client;
	cd->opaque = opaque;
}

size_t chardev_write(struct chardev *cd, const void *data, size_t len)
{
	size_t n = MIN(len, MIN(cd->room, sizeof(cd->out) - cd->nout));

	memcpy(cd->out + cd->nout, data, n);
	cd->nout += n;
	cd->room -= n;
	return n;
}

void chardev_input_ready(struct chardev *cd)
{
	cd->ready++;
}

struct fixture {
	struct fake_machine m;
	struct chardev cd;
	struct device *u;
};

static int setup(void **state)
{
	struct fixture *f = calloc(1, sizeof(*f));
	struct irq_line irq;

	fake_machine_init(&f->m);
	irq = fake_line(&f->m, 4);
	f->cd.room = 1000;
	*state = f;
	return uart_create(&f->u, &f->cd, f->m.loop, &f->m.clk, &irq);
}

static int teardown(void **state)
{
	struct fixture *f = *state;

	f->u->ops->destroy(f->u);
	fake_machine_fini(&f->m);
	free(f);
	return 0;
}

static void type(struct fixture *f, const char *s)
{
	size_t room = f->cd.client->room(f->cd.opaque), len = strlen(s);

	assert_true(len <= room);
	f->cd.client->input(f->cd.opaque, (const uint8_t *)s, len);
}

static void test_registers(void **state)
{
	struct fixture *f = *state;

	out8(f->u, 1, 0xff);
	assert_int_equal(in8(f->u, 1), 0x0f);
	out8(f->u, 3, 0x83);
	out8(f->u, 0, 0x34);
	out8(f->u, 1, 0x12);
	assert_int_equal(in16(f->u, 0), 0x1234);
	out8(f->u, 3, 0x03);
	assert_int_equal(in8(f->u, 1), 0x0f);
	out8(f->u, 7, 0xa5);
	assert_int_equal(in8(f->u, 7), 0xa5);
	assert_int_equal(in8(f->u, 5), 0x60);
	assert_int_equal(in8(f->u, 6), 0xb0);
	out8(f->u, 2, 0x01);
	assert_int_equal(in8(f->u, 2) & 0xc0, 0xc0);
	out8(f->u, 2, 0x00);
	assert_int_equal(in8(f->u, 2) & 0xc0, 0);
	f->u->ops->reset(f->u);
	assert_int_equal(in8(f->u, 1), 0);
	assert_int_equal(in8(f->u, 2), 0x01);
}

static void test_transmit(void **state)
{
	struct fixture *f = *state;
	unsigned i;

	out8(f->u, 2, 0x01);
	out8(f->u, 0, 'A');
	assert_int_equal(f->cd.nout, 1);
	assert_int_equal(f->m.edges[4], 0);
	/* The back end takes three more: then the FIFO fills, and the rest is lost. */
	f->cd.room = 3;
	for (i = 0; i < 25; i++)
		out8(f->u, 0, 'a' + i);
	assert_int_equal(in8(f->u, 5), 0);
	f->cd.room = 10;
	f->cd.client->output_ready(f->cd.opaque);
	assert_int_equal(in8(f->u, 5), 0);
	f->cd.room = 100;
	f->cd.client->output_ready(f->cd.opaque);
	assert_int_equal(in8(f->u, 5), 0x60);
	assert_memory_equal(f->cd.out, "Aabcdefghijklmnopqrs", 20);
	assert_int_equal(f->cd.nout, 20);
}

/* What Linux relies on: pending at once when enabled, cleared by reading IIR, again after a write.
 */
static void test_thre_interrupt(void **state)
{
	struct fixture *f = *state;

	out8(f->u, 1, 0x02);
	assert_true(f->m.level[4]);
	assert_int_equal(in8(f->u, 2), 0x02);
	assert_false(f->m.level[4]);
	assert_int_equal(in8(f->u, 2), 0x01);
	out8(f->u, 1, 0x00);
	out8(f->u, 1, 0x02);
	assert_int_equal(in8(f->u, 2), 0x02);
	out8(f->u, 0, 'x');
	assert_true(f->m.level[4]);
	out8(f->u, 0, 'y'); /* a new edge, though nobody read IIR */
	assert_int_equal(f->m.edges[4], 4);
	/* Without room in the back end THRE has to wait. */
	f->cd.room = 0;
	out8(f->u, 0, 'z');
	assert_false(f->m.level[4]);
	f->cd.room = 1;
	f->cd.client->output_ready(f->cd.opaque);
	assert_true(f->m.level[4]);
	f->cd.client->output_ready(f->cd.opaque);
	assert_int_equal(in8(f->u, 2), 0x02);
}

static void test_receive(void **state)
{
	struct fixture *f = *state;

	assert_int_equal(f->cd.client->room(f->cd.opaque), 1);
	out8(f->u, 1, 0x01);
	type(f, "a");
	assert_int_equal(f->cd.client->room(f->cd.opaque), 0);
	assert_true(f->m.level[4]);
	assert_int_equal(in8(f->u, 2), 0x04);
	assert_int_equal(in8(f->u, 5), 0x61);
	f->cd.ready = 0;
	assert_int_equal(in8(f->u, 0), 'a');
	assert_int_equal(f->cd.ready, 1);
	assert_false(f->m.level[4]);
	assert_int_equal(in8(f->u, 0), 0);
}

static void test_fifo_trigger_and_timeout(void **state)
{
	struct fixture *f = *state;

	out8(f->u, 1, 0x01);
	out8(f->u, 2, 0x81); /* trigger level 8 */
	assert_int_equal(f->cd.client->room(f->cd.opaque), 16);
	type(f, "abc");
	assert_false(f->m.level[4]);
	/* Four characters at 9600 baud. */
	fake_advance(&f->m, 4160000, 1);
	assert_false(f->m.level[4]);
	fake_advance(&f->m, 10000, 1);
	assert_true(f->m.level[4]);
	assert_int_equal(in8(f->u, 2), 0xcc);
	assert_int_equal(in8(f->u, 0), 'a');
	assert_false(f->m.level[4]);
	type(f, "defghi");
	assert_int_equal(in8(f->u, 2), 0xc4);
	assert_int_equal(in8(f->u, 0), 'b');
	assert_int_equal(in8(f->u, 2), 0xc1);
	out8(f->u, 2, 0x83); /* clear */
	assert_int_equal(in8(f->u, 5), 0x60);
	fake_advance(&f->m, NSEC_PER_SEC, 1);
	assert_false(f->m.level[4]);
}

static void test_loopback(void **state)
{
	struct fixture *f = *state;
	unsigned i;

	out8(f->u, 2, 0x01);
	out8(f->u, 4, 0x1a); /* loop, OUT2, RTS */
	assert_int_equal(in8(f->u, 6) & 0xf0, 0x90);
	assert_int_equal(f->cd.client->room(f->cd.opaque), 0);
	out8(f->u, 4, 0x10);
	assert_int_equal(in8(f->u, 6), 0x09);
	assert_int_equal(in8(f->u, 6), 0x00);
	out8(f->u, 0, 'q');
	assert_int_equal(f->cd.nout, 0);
	assert_int_equal(in8(f->u, 5), 0x61);
	assert_int_equal(in8(f->u, 0), 'q');
	/* Overrun: the line status interrupt comes first. */
	out8(f->u, 1, 0x07);
	for (i = 0; i < 17; i++)
		out8(f->u, 0, i);
	assert_int_equal(in8(f->u, 2), 0xc6);
	assert_int_equal(in8(f->u, 5), 0x63);
	assert_int_equal(in8(f->u, 5), 0x61);
	assert_int_equal(in8(f->u, 2), 0xc4);
	out8(f->u, 4, 0x0b);
	assert_int_equal(in8(f->u, 6) & 0xf0, 0xb0);
}

static void test_modem_interrupt(void **state)
{
	struct fixture *f = *state;

	out8(f->u, 4, 0x14); /* loop with OUT1, seen as ring */
	in8(f->u, 6);
	out8(f->u, 1, 0x08);
	assert_false(f->m.level[4]);
	out8(f->u, 4, 0x10);
	assert_true(f->m.level[4]);
	assert_int_equal(in8(f->u, 2), 0x00);
	assert_int_equal(in8(f->u, 6), 0x04); /* ring ended */
	assert_false(f->m.level[4]);
}

static void test_without_backend(void **state)
{
	struct fixture *f = *state;
	struct irq_line none = {0};
	struct device *u;

	assert_int_equal(uart_create(&u, NULL, f->m.loop, &f->m.clk, &none), 0);
	out8(u, 0, 'x');
	assert_int_equal(in8(u, 5), 0x60);
	assert_int_equal(in8(u, 0), 0);
	u->ops->destroy(u);
}

#define TEST(f) cmocka_unit_test_setup_teardown(f, setup, teardown)

int main(void)
{
	const struct CMUnitTest tests[] = {
		TEST(test_registers),
		TEST(test_transmit),
		TEST(test_thre_interrupt),
		TEST(test_receive),
		TEST(test_fifo_trigger_and_timeout),
		TEST(test_loopback),
		TEST(test_modem_interrupt),
		TEST(test_without_backend),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
