#include "src/boot/aml.h"

#include <stdlib.h>

#define OP_ZERO	   0x00
#define OP_ONE	   0x01
#define OP_NAME	   0x08
#define OP_BYTE	   0x0a
#define OP_WORD	   0x0b
#define OP_DWORD   0x0c
#define OP_STRING  0x0d
#define OP_QWORD   0x0e
#define OP_SCOPE   0x10
#define OP_BUFFER  0x11
#define OP_PACKAGE 0x12
#define OP_EXT	   0x5b
#define OP_DEVICE  0x82 /* after OP_EXT */

/* Resource descriptors, ACPI 6.4 section 6.4. */
#define RES_IRQ	     0x22
#define RES_IO	     0x47
#define RES_END	     0x79
#define RES_DWORD    0x87
#define RES_WORD     0x88
#define RES_QWORD    0x8a
#define RES_MEMORY   0
#define RES_PORTS    1
#define RES_BUS	     2
#define RES_FIXED    0x0c /* minimum and maximum are fixed, positive decode, producer */
#define RES_CONSUMER 0x01
#define MEM_WRITABLE 0x01 /* uncached, read-write */
#define IO_ENTIRE    0x03

void aml_free(struct aml *a)
{
	free(a->data);
	*a = (struct aml){0};
}

/* Makes room for len more bytes. */
static bool reserve(struct aml *a, size_t len)
{
	size_t cap = a->cap ? a->cap : 1024;
	uint8_t *p;

	if (a->failed)
		return false;
	if (a->data && a->len + len <= a->cap)
		return true;
	while (cap < a->len + len)
		cap *= 2;
	p = realloc(a->data, cap);
	if (!p) {
		a->failed = true;
		return false;
	}
	a->data = p;
	a->cap = cap;
	return true;
}

void aml_bytes(struct aml *a, const void *data, size_t len)
{
	if (!reserve(a, len))
		return;
	memcpy(a->data + a->len, data, len);
	a->len += len;
}

void aml_u8(struct aml *a, uint8_t v)
{
	aml_bytes(a, &v, sizeof(v));
}

void aml_u16(struct aml *a, uint16_t v)
{
	aml_bytes(a, &v, sizeof(v));
}

void aml_u32(struct aml *a, uint32_t v)
{
	aml_bytes(a, &v, sizeof(v));
}

void aml_u64(struct aml *a, uint64_t v)
{
	aml_bytes(a, &v, sizeof(v));
}

size_t aml_begin(struct aml *a)
{
	return a->len;
}

/*
 * PkgLength counts itself: one byte holds up to 63; more bytes hold 4 bits in the first, which
 * tells in bits 7:6 how many follow, and 8 in each of the others (ACPI 6.4, 20.2.4).
 */
void aml_end(struct aml *a, size_t start)
{
	size_t body = a->len - start, n = 1, total, i;
	uint8_t enc[4];

	if (body + 1 >= 1u << 6)
		n = body + 2 < 1u << 12 ? 2 : body + 3 < 1u << 20 ? 3 : 4;
	total = body + n;
	if (!reserve(a, n))
		return;
	enc[0] = n == 1 ? total : ((n - 1) << 6) | (total & 0xf);
	for (i = 1; i < n; i++)
		enc[i] = total >> (4 + 8 * (i - 1));
	memmove(a->data + start + n, a->data + start, body);
	memcpy(a->data + start, enc, n);
	a->len += n;
}

/* One part of a name, padded with underscores. */
static const char *name_segment(struct aml *a, const char *s)
{
	char seg[4] = {'_', '_', '_', '_'};
	unsigned i;

	for (i = 0; i < 4 && *s && *s != '.'; i++)
		seg[i] = *s++;
	aml_bytes(a, seg, 4);
	return *s == '.' ? s + 1 : s;
}

void aml_name_string(struct aml *a, const char *name)
{
	unsigned parts = 1;
	const char *p;

	while (*name == '\\' || *name == '^')
		aml_u8(a, *name++);
	for (p = name; *p; p++)
		parts += *p == '.';
	if (!*name) {
		aml_u8(a, 0);
		return;
	}
	if (parts == 2) {
		aml_u8(a, 0x2e);
	} else if (parts > 2) {
		aml_u8(a, 0x2f);
		aml_u8(a, parts);
	}
	while (*name)
		name = name_segment(a, name);
}

void aml_int(struct aml *a, uint64_t v)
{
	if (v <= 1) {
		aml_u8(a, v ? OP_ONE : OP_ZERO);
	} else if (v <= UINT8_MAX) {
		aml_u8(a, OP_BYTE);
		aml_u8(a, v);
	} else if (v <= UINT16_MAX) {
		aml_u8(a, OP_WORD);
		aml_u16(a, v);
	} else if (v <= UINT32_MAX) {
		aml_u8(a, OP_DWORD);
		aml_u32(a, v);
	} else {
		aml_u8(a, OP_QWORD);
		aml_u64(a, v);
	}
}

void aml_string(struct aml *a, const char *s)
{
	aml_u8(a, OP_STRING);
	aml_bytes(a, s, strlen(s) + 1);
}

