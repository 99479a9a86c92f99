#include "src/dev/testdev.h"

#include <pthread.h>
#include <stdlib.h>

#include "src/dev/regs.h"

#define FLUSH_OFFSET 4
#define BYTES_OFFSET 8

struct testdev {
	struct device echo;
	struct device irq;
	struct device memory;
	pthread_mutex_t lock; /* protects value and bytes */
	struct irq_line line[TESTDEV_LINES];
	uint8_t value[4];
	uint8_t bytes[TESTDEV_MMIO_SIZE];
};

/* The two echo windows show the same four bytes; what runs over their end is zero. */
static uint8_t *echo_byte(struct testdev *t, uint64_t off, unsigned i)
{
	if (off >= FLUSH_OFFSET && off < BYTES_OFFSET)
		return NULL;
	return (off & 3) + i < sizeof(t->value) ? &t->value[(off & 3) + i] : NULL;
}

static void echo_read(struct device *dev, uint64_t off, void *data, unsigned len)
{
	struct testdev *t = container_of(dev, struct testdev, echo);
	unsigned i;

	pthread_mutex_lock(&t->lock);
	for (i = 0; i < len; i++) {
		const uint8_t *p = echo_byte(t, off, i);

		((uint8_t *)data)[i] = p ? *p : 0;
	}
	pthread_mutex_unlock(&t->lock);
}

static void echo_write(struct device *dev, uint64_t off, const void *data, unsigned len)
{
	struct testdev *t = container_of(dev, struct testdev, echo);
	unsigned i;

	pthread_mutex_lock(&t->lock);
	for (i = 0; i < len; i++) {
		uint8_t *p = echo_byte(t, off, i);

		if (p)
			*p = ((const uint8_t *)data)[i];
	}
	pthread_mutex_unlock(&t->lock);
}

static void echo_reset(struct device *dev)
{
	struct testdev *t = container_of(dev, struct testdev, echo);
	unsigned i;

	pthread_mutex_lock(&t->lock);
	memset(t->value, 0, sizeof(t->value));
	memset(t->bytes, 0, sizeof(t->bytes));
	pthread_mutex_unlock(&t->lock);
	for (i = 0; i < TESTDEV_LINES; i++)
		irq_set(&t->line[i], false);
}

static void echo_destroy(struct device *dev)
{
	struct testdev *t = container_of(dev, struct testdev, echo);

	pthread_mutex_destroy(&t->lock);
	free(t);
}

static const struct device_ops echo_ops = {
	.name = "testdev",
	.read = echo_read,
	.write = echo_write,
	.reset = echo_reset,
	.destroy = echo_destroy,
};

static void part_destroy(struct device *dev)
{
	/* A part of struct testdev, which echo_destroy() frees. */
}

static void irq_read(struct device *dev, uint64_t off, void *data, unsigned len)
{
	reg_put(data, len, 0);
}

static void irq_write(struct device *dev, uint64_t off, const void *data, unsigned len)
{
	struct testdev *t = container_of(dev, struct testdev, irq);

	if (off < TESTDEV_LINES)
		irq_set(&t->line[off], reg_get(data, len) != 0);
}

static const struct device_ops irq_ops = {
	.name = "testdev-irq",
	.read = irq_read,
	.write = irq_write,
	.destroy = part_destroy,
};

static void memory_read(struct device *dev, uint64_t off, void *data, unsigned len)
{
	struct testdev *t = container_of(dev, struct testdev, memory);

	memset(data, 0xff, len);
	if (off + len > sizeof(t->bytes))
		return;
	pthread_mutex_lock(&t->lock);
	memcpy(data, t->bytes + off, len);
	pthread_mutex_unlock(&t->lock);
}

static void memory_write(struct device *dev, uint64_t off, const void *data, unsigned len)
{
	struct testdev *t = container_of(dev, struct testdev, memory);

	if (off + len > sizeof(t->bytes))
		return;
	pthread_mutex_lock(&t->lock);
	memcpy(t->bytes + off, data, len);
	pthread_mutex_unlock(&t->lock);
}

static const struct device_ops memory_ops = {
	.name = "testdev-memory",
	.read = memory_read,
	.write = memory_write,
	.destroy = part_destroy,
};

int testdev_create(struct testdev_devices *devs, const struct irq_line line[TESTDEV_LINES])
{
	struct testdev *t = calloc(1, sizeof(*t));

	if (!t)
		return -ENOMEM;
	pthread_mutex_init(&t->lock, NULL);
	memcpy(t->line, line, sizeof(t->line));
	t->echo.ops = &echo_ops;
	t->irq.ops = &irq_ops;
	t->memory.ops = &memory_ops;
	*devs = (struct testdev_devices){&t->echo, &t->irq, &t->memory};
	return 0;
}
