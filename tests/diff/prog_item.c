/* Laying items out, and what must hold of them. */
#include <stdlib.h>

#include "src/x86/arch.h"
#include "tests/diff/prog.h"

#define INT3 0xcc

/* Flags that may be undefined before item n, given those before that are so before n - 1. */
static uint32_t before(const struct prog_item *i, uint32_t undefined)
{
	return i->label ? undefined | FLAG_AF : undefined;
}

static uint32_t after(const struct prog_item *i, uint32_t undefined)
{
	if (i->dropped)
		return undefined;
	return i->ends ? 0 : (undefined & ~i->defined) | i->undefined;
}

static bool targets_stand(const struct program *p, const struct prog_item *i)
{
	for (unsigned n = 0; n < i->nrefs; n++)
		if (i->ref[n].kind == REF_PATCH && p->item[p->label_item[i->ref[n].to]].dropped)
			return false;
	return true;
}

bool prog_valid(const struct program *p)
{
	uint32_t undefined = 0;

	for (unsigned n = 0; n < p->count; n++) {
		const struct prog_item *i = &p->item[n];

		if (i->label && (undefined & ~FLAG_AF))
			return false;
		undefined = before(i, undefined);
		if (!i->dropped && ((i->tested & undefined) || !targets_stand(p, i)))
			return false;
		if (!i->dropped && i->leaves && (undefined & ~i->defined & ~FLAG_AF))
			return false;
		undefined = after(i, undefined);
	}
	return true;
}

int prog_item_at(const struct program *p, uint64_t rip, uint32_t *undefined)
{
	uint32_t u = 0;

	for (unsigned n = 0; n < p->count; n++) {
		const struct prog_item *i = &p->item[n];
		uint64_t at = CODE_BASE + p->offset[n];

		u = before(i, u);
		if (!i->dropped && rip >= at && rip < at + i->len) {
			/* In the middle, some of its instructions have been run. */
			*undefined = rip == at ? u : u | i->undefined;
			return n;
		}
		u = after(i, u);
	}
	*undefined = FLAGS_ARITH;
	return -1;
}

static void put(uint8_t *p, int64_t v, unsigned size)
{
	memcpy(p, &v, size);
}

static void resolve(const struct program *p, unsigned n, uint8_t *code)
{
	const struct prog_item *i = &p->item[n];

	for (unsigned k = 0; k < i->nrefs; k++) {
		const struct prog_ref *f = &i->ref[k];
		uint8_t *field = code + p->offset[n] + f->at;
		int64_t end = CODE_BASE + p->offset[n] + f->end;
		int64_t to =
			f->kind == REF_DATA ? f->to : CODE_BASE + p->offset[p->label_item[f->to]];

		if (f->kind == REF_REL8 && to - end != (int8_t)(to - end))
			abort(); /* a generator's mistake */
		put(field, f->kind == REF_ABS32 ? to : to + f->add - end,
		    f->kind == REF_REL8 ? 1 : 4);
	}
}

void prog_layout(struct program *p, struct diff_image *image)
{
	size_t at = 0;

	memset(image->code, INT3, CODE_SIZE);
	image->len = CODE_SIZE;
	for (unsigned n = 0; n < p->count; n++) {
		const struct prog_item *i = &p->item[n];

		at = MAX(at, i->place);
		p->offset[n] = at;
		if (i->dropped)
			continue;
		if (at + i->len >= CODE_SIZE)
			abort();
		memcpy(image->code + at, i->bytes, i->len);
		at += i->len;
	}
	p->offset[p->count] = at;
	for (unsigned n = 0; n < p->count; n++)
		if (!p->item[n].dropped)
			resolve(p, n, image->code);
	for (unsigned n = 0; n < TABLE_SIZE / 8; n++)
		image->table[n] = n < p->ntable ? CODE_BASE + p->offset[p->label_item[p->table[n]]]
						: CODE_BASE + p->offset[p->count - 1];
}
