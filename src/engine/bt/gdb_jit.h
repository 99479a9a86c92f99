/*
 * What gdb knows of compiled code, by its JIT compilation interface (GDB manual): the names of
 * units and stubs, and how to get from them to their caller. One struct gdb_jit for each code
 * cache. Any thread; whoever is told of something in gdb waits meanwhile.
 */
#ifndef ENGINE_BT_GDB_JIT_H
#define ENGINE_BT_GDB_JIT_H

#include "src/engine/interp/code.h"

struct bt_stubs;
struct gdb_jit;

/* gdb takes RSP for that of the CPU whose stack in compiled code begins less than so far above. */
#define GDB_JIT_REACH_BITS 18

/* A CPU that may run compiled code; in the caller's memory. gdb reads it. */
struct gdb_jit_cpu {
	struct gdb_jit_cpu *next;
	const uint64_t *base; /* where its stack in compiled code begins; 0: it never ran any */
};

/* Executable addresses. */
struct gdb_jit_unit {
	gpa_t gpa;
	const uint8_t *hot, *hot_end;
	const uint8_t *cold, *cold_end;
};

/* Names the stubs, and lets gdb write to code. 0 or -errno. */
int gdb_jit_create(struct gdb_jit **out, const struct code_cache *code,
		   const struct bt_stubs *stubs);
/* Before the code cache. May be NULL. */
void gdb_jit_destroy(struct gdb_jit *g);

/* Before the CPU runs, and after it. */
void gdb_jit_add_cpu(struct gdb_jit *g, struct gdb_jit_cpu *cpu);
void gdb_jit_remove_cpu(struct gdb_jit *g, struct gdb_jit_cpu *cpu);

/* Code will be written to the room: what was in its region when that was retired has no name now.
 */
void gdb_jit_begin(struct gdb_jit *g, const struct code_room *room);
/*
 * Names a unit, behind those that were named in the room before; without memory it stays nameless.
 */
void gdb_jit_name(struct gdb_jit *g, const struct code_room *room, const struct gdb_jit_unit *u);
/* gdb sees what was named. May be called often. */
void gdb_jit_show(struct gdb_jit *g);

#endif
