/*
 * Code maps of one VCPU: which frames the pages of the lower half are in that code was fetched
 * from. Owner's thread only; uses general registers only, for compiled code comes here.
 *
 * What leads from an address of the lower half to code is tagged with the number of a map, not with
 * that of an address space: so it outlives flushes that change no code, and serves all address
 * spaces that agree, such as those of processes that run the same program.
 *
 * To a map pages are only added. An address space uses a map while its tables, or what the TLB may
 * still keep of them, were found to say the same of all its pages. A flush takes that back: before
 * code of the lower half is next looked up, the tables are asked about each page again, and if they
 * say something else of one, another map is tried, or begun.
 *
 * Zeroed memory has no maps.
 */
#ifndef MMU_CODE_MAP_H
#define MMU_CODE_MAP_H

#include "src/base/types.h"

#define CODE_MAPS      8u
#define CODE_MAP_PAGES 1024u
#define CODE_MAP_SLOTS (2 * CODE_MAP_PAGES)
#define CODE_MAP_ROOTS 4u
#define CODE_MAP_TAGS  4095u /* from 1 on */
#define CODE_MAP_PCIDS 4096u

struct code_map_page {
	gva_t key; /* its address, | CODE_MAP_USER */
	gfn_t gfn;
};
#define CODE_MAP_USER 1ull /* fetched from with the rights of CPL 3 */

/* Numbers of maps begin at 1 and never come again; 0: none. */
struct code_map {
	uint64_t number;
	uint64_t epoch; /* changes when address spaces have to be held against it anew */
	uint64_t used;	/* when an address space last settled on it; 0: it was forgotten */
	uint64_t root[CODE_MAP_ROOTS]; /* tables whose address spaces used it lately; 0: none */
	unsigned next_root;
	unsigned n;
	struct code_map_page page[CODE_MAP_PAGES];
	/* Hash table of pages, with linear probing; a place is taken if the number is the map's. */
	struct {
		uint64_t number : 48, page : 16;
	} slot[CODE_MAP_SLOTS];
};

/* What is known of the address space of a PCID. */
struct code_map_user {
	uint64_t number;   /* of a map */
	uint64_t epoch;	   /* of that, when the address space was held against it */
	unsigned agrees;   /* on the first so many of its pages */
	unsigned searches; /* so that each has its turns to come together */
};

struct code_maps {
	struct code_map *map; /* in use, or a candidate for it */
	uint64_t next;	      /* how many maps there were */
	uint64_t clock;	      /* how often an address space settled */
	/* While an address space looks for one. */
	struct code_map_user *user;
	uint64_t root;
	unsigned tried; /* bits by place in all */
	bool hints;	/* maps that its tables used come first */
	struct code_map all[CODE_MAPS];
	struct code_map_user users[CODE_MAP_PCIDS];
};

/* All maps are forgotten. */
void code_maps_forget(struct code_maps *m);
/*
 * Whether the tag of the next map has had another one: before a map may be begun, whatever carries
 * tags has to be forgotten, and maps too.
 */
static inline bool code_maps_over(const struct code_maps *m)
{
	return m->next % CODE_MAP_TAGS == 0;
}

/* The address space of the PCID was flushed. */
static inline void code_maps_flush(struct code_maps *m, uint16_t pcid)
{
	m->users[pcid].agrees = 0;
}
/* A page of the lower half was flushed, in whatever address space; whether any map has it. */
bool code_maps_flush_page(struct code_maps *m, gva_t gva);

/*
 * The PCID's address space looks for a map that it agrees with: code_maps_ask() says about which
 * page its tables are to be asked next, until it is NULL, and code_maps_answer() takes what they
 * say: whether it is in that frame, accessed, and may be fetched from. root: the physical address
 * of its tables, as a hint.
 */
void code_maps_search(struct code_maps *m, uint16_t pcid, uint64_t root);
const struct code_map_page *code_maps_ask(struct code_maps *m);
void code_maps_answer(struct code_maps *m, bool same);

/* Then: what the map in use is known by, in 12 bits; never 0. */
static inline uint16_t code_maps_tag(const struct code_maps *m)
{
	return 1 + (m->map->number - 1) % CODE_MAP_TAGS;
}

/*
 * Code was fetched from a page by the address space that searched last. Another map is in use
 * afterwards if the page could not be added, or was in another frame.
 */
void code_maps_note(struct code_maps *m, gva_t gva, bool user, gfn_t gfn);

#endif
