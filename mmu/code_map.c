#include "mmu/code_map.h"

/* Every so many times an address space tries maps by their size alone, to come together. */
#define JOIN_TURNS 16

void code_maps_forget(struct code_maps *m)
{
	for (unsigned n = 0; n < CODE_MAPS; n++)
		m->all[n].number = m->all[n].used = 0;
	m->map = NULL;
}

/* --- the pages of a map ----------------------------------------------------------------------- */

static unsigned first_slot(gva_t page)
{
	return ((page >> PAGE_SHIFT) * 0x9e3779b97f4a7c15ull >> 32) % CODE_MAP_SLOTS;
}

/* The page of the map, or NULL; *slot: where the search ended. ignore: bits of the key. */
static const struct code_map_page *find(const struct code_map *map, gva_t key, uint64_t ignore,
					unsigned *slot)
{
	unsigned i = first_slot(key);

	for (; map->slot[i].number == map->number; i = (i + 1) % CODE_MAP_SLOTS) {
		const struct code_map_page *p = &map->page[map->slot[i].page];

		if (((p->key ^ key) & ~ignore) == 0)
			return p;
	}
	*slot = i;
	return NULL;
}

bool code_maps_flush_page(struct code_maps *m, gva_t gva)
{
	bool any = false;
	unsigned slot;

	for (unsigned n = 0; n < CODE_MAPS; n++) {
		struct code_map *map = &m->all[n];

		if (map->number && find(map, gva & PAGE_MASK, CODE_MAP_USER, &slot)) {
			map->epoch++;
			any = true;
		}
	}
	return any;
}

/* --- tables that used it ---------------------------------------------------------------------- */

static bool has_root(const struct code_map *map, uint64_t root)
{
	for (unsigned n = 0; n < CODE_MAP_ROOTS; n++)
		if (map->root[n] == root)
			return true;
	return false;
}

static void remove_root(struct code_map *map, uint64_t root)
{
	for (unsigned n = 0; n < CODE_MAP_ROOTS; n++)
		if (map->root[n] == root)
			map->root[n] = 0;
}

static void add_root(struct code_map *map, uint64_t root)
{
	if (!has_root(map, root))
		map->root[map->next_root++ % CODE_MAP_ROOTS] = root;
}

/* --- the search for a map --------------------------------------------------------------------- */

/*
 * The largest first. So address spaces that agree come together: who moves does so to a larger map,
 * or the older one of two, and never back.
 */
static bool before(const struct code_maps *m, const struct code_map *a, const struct code_map *b)
{
	if (m->hints && has_root(a, m->root) != has_root(b, m->root))
		return has_root(a, m->root);
	return a->n != b->n ? a->n > b->n : a->number < b->number;
}

/* Of those not yet tried, or NULL. */
static struct code_map *next_candidate(struct code_maps *m)
{
	struct code_map *first = NULL;

	for (unsigned n = 0; n < CODE_MAPS; n++) {
		struct code_map *map = &m->all[n];

		if (map->number && !(m->tried >> n & 1) && (!first || before(m, map, first)))
			first = map;
	}
	if (first)
		m->tried |= 1u << (first - m->all);
	return first;
}

/* In place of the one that was not used for longest. */
static struct code_map *begin_map(struct code_maps *m)
{
	struct code_map *map = &m->all[0];

	for (unsigned n = 1; n < CODE_MAPS; n++)
		if (m->all[n].used < map->used)
			map = &m->all[n];
	map->number = ++m->next;
	map->used = m->clock;
	map->n = 0;
	for (unsigned n = 0; n < CODE_MAP_ROOTS; n++)
		map->root[n] = 0;
	return map;
}

/* What was found of the address space and this map before counts if nothing was flushed since. */
static void consider(struct code_maps *m, struct code_map *map)
{
	struct code_map_user *u = m->user;

	m->map = map ? map : begin_map(m);
	if (u->number == m->map->number && u->epoch == m->map->epoch)
		return;
	u->number = m->map->number;
	u->epoch = m->map->epoch;
	u->agrees = 0;
}

static struct code_map *by_number(struct code_maps *m, uint64_t number)
{
	for (unsigned n = 0; n < CODE_MAPS; n++)
		if (m->all[n].number == number)
			return &m->all[n];
	return NULL;
}

void code_maps_search(struct code_maps *m, uint16_t pcid, uint64_t root)
{
	struct code_map *map = NULL;

	m->clock++;
	m->user = &m->users[pcid];
	m->root = root;
	m->tried = 0;
	m->hints = ++m->user->searches % JOIN_TURNS != 0;
	m->map = NULL;
	/* After a flush the one used before is no nearer than others. */
	if (m->user->agrees && m->hints)
		map = by_number(m, m->user->number);
	if (map)
		m->tried |= 1u << (map - m->all);
	consider(m, map ? map : next_candidate(m));
}

const struct code_map_page *code_maps_ask(struct code_maps *m)
{
	if (m->user->agrees < m->map->n)
		return &m->map->page[m->user->agrees];
	m->map->used = m->clock;
	add_root(m->map, m->root);
	return NULL;
}

void code_maps_answer(struct code_maps *m, bool same)
{
	if (likely(same)) {
		m->user->agrees++;
		return;
	}
	m->user->agrees = 0;
	remove_root(m->map, m->root);
	consider(m, next_candidate(m));
}

/* --- what is fetched -------------------------------------------------------------------------- */

void code_maps_note(struct code_maps *m, gva_t gva, bool user, gfn_t gfn)
{
	gva_t key = (gva & PAGE_MASK) | (user ? CODE_MAP_USER : 0);
	const struct code_map_page *p = NULL;
	struct code_map *map = m->map;
	unsigned slot = 0;

	if (likely(map))
		p = find(map, key, 0, &slot);
	if (likely(p && p->gfn == gfn))
		return;
	if (unlikely(!map || p || map->n == CODE_MAP_PAGES)) {
		consider(m, NULL);
		map = m->map;
		add_root(map, m->root);
		slot = first_slot(key);
	}
	map->page[map->n] = (struct code_map_page){.key = key, .gfn = gfn};
	map->slot[slot].number = map->number;
	map->slot[slot].page = map->n++;
	m->user->agrees = map->n;
}
