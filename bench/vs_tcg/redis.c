/*
 * Debian's redis-server under redis-benchmark, 16 commands in flight, over the loopback network.
 * The server's own count of commands says that they were all carried out.
 */
#include <arpa/inet.h>
#include <errno.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>
#include <sys/prctl.h>
#include <sys/socket.h>
#include <sys/wait.h>
#include <unistd.h>

#include "work.h"

#define BATCH	   16
#define BATCH_TEXT "16"
#define SHORT	   16384

static char port[8];
static uint64_t requests_done;

/* A port that nobody uses now. */
static void choose_port(void)
{
	struct sockaddr_in address = {.sin_family = AF_INET,
				      .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
	socklen_t size = sizeof(address);
	int fd = socket(AF_INET, SOCK_STREAM, 0);

	if (fd < 0 || bind(fd, (struct sockaddr *)&address, size) ||
	    getsockname(fd, (struct sockaddr *)&address, &size))
		work_die("a port for redis-server");
	snprintf(port, sizeof(port), "%u", ntohs(address.sin_port));
	close(fd);
}

/* Runs a program that ends with this process; returns what reads its output. */
static FILE *start(char *const argv[], pid_t *pid)
{
	int out[2];

	if (pipe(out))
		work_die("pipe");
	*pid = fork();
	if (*pid < 0)
		work_die("fork");
	if (!*pid) {
		prctl(PR_SET_PDEATHSIG, SIGKILL);
		dup2(out[1], STDOUT_FILENO);
		close(out[0]);
		close(out[1]);
		execvp(argv[0], argv);
		_exit(127);
	}
	close(out[1]);
	return fdopen(out[0], "r");
}

static void start_server(void)
{
	char *argv[] = {"redis-server", "--bind", "127.0.0.1",	  "--port", port,
			"--save",	"",	  "--appendonly", "no",	    NULL};
	char line[512];
	pid_t pid;
	FILE *log;

	choose_port();
	log = start(argv, &pid);
	while (fgets(line, sizeof(line), log))
		if (strstr(line, "Ready to accept connections"))
			return; /* it says nothing more */
	errno = 0;
	work_die("redis-server");
}

/* Requests a second of n requests, rounded up to whole batches. */
static double run_benchmark(const char *test, uint64_t n)
{
	char count[24];
	char *argv[] = {"redis-benchmark",
			"-p",
			port,
			"-P",
			BATCH_TEXT,
			"-t",
			(char *)test,
			"-n",
			count,
			"-r",
			"10000",
			"--csv",
			NULL};
	char line[512];
	double rate = 0;
	int status;
	pid_t pid;
	FILE *out;

	n = (n + BATCH - 1) / BATCH * BATCH;
	snprintf(count, sizeof(count), "%llu", (unsigned long long)n);
	out = start(argv, &pid);
	while (fgets(line, sizeof(line), out))
		if (line[0] == '"' && !strncasecmp(line + 1, test, strlen(test)))
			rate = strtod(line + strlen(test) + 4, NULL);
	fclose(out);
	errno = 0;
	if (waitpid(pid, &status, 0) != pid || status || rate <= 0)
		work_die("redis-benchmark");
	requests_done += n;
	return rate;
}

/* How many commands of this name the server says it has carried out. */
static uint64_t server_count(const char *command)
{
	struct sockaddr_in address = {.sin_family = AF_INET,
				      .sin_addr.s_addr = htonl(INADDR_LOOPBACK),
				      .sin_port = htons(strtoul(port, NULL, 10))};
	char line[1024], key[32];
	uint64_t count = 0;
	int fd = socket(AF_INET, SOCK_STREAM, 0);
	FILE *server;

	if (fd < 0 || connect(fd, (struct sockaddr *)&address, sizeof(address)))
		work_die("connect");
	if (dprintf(fd, "INFO commandstats\r\nQUIT\r\n") < 0)
		work_die("INFO");
	snprintf(key, sizeof(key), "cmdstat_%s:calls=", command);
	server = fdopen(fd, "r");
	while (fgets(line, sizeof(line), server))
		if (!strncmp(line, key, strlen(key)))
			count = strtoull(line + strlen(key), NULL, 10);
	fclose(server);
	return count;
}

/* Nanoseconds a request. Dies if the server did not do as many as were asked for. */
static void measure(const char *test, double *result, uint64_t *checksum)
{
	double rate;

	start_server();
	run_benchmark("set", SHORT); /* so that most keys are there */
	requests_done = server_count(test);
	rate = run_benchmark(test, SHORT);
	*result = 1e9 / run_benchmark(test, rate * work_target_ns / 1e9);
	*checksum = 0;
	errno = 0;
	if (server_count(test) != requests_done)
		work_die("the server's count of requests");
}

static void measure_set(double *result, uint64_t *checksum)
{
	measure("set", result, checksum);
}

static void measure_get(double *result, uint64_t *checksum)
{
	measure("get", result, checksum);
}

const struct work redis_works[] = {
	{.name = "redis_set", .measure = measure_set},
	{.name = "redis_get", .measure = measure_get},
	{},
};
