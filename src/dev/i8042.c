#include "src/dev/i8042.h"

#include <pthread.h>
#include <stdlib.h>

#include "src/dev/regs.h"

#define STATUS_OUTPUT_FULL 0x01
#define STATUS_SYSTEM	   0x04
#define STATUS_COMMAND	   0x08
#define STATUS_UNLOCKED	   0x10
#define STATUS_AUX_DATA	   0x20

#define CMD_READ_BYTE	 0x20 /* and the 31 following bytes of its memory */
#define CMD_WRITE_BYTE	 0x60
#define CMD_DISABLE_AUX	 0xa7
#define CMD_ENABLE_AUX	 0xa8
#define CMD_TEST_AUX	 0xa9
#define CMD_SELF_TEST	 0xaa
#define CMD_TEST_KBD	 0xab
#define CMD_DISABLE_KBD	 0xad
#define CMD_ENABLE_KBD	 0xae
#define CMD_READ_INPUT	 0xc0
#define CMD_READ_OUTPUT	 0xd0
#define CMD_WRITE_OUTPUT 0xd1
#define CMD_LOOP_KBD	 0xd2
#define CMD_LOOP_AUX	 0xd3
#define CMD_PULSE	 0xf0 /* and above: bits 3:0 clear pull output lines low */

#define BYTE_SYSTEM	 0x04
#define BYTE_DISABLE_KBD 0x10
#define BYTE_DISABLE_AUX 0x20
#define BYTE_TRANSLATE	 0x40

#define OUTPUT_NOT_RESET 0x01
#define OUTPUT_A20	 0x02

#define SELF_TEST_OK 0x55
#define PORT_OK	     0x00
#define MEMORY_BYTES 32

struct i8042 {
	struct device dev;
	pthread_mutex_t lock; /* protects all below */
	struct machine_events events;
	uint8_t memory[MEMORY_BYTES]; /* the first is the command byte */
	uint8_t output_port;
	uint8_t pending; /* command that waits for its data byte, or 0 */
	uint8_t status;
	uint8_t data;
};

static void reply(struct i8042 *k, uint8_t v, uint8_t aux)
{
	k->data = v;
	k->status = (k->status & ~STATUS_AUX_DATA) | STATUS_OUTPUT_FULL | aux;
}

/* Returns true if the command resets the machine. */
static bool command_locked(struct i8042 *k, uint8_t cmd)
{
	k->status |= STATUS_COMMAND;
	k->pending = 0;
	if (cmd >= CMD_PULSE)
		return !(cmd & OUTPUT_NOT_RESET);
	if (cmd >= CMD_READ_BYTE && cmd < CMD_READ_BYTE + MEMORY_BYTES) {
		reply(k, k->memory[cmd - CMD_READ_BYTE], 0);
		return false;
	}
	switch (cmd) {
	case CMD_DISABLE_AUX: k->memory[0] |= BYTE_DISABLE_AUX; break;
	case CMD_ENABLE_AUX: k->memory[0] &= ~BYTE_DISABLE_AUX; break;
	case CMD_DISABLE_KBD: k->memory[0] |= BYTE_DISABLE_KBD; break;
	case CMD_ENABLE_KBD: k->memory[0] &= ~BYTE_DISABLE_KBD; break;
	case CMD_SELF_TEST:
		k->status |= STATUS_SYSTEM;
		reply(k, SELF_TEST_OK, 0);
		break;
	case CMD_TEST_KBD:
	case CMD_TEST_AUX: reply(k, PORT_OK, 0); break;
	case CMD_READ_INPUT: reply(k, 0x80, 0); break; /* not locked */
	case CMD_READ_OUTPUT: reply(k, k->output_port, 0); break;
	default: k->pending = cmd; /* those with a data byte; others are ignored */
	}
	return false;
}

/* A byte for the keyboard or the mouse gets no answer: none is there. */
static bool data_locked(struct i8042 *k, uint8_t v)
{
	uint8_t cmd = k->pending;

	k->pending = 0;
	k->status &= ~STATUS_COMMAND;
	if (cmd >= CMD_WRITE_BYTE && cmd < CMD_WRITE_BYTE + MEMORY_BYTES) {
		k->memory[cmd - CMD_WRITE_BYTE] = v;
	} else if (cmd == CMD_WRITE_OUTPUT) {
		k->output_port = v | OUTPUT_NOT_RESET;
		return !(v & OUTPUT_NOT_RESET);
	} else if (cmd == CMD_LOOP_KBD || cmd == CMD_LOOP_AUX) {
		reply(k, v, cmd == CMD_LOOP_AUX ? STATUS_AUX_DATA : 0);
	}
	return false;
}

static void i8042_read(struct device *dev, uint64_t off, void *data, unsigned len)
{
	struct i8042 *k = container_of(dev, struct i8042, dev);
	uint8_t v;

	pthread_mutex_lock(&k->lock);
	if (off == I8042_COMMAND_OFFSET) {
		v = k->status;
	} else {
		v = k->data;
		k->status &= ~(STATUS_OUTPUT_FULL | STATUS_AUX_DATA);
	}
	pthread_mutex_unlock(&k->lock);
	reg_put(data, len, v);
}

static void i8042_write(struct device *dev, uint64_t off, const void *data, unsigned len)
{
	struct i8042 *k = container_of(dev, struct i8042, dev);
	uint8_t v = reg_get(data, len);
	bool reset;

	pthread_mutex_lock(&k->lock);
	if (off == I8042_COMMAND_OFFSET)
		reset = command_locked(k, v);
	else
		reset = data_locked(k, v);
	pthread_mutex_unlock(&k->lock);
	if (reset)
		k->events.reset(k->events.opaque);
}

static void i8042_reset(struct device *dev)
{
	struct i8042 *k = container_of(dev, struct i8042, dev);

	pthread_mutex_lock(&k->lock);
	memset(k->memory, 0, sizeof(k->memory));
	k->memory[0] = BYTE_SYSTEM | BYTE_DISABLE_AUX | BYTE_TRANSLATE;
	k->output_port = OUTPUT_NOT_RESET | OUTPUT_A20;
	k->pending = 0;
	k->status = STATUS_UNLOCKED | STATUS_SYSTEM;
	k->data = 0;
	pthread_mutex_unlock(&k->lock);
}

static void i8042_destroy(struct device *dev)
{
	struct i8042 *k = container_of(dev, struct i8042, dev);

	pthread_mutex_destroy(&k->lock);
	free(k);
}

static const struct device_ops ops = {
	.name = "i8042",
	.read = i8042_read,
	.write = i8042_write,
	.reset = i8042_reset,
	.destroy = i8042_destroy,
};

int i8042_create(struct device **dev, const struct machine_events *events)
{
	struct i8042 *k = calloc(1, sizeof(*k));

	if (!k)
		return -ENOMEM;
	pthread_mutex_init(&k->lock, NULL);
	k->dev.ops = &ops;
	k->events = *events;
	i8042_reset(&k->dev);
	*dev = &k->dev;
	return 0;
}
