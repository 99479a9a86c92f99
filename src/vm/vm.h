/*
 * One virtual machine: builds it from a configuration, runs it, takes it down.
 *
 * Called by one thread (the caller's), but for vm_power_button() and vm_stop(). Several VMs can
 * live in one process.
 */
#ifndef VM_VM_H
#define VM_VM_H

#include <stdio.h>

#include "src/base/types.h"

#define VM_MAX_DISKS	16
#define VM_MAX_FORWARDS 16

enum vm_net { VM_NET_NONE, VM_NET_USER, VM_NET_TAP };
enum vm_serial { VM_SERIAL_STDIO, VM_SERIAL_FILE, VM_SERIAL_PTY };

struct vm_disk {
	const char *path;
	bool readonly;
};

struct vm_config {
	const char *kernel;
	const char *initrd; /* NULL: none */
	const char *append; /* NULL: empty */
	unsigned sockets, cores,
		threads; /* cores a socket, threads a core; one guest node a socket */
	uint64_t memory; /* bytes, a multiple of 1 MiB */
	bool overcommit; /* allow more memory than the host has */
	struct vm_disk disk[VM_MAX_DISKS];
	unsigned ndisks;
	enum vm_net net;
	const char *tap;		      /* interface name */
	const char *hostfwd[VM_MAX_FORWARDS]; /* "tcp:ADDR:PORT-[GUEST]:PORT" */
	unsigned nhostfwd;
	bool rng;
	const char *engine; /* "auto" or a name */
	/* Hold each so-manieth piece of compiled code against the interpreter; 0: none. */
	uint32_t check_every;
	bool exact_flags;
	FILE *bt_log,
		*perf_map; /* see struct engine_config; the caller's, open until vm_destroy() */
	bool gdb_jit;	   /* gdb is told of compiled code */
	enum vm_serial serial;
	const char *serial_path; /* of VM_SERIAL_FILE */
	bool test_device;
	/* Filter on serial input, for escape keys; may be NULL. On the I/O thread. */
	size_t (*input_filter)(void *opaque, uint8_t *data, size_t n);
	void *input_filter_opaque;
};

enum vm_end {
	VM_END_POWER_OFF,
	VM_END_DEBUG_EXIT, /* value written to isa-debug-exit in vm_result.value */
	VM_END_CRASHED,	   /* triple fault or pvpanic; a register dump was logged */
	VM_END_STOPPED,	   /* vm_stop() */
	VM_END_HOST_ERROR, /* also: the translator was found to be wrong */
};

struct vm_result {
	enum vm_end end;
	uint32_t value;
};

struct vm;

/*
 * 0, or after one log line: -EINVAL, -ENOENT, -EACCES, -ENOEXEC, -EBUSY, -ENOMEM ... for bad input
 * (a kernel or disk that cannot be used, more memory than the host can back); *host_error is set if
 * the host failed rather than the input.
 */
int vm_create(struct vm **vm, const struct vm_config *cfg, bool *host_error);
/* Runs the guest until it ends. A guest reset restarts it from its kernel. */
void vm_run(struct vm *vm, struct vm_result *res);
void vm_destroy(struct vm *vm);

/* Any thread, also a signal handler. Presses the ACPI power button. */
void vm_power_button(struct vm *vm);
/* Any thread, also a signal handler. Ends vm_run(). */
void vm_stop(struct vm *vm);

/* Where a --serial pty is, or NULL. */
const char *vm_serial_name(const struct vm *vm);
/* Per-VCPU counters as JSON; after vm_run(). */
int vm_write_stats(const struct vm *vm, FILE *out);

#endif
