#include <stdlib.h>

#include "src/base/log.h"
#include "src/engine/engine.h"
#include "src/engine/interp/interp.h"

/* Instructions between looks at the LAPIC timer: some tens of microseconds. */
#define SLICE 4096

/* Of decoded code, and as much of compiled: a quarter holds a database server and its kernel. */
#define CACHE_MIB 128

/* The engine's option: RUNS[,MIB]. */
struct option {
	uint32_t translate_after; /* how often a block is interpreted before; 0: a default */
	size_t cache_bytes;
};

static int parse_option(const char *text, struct option *o)
{
	unsigned long mib = CACHE_MIB;
	char *end = "";

	*o = (struct option){0};
	if (text && *text)
		o->translate_after = strtoul(text, &end, 10);
	if (*end == ',')
		mib = strtoul(end + 1, &end, 10);
	if (*end || mib < 1 || mib > 1024) {
		log_err("\"%s\" is no option of the engine: give a number of runs after which code "
			"is "
			"compiled, and perhaps a comma and the code cache's MiB, 1 to 1024",
			text);
		return -EINVAL;
	}
	o->cache_bytes = MIB(mib);
	return 0;
}

static int vm_create(struct smp *smp, bool translate, const struct engine_config *ecfg)
{
	struct option o;
	struct interp_config cfg = {
		.translate = translate,
		.check_every = ecfg->check_every,
		.exact_flags = ecfg->exact_flags,
		.gdb_jit = ecfg->gdb_jit,
	};
	int r = parse_option(ecfg->option, &o);

	if (r)
		return r;
	cfg.cache_bytes = o.cache_bytes;
	return interp_vm_create((struct interp_vm **)&smp->engine_data, smp->gmem, &cfg);
}

static int interp_vm_init(struct smp *smp, const struct engine_config *cfg)
{
	return vm_create(smp, false, cfg);
}

static int bt_vm_init(struct smp *smp, const struct engine_config *cfg)
{
	return vm_create(smp, true, cfg);
}

static void vm_fini(struct smp *smp)
{
	interp_vm_destroy(smp->engine_data);
	smp->engine_data = NULL;
}

static int create(struct vcpu *v, bool translate, const struct engine_config *ecfg)
{
	struct option o;
	int r = parse_option(ecfg->option, &o);
	struct interp_config cfg = {
		.vm = v->smp->engine_data,
		.self = v->index,
		.requests = &v->requests,
		.translate = translate,
		.translate_after = o.translate_after,
		.until_kicked = translate,
		.check_every = ecfg->check_every,
		.exact_flags = ecfg->exact_flags,
		.bt_log = ecfg->bt_log,
		.perf_map = ecfg->perf_map,
	};

	return r ? r : interp_create((struct interp **)&v->engine_data, &v->cpu, &cfg);
}

static int interp_init(struct vcpu *v, const struct engine_config *cfg)
{
	return create(v, false, cfg);
}

static int bt_init(struct vcpu *v, const struct engine_config *cfg)
{
	return create(v, true, cfg);
}

static void thread_start(struct vcpu *v)
{
	interp_enter_thread(v->engine_data);
}

static void vcpu_fini(struct vcpu *v)
{
	interp_destroy(v->engine_data);
	v->engine_data = NULL;
}

static enum vm_exit run(struct vcpu *v)
{
	switch (interp_run(v->engine_data, SLICE, false)) {
	case INTERP_BUDGET: return VM_EXIT_SLICE;
	case INTERP_PAUSE: return VM_EXIT_PAUSE;
	case INTERP_HALT: return VM_EXIT_HALT;
	case INTERP_SHUTDOWN: return VM_EXIT_SHUTDOWN;
	case INTERP_DIFFERS: return VM_EXIT_DIFFERS;
	default: return VM_EXIT_SAFEPOINT;
	}
}

static bool interruptible(struct vcpu *v)
{
	return interp_interruptible(v->engine_data);
}

static void inject(struct vcpu *v, uint8_t vector)
{
	interp_inject(v->engine_data, vector);
}

static void want_window(struct vcpu *v, bool nmi)
{
	v->cpu.event |= nmi ? CPU_EVENT_NMI_WINDOW : CPU_EVENT_WINDOW;
}

static void drop_code(struct vcpu *v, gfn_t gfn)
{
	interp_drop_code(v->engine_data, gfn);
}

static void forget_code(struct vcpu *v)
{
	interp_forget_code(v->engine_data);
}

static void drop_stale(struct vcpu *v)
{
	interp_drop_stale(v->engine_data);
}

#define COMMON_OPS                                                                            \
	.vm_fini = vm_fini, .vcpu_fini = vcpu_fini, .thread_start = thread_start, .run = run, \
	.interruptible = interruptible, .inject = inject, .want_window = want_window,         \
	.drop_code = drop_code, .forget_code = forget_code, .drop_stale = drop_stale

const struct engine_ops interp_engine = {
	.name = "interp", .vm_init = interp_vm_init, .vcpu_init = interp_init, COMMON_OPS};
const struct engine_ops bt_engine = {.name = "bt",
				     .vm_init = bt_vm_init,
				     .vcpu_init = bt_init,
				     .until_kicked = true,
				     COMMON_OPS};
