#include <signal.h>
#include <stdio.h>
#include <stdlib.h>

#include "numa/host.h"
#include "src/base/log.h"
#include "src/cli/options.h"
#include "src/cli/run.h"

static int show_topology(void)
{
	struct numa_host *host;

	if (numa_host_create(&host))
		return CLI_EXIT_HOST;
	numa_host_print(host, stdout);
	numa_host_destroy(host);
	return CLI_EXIT_OK;
}

static int dispatch(struct options *o)
{
	switch (o->command) {
	case CLI_RUN: return cli_run(o);
	case CLI_TOPOLOGY: return show_topology();
	case CLI_HELP: options_usage(stdout); break;
	case CLI_VERSION: options_version(stdout); break;
	}
	return CLI_EXIT_OK;
}

/* Output that got lost (a full disk) is a failure too. */
static int finish(int status)
{
	if (fflush(stdout) || ferror(stdout)) {
		log_err("cannot write to standard output");
		return status ? status : CLI_EXIT_HOST;
	}
	return status;
}

/* For those who look for a fault: NUMAVISOR_LOG=info or debug. */
static void set_log_level(void)
{
	const char *level = getenv("NUMAVISOR_LOG");

	if (level && !strcmp(level, "info"))
		log_set_level(LOG_INFO);
	if (level && !strcmp(level, "debug"))
		log_set_level(LOG_DEBUG);
}

int main(int argc, char **argv)
{
	struct options o;
	int r, status;

	signal(SIGPIPE, SIG_IGN);
	set_log_level();
	r = options_parse(&o, argc, argv);
	if (r == -EINVAL) {
		log_err("%s", o.error);
		status = CLI_EXIT_USAGE;
	} else if (r) {
		log_err("%s", strerror(-r));
		status = CLI_EXIT_HOST;
	} else {
		status = dispatch(&o);
	}
	options_free(&o);
	return finish(status);
}
