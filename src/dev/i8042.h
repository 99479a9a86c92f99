/*
 * Keyboard controller without keyboard or mouse: self-tests, command byte, output port, and what
 * it is here for, the reset line. Ports 0x60 (offset 0) and 0x64 (offset 4).
 */
#ifndef DEV_I8042_H
#define DEV_I8042_H

#include "src/dev/device.h"
#include "src/dev/machine_events.h"

#define I8042_DATA_PORT	     0x60
#define I8042_COMMAND_PORT   0x64
#define I8042_COMMAND_OFFSET 4

/* events is copied. 0 or -ENOMEM. */
int i8042_create(struct device **dev, const struct machine_events *events);

#endif
