#include "src/dev/bus.h"

#include <pthread.h>
#include <stdlib.h>

#include "src/base/atomic.h"
#include "src/base/rcu.h"

struct mapping {
	uint64_t base;
	uint64_t len;
	struct device *dev;
	uint64_t off;
};

/* Sorted by base, without overlap. Immutable once published, but for bus_unmap() without memory. */
struct bus_table {
	struct rcu_free_head rcu;
	unsigned n;
	struct mapping map[];
};

/* lock orders the writers; readers only dereference tables[]. */
struct bus {
	pthread_mutex_t lock;
	struct bus_table *tables[2]; /* by enum bus_space; RCU */
};

static void table_free_rcu(struct rcu_head *head)
{
	free(container_of(head, struct bus_table, rcu.head));
}

static struct bus_table *table_alloc(unsigned n)
{
	struct bus_table *t = malloc(sizeof(*t) + n * sizeof(t->map[0]));

	if (t)
		t->n = n;
	return t;
}

int bus_create(struct bus **out)
{
	struct bus *bus = calloc(1, sizeof(*bus));

	if (!bus)
		return -ENOMEM;
	pthread_mutex_init(&bus->lock, NULL);
	for (unsigned i = 0; i < ARRAY_SIZE(bus->tables); i++) {
		bus->tables[i] = table_alloc(0);
		if (!bus->tables[i]) {
			bus_destroy(bus);
			return -ENOMEM;
		}
	}
	*out = bus;
	return 0;
}

void bus_destroy(struct bus *bus)
{
	if (!bus)
		return;
	for (unsigned i = 0; i < ARRAY_SIZE(bus->tables); i++)
		free(bus->tables[i]);
	pthread_mutex_destroy(&bus->lock);
	free(bus);
}

/* Index of the first mapping that begins above addr; the one before it may contain addr. */
static unsigned upper_bound(const struct bus_table *t, uint64_t addr)
{
	unsigned lo = 0, hi = t->n;

	while (lo < hi) {
		unsigned mid = lo + (hi - lo) / 2;

		if (t->map[mid].base <= addr)
			lo = mid + 1;
		else
			hi = mid;
	}
	return lo;
}

static void publish_locked(struct bus *bus, enum bus_space space, struct bus_table *t)
{
	struct bus_table *old = bus->tables[space];

	rcu_publish(bus->tables[space], t);
	call_rcu(&old->rcu.head, table_free_rcu);
}

static int map_locked(struct bus *bus, enum bus_space space, const struct mapping *m)
{
	struct bus_table *old = bus->tables[space], *t;
	unsigned i = upper_bound(old, m->base);

	if (i > 0 && m->base - old->map[i - 1].base < old->map[i - 1].len)
		return -EEXIST;
	if (i < old->n && old->map[i].base - m->base < m->len)
		return -EEXIST;
	t = table_alloc(old->n + 1);
	if (!t)
		return -ENOMEM;
	memcpy(t->map, old->map, i * sizeof(t->map[0]));
	t->map[i] = *m;
	memcpy(&t->map[i + 1], &old->map[i], (old->n - i) * sizeof(t->map[0]));
	publish_locked(bus, space, t);
	return 0;
}

int bus_map(struct bus *bus, enum bus_space space, uint64_t base, uint64_t len, struct device *dev,
	    uint64_t off)
{
	struct mapping m = {.base = base, .len = len, .dev = dev, .off = off};
	int r;

	if (!len || base + (len - 1) < base)
		return -EINVAL;
	pthread_mutex_lock(&bus->lock);
	r = map_locked(bus, space, &m);
	pthread_mutex_unlock(&bus->lock);
	return r;
}

void bus_unmap(struct bus *bus, enum bus_space space, uint64_t base)
{
	struct bus_table *old, *t;
	unsigned i;

	pthread_mutex_lock(&bus->lock);
	old = bus->tables[space];
	i = upper_bound(old, base);
	if (i > 0 && old->map[i - 1].base == base) {
		i--;
		t = table_alloc(old->n - 1);
		if (t) {
			memcpy(t->map, old->map, i * sizeof(t->map[0]));
			memcpy(&t->map[i], &old->map[i + 1], (t->n - i) * sizeof(t->map[0]));
			publish_locked(bus, space, t);
		} else {
			/* Out of memory: an empty mapping contains no address. */
			atomic_store_relaxed(&old->map[i].len, 0);
		}
	}
	pthread_mutex_unlock(&bus->lock);
}

/*
 * Copies the mapping that contains the whole access: its table may be freed as soon as the device
 * callback passes a quiescent state or unmaps itself.
 */
static bool find(struct bus *bus, enum bus_space space, uint64_t addr, unsigned len,
		 struct mapping *m)
{
	const struct bus_table *t = rcu_deref(bus->tables[space]);
	unsigned i = upper_bound(t, addr);

	if (i == 0)
		return false;
	*m = t->map[i - 1];
	m->len = atomic_load_relaxed(&t->map[i - 1].len);
	return addr - m->base < m->len && len <= m->len - (addr - m->base);
}

bool bus_read(struct bus *bus, enum bus_space space, uint64_t addr, void *data, unsigned len)
{
	struct mapping m;

	if (!find(bus, space, addr, len, &m)) {
		memset(data, 0xff, len);
		return false;
	}
	m.dev->ops->read(m.dev, m.off + (addr - m.base), data, len);
	return true;
}

bool bus_write(struct bus *bus, enum bus_space space, uint64_t addr, const void *data, unsigned len)
{
	struct mapping m;

	if (!find(bus, space, addr, len, &m))
		return false;
	m.dev->ops->write(m.dev, m.off + (addr - m.base), data, len);
	return true;
}
