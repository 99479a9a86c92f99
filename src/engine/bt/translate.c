/* One unit from its first block to host code. */
#include "src/engine/bt/translate.h"

#include "src/engine/bt/dump.h"
#include "src/engine/interp/ops_sys.h"

/* Mean distance of two runs, in units of code_now(), above which code runs seldom. */
#define SELDOM_TICKS 1000u

static OP(op_bt_next)
{
	c->bt.next = true;
}

static uint32_t block_off(const struct tr_insn *in)
{
	return in->block->gpa & ~PAGE_MASK;
}

struct bt_site *tr_site(struct tr *t, const struct tr_insn *in)
{
	struct bt_site *s = code_alloc(&t->bt->bc->room, sizeof(*s));
	unsigned n = in->insn->exec == op_vector ? 2 : 1;

	if (!s) {
		t->failed = true;
		return &t->no_site;
	}
	memcpy(s->slot, in->insn, n * sizeof(struct insn));
	s->slot[n] = (struct insn){.exec = op_bt_next, .mode = 8};
	/* A block's last STI has no successor that could be its shadow. */
	if (in->insn->exec == op_sti)
		s->slot[n] = in->insn[n].exec == op_end ? in->insn[n] : s->slot[n];
	s->block_off = block_off(in);
	s->undo_rsp = 0;
	s->unit = NULL;
	s->x87 = tr_x87_behind(t, in);
	return s;
}

struct bt_check *tr_check(struct tr *t, const struct tr_insn *in)
{
	struct bt_check *c = code_alloc(&t->bt->bc->room, sizeof(*c));

	if (!c) {
		t->failed = true;
		return &t->no_check;
	}
	*c = (struct bt_check){.block = in->block, .unit = t->b, .block_off = block_off(in)};
	c->slot = in->insn - in->block->slot;
	return c;
}

static void emit_hand_over(struct tr *t, struct tr_insn *in)
{
	struct bt_site *site = tr_site(t, in);
	unsigned n = in - t->in;

	if (tr_by_hand(t, n)) {
		site->unit = t->b;
		site->place = n;
		site->plain = 0;
	}
	e_mov_imm64(t->e, SCRATCH0, (uintptr_t)site);
	e_call_to(t->e, t->bt->stubs->step[t->flags_mem]);
	t->flags_mem = false;
	t->addend = NO_GROUP;
	t->x87_paged = false;
}

/* cpu->rip = linear address of an offset in the current page. */
static void emit_rip(struct tr *t, int32_t off)
{
	e_load(t->e, SCRATCH0, CPU_OFF(bt.page));
	e_lea(t->e, SCRATCH0, SCRATCH0, H_NONE, 0, off);
	e_store(t->e, SCRATCH0, CPU_OFF(rip));
}

/*
 * Leaves if somebody kicked, the shadow stack is full, or (where instructions are counted) the
 * slice is over. Units without a way to be part of a cycle need no such look.
 */
static unsigned emit_poll(struct tr *t, uint8_t *out[2])
{
	struct emit *e = t->e;
	unsigned n = 0;

	if (!t->polls && !t->bt->counted)
		return 0;
	tr_flags_clobber(t, t->in[0].live_in, SCRATCH0);
	if (t->bt->counted) {
		e_gs(e, false, 0x8b, SCRATCH0, CPU_OFF(bt.left));
		e_code(e, 0x41, 0x83, 0xea, t->n); /* sub r10d, n */
		out[n++] = e_jcc(e, CC_S);
	}
	out[n++] = bt_emit_wanted(e);
	if (t->bt->counted)
		e_gs(e, false, 0x89, SCRATCH0, CPU_OFF(bt.left));
	return n;
}

static void emit_poll_exit(struct tr *t, uint8_t *const from[2], unsigned n)
{
	if (!n)
		return;
	while (n-- > 0)
		e_patch_here(t->e, from[n]);
	emit_rip(t, t->in[0].off);
	/* Where they are dead it does not matter. */
	e_jmp_to(t->e, t->bt->stubs->leave[t->in[0].live_in != 0]);
}

