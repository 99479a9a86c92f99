#include "src/vm/vm.h"

#include <stdlib.h>
#include <sys/epoll.h>
#include <sys/eventfd.h>
#include <unistd.h>

#include "src/base/atomic.h"
#include "src/base/log.h"
#include "src/base/rcu.h"
#include "src/vm/vm_int.h"

/* Counts in the control eventfd: low half power-button presses, high half stops. */
#define CONTROL_BUTTON 1ull
#define CONTROL_STOP   (1ull << 32)

/* --- ends and resets ---------------------------------------------------------------------------
 */

static void leave_run_loops(struct vm *vm)
{
	atomic_store_seq(&vm->ending, true);
	for (unsigned n = 0; n < vm->smp->n; n++)
		vcpu_request(vm->smp->vcpu[n], REQ_STOP);
}

void vm_end_with(struct vm *vm, enum vm_end end, uint32_t value)
{
	pthread_mutex_lock(&vm->lock);
	if (!vm->ended) {
		vm->ended = true;
		vm->result = (struct vm_result){.end = end, .value = value};
		leave_run_loops(vm);
	}
	pthread_mutex_unlock(&vm->lock);
}

void vm_request_reset(struct vm *vm)
{
	pthread_mutex_lock(&vm->lock);
	if (!vm->ending) /* else it is being reset already, or ends */
		leave_run_loops(vm);
	pthread_mutex_unlock(&vm->lock);
}

bool vm_ending(struct vm *vm)
{
	return atomic_load_seq(&vm->ending);
}

static void control_event(struct ev_fd *ev, uint32_t events)
{
	struct vm *vm = container_of(ev, struct vm, control);
	uint64_t n;

	if (read(ev->fd, &n, sizeof(n)) != sizeof(n))
		return;
	if (n >= CONTROL_STOP)
		vm_end_with(vm, VM_END_STOPPED, 0);
	else
		acpi_pm_power_button(vm->pm);
}

static void control_post(struct vm *vm, uint64_t what)
{
	/* The count never overflows: it is read faster than anyone presses a button. */
	if (write(vm->control.fd, &what, sizeof(what)) < 0)
		return;
}

void vm_power_button(struct vm *vm)
{
	control_post(vm, CONTROL_BUTTON);
}

void vm_stop(struct vm *vm)
{
	control_post(vm, CONTROL_STOP);
}

/* --- what the VCPUs see of the machine ----------------------------------------------------------
 */

static void op_mmio_read(void *opaque, gpa_t gpa, void *data, unsigned len)
{
	bus_read(((struct vm *)opaque)->bus, BUS_MMIO, gpa, data, len);
}

static void op_mmio_write(void *opaque, gpa_t gpa, const void *data, unsigned len)
{
	bus_write(((struct vm *)opaque)->bus, BUS_MMIO, gpa, data, len);
}

static void op_pio_read(void *opaque, uint16_t port, void *data, unsigned len)
{
	bus_read(((struct vm *)opaque)->bus, BUS_PIO, port, data, len);
}

static void op_pio_write(void *opaque, uint16_t port, const void *data, unsigned len)
{
	bus_write(((struct vm *)opaque)->bus, BUS_PIO, port, data, len);
}

static uint8_t op_extint_ack(void *opaque)
{
	return pic_ack(((struct vm *)opaque)->pic);
}

static void op_eoi(void *opaque, uint8_t vector)
{
	struct vm *vm = opaque;

	if (ioapic_handles_vector(vm->ioapic, vector))
		ioapic_eoi(vm->ioapic, vector);
}

/* --- build and destroy ---------------------------------------------------------------------------
 */

