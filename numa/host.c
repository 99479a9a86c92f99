#include "numa/host.h"

#include <hwloc.h>
#include <stdlib.h>

#include "src/base/log.h"

struct numa_host {
	hwloc_topology_t topo;
};

int numa_host_create(struct numa_host **out)
{
	struct numa_host *host = calloc(1, sizeof(*host));

	if (!host)
		return -ENOMEM;
	if (hwloc_topology_init(&host->topo)) {
		log_err("cannot read the host's topology");
		free(host);
		return -ENOMEM;
	}
	if (hwloc_topology_load(host->topo)) {
		log_err("cannot read the host's topology");
		numa_host_destroy(host);
		return -EIO;
	}
	*out = host;
	return 0;
}

void numa_host_destroy(struct numa_host *host)
{
	if (!host)
		return;
	hwloc_topology_destroy(host->topo);
	free(host);
}

unsigned numa_host_pus(const struct numa_host *host)
{
	return hwloc_get_nbobjs_by_type(host->topo, HWLOC_OBJ_PU);
}

unsigned numa_host_nodes(const struct numa_host *host)
{
	return hwloc_get_nbobjs_by_type(host->topo, HWLOC_OBJ_NUMANODE);
}

uint64_t numa_host_memory(const struct numa_host *host)
{
	return hwloc_get_root_obj(host->topo)->total_memory;
}

static void print_obj(hwloc_topology_t topo, hwloc_obj_t obj, unsigned depth, FILE *out)
{
	char type[64], attr[256];
	hwloc_obj_t child = NULL;

	hwloc_obj_type_snprintf(type, sizeof(type), obj, 0);
	hwloc_obj_attr_snprintf(attr, sizeof(attr), obj, " ", 0);
	fprintf(out, "%*s%s", 2 * depth, "", type);
	if (obj->os_index != HWLOC_UNKNOWN_INDEX)
		fprintf(out, " #%u", obj->os_index);
	fprintf(out, "%s%s%s\n", *attr ? " (" : "", attr, *attr ? ")" : "");
	while ((child = hwloc_get_next_child(topo, obj, child)))
		print_obj(topo, child, depth + 1, out);
}

void numa_host_print(const struct numa_host *host, FILE *out)
{
	print_obj(host->topo, hwloc_get_root_obj(host->topo), 0, out);
	fprintf(out, "%u processors, %u NUMA node%s, %.1f GiB of memory\n", numa_host_pus(host),
		numa_host_nodes(host), numa_host_nodes(host) == 1 ? "" : "s",
		numa_host_memory(host) / (double)GIB(1));
}
