/*
 * ACPI fixed hardware (ACPI specification 6.4, 4.8): PM1a event and control blocks, the 32-bit PM
 * timer at 3.579545 MHz, and a fixed power button. The machine is always in ACPI mode.
 *
 * Ports from its base: status +0, enable +2, control +4, timer +8.
 */
#ifndef DEV_ACPI_PM_H
#define DEV_ACPI_PM_H

#include "smp/irq.h"
#include "src/base/evloop.h"
#include "src/dev/device.h"
#include "src/dev/machine_events.h"

#define ACPI_PM_BASE	   0x600 /* where the VM maps it, unless it has a reason not to */
#define ACPI_PM_PORTS	   16
#define ACPI_PM_TIMER_HZ   3579545
#define ACPI_PM_SLP_TYP_S5 5 /* the sleep type that powers off, for \_S5 */

struct acpi_pm;

/*
 * sci: level-triggered. events is copied. loop must outlive it; destroy it (through its device)
 * after the loop has stopped. 0 or -ENOMEM.
 */
int acpi_pm_create(struct acpi_pm **pm, struct evloop *loop, struct clock *clk,
		   const struct irq_line *sci, const struct machine_events *events);
struct device *acpi_pm_device(struct acpi_pm *pm);
/*
 * Presses the power button: asks the guest to power off. Any thread. False if the guest has not
 * enabled the button, so that nothing will come of it.
 */
bool acpi_pm_power_button(struct acpi_pm *pm);

#endif
