/* Minimal: numavisor run KERNEL INITRD APPEND CPUS MEM_MIB [DISK]. */
#include <signal.h>
#include <stdlib.h>
#include "src/base/log.h"
#include "src/vm/vm.h"
int main(int argc, char **argv)
{
	struct vm_config c = {.kernel = argv[1], .initrd = argv[2][0] ? argv[2] : NULL, .append = argv[3], .sockets = 1, .cores = atoi(argv[4]), .threads = 1, .memory = MIB(atoi(argv[5])), .engine = "auto"};
	struct vm *vm; struct vm_result r; bool he;
	signal(SIGPIPE, SIG_IGN); if (getenv("NV_DEBUG")) log_set_level(LOG_DEBUG);
	if (argc > 6) { c.disk[0].path = argv[6]; c.ndisks = 1; }
	if (vm_create(&vm, &c, &he)) return 2;
	vm_run(vm, &r);
	vm_write_stats(vm, stderr);
	vm_destroy(vm);
	return r.end;
}
