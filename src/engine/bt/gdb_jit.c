#include "src/engine/bt/gdb_jit.h"

#include <pthread.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>

#include "src/engine/bt/bt_int.h"
#include "src/engine/bt/gdb_elf.h"

/*
 * Units in one file. Until there are as many a larger file takes its place whenever there are new
 * ones: gdb stops all threads for each file, and should not have too many.
 */
#define FILE_UNITS 256

/* --- what gdb knows by name ------------------------------------------------------------------ */

enum jit_action { JIT_NOACTION, JIT_REGISTER_FN, JIT_UNREGISTER_FN };

struct jit_code_entry {
	struct jit_code_entry *next_entry;
	struct jit_code_entry *prev_entry;
	const uint8_t *symfile_addr;
	uint64_t symfile_size;
};

struct jit_descriptor {
	uint32_t version;
	uint32_t action_flag; /* enum jit_action */
	struct jit_code_entry *relevant_entry;
	struct jit_code_entry *first_entry;
};

struct jit_descriptor __jit_debug_descriptor = {.version = 1};

/* gdb has a breakpoint here. */
void __attribute__((noinline)) __jit_debug_register_code(void);
void __jit_debug_register_code(void)
{
	__asm__ volatile("" ::: "memory");
}

/* Guards the descriptor, of which a process has one, and every struct gdb_jit. */
static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER;

/* A signal that strikes at the breakpoint makes gdb see the same call twice. */
static void enter(sigset_t *was)
{
	sigset_t all;

	sigfillset(&all);
	pthread_sigmask(SIG_BLOCK, &all, was);
	pthread_mutex_lock(&lock);
}

static void leave(const sigset_t *was)
{
	pthread_mutex_unlock(&lock);
	pthread_sigmask(SIG_SETMASK, was, NULL);
}

static void tell(struct jit_code_entry *entry, enum jit_action action)
{
	__jit_debug_descriptor.relevant_entry = entry;
	__jit_debug_descriptor.action_flag = action;
	__jit_debug_register_code();
	__jit_debug_descriptor.action_flag = JIT_NOACTION;
}

/* Whoever attaches may come at any moment, and reads the list from first_entry on. */
static void enlist(struct jit_code_entry *entry)
{
	struct jit_code_entry **first = &__jit_debug_descriptor.first_entry;

	entry->next_entry = *first;
	if (*first)
		(*first)->prev_entry = entry;
	atomic_store_release(first, entry);
	tell(entry, JIT_REGISTER_FN);
}

static void delist(struct jit_code_entry *entry)
{
	struct jit_code_entry *next = entry->next_entry, *prev = entry->prev_entry;

	if (next)
		next->prev_entry = prev;
	atomic_store_release(prev ? &prev->next_entry : &__jit_debug_descriptor.first_entry, next);
	tell(entry, JIT_UNREGISTER_FN);
}

/* --- files ----------------------------------------------------------------------------------- */

struct file {
	struct jit_code_entry entry;
	struct file *next; /* of the room */
	uint8_t elf[] __attribute__((aligned(8)));
};

/* Units whose file is not full. */
struct batch {
	struct gdb_symbol symbol[2 * FILE_UNITS];
	struct gdb_contents contents;
	struct file *file; /* or NULL */
	bool grown;	   /* since the file was made */
};

/* A room of the code cache since it was last handed out. */
struct room {
	struct room *next;
	unsigned region;
	uint64_t opened; /* see struct code_room */
	const uint8_t *hot_end;
	struct file *full;
	struct batch *batch; /* or NULL */
};

struct gdb_jit {
	struct gdb_jit_cpu *cpus;
	struct room *rooms;
	bool grown; /* some batch has; read without the lock */
	struct file *stubs;
};

static struct file *make_file(const struct gdb_contents *c)
{
	size_t size = gdb_elf_size(c);
	struct file *f = malloc(sizeof(*f) + size);

	if (!f)
		return NULL;
	*f = (struct file){.entry = {.symfile_addr = f->elf, .symfile_size = size}};
	gdb_elf_write(c, f->elf);
	return f;
}

static void remove_file(struct file *f)
{
	if (!f)
		return;
	delist(&f->entry);
	free(f);
}

