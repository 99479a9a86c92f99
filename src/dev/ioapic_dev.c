#include "src/dev/ioapic_dev.h"

#include <stdlib.h>

struct ioapic_dev {
	struct device dev;
	struct ioapic *io;
};

static void dev_read(struct device *dev, uint64_t off, void *data, unsigned len)
{
	ioapic_read(container_of(dev, struct ioapic_dev, dev)->io, off, data, len);
}

static void dev_write(struct device *dev, uint64_t off, const void *data, unsigned len)
{
	ioapic_write(container_of(dev, struct ioapic_dev, dev)->io, off, data, len);
}

static void dev_reset(struct device *dev)
{
	ioapic_reset(container_of(dev, struct ioapic_dev, dev)->io);
}

static void dev_destroy(struct device *dev)
{
	free(container_of(dev, struct ioapic_dev, dev));
}

static const struct device_ops ops = {
	.name = "ioapic",
	.read = dev_read,
	.write = dev_write,
	.reset = dev_reset,
	.destroy = dev_destroy,
};

int ioapic_dev_create(struct device **out, struct ioapic *io)
{
	struct ioapic_dev *d = calloc(1, sizeof(*d));

	if (!d)
		return -ENOMEM;
	d->dev.ops = &ops;
	d->io = io;
	*out = &d->dev;
	return 0;
}