/*
 * A unit that runs seldom counts its runs. In a byte, so that the counts of all that has its turn
 * in between do not take much of the host's caches. Returns the jump taken when it is full, or
 * NULL.
 */
static uint8_t *emit_runs(struct tr *t, uint32_t *count)
{
	struct emit *e = t->e;

	*count = NO_COUNT;
	if (t->seldom && !t->bt->stubs->single)
		*count = code_alloc_count(&t->bt->bc->room);
	if (*count == NO_COUNT)
		return NULL;
	tr_flags_clobber(t, t->in[0].live_in, SCRATCH0);
	e_code(e, 0x65, 0xfe); /* inc byte gs:[count] */
	e_field(e, 0, CPU_OFF(bt_count) + *count, 0);
	return e_jcc(e, CC_E);
}

static void emit_ran(struct tr *t, uint8_t *from, const uint8_t *behind, uint32_t count)
{
	struct bt_check *c;

	if (!from)
		return;
	c = tr_check(t, &t->in[0]);
	c->retry = e_exec(t->e, (uint8_t *)behind);
	c->count = count;
	e_patch_here(t->e, from);
	e_mov_imm64(t->e, SCRATCH0, (uintptr_t)c);
	e_jmp_to(t->e, t->bt->stubs->ran);
}

static void emit_exits(struct tr *t)
{
	struct emit *e = t->e;

	for (unsigned n = 0; n < t->nexits && !e->full; n++) {
		struct bt_exit *x;

		if (t->exit[n].target == t->in[0].off && t->exit[n].key == t->b->key &&
		    !t->bt->stubs->single) {
			e_patch(t->exit[n].from, t->exit[n].mem ? t->entry_far : t->entry_near);
			t->back[t->nback++] = t->exit[n].from;
			continue;
		}
		x = code_alloc(&t->bt->bc->room, sizeof(*x));
		if (!x) {
			t->failed = true;
			return;
		}
		*x = (struct bt_exit){.jump = t->exit[n].from,
				      .unit = t->b,
				      .gpa = (t->b->gpa & PAGE_MASK) + t->exit[n].target,
				      .key = t->exit[n].key,
				      .mem = t->exit[n].mem};
		e_patch(x->jump, e->p);
		emit_rip(t, t->exit[n].target);
		e_mov_imm64(e, SCRATCH0, (uintptr_t)x);
		e_align_jmp(e);
		x->out = e_jmp(e);
		e_patch_to(e, x->out, t->bt->stubs->chain[x->mem]);
	}
}

static void emit_body(struct tr *t)
{
	for (unsigned n = 0; n < t->n; n++) {
		struct tr_insn *in = &t->in[n];

		t->at = n;
		in->host = t->e->p;
		if (!in->rsp_behind || (t->vec_level && t->vec_at == n) ||
		    (t->x87 && t->x87_at == n))
			tr_settle_rsp(t);
		if (t->vec_level && t->vec_at == n)
			tr_emit_vec_check(t, in);
		if (t->x87 && t->x87_at == n)
			tr_emit_x87_check(t, in);
		tr_checks(t, in);
		if (!in->emit) {
			emit_hand_over(t, in);
			continue;
		}
		tr_flags_before(t, in);
		in->emit(t, in);
		tr_flags_after(t, in);
	}
	tr_settle_rsp(t);
	/* A handler that ends the block does not come back; others fall through to here. */
	if (!t->in[t->n - 1].ends)
		tr_exit(t, tr_next(&t->in[t->n - 1]), TR_ALWAYS);
}

void tr_start_passes(struct tr *t)
{
	t->nslow = t->nexits = t->nfar = t->nlookups = t->nstack = t->at = t->next_group = 0;
	t->addend = NO_GROUP;
	t->held = NO_REG;
	t->rsp_lag = 0;
	t->vec_level = 0;
	t->flags_mem = t->x87 = t->x87_paged = t->polls = false;
	t->ret_from = NULL;
}

