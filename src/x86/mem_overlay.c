#include "src/x86/mem_overlay.h"

void overlay_clear(struct mem_overlay *o)
{
	for (unsigned n = 0; n < o->n; n++)
		o->index[o->word[n].hash] = 0;
	o->n = 0;
	o->full = false;
}

void overlay_rewind(struct mem_overlay *o)
{
	for (unsigned n = 0; n < o->n; n++) {
		o->word[n].now = o->word[n].seen;
		o->word[n].loaded = o->word[n].stored = 0;
	}
}

/* The word of an address; NULL if there is no room for one. */
static struct overlay_word *find(struct mem_overlay *o, gpa_t gpa, const void *host)
{
	unsigned h = (gpa >> 3) * 0x9e3779b97f4a7c15ull >> 53;
	struct overlay_word *w;

	while (o->index[h]) {
		w = &o->word[o->index[h] - 1];
		if (w->gpa == gpa)
			return w;
		h = (h + 1) % OVERLAY_HASH;
	}
	if (o->n == OVERLAY_WORDS) {
		o->full = true;
		return NULL;
	}
	w = &o->word[o->n++];
	*w = (struct overlay_word){.gpa = gpa, .host = host, .hash = h};
	w->seen = w->now = overlay_memory(w);
	o->index[h] = o->n;
	return w;
}

/* What of [gpa, gpa + len) lies in the word that gpa is in. */
static unsigned in_word(gpa_t gpa, unsigned len)
{
	return MIN(len, 8 - (gpa & 7));
}

static uint8_t byte_mask(gpa_t gpa, unsigned len)
{
	return ((1u << len) - 1) << (gpa & 7);
}

void overlay_load(struct mem_overlay *o, gpa_t gpa, const void *host, void *buf, unsigned len)
{
	char *p = buf;

	while (len) {
		unsigned n = in_word(gpa, len);
		struct overlay_word *w = find(o, gpa & ~7ull, (const char *)host - (gpa & 7));

		if (w) {
			memcpy(p, (const char *)&w->now + (gpa & 7), n);
			w->loaded |= byte_mask(gpa, n) & ~w->stored;
		} else {
			memset(p, 0, n);
		}
		p += n;
		gpa += n;
		host = (const char *)host + n;
		len -= n;
	}
}

void overlay_store(struct mem_overlay *o, gpa_t gpa, const void *host, const void *buf,
		   unsigned len)
{
	const char *p = buf;

	while (len) {
		unsigned n = in_word(gpa, len);
		struct overlay_word *w = find(o, gpa & ~7ull, (const char *)host - (gpa & 7));

		if (w) {
			memcpy((char *)&w->now + (gpa & 7), p, n);
			w->stored |= byte_mask(gpa, n);
		}
		p += n;
		gpa += n;
		host = (const char *)host + n;
		len -= n;
	}
}
