/* Processes and the time: system calls, the clock, fork, exec. */
#include <errno.h>
#include <fcntl.h>
#include <libgen.h>
#include <limits.h>
#include <stdio.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#include "work.h"

#define CALLS 1000

static pid_t parent;
static char tiny[PATH_MAX];

static void getppid_setup(void)
{
	parent = getppid();
}

static uint64_t getppid_unit(void)
{
	uint64_t same = 0;

	for (int i = 0; i < CALLS; i++)
		same += syscall(SYS_getppid) == parent;
	return same;
}

/* How often the time was not earlier than before: always. */
static uint64_t clock_unit(void)
{
	uint64_t forward = 0, last = 0;

	for (int i = 0; i < CALLS; i++) {
		uint64_t now = work_now();

		forward += now >= last;
		last = now;
	}
	return forward;
}

static uint64_t wait_for(pid_t child)
{
	int status;

	if (child < 0 || waitpid(child, &status, 0) != child)
		work_die("fork");
	return status;
}

static uint64_t fork_exit_unit(void)
{
	pid_t child = fork();

	if (!child)
		_exit(7);
	return wait_for(child);
}

/* The program to execute lies beside this one. */
static void fork_exec_setup(void)
{
	char self[PATH_MAX] = "";

	if (readlink("/proc/self/exe", self, sizeof(self) - 1) < 0)
		work_die("/proc/self/exe");
	if (snprintf(tiny, sizeof(tiny), "%s/tiny", dirname(self)) >= (int)sizeof(tiny) ||
	    access(tiny, X_OK))
		work_die("tiny");
}

static uint64_t fork_exec_unit(void)
{
	pid_t child = fork();

	if (!child) {
		execl(tiny, tiny, (char *)NULL);
		_exit(127);
	}
	return wait_for(child);
}

const struct work kernel_works[] = {
	{.name = "getppid", .ops = CALLS, .setup = getppid_setup, .unit = getppid_unit},
	{.name = "clock_gettime", .ops = CALLS, .unit = clock_unit},
	{.name = "fork_exit", .ops = 1, .unit = fork_exit_unit},
	{.name = "fork_exec", .ops = 1, .setup = fork_exec_setup, .unit = fork_exec_unit},
	{},
};
