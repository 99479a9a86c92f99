/* Guest RAM: cut among the guest's nodes, with the hole for devices below 4 GiB. */
#include <sys/sysinfo.h>

#include "src/base/log.h"
#include "src/vm/vm_int.h"

static int add_range(struct vm *vm, gpa_t gpa, uint64_t size, unsigned node, uint64_t offset)
{
	struct memslot slot = {
		.gpa = gpa,
		.size = size,
		.hva = vm->mem[node].hva + offset,
		.node = node,
	};

	vm->ram[vm->nram++] = (struct boot_ram){.gpa = gpa, .size = size, .node = node};
	return gmem_add_slot(&vm->gmem, &slot);
}

static int add_node(struct vm *vm, unsigned node, uint64_t size, gpa_t *next)
{
	uint64_t first = size;
	int r = numa_mem_create(&vm->mem[node], size);

	if (r)
		return r;
	vm->nnodes++;
	if (*next<LOW_RAM_END && * next + size> LOW_RAM_END)
		first = LOW_RAM_END - *next;
	r = add_range(vm, *next, first, node, 0);
	*next += first;
	if (*next == LOW_RAM_END)
		*next = GIB(4);
	if (!r && first < size) {
		r = add_range(vm, *next, size - first, node, first);
		*next += size - first;
	}
	return r;
}

static bool host_can_back(uint64_t bytes)
{
	struct sysinfo si;

	return sysinfo(&si) || bytes <= (uint64_t)si.totalram * si.mem_unit;
}

int memory_create(struct vm *vm)
{
	const struct vm_config *cfg = &vm->cfg;
	unsigned nodes = MIN(cfg->sockets, VM_MAX_NODES);
	uint64_t each, left = cfg->memory;
	gpa_t next = 0;
	int r;

	if (cfg->memory > RAM_MAX) {
		log_err("%lu MiB of memory is more than this machine type has room for (%lu MiB)",
			cfg->memory >> 20, RAM_MAX >> 20);
		return -EINVAL;
	}
	if (!cfg->overcommit && !host_can_back(cfg->memory)) {
		log_err("the host has less than %lu MiB of memory: give less with --memory, or add "
			"--overcommit",
			cfg->memory >> 20);
		return -ENOMEM;
	}
	/* Node boundaries on 2 MiB, so that large pages do not straddle them. */
	each = ALIGN_DOWN(cfg->memory / nodes, MIB(2));
	if (!each || cfg->memory < MIB(16)) {
		log_err("%lu MiB of memory is too little: give at least 16 MiB and 2 MiB a socket",
			cfg->memory >> 20);
		return -EINVAL;
	}
	r = gmem_init(&vm->gmem);
	for (unsigned n = 0; !r && n < nodes; n++) {
		uint64_t size = n + 1 < nodes ? each : left;

		r = add_node(vm, n, size, &next);
		left -= size;
	}
	return r;
}

void memory_destroy(struct vm *vm)
{
	gmem_fini(&vm->gmem);
	for (unsigned n = 0; n < vm->nnodes; n++)
		numa_mem_destroy(&vm->mem[n]);
}

unsigned memory_node_of_vcpu(const struct vm *vm, unsigned index)
{
	unsigned socket = index / (vm->cfg.cores * vm->cfg.threads);

	return socket % vm->nnodes;
}
