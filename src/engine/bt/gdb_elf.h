/* ELF files in memory that tell gdb what host code is called and how to unwind out of it. */
#ifndef ENGINE_BT_GDB_ELF_H
#define ENGINE_BT_GDB_ELF_H

#include "src/engine/bt/gdb_jit.h"

struct gdb_range {
	uintptr_t start, end;
};

struct gdb_symbol {
	char name[32];
	unsigned part; /* which of the file's ranges it lies in */
	struct gdb_range at;
};

#define GDB_PARTS 2

/* What is in one file. */
struct gdb_contents {
	struct gdb_range part[GDB_PARTS]; /* of code */
	const struct gdb_symbol *symbols;
	unsigned nsymbols;
	const uint8_t *frames; /* section .debug_frame, or NULL */
	size_t frames_size;
};

/* How large the file is, and the file itself; to: 8-byte aligned. */
size_t gdb_elf_size(const struct gdb_contents *c);
void gdb_elf_write(const struct gdb_contents *c, uint8_t *to);

#define GDB_FRAMES_MAX 512
/*
 * Unwind information for all code in a range, which holds the stubs: its caller is that of
 * stubs->enter. cpus: where the list of CPUs that may run there begins. Returns its size.
 */
size_t gdb_elf_frames(uint8_t to[GDB_FRAMES_MAX], const struct gdb_range *code,
		      const struct bt_stubs *stubs, struct gdb_jit_cpu *const *cpus);

#endif