static void start(struct tr *t, struct bt *bt, const struct block *b)
{
	t->bt = bt;
	t->e = &bt->e;
	t->entry = bt->e.p;
	t->ctx = block_key_ctx(b->key);
	t->exit_key = b->key;
	t->upper = block_key_upper(b->key);
	t->any_half = b->any_half || t->ctx == TLB_SUPER_AC;
	t->seldom = atomic_load_relaxed(&b->seldom);
	t->by_hand = atomic_load_relaxed(&b->by_hand);
	t->nback = 0;
	t->failed = t->strip = false;
	t->unit = NULL;
	tr_start_passes(t);
}

/* Whether code that clobbers the host's flags comes before code that reads them. */
static bool clobbers_first(const struct tr *t)
{
	unsigned g = 0;

	if (t->polls || t->seldom || t->bt->counted)
		return true;
	for (unsigned n = 0; n < t->n; n++) {
		const struct tr_insn *in = &t->in[n];

		if ((g < t->ngroups && t->group[g].check_at == n) ||
		    (t->vec_level && t->vec_at == n) || (t->x87 && t->x87_at == n) || !in->emit)
			return true;
		if (in->flag_reads || in->flag_touches)
			return false;
	}
	return false;
}

/* The other of the two entries, if flags matter at the entry. */
static void emit_entries(struct tr *t, bool mem)
{
	struct emit *e = t->e;

	t->entry_near = t->entry_far = t->entry;
	if (!t->in[0].live_in)
		return;
	if (mem) {
		t->entry_near = e->p;
		bt_emit_flags_save(e, SCRATCH0);
	} else {
		t->entry_far = e->p;
		bt_emit_flags_restore(e, SCRATCH0);
	}
	e_jmp_to(e, t->entry);
}

/* For those who check what compiled code does. */
static const struct block_unit *list_blocks(struct tr *t)
{
	size_t size = t->nblocks * sizeof(t->block[0]);
	struct block_unit *u = code_alloc(&t->bt->bc->room, sizeof(*u) + size);

	if (!u) {
		t->failed = true;
		return NULL;
	}
	u->n = t->nblocks;
	memcpy(u->block, t->block, size);
	return u;
}

/*
 * What is not in the way of what runs mostly. Only if that did fit: else what jumps here is not
 * where its address was noted.
 */
static void emit_cold(struct tr *t)
{
	t->e = &t->bt->cold;
	tr_emit_slow(t);
	emit_exits(t);
	tr_emit_far(t);
}

/* The unit is a loop: jumps back to its top go to a copy with fewer checks. */
static void add_strip(struct tr *t)
{
	unsigned n = t->n, nback = t->nback;
	const uint8_t *head = tr_emit_strip(t);

	if (head && !t->bt->e.full) {
		emit_cold(t);
		for (unsigned k = 0; k < nback; k++)
			e_patch(t->back[k], head);
		/* The first copy counts how often it is entered. */
		t->strip = !t->seldom;
		if (t->strip)
			t->entry_near = t->entry_far = (uint8_t *)head;
	}
	t->n = n;
}

/* All code of the unit; false if there is too little room. */
static bool emit_unit(struct tr *t)
{
	uint8_t *poll[2], *runs, *behind;
	uint32_t count;
	unsigned npolls;
	bool mem;

	tr_plan(t);
	tr_flags(t);
	tr_groups(t);
	if (t->vec_level)
		tr_place_vec_check(t);
	if (t->x87)
		tr_place_x87_check(t);
	mem = t->flags_mem = t->in[0].live_in && clobbers_first(t);
	npolls = emit_poll(t, poll);
	runs = emit_runs(t, &count);
	behind = t->e->p;
	emit_body(t);
	if (t->bt->e.full)
		return false;
	t->e = &t->bt->cold;
	emit_entries(t, mem);
	emit_poll_exit(t, poll, npolls);
	emit_ran(t, runs, behind, count);
	emit_cold(t);
	if (tr_has_strip(t))
		add_strip(t);
	if (t->bt->stubs->single)
		t->unit = list_blocks(t);
	return !t->bt->e.full && !t->bt->cold.full && !t->failed;
}