static int create_smp(struct vm *vm)
{
	struct smp_config cfg = {
		.sockets = vm->cfg.sockets,
		.cores = vm->cfg.cores,
		.threads = vm->cfg.threads,
		.gmem = &vm->gmem,
		.clk = &vm->clk,
		.ops = {.mmio_read = op_mmio_read,
			.mmio_write = op_mmio_write,
			.pio_read = op_pio_read,
			.pio_write = op_pio_write,
			.extint_ack = op_extint_ack,
			.eoi = op_eoi,
			.opaque = vm},
	};
	int r = smp_create(&vm->smp, &cfg);

	if (!r)
		r = vm->engine->vm_init(vm->smp, &vm->engine_cfg);
	for (unsigned n = 0; !r && n < vm->smp->n; n++)
		r = vm->engine->vcpu_init(vm->smp->vcpu[n], &vm->engine_cfg);
	return r;
}

static int create_control(struct vm *vm)
{
	int r;

	vm->control.fd = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
	vm->control.cb = control_event;
	r = vm->control.fd < 0 ? -errno : evloop_add(vm->loop, &vm->control, EPOLLIN);
	if (r)
		log_err("cannot create the control event: %s", strerror(-r));
	return r;
}

/* Devices fail by bad input (a disk, an interface, a port in use) or because the host has no more.
 */
static bool host_is_short(int r)
{
	if (r != -ENOMEM && r != -EMFILE && r != -ENFILE && r != -EAGAIN)
		return false;
	log_err("the host has too little to build the machine: %s", strerror(-r));
	return true;
}

/* More CPUs are allowed, and of use to test with; but a user who wants speed should know. */
static void tell_overcommit(const struct smp *smp)
{
	if (smp->n > smp->host.processors)
		log_warn("%u virtual CPUs take turns on %u of the host: a guest slows down where "
			 "one waits for another, so use --cpus %u for speed",
			 smp->n, smp->host.processors, smp->host.processors);
}

int vm_create(struct vm **out, const struct vm_config *cfg, bool *host_error)
{
	struct vm *vm = calloc(1, sizeof(*vm));
	int r;

	*host_error = true;
	if (!vm)
		return -ENOMEM;
	rcu_thread_init();
	vm->cfg = *cfg;
	vm->control.fd = -1;
	pthread_mutex_init(&vm->lock, NULL);
	clock_init_host(&vm->clk);
	vm->engine = engine_find(cfg->engine, &vm->engine_cfg.option);
	vm->engine_cfg.check_every = cfg->check_every;
	vm->engine_cfg.exact_flags = cfg->exact_flags;
	vm->engine_cfg.bt_log = cfg->bt_log;
	vm->engine_cfg.perf_map = cfg->perf_map;
	vm->engine_cfg.gdb_jit = cfg->gdb_jit;
	if (!vm->engine) {
		log_err("there is no engine \"%s\": use one of %s", cfg->engine, engine_names());
		*host_error = false;
		r = -EINVAL;
		goto out;
	}
	*host_error = false;
	r = memory_create(vm);
	if (r)
		goto out;
	*host_error = true;
	r = evloop_create(&vm->loop, &vm->clk);
	if (!r)
		r = bus_create(&vm->bus);
	if (!r)
		r = create_smp(vm);
	if (r)
		goto out;
	r = machine_create(vm);
	*host_error = host_is_short(r);
	if (!r)
		r = start_state(vm);
	if (r)
		goto out;
	*host_error = true;
	r = create_control(vm);
out:
	if (r) {
		vm_destroy(vm);
		return r;
	}
	tell_overcommit(vm->smp);
	*out = vm;
	return 0;
}

void vm_destroy(struct vm *vm)
{
	if (vm->loop)
		evloop_stop(vm->loop);
	machine_destroy(vm);
	if (vm->smp) {
		for (unsigned n = 0; n < vm->smp->n; n++)
			vm->engine->vcpu_fini(vm->smp->vcpu[n]);
		vm->engine->vm_fini(vm->smp);
		smp_destroy(vm->smp);
	}
	evloop_destroy(vm->loop);
	if (vm->control.fd >= 0)
		close(vm->control.fd);
	if (vm->bus)
		bus_destroy(vm->bus);
	memory_destroy(vm);
	pthread_mutex_destroy(&vm->lock);
	rcu_thread_exit();
	free(vm);
}