/* --- rooms ----------------------------------------------------------------------------------- */

static void free_room(struct room *r)
{
	for (struct file *f = r->full, *next; f; f = next) {
		next = f->next;
		remove_file(f);
	}
	if (r->batch)
		remove_file(r->batch->file);
	free(r->batch);
	free(r);
}

static void remove_retired(struct gdb_jit *g, const struct code_room *now)
{
	for (struct room **p = &g->rooms, *r; (r = *p);) {
		if (r->region == now->region && r->opened != now->opened) {
			*p = r->next;
			free_room(r);
		} else {
			p = &r->next;
		}
	}
}

void gdb_jit_begin(struct gdb_jit *g, const struct code_room *room)
{
	sigset_t was;

	enter(&was);
	remove_retired(g, room);
	leave(&was);
}

static struct room *find_room(struct gdb_jit *g, const struct code_room *room)
{
	struct room *r = g->rooms;

	while (r && r->hot_end != room->hot_end)
		r = r->next;
	if (r)
		return r;
	r = calloc(1, sizeof(*r));
	if (!r)
		return NULL;
	*r = (struct room){.next = g->rooms,
			   .region = room->region,
			   .opened = room->opened,
			   .hot_end = room->hot_end};
	g->rooms = r;
	return r;
}

/* --- units ----------------------------------------------------------------------------------- */

static void add_symbol(struct batch *b, unsigned part, const uint8_t *start, const uint8_t *end,
		       const char *format, gpa_t gpa)
{
	struct gdb_contents *c = &b->contents;
	struct gdb_symbol *s = &b->symbol[c->nsymbols];

	if (start == end)
		return;
	c->nsymbols++;
	s->part = part;
	s->at = (struct gdb_range){(uintptr_t)start, (uintptr_t)end};
	snprintf(s->name, sizeof(s->name), format, gpa);
	if (!c->part[part].start)
		c->part[part].start = s->at.start;
	c->part[part].end = s->at.end;
}

static struct batch *open_batch(struct room *r)
{
	if (!r->batch) {
		r->batch = calloc(1, sizeof(*r->batch));
		if (r->batch)
			r->batch->contents.symbols = r->batch->symbol;
	}
	return r->batch;
}

static void show_batch(struct batch *b)
{
	struct file *f = make_file(&b->contents);

	b->grown = false;
	if (!f)
		return;
	/* In this order: gdb disables breakpoints in what goes, and finds them in what comes. */
	remove_file(b->file);
	enlist(&f->entry);
	b->file = f;
}

static void close_batch(struct room *r)
{
	struct file *f;

	show_batch(r->batch);
	f = r->batch->file;
	if (f) {
		f->next = r->full;
		r->full = f;
	}
	free(r->batch);
	r->batch = NULL;
}

static void add_unit(struct gdb_jit *g, struct room *r, const struct gdb_jit_unit *u)
{
	struct batch *b = open_batch(r);

	if (!b)
		return;
	add_symbol(b, 0, u->hot, u->hot_end, "guest-%lx", u->gpa);
	add_symbol(b, 1, u->cold, u->cold_end, "guest-%lx-slow", u->gpa);
	if (b->contents.nsymbols + 2 > ARRAY_SIZE(b->symbol)) {
		close_batch(r);
	} else {
		b->grown = true;
		atomic_store_relaxed(&g->grown, true);
	}
}

void gdb_jit_name(struct gdb_jit *g, const struct code_room *room, const struct gdb_jit_unit *u)
{
	struct room *r;
	sigset_t was;

	enter(&was);
	r = find_room(g, room);
	if (r)
		add_unit(g, r, u);
	leave(&was);
}

void gdb_jit_show(struct gdb_jit *g)
{
	sigset_t was;

	if (!atomic_load_relaxed(&g->grown))
		return;
	enter(&was);
	atomic_store_relaxed(&g->grown, false);
	for (struct room *r = g->rooms; r; r = r->next)
		if (r->batch && r->batch->grown)
			show_batch(r->batch);
	leave(&was);
}

/* --- stubs ----------------------------------------------------------------------------------- */

#define STUB(field)                                                                  \
	{                                                                            \
#field, offsetof(struct bt_stubs, field),                            \
			sizeof(((struct bt_stubs *)NULL)->field) / sizeof(uint8_t *) \
	}

