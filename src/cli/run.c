#include "src/cli/run.h"

#include <stdio.h>
#include <stdlib.h>
#include <unistd.h>

#include "src/base/log.h"
#include "src/cli/check.h"
#include "src/cli/console.h"

int cli_exit_status(const struct vm_result *res, int signal)
{
	switch (res->end) {
	case VM_END_POWER_OFF: return CLI_EXIT_OK;
	case VM_END_DEBUG_EXIT: return (res->value << 1 | 1) & 0xff;
	case VM_END_CRASHED: return CLI_EXIT_CRASHED;
	case VM_END_STOPPED: return signal ? CLI_EXIT_SIGNAL + signal : CLI_EXIT_OK;
	case VM_END_HOST_ERROR: break;
	}
	return CLI_EXIT_HOST;
}

/*
 * Opened before the guest runs, so that its work is not lost to a mistyped path. 0 or -errno; NULL
 * for no path.
 */
static int open_output(const char *path, FILE **out)
{
	int r;

	*out = NULL;
	if (!path)
		return 0;
	*out = fopen(path, "we");
	if (*out)
		return 0;
	r = -errno;
	log_err("cannot open '%s' for writing: %s", path, strerror(-r));
	return r;
}

static int open_code_logs(struct options *o)
{
	char map[64];

	snprintf(map, sizeof(map), "/tmp/perf-%d.map", getpid());
	return open_output(o->bt_log, &o->vm.bt_log) ||
	       open_output(o->perf_map ? map : NULL, &o->vm.perf_map);
}

static void close_code_logs(struct options *o)
{
	if (o->vm.bt_log)
		fclose(o->vm.bt_log);
	if (o->vm.perf_map)
		fclose(o->vm.perf_map);
}

static int write_stats(struct options *o, const struct vm *vm, FILE *out)
{
	int r = vm_write_stats(vm, out);

	if (fclose(out) && !r)
		r = -errno;
	if (r)
		log_err("cannot write '%s': %s", o->stats, strerror(-r));
	return r;
}

static int run_guest(struct options *o, struct vm *vm, struct console *con, FILE *stats)
{
	struct vm_result res = {.end = VM_END_HOST_ERROR};
	int status, r;

	if (vm_serial_name(vm))
		fprintf(stderr, "serial port: %s\n", vm_serial_name(vm));
	r = console_start(con, vm);
	if (!r)
		vm_run(vm, &res);
	status = cli_exit_status(&res, console_stop(con));
	if (stats && write_stats(o, vm, stats))
		status = CLI_EXIT_HOST;
	return status;
}

static int with_console(struct options *o, struct console *con)
{
	bool host_error = false;
	struct vm *vm;
	FILE *stats;
	int status;

	if (vm_create(&vm, &o->vm, &host_error))
		return host_error ? CLI_EXIT_HOST : CLI_EXIT_USAGE;
	if (open_output(o->stats, &stats))
		status = CLI_EXIT_USAGE;
	else
		status = run_guest(o, vm, con, stats);
	vm_destroy(vm);
	return status;
}

int cli_run(struct options *o)
{
	struct console *con;
	int status;

	if (check_files(o)) {
		log_err("%s", o->error);
		return CLI_EXIT_USAGE;
	}
	if (console_open(&con, &o->vm)) {
		log_err("out of memory");
		return CLI_EXIT_HOST;
	}
	status = open_code_logs(o) ? CLI_EXIT_USAGE : with_console(o, con);
	console_close(con);
	close_code_logs(o);
	return status;
}