/*
 * Makes the unit's code that of its block, unless another VCPU was quicker (then `was` is not what
 * the block has) or the block was dropped meanwhile.
 */
static bool publish(struct tr *t, const void *was)
{
	struct block_cache *bc = t->bt->bc;
	struct block *b = t->b;
	bool ok;

	code_lock(bc->code);
	ok = b->native == was && code_may_publish(bc->code, &bc->room, b);
	if (ok) {
		b->unit = t->unit;
		atomic_store_relaxed(&b->strip, t->strip);
		atomic_store_relaxed(&b->far_native, e_exec(&t->bt->e, t->entry_far));
		atomic_store_release(&t->bt->stubs->published, t->bt->stubs->published + 1);
		/* Pairs with the acquire of who reads native first. */
		atomic_store_release(&b->native, e_exec(&t->bt->e, t->entry_near));
		for (struct bt_exit *x = b->links; x; x = x->next)
			bt_join(&t->bt->e, x, b);
	}
	code_unlock(bc->code);
	return ok;
}

static void name_for_gdb(struct tr *t, uint8_t *cold)
{
	struct bt *bt = t->bt;
	const struct gdb_jit_unit u = {
		.gpa = t->b->gpa,
		.hot = e_exec(&bt->e, t->entry),
		.hot_end = e_exec(&bt->e, bt->e.p),
		.cold = e_exec(&bt->cold, cold),
		.cold_end = e_exec(&bt->cold, bt->cold.p),
	};

	gdb_jit_name(bt->stubs->gdb_jit, &bt->bc->room, &u);
}

static void tell(struct tr *t, uint8_t *cold)
{
	struct bt *bt = t->bt;

	if (bt->log)
		bt_dump_unit(bt->log, t, cold);
	if (bt->perf_map)
		bt_name_unit(bt->perf_map, t, cold);
	if (bt->stubs->gdb_jit)
		name_for_gdb(t, cold);
	STAT_INC(bt->cpu->stats, blocks_compiled);
}

static void start_emit(struct emit *e, uint8_t *p, uint8_t *end)
{
	e->p = p;
	e->end = end;
	e->full = false;
}

/* Translation is a transaction in the VCPU's own room. False, with nothing taken, if that is full.
 */
static bool translate_in_room(struct bt *bt, struct block *b)
{
	struct tr *t = &bt->tr_space->tr;
	struct code_room *room = &bt->bc->room, was = *room;
	const void *native = atomic_load_acquire(&b->native);

	if (!room->region)
		return false;
	if (bt->stubs->gdb_jit)
		gdb_jit_begin(bt->stubs->gdb_jit, room);
	start_emit(&bt->e, room->hot, room->hot_end);
	start_emit(&bt->cold, room->cold, room->cold_end);
	start(t, bt, b);
	if (!tr_unit(t, b))
		return true;
	if (!emit_unit(t)) {
		*room = was;
		return false;
	}
	if (!publish(t, native)) {
		*room = was;
		return true;
	}
	room->hot = bt->e.p;
	room->cold = bt->cold.p;
	tell(t, was.cold);
	return true;
}

/*
 * Code that runs less often than about two thousand times a second. By its next turn other code has
 * driven its latches out of the host's caches, which is worse than a look-up: the entries that this
 * reads, one for each page of data, stay there.
 */
static bool runs_seldom(const struct bt *bt, const struct block *b)
{
	return code_now() - atomic_load_relaxed(&b->time) > MAX(bt->hot, 1u) * SELDOM_TICKS;
}

bool bt_translate(struct bt *bt, struct block *b)
{
	if (!atomic_load_relaxed(&b->native) && runs_seldom(bt, b))
		atomic_store_relaxed(&b->seldom, true);
	return translate_in_room(bt, b) ||
	       (block_cache_take_room(bt->bc) && translate_in_room(bt, b));
}
