/* The body of the DSDT: what the operating system cannot find by probing. */
#ifndef BOOT_DSDT_H
#define BOOT_DSDT_H

#include "src/boot/acpi.h"
#include "src/boot/aml.h"

void dsdt_build(const struct acpi_config *cfg, struct aml *a);

#endif
