/* Misses of the software TLB in compiled code. */
#include "src/engine/bt/bt_int.h"

#include "src/base/atomic.h"
#include "src/x86/mem.h"

/*
 * How often the interpreter took over a unit, each time soon after the last, before the unit is
 * compiled again to avoid that: then it has cost as much as that does.
 */
#define LEFT_OFTEN 64
#define SOON_TICKS 32768 /* of code_now(): about 16 milliseconds */
/*
 * Runs of an instruction by hand without access to a device, one after the other, before that ends;
 * twice as many after each time that it ended, to some limit.
 */
#define PLAIN_RUNS 256u
#define MAX_FADED  8

/* Mean distance of runs, in units of code_now(), of code that does not run seldom after all. */
#define OFTEN_TICKS 100

#define FILLS_SAMPLE 256
/* Mean distance of fills, in cycles of the host's clock, below which some cost too much. */
#define FILL_CYCLES 800

/* Another VCPU may undo it at the same time: then it is found out once more. */
static void add_bit(uint64_t *set, uint64_t bit)
{
	atomic_store_relaxed(set, atomic_load_relaxed(set) | bit);
}

/* Has the unit compiled again. False: another one's turn has not come yet. */
static bool want_redo(struct bt *bt, struct block *unit)
{
	if (bt->redo && bt->redo != unit)
		return false;
	bt->redo = unit;
	cpu_kick(bt->cpu);
	return true;
}

/* Counts; whether the unit is going to be compiled again for it. */
static bool left(struct bt *bt, struct block *unit)
{
	uint32_t now = code_now();
	uint32_t took = now - atomic_load_relaxed(&unit->time);
	unsigned n = atomic_load_relaxed(&unit->left_often);
	bool redo;

	n = took <= SOON_TICKS ? MIN(n + 1, LEFT_OFTEN) : n / 2;
	redo = n == LEFT_OFTEN && want_redo(bt, unit);
	atomic_store_relaxed(&unit->left_often, redo ? 0 : n);
	atomic_store_relaxed(&unit->time, now);
	return redo;
}

/*
 * A VCPU that found the unit's former code in its jump cache finds the present one from now on, and
 * if it came by a latch of a branch when it next enters compiled code, which is soon. A loop in the
 * former code may come here often.
 */
static void refresh(struct bt *bt, struct block *unit)
{
	uint64_t rip = bt->cpu->bt.page + (unit->gpa & ~PAGE_MASK);
	struct jump_entry *j = block_jump_entry(bt->bc, rip);

	if (j->rip != rip)
		j = block_jump_second(bt->bc, j);
	if (j->rip == rip && j->block == unit)
		j->native = block_entry(bt->bc, unit);
	if (bt->refreshed == unit)
		return;
	bt->refreshed = unit;
	bt->bc->branch_gen++;
	cpu_kick(bt->cpu);
}

/*
 * A group that crosses a page. That costs as much as some hundred checks, but a loop over an array
 * has it seldom; accesses to one stack frame or structure have it each time, and a function that
 * runs some thousand times a second may be one of hundreds.
 */
static void note_straddle(struct bt *bt, const struct bt_check *k)
{
	struct block *unit = k->unit;
	uint64_t bit = 1ull << k->place;

	if (k->narrow)
		return;
	if (atomic_load_relaxed(&unit->narrow) & bit)
		refresh(bt, unit);
	else if (left(bt, unit))
		add_bit(&unit->narrow, bit);
}

void bt_note_device(struct bt *bt, const struct bt_check *k)
{
	struct block *unit = k->unit;
	uint64_t bit = 1ull << k->place;

	/* Several instructions may share the last bit. */
	if (k->place == BT_LAST_PLACE)
		return;
	if (atomic_load_relaxed(&unit->by_hand) & bit)
		refresh(bt, unit);
	else if (left(bt, unit))
		add_bit(&unit->by_hand, bit);
}

void bt_note_by_hand(struct bt *bt, struct bt_site *site, bool device)
{
	struct block *unit = site->unit;
	uint64_t by_hand = atomic_load_relaxed(&unit->by_hand), bit = 1ull << site->place;
	unsigned faded = atomic_load_relaxed(&unit->faded);
	uint32_t plain = device ? 0 : atomic_load_relaxed(&site->plain) + 1;

	atomic_store_relaxed(&site->plain, plain);
	if (plain < PLAIN_RUNS << faded)
		return;
	if (!(by_hand & bit)) {
		refresh(bt, unit);
	} else if (want_redo(bt, unit)) {
		atomic_store_relaxed(&unit->by_hand, by_hand & ~bit);
		atomic_store_relaxed(&unit->faded, MIN(faded + 1, MAX_FADED));
	}
}

/*
 * Of the latches that are filled each FILLS_SAMPLEth is looked at. While they are filled that
 * often, those that are caught twice do not pay.
 */
static void note_fills(struct bt *bt, const struct bt_check *k)
{
	uint64_t now = __builtin_ia32_rdtsc(), took = now - bt->fills_start;
	uint64_t bit = 1ull << k->place;
	struct block *unit = k->unit;

	bt->fills_start = now;
	bt->cpu->bt.fills = FILLS_SAMPLE;
	if (took > FILLS_SAMPLE * FILL_CYCLES)
		return;
	if (atomic_load_relaxed(&unit->lookups) & bit) {
		refresh(bt, unit);
	} else if (!(atomic_load_relaxed(&unit->lookups_next) & bit)) {
		add_bit(&unit->lookups_next, bit);
	} else if (want_redo(bt, unit)) {
		add_bit(&unit->lookups, bit);
	}
}

/*
 * A unit that was compiled as one that runs seldom gets latches if it does not, on this VCPU. The
 * block is looked at only then, for most that come here do run seldom, and it is in no cache.
 */
const uint8_t *bt_ran(struct cpu *c, const struct bt_check *k)
{
	struct bt *bt = bt_of_code(c);
	uint32_t now = code_now(), took = now - c->bt_counted[k->count];

	c->bt_counted[k->count] = now;
	if (took >= BT_RUNS * OFTEN_TICKS)
		return k->retry;
	if (!atomic_load_relaxed(&k->unit->seldom))
		refresh(bt, k->unit);
	else if (want_redo(bt, k->unit))
		atomic_store_relaxed(&k->unit->seldom, false);
	return k->retry;
}

const uint8_t *bt_miss(struct cpu *c, const struct bt_check *k, gva_t lo)
{
	struct bt *bt = bt_of_code(c);

	bt->missed = NULL;
	if (c->bt.fills < 0)
		note_fills(bt, k);
	if ((lo ^ (lo + k->span)) & PAGE_MASK) {
		note_straddle(bt, k);
		return NULL;
	}
	if (!k->any_half && lo >> 63 != c->bt.page >> 63) {
		if (atomic_load_relaxed(&k->unit->any_half))
			refresh(bt, k->unit);
		else if (want_redo(bt, k->unit))
			atomic_store_relaxed(&k->unit->any_half, true);
		return NULL;
	}
	if (k->align && ((lo + k->align_off) & (k->align - 1)))
		return NULL;
	if (k->write && !k->fill_write ? mem_fill_clean(c, lo) : mem_fill(c, lo, k->write))
		return k->retry;
	bt->missed = k;
	return k->alone ? bt_fault(c, k, lo + k->access) : NULL;
}