static unsigned hex_digit(char c)
{
	return c <= '9' ? c - '0' : c - 'A' + 10;
}

/* Three letters of 5 bits and four hexadecimal digits, stored big-endian. */
uint32_t aml_eisa_id(const char *id)
{
	uint32_t v = (uint32_t)(id[0] - 0x40) << 26 | (uint32_t)(id[1] - 0x40) << 21 |
		     (uint32_t)(id[2] - 0x40) << 16 | hex_digit(id[3]) << 12 |
		     hex_digit(id[4]) << 8 | hex_digit(id[5]) << 4 | hex_digit(id[6]);

	return __builtin_bswap32(v);
}

void aml_name(struct aml *a, const char *name)
{
	aml_u8(a, OP_NAME);
	aml_name_string(a, name);
}

void aml_name_int(struct aml *a, const char *name, uint64_t v)
{
	aml_name(a, name);
	aml_int(a, v);
}

void aml_name_eisa(struct aml *a, const char *name, const char *id)
{
	aml_name_int(a, name, aml_eisa_id(id));
}

void aml_name_string_value(struct aml *a, const char *name, const char *s)
{
	aml_name(a, name);
	aml_string(a, s);
}

size_t aml_scope(struct aml *a, const char *name)
{
	size_t start;

	aml_u8(a, OP_SCOPE);
	start = aml_begin(a);
	aml_name_string(a, name);
	return start;
}

size_t aml_device(struct aml *a, const char *name)
{
	size_t start;

	aml_u8(a, OP_EXT);
	aml_u8(a, OP_DEVICE);
	start = aml_begin(a);
	aml_name_string(a, name);
	return start;
}

size_t aml_package(struct aml *a, uint8_t elements)
{
	size_t start;

	aml_u8(a, OP_PACKAGE);
	start = aml_begin(a);
	aml_u8(a, elements);
	return start;
}

/* The buffer's size is always written as a word, so that it can be filled in at the end. */
struct aml_resources aml_resources_begin(struct aml *a)
{
	struct aml_resources r;

	aml_u8(a, OP_BUFFER);
	r.buffer = aml_begin(a);
	aml_u8(a, OP_WORD);
	r.size = a->len;
	aml_u16(a, 0);
	return r;
}

void aml_resources_end(struct aml *a, struct aml_resources r)
{
	uint16_t size;

	aml_u8(a, RES_END);
	aml_u8(a, 0); /* checksum: zero means "not computed" */
	if (a->failed)
		return;
	size = a->len - r.size - 2;
	memcpy(a->data + r.size, &size, sizeof(size));
	aml_end(a, r.buffer);
}

void aml_res_io(struct aml *a, uint16_t base, uint8_t len)
{
	aml_u8(a, RES_IO);
	aml_u8(a, 1); /* 16-bit decode */
	aml_u16(a, base);
	aml_u16(a, base);
	aml_u8(a, 1);
	aml_u8(a, len);
}

void aml_res_irq(struct aml *a, unsigned irq)
{
	aml_u8(a, RES_IRQ);
	aml_u16(a, 1u << irq);
}

static void res_header(struct aml *a, uint8_t kind, uint16_t len, uint8_t type, uint8_t flags,
		       uint8_t type_flags)
{
	aml_u8(a, kind);
	aml_u16(a, len);
	aml_u8(a, type);
	aml_u8(a, flags);
	aml_u8(a, type_flags);
}

static void res_word(struct aml *a, uint8_t type, uint8_t type_flags, uint16_t first, uint16_t last)
{
	res_header(a, RES_WORD, 13, type, RES_FIXED, type_flags);
	aml_u16(a, 0); /* granularity */
	aml_u16(a, first);
	aml_u16(a, last);
	aml_u16(a, 0); /* translation */
	aml_u16(a, last - first + 1);
}

void aml_res_bus(struct aml *a, uint16_t first, uint16_t last)
{
	res_word(a, RES_BUS, 0, first, last);
}

void aml_res_io_window(struct aml *a, uint16_t first, uint16_t last)
{
	res_word(a, RES_PORTS, IO_ENTIRE, first, last);
}

void aml_res_mem32_window(struct aml *a, uint32_t base, uint32_t size)
{
	res_header(a, RES_DWORD, 23, RES_MEMORY, RES_FIXED, MEM_WRITABLE);
	aml_u32(a, 0);
	aml_u32(a, base);
	aml_u32(a, base + size - 1);
	aml_u32(a, 0);
	aml_u32(a, size);
}

static void res_qword(struct aml *a, uint8_t flags, uint64_t base, uint64_t size)
{
	res_header(a, RES_QWORD, 43, RES_MEMORY, flags, MEM_WRITABLE);
	aml_u64(a, 0);
	aml_u64(a, base);
	aml_u64(a, base + size - 1);
	aml_u64(a, 0);
	aml_u64(a, size);
}

void aml_res_mem64_window(struct aml *a, uint64_t base, uint64_t size)
{
	res_qword(a, RES_FIXED, base, size);
}

void aml_res_mem64_fixed(struct aml *a, uint64_t base, uint64_t size)
{
	res_qword(a, RES_FIXED | RES_CONSUMER, base, size);
}
