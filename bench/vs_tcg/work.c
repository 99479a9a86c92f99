/* Runs one workload: work [-t MILLISECONDS] NAME prints "ROW name result checksum". */
#include <errno.h>
#include <sched.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <time.h>

#include "work.h"

static const struct work *const all[] = {
	sha256_works, mix_works,    memory_works, bytecode_works, call_works, sqlite_works,
	redis_works,  vector_works, avx2_works,	  kernel_works,	  mmap_works, thread_works,
};

uint64_t work_target_ns = 300000000;

static cpu_set_t started_with;

void work_die(const char *what)
{
	fprintf(stderr, "work: %s: %s\n", what, errno ? strerror(errno) : "wrong result");
	exit(1);
}

uint64_t work_now(void)
{
	struct timespec t;

	clock_gettime(CLOCK_MONOTONIC, &t);
	return t.tv_sec * 1000000000ull + t.tv_nsec;
}

void *work_pages(size_t size)
{
	void *p = mmap(NULL, size, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);

	if (p == MAP_FAILED)
		work_die("mmap");
	/* EINVAL: this kernel has no huge pages anyway. */
	if (madvise(p, size, MADV_NOHUGEPAGE) && errno != EINVAL)
		work_die("madvise");
	memset(p, 0, size);
	return p;
}

void work_pin(int n)
{
	cpu_set_t set;
	int cpu;

	for (cpu = 0; cpu < CPU_SETSIZE; cpu++)
		if (CPU_ISSET(cpu, &started_with) && n-- == 0)
			break;
	CPU_ZERO(&set);
	CPU_SET(cpu, &set);
	if (sched_setaffinity(0, sizeof(set), &set))
		work_die("sched_setaffinity");
}

static uint64_t time_units(uint64_t (*unit)(void), uint64_t n, uint64_t checksum)
{
	uint64_t start = work_now();

	for (uint64_t i = 0; i < n; i++)
		if (unit() != checksum) {
			errno = 0;
			work_die("checksum of a unit");
		}
	return work_now() - start;
}

double work_repeat(uint64_t (*unit)(void), uint64_t *checksum)
{
	uint64_t n = 1, ns;

	*checksum = unit();
	/* Long enough to trust the estimate, and for a translator to have translated. */
	while ((ns = time_units(unit, n, *checksum)) < work_target_ns / 8)
		n *= 2;
	n = (double)work_target_ns * n / ns + 1;
	return (double)time_units(unit, n, *checksum) / n;
}

static const struct work *find(const char *name)
{
	for (size_t i = 0; i < sizeof(all) / sizeof(all[0]); i++)
		for (const struct work *w = all[i]; w->name; w++)
			if (!strcmp(w->name, name))
				return w;
	fprintf(stderr, "work: there is no workload '%s'\n", name);
	exit(2);
}

int main(int argc, char **argv)
{
	const struct work *w;
	uint64_t checksum;
	double result;

	if (argc == 4 && !strcmp(argv[1], "-t")) {
		work_target_ns = strtoull(argv[2], NULL, 10) * 1000000;
		argv += 2;
		argc -= 2;
	}
	if (argc != 2 || !work_target_ns) {
		fprintf(stderr, "usage: work [-t MILLISECONDS] NAME\n");
		return 2;
	}
	if (sched_getaffinity(0, sizeof(started_with), &started_with))
		work_die("sched_getaffinity");
	w = find(argv[1]);
	if (w->setup)
		w->setup();
	if (w->measure)
		w->measure(&result, &checksum);
	else
		result = work_repeat(w->unit, &checksum) / w->ops;
	if (w->finish)
		w->finish();
	printf("ROW %s %.4f %016llx\n", w->name, result, (unsigned long long)checksum);
	return 0;
}