static bool has_ended(struct vm *vm)
{
	bool ended;

	pthread_mutex_lock(&vm->lock);
	ended = vm->ended;
	pthread_mutex_unlock(&vm->lock);
	return ended;
}

/* After a reset: lets the VCPUs run again, unless the end came meanwhile. */
static bool may_run(struct vm *vm)
{
	bool run;

	pthread_mutex_lock(&vm->lock);
	run = !vm->ended;
	if (run)
		atomic_store_seq(&vm->ending, false);
	pthread_mutex_unlock(&vm->lock);
	return run;
}

/* Starts all VCPU threads and waits for their end. */
static void run_once(struct vm *vm)
{
	unsigned n = vm->smp->n, started;
	struct vcpu_thread *t = calloc(n, sizeof(*t));
	int r = t ? 0 : ENOMEM;

	for (started = 0; !r && started < n; started++) {
		struct vcpu *v = vm->smp->vcpu[started];

		t[started] = (struct vcpu_thread){.vm = vm, .vcpu = v};
		r = pthread_create(&v->thread, NULL, run_vcpu_thread, &t[started]);
		if (r)
			break;
	}
	if (r) {
		log_err("cannot start the threads of %u VCPUs: %s", n, strerror(r));
		vm_end_with(vm, VM_END_HOST_ERROR, 0);
	}
	rcu_offline();
	for (unsigned i = 0; i < started; i++)
		pthread_join(vm->smp->vcpu[i]->thread, NULL);
	rcu_online();
	free(t);
}

/* All VCPUs have left their loops. False if that was for good. */
static bool reset(struct vm *vm)
{
	machine_reset(vm);
	smp_reset(vm->smp);
	for (unsigned n = 0; n < vm->smp->n; n++)
		vm->engine->drop_stale(vm->smp->vcpu[n]);
	if (start_state(vm))
		vm_end_with(vm, VM_END_HOST_ERROR, 0);
	return may_run(vm);
}

void vm_run(struct vm *vm, struct vm_result *res)
{
	if (evloop_start(vm->loop)) {
		res->end = VM_END_HOST_ERROR;
		return;
	}
	do {
		run_once(vm);
	} while (!has_ended(vm) && reset(vm));
	/* The I/O thread goes on until here, so that late output of the guest is not lost. */
	evloop_stop(vm->loop);
	*res = vm->result;
}

const char *vm_serial_name(const struct vm *vm)
{
	return vm->cfg.serial == VM_SERIAL_PTY ? chardev_name(vm->chardev) : NULL;
}

static void write_counters(FILE *out, const struct stats *s, const char *indent)
{
	for (unsigned n = 0; n < stat_desc_count; n++)
		fprintf(out, "%s\"%s\": %lu%s\n", indent, stat_descs[n].name,
			*(const uint64_t *)((const char *)s + stat_descs[n].offset),
			n + 1 < stat_desc_count ? "," : "");
}

int vm_write_stats(const struct vm *vm, FILE *out)
{
	struct stats total = {0};

	fprintf(out, "{\n  \"engine\": \"%s\",\n  \"guest_seconds\": %.3f,\n  \"vcpus\": [\n",
		vm->engine->name, clock_now((struct clock *)&vm->clk) / (double)NSEC_PER_SEC);
	for (unsigned n = 0; n < vm->smp->n; n++) {
		const struct stats *s = &vm->smp->vcpu[n]->stats;

		for (unsigned k = 0; k < stat_desc_count; k++)
			*(uint64_t *)((char *)&total + stat_descs[k].offset) +=
				*(const uint64_t *)((const char *)s + stat_descs[k].offset);
		fprintf(out, "    {\n");
		write_counters(out, s, "      ");
		fprintf(out, "    }%s\n", n + 1 < vm->smp->n ? "," : "");
	}
	fprintf(out, "  ],\n  \"total\": {\n");
	write_counters(out, &total, "    ");
	fprintf(out, "  }\n}\n");
	return ferror(out) ? -EIO : 0;
}