static const struct {
	const char *name;
	size_t offset;
	unsigned n;
} stub[] = {
	STUB(leave),	  STUB(step),	    STUB(chain),       STUB(elsewhere), STUB(miss),
	STUB(rest),	  STUB(vec_enter),  STUB(enter),       STUB(second),	STUB(ret_miss),
	STUB(not_cached), STUB(no_native),  STUB(handed_over), STUB(vec_save),	STUB(vec_load),
	STUB(x87_save),	  STUB(x87_load),   STUB(underflow),   STUB(mode),	STUB(refill),
	STUB(mode_left),  STUB(latch_fill), STUB(branch_fill), STUB(string),	STUB(ran),
};

#define STUB_SYMBOLS 96

static int by_address(const void *a, const void *b)
{
	const struct gdb_symbol *s = a, *t = b;

	return s->at.start < t->at.start ? -1 : s->at.start > t->at.start;
}

/* Each stub goes on to the next one. Returns how many there are. */
static unsigned list_stubs(struct gdb_symbol *s, const struct bt_stubs *stubs)
{
	unsigned n = 0;

	for (unsigned k = 0; k < ARRAY_SIZE(stub); k++) {
		uint8_t *const *p = (void *)((const char *)stubs + stub[k].offset);

		for (unsigned i = 0; i < stub[k].n; i++, n++) {
			s[n] = (struct gdb_symbol){.at.start = (uintptr_t)e_exec(&stubs->e, p[i])};
			snprintf(s[n].name, sizeof(s[n].name), "stub-%s", stub[k].name);
		}
	}
	qsort(s, n, sizeof(*s), by_address);
	for (unsigned k = 0; k < n; k++)
		s[k].at.end =
			k + 1 < n ? s[k + 1].at.start : (uintptr_t)e_exec(&stubs->e, stubs->e.p);
	return n;
}

static struct file *stubs_file(struct gdb_jit *g, const struct code_cache *code,
			       const struct bt_stubs *stubs)
{
	struct gdb_symbol symbol[STUB_SYMBOLS];
	uint8_t frames[GDB_FRAMES_MAX];
	struct gdb_contents c = {.symbols = symbol, .frames = frames};
	struct gdb_range all;
	size_t size;

	all.start = (uintptr_t)code_exec(code, &size);
	all.end = all.start + size;
	c.frames_size = gdb_elf_frames(frames, &all, stubs, &g->cpus);
	c.nsymbols = list_stubs(symbol, stubs);
	c.part[0] = (struct gdb_range){symbol[0].at.start, symbol[c.nsymbols - 1].at.end};
	return make_file(&c);
}

int gdb_jit_create(struct gdb_jit **out, const struct code_cache *code,
		   const struct bt_stubs *stubs)
{
	struct gdb_jit *g = calloc(1, sizeof(*g));
	int r = code_let_patch(code);
	sigset_t was;

	if (g && !r)
		g->stubs = stubs_file(g, code, stubs);
	if (!g || !g->stubs) {
		free(g);
		return r ? r : -ENOMEM;
	}
	enter(&was);
	enlist(&g->stubs->entry);
	leave(&was);
	*out = g;
	return 0;
}

void gdb_jit_destroy(struct gdb_jit *g)
{
	sigset_t was;

	if (!g)
		return;
	enter(&was);
	for (struct room *r = g->rooms, *next; r; r = next) {
		next = r->next;
		free_room(r);
	}
	remove_file(g->stubs);
	leave(&was);
	free(g);
}

/* --- CPUs ------------------------------------------------------------------------------------ */

void gdb_jit_add_cpu(struct gdb_jit *g, struct gdb_jit_cpu *cpu)
{
	sigset_t was;

	enter(&was);
	cpu->next = g->cpus;
	atomic_store_release(&g->cpus, cpu);
	leave(&was);
}

void gdb_jit_remove_cpu(struct gdb_jit *g, struct gdb_jit_cpu *cpu)
{
	struct gdb_jit_cpu **p = &g->cpus;
	sigset_t was;

	enter(&was);
	while (*p != cpu)
		p = &(*p)->next;
	atomic_store_release(p, cpu->next);
	leave(&was);
}
