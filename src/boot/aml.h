/*
 * A small encoder of ACPI Machine Language (ACPI specification 6.4, chapter 20), and the growing
 * byte buffer it writes to. Names are given as in ASL, at most four characters each part, e.g.
 * "\\_SB.PCI0" or "_HID".
 *
 * A failed allocation is remembered in buf->failed and makes all further calls do nothing, so that
 * only the end of a build needs to check.
 */
#ifndef BOOT_AML_H
#define BOOT_AML_H

#include "src/base/types.h"

struct aml {
	uint8_t *data; /* freed by aml_free() */
	size_t len;
	size_t cap;
	bool failed;
};

void aml_free(struct aml *a);
void aml_bytes(struct aml *a, const void *data, size_t len);
void aml_u8(struct aml *a, uint8_t v);
void aml_u16(struct aml *a, uint16_t v);
void aml_u32(struct aml *a, uint32_t v);
void aml_u64(struct aml *a, uint64_t v);

/* A block with a length in front (PkgLength): begin returns what end wants. */
size_t aml_begin(struct aml *a);
void aml_end(struct aml *a, size_t start);

void aml_name_string(struct aml *a, const char *name);
void aml_int(struct aml *a, uint64_t v);
void aml_string(struct aml *a, const char *s);
/* The integer that a compressed EISA id such as "PNP0A03" stands for. */
uint32_t aml_eisa_id(const char *id);

/* Name (name, value) */
void aml_name(struct aml *a, const char *name);
void aml_name_int(struct aml *a, const char *name, uint64_t v);
void aml_name_eisa(struct aml *a, const char *name, const char *id);
void aml_name_string_value(struct aml *a, const char *name, const char *s);

/* Each to be closed with aml_end(). */
size_t aml_scope(struct aml *a, const char *name);
size_t aml_device(struct aml *a, const char *name);
size_t aml_package(struct aml *a, uint8_t elements);

/* ResourceTemplate () { ... }: a buffer; begin returns what end wants. */
struct aml_resources {
	size_t buffer;
	size_t size;
};
struct aml_resources aml_resources_begin(struct aml *a);
void aml_resources_end(struct aml *a, struct aml_resources r);
/* Fixed ports [base, base + len). */
void aml_res_io(struct aml *a, uint16_t base, uint8_t len);
/* ISA interrupt: edge-triggered, active high. */
void aml_res_irq(struct aml *a, unsigned irq);
/* Windows of a bridge. */
void aml_res_bus(struct aml *a, uint16_t first, uint16_t last);
void aml_res_io_window(struct aml *a, uint16_t first, uint16_t last);
void aml_res_mem32_window(struct aml *a, uint32_t base, uint32_t size);
void aml_res_mem64_window(struct aml *a, uint64_t base, uint64_t size);
/* Memory that a device occupies. */
void aml_res_mem64_fixed(struct aml *a, uint64_t base, uint64_t size);

#endif
