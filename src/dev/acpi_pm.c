#include "src/dev/acpi_pm.h"

#include <pthread.h>
#include <stdlib.h>

#include "src/dev/regs.h"

#define REG_STATUS  0
#define REG_ENABLE  2
#define REG_CONTROL 4
#define REG_TIMER   8

#define PM1_TIMER  0x0001
#define PM1_GLOBAL 0x0020
#define PM1_BUTTON 0x0100
#define PM1_RTC	   0x0400
#define PM1_WAKE   0x8000
#define PM1_STATUS (PM1_TIMER | PM1_GLOBAL | PM1_BUTTON | PM1_RTC | PM1_WAKE)
#define PM1_ENABLE (PM1_TIMER | PM1_GLOBAL | PM1_BUTTON | PM1_RTC)

#define CONTROL_SCI_EN	      0x0001
#define CONTROL_SLP_EN	      0x2000
#define CONTROL_KEPT	      0x1c02 /* sleep type and bus master reload */
#define CONTROL_SLP_TYP_SHIFT 10

#define TIMER_HALF_TICKS (1ull << 31) /* the status bit is set when the top bit changes */

struct acpi_pm {
	struct device dev;
	pthread_mutex_t lock; /* protects all below; taken before the line's */
	struct evloop *loop;
	struct clock *clk;
	struct irq_line sci;
	struct machine_events events;
	struct ev_timer overflow;
	uint64_t halves; /* top-bit changes that the status bit knows of */
	uint16_t status, enable, control;
};

static uint64_t ticks(const struct acpi_pm *pm)
{
	return (unsigned __int128)clock_now(pm->clk) * ACPI_PM_TIMER_HZ / NSEC_PER_SEC;
}

static void arm_overflow_locked(struct acpi_pm *pm)
{
	unsigned __int128 next = (unsigned __int128)(pm->halves + 1) * TIMER_HALF_TICKS;

	if (!(pm->enable & PM1_TIMER) || (pm->status & PM1_TIMER)) {
		evloop_timer_cancel(pm->loop, &pm->overflow);
		return;
	}
	evloop_timer_arm(pm->loop, &pm->overflow,
			 (next * NSEC_PER_SEC + ACPI_PM_TIMER_HZ - 1) / ACPI_PM_TIMER_HZ);
}

static void update_locked(struct acpi_pm *pm)
{
	uint64_t halves = ticks(pm) / TIMER_HALF_TICKS;

	if (halves != pm->halves)
		pm->status |= PM1_TIMER;
	pm->halves = halves;
	irq_set(&pm->sci, pm->status & pm->enable & PM1_ENABLE);
}

static void on_overflow(struct ev_timer *t)
{
	struct acpi_pm *pm = container_of(t, struct acpi_pm, overflow);

	pthread_mutex_lock(&pm->lock);
	update_locked(pm);
	arm_overflow_locked(pm);
	pthread_mutex_unlock(&pm->lock);
}

/* One byte of the register file; a timer access reads one tick count whatever its width. */
static uint8_t byte_at(const struct acpi_pm *pm, unsigned off, uint32_t timer)
{
	switch (off & ~1u) {
	case REG_STATUS: return pm->status >> (off & 1) * 8;
	case REG_ENABLE: return pm->enable >> (off & 1) * 8;
	case REG_CONTROL: return (pm->control | CONTROL_SCI_EN) >> (off & 1) * 8;
	case REG_TIMER:
	case REG_TIMER + 2: return timer >> (off & 3) * 8;
	}
	return 0;
}

static void pm_read(struct device *dev, uint64_t off, void *data, unsigned len)
{
	struct acpi_pm *pm = container_of(dev, struct acpi_pm, dev);
	uint32_t timer;
	unsigned i;

	pthread_mutex_lock(&pm->lock);
	update_locked(pm);
	timer = ticks(pm);
	for (i = 0; i < len; i++)
		((uint8_t *)data)[i] = byte_at(pm, off + i, timer);
	pthread_mutex_unlock(&pm->lock);
}

/* Returns true if the write asked for S5. */
static bool write_byte_locked(struct acpi_pm *pm, unsigned off, uint8_t v)
{
	unsigned shift = (off & 1) * 8;
	uint16_t bits = v << shift, keep = ~(0xff << shift);

	switch (off & ~1u) {
	case REG_STATUS: pm->status &= ~(bits & PM1_STATUS); break;
	case REG_ENABLE: pm->enable = (pm->enable & keep) | (bits & PM1_ENABLE); break;
	case REG_CONTROL:
		pm->control = (pm->control & keep) | (bits & CONTROL_KEPT);
		return (bits & CONTROL_SLP_EN) &&
		       (pm->control >> CONTROL_SLP_TYP_SHIFT & 7) == ACPI_PM_SLP_TYP_S5;
	}
	return false;
}

static void pm_write(struct device *dev, uint64_t off, const void *data, unsigned len)
{
	struct acpi_pm *pm = container_of(dev, struct acpi_pm, dev);
	bool power_off = false;
	unsigned i;

	pthread_mutex_lock(&pm->lock);
	update_locked(pm);
	for (i = 0; i < len; i++)
		power_off |= write_byte_locked(pm, off + i, ((const uint8_t *)data)[i]);
	update_locked(pm);
	arm_overflow_locked(pm);
	pthread_mutex_unlock(&pm->lock);
	if (power_off)
		pm->events.power_off(pm->events.opaque);
}

bool acpi_pm_power_button(struct acpi_pm *pm)
{
	bool enabled;

	pthread_mutex_lock(&pm->lock);
	enabled = pm->enable & PM1_BUTTON;
	pm->status |= PM1_BUTTON;
	update_locked(pm);
	pthread_mutex_unlock(&pm->lock);
	return enabled;
}

static void pm_reset(struct device *dev)
{
	struct acpi_pm *pm = container_of(dev, struct acpi_pm, dev);

	pthread_mutex_lock(&pm->lock);
	pm->status = pm->enable = pm->control = 0;
	pm->halves = ticks(pm) / TIMER_HALF_TICKS;
	update_locked(pm);
	arm_overflow_locked(pm);
	pthread_mutex_unlock(&pm->lock);
}

static void pm_destroy(struct device *dev)
{
	struct acpi_pm *pm = container_of(dev, struct acpi_pm, dev);

	evloop_timer_cancel(pm->loop, &pm->overflow);
	pthread_mutex_destroy(&pm->lock);
	free(pm);
}

static const struct device_ops ops = {
	.name = "acpi-pm",
	.read = pm_read,
	.write = pm_write,
	.reset = pm_reset,
	.destroy = pm_destroy,
};

int acpi_pm_create(struct acpi_pm **out, struct evloop *loop, struct clock *clk,
		   const struct irq_line *sci, const struct machine_events *events)
{
	struct acpi_pm *pm = calloc(1, sizeof(*pm));

	if (!pm)
		return -ENOMEM;
	pthread_mutex_init(&pm->lock, NULL);
	pm->dev.ops = &ops;
	pm->loop = loop;
	pm->clk = clk;
	pm->sci = *sci;
	pm->events = *events;
	pm->overflow.cb = on_overflow;
	pm_reset(&pm->dev);
	*out = pm;
	return 0;
}

struct device *acpi_pm_device(struct acpi_pm *pm)
{
	return &pm->dev;
}
