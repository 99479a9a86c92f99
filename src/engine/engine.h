/*
 * What an execution engine is. All functions run on the VCPU's own thread, but for those that end
 * in _init and _fini, which the VM builder calls while that thread does not exist.
 */
#ifndef ENGINE_ENGINE_H
#define ENGINE_ENGINE_H

#include <stdio.h>

#include "smp/smp.h"

enum vm_exit {
	VM_EXIT_SAFEPOINT, /* something asks for one */
	VM_EXIT_SLICE,	   /* ran for a whole slice */
	VM_EXIT_PAUSE,	   /* PAUSE was executed */
	VM_EXIT_HALT,
	VM_EXIT_SHUTDOWN, /* triple fault */
	VM_EXIT_DIFFERS,  /* the engine did something wrong (engine_config.check_every) */
};

struct engine_config {
	const char *option; /* what followed the engine's name and a colon, or NULL */
	/* Hold each so-manieth piece of compiled code against the interpreter; 0: none. */
	uint32_t check_every;
	bool exact_flags; /* of compiled code, where only frames of faults show them, too */
	FILE *bt_log;	  /* gets guest and host code of all that is compiled; or NULL */
	FILE *perf_map;	  /* gets where compiled code lies, as perf reads it; or NULL */
	bool gdb_jit;	  /* gdb is told the same */
};

struct engine_ops {
	const char *name;
	/* Before the VCPUs, and after them: what they share, smp->engine_data. */
	int (*vm_init)(struct smp *smp, const struct engine_config *cfg);
	void (*vm_fini)(struct smp *smp);
	int (*vcpu_init)(struct vcpu *v, const struct engine_config *cfg);
	void (*vcpu_fini)(struct vcpu *v);
	/* Once on the VCPU's thread, before run. */
	void (*thread_start)(struct vcpu *v);
	/* run() looks at no clock: it returns within a fraction of a millisecond after a request.
	 */
	bool until_kicked;
	/* Until an exit; unless until_kicked, returns within a fraction of a millisecond. */
	enum vm_exit (*run)(struct vcpu *v);
	/* Whether an interrupt (flags permitting) or NMI could be injected now. */
	bool (*interruptible)(struct vcpu *v);
	void (*inject)(struct vcpu *v, uint8_t vector);
	/* Return from run() as soon as the guest can take an interrupt, or an NMI. */
	void (*want_window)(struct vcpu *v, bool nmi);
	/* From the shootdown queue. */
	void (*drop_code)(struct vcpu *v, gfn_t gfn);
	void (*forget_code)(struct vcpu *v);
	void (*drop_stale)(struct vcpu *v); /* when the queue overflowed */
};

/*
 * NULL if there is no engine of that name; "auto" picks the best one. A colon ends the name;
 * *option points behind it, or is NULL.
 */
const struct engine_ops *engine_find(const char *name, const char **option);
/* Names for messages, "interp". */
const char *engine_names(void);

extern const struct engine_ops interp_engine;
extern const struct engine_ops bt_engine;

#endif
