/* The life of a VCPU: the run loop and what happens at a safepoint. */
#include "sched/entity.h"
#include "sched/spin.h"
#include "src/base/log.h"
#include "src/base/rcu.h"
#include "src/vm/tick.h"
#include "src/vm/vm_int.h"

struct run {
	struct vm *vm;
	struct vcpu *v;
	const struct engine_ops *engine;
	struct shootdown_sink sink;
	struct sched_spin spin;
	struct tick tick; /* if the engine wants one */
};

static void shootdown_message(void *arg, enum shootdown_kind kind, uint64_t value)
{
	struct run *run = arg;

	switch (kind) {
	case SHOOTDOWN_DROP_CODE: run->engine->drop_code(run->v, value); break;
	case SHOOTDOWN_PROTECT: tlb_protect_gfn(&run->v->cpu.tlb, value); break;
	case SHOOTDOWN_FORGET_CODE: run->engine->forget_code(run->v); break;
	case SHOOTDOWN_FLUSH_TLB: tlb_flush_all(&run->v->cpu.tlb); break;
	}
}

static void shootdown_everything(void *arg)
{
	struct run *run = arg;

	run->engine->drop_stale(run->v);
	tlb_flush_all(&run->v->cpu.tlb);
	STAT_INC(&run->v->stats, shootdowns_overflowed);
}

static void safepoint(struct run *run)
{
	struct vcpu *v = run->v;
	uint32_t requests = vcpu_take_requests(v);

	if (requests & REQ_SHOOTDOWN)
		v->stats.shootdowns_drained += shootdown_drain(&v->queue, &run->sink);
	rcu_quiescent();
	vcpu_follow_clock(v);
	lapic_check_timer(v);
}

static bool wakes(struct vcpu *v)
{
	return (v->nmi_pending && !v->cpu.nmi_blocked) ||
	       ((v->cpu.rflags & FLAG_IF) && vcpu_irq_pending(v));
}

static bool inject_nmi(struct run *run)
{
	struct vcpu *v = run->v;

	if (v->cpu.nmi_blocked || !run->engine->interruptible(v))
		return false;
	v->nmi_pending = false;
	v->cpu.nmi_blocked = true;
	STAT_INC(&v->stats, nmis);
	run->engine->inject(v, EXC_NMI);
	return true;
}

static void inject_irq(struct run *run)
{
	struct vcpu *v = run->v;
	int vector;

	if (!(v->cpu.rflags & FLAG_IF) || !run->engine->interruptible(v))
		return;
	vector = vcpu_ack_irq(v);
	if (vector < 0)
		return;
	STAT_INC(&v->stats, interrupts);
	run->engine->inject(v, vector);
}

/* One event at most; the engine is asked to stop where the next one can be taken. */
static void inject(struct run *run)
{
	struct vcpu *v = run->v;
	bool taken = v->nmi_pending && inject_nmi(run);

	if (v->nmi_pending)
		run->engine->want_window(v, true);
	if (!taken && vcpu_irq_pending(v))
		inject_irq(run);
	if (vcpu_irq_pending(v))
		run->engine->want_window(v, false);
}

static void triple_fault(struct run *run)
{
	char dump[4096];

	cpu_dump(&run->v->cpu, dump, sizeof(dump));
	log_err("VCPU %u: triple fault\n%s", run->v->index, dump);
	vm_end_with(run->vm, VM_END_CRASHED, 0);
}

static void run_loop(struct run *run)
{
	struct vcpu *v = run->v;

	for (;;) {
		safepoint(run);
		/* After the request that tells of it was taken: else nobody would wake us. */
		if (vm_ending(run->vm))
			break;
		if (v->mp_state == VCPU_HALTED && wakes(v))
			v->mp_state = VCPU_RUNNING;
		if (v->mp_state != VCPU_RUNNING) {
			vcpu_block(v, &run->sink);
			continue;
		}
		inject(run);
		if (run->engine->until_kicked)
			tick_arm(&run->tick);
		switch (run->engine->run(v)) {
		case VM_EXIT_SAFEPOINT: break;
		case VM_EXIT_SLICE: sched_spin_progress(&run->spin); break;
		case VM_EXIT_PAUSE: sched_spin_pause(&run->spin); break;
		case VM_EXIT_HALT:
			STAT_INC(&v->stats, halts);
			v->mp_state = VCPU_HALTED;
			break;
		case VM_EXIT_SHUTDOWN: triple_fault(run); return;
		case VM_EXIT_DIFFERS: vm_end_with(run->vm, VM_END_HOST_ERROR, 0); return;
		}
	}
}

void *run_vcpu_thread(void *arg)
{
	struct vcpu_thread *t = arg;
	struct run run = {.vm = t->vm, .v = t->vcpu, .engine = t->vm->engine};

	run.sink = (struct shootdown_sink){
		.handle = shootdown_message, .flush_all = shootdown_everything, .arg = &run};
	sched_spin_init(&run.spin, t->vm->smp->n);
	sched_name_vcpu_thread(t->vcpu->index);
	rcu_thread_init();
	sched_host_join(&t->vcpu->smp->host);
	shootdown_online(&t->vcpu->queue, &run.sink);
	run.engine->thread_start(t->vcpu);
	if (!run.engine->until_kicked) {
		run_loop(&run);
	} else if (tick_init(&run.tick, t->vcpu)) {
		vm_end_with(t->vm, VM_END_HOST_ERROR, 0);
	} else {
		run_loop(&run);
		tick_fini(&run.tick);
	}
	shootdown_offline(&t->vcpu->queue);
	sched_host_leave(&t->vcpu->smp->host);
	rcu_thread_exit();
	return NULL;
}
