/* Two threads or processes: pipes between them, a mutex, and both CPUs busy. */
#include <errno.h>
#include <pthread.h>
#include <stdatomic.h>
#include <sys/prctl.h>
#include <signal.h>
#include <unistd.h>

#include "work.h"

#define LOCKS 10000
#define TURNS 100

static int there[2], back[2];

/* A process on the given CPU that sends back each byte, plus one. */
static void start_echo(int cpu)
{
	uint8_t byte;

	if (pipe(there) || pipe(back))
		work_die("pipe");
	switch (fork()) {
	case -1: work_die("fork");
	case 0:
		prctl(PR_SET_PDEATHSIG, SIGKILL);
		work_pin(cpu);
		while (read(there[0], &byte, 1) == 1) {
			byte++;
			if (write(back[1], &byte, 1) != 1)
				break;
		}
		_exit(0);
	default: work_pin(0);
	}
}

static void pipe_same_setup(void)
{
	start_echo(0);
}

static void pipe_two_setup(void)
{
	start_echo(1);
}

static uint64_t pipe_unit(void)
{
	uint8_t byte = 0;

	for (int i = 0; i < TURNS; i++)
		if (write(there[1], &byte, 1) != 1 || read(back[0], &byte, 1) != 1)
			work_die("pipe");
	return byte;
}

static pthread_mutex_t mutex = PTHREAD_MUTEX_INITIALIZER;
static uint64_t counter;
static pthread_barrier_t start, end;

static void count(void)
{
	for (int i = 0; i < LOCKS; i++) {
		pthread_mutex_lock(&mutex);
		counter++;
		pthread_mutex_unlock(&mutex);
	}
}

static void *count_too(void *unused)
{
	work_pin(1);
	for (;;) {
		pthread_barrier_wait(&start);
		count();
		pthread_barrier_wait(&end);
	}
	return NULL;
}

static void *sleep_forever(void *unused)
{
	for (;;)
		pause();
	return NULL;
}

static void start_thread(pthread_t *thread, void *(*run)(void *), void *arg)
{
	errno = pthread_create(thread, NULL, run, arg);
	if (errno)
		work_die("pthread_create");
}

static void contended_setup(void)
{
	pthread_t thread;

	pthread_barrier_init(&start, NULL, 2);
	pthread_barrier_init(&end, NULL, 2);
	start_thread(&thread, count_too, NULL);
	work_pin(0);
}

static uint64_t contended_unit(void)
{
	counter = 0;
	pthread_barrier_wait(&start);
	count();
	pthread_barrier_wait(&end);
	return counter;
}

/* With a second thread, or the C library would leave out the atomic instructions. */
static void uncontended_setup(void)
{
	pthread_t thread;

	start_thread(&thread, sleep_forever, NULL);
}

static uint64_t uncontended_unit(void)
{
	counter = 0;
	count();
	return counter;
}

struct busy {
	pthread_t thread;
	int cpu;
	uint64_t units, hash, began, ended;
};

/* Integer work in registers and on the stack. */
static uint64_t busy_unit(void)
{
	uint64_t state = 37, bins[64] = {0}, hash = 0;

	for (int i = 0; i < 2000; i++) {
		uint64_t r = work_random(&state);

		bins[r & 63] += r >> 32;
	}
	for (int i = 0; i < 64; i++)
		hash = work_hash(hash, bins[i]);
	return hash;
}

static void *busy(void *arg)
{
	uint64_t (*unit)(void) = busy_unit;
	struct busy *b = arg;

	work_pin(b->cpu);
	pthread_barrier_wait(&start);
	b->began = work_now();
	for (uint64_t i = 0; i < b->units; i++) {
		/* Or the compiler would take the call, always the same, out of the loop. */
		__asm__ volatile("" : "+r"(unit));
		b->hash ^= unit();
	}
	b->ended = work_now();
	return NULL;
}

/* How long it takes n threads to do so many units each, side by side. Each unit has this hash. */
static uint64_t time_busy(int n, uint64_t units, uint64_t hash)
{
	struct busy threads[2];
	uint64_t began = UINT64_MAX, ended = 0;

	pthread_barrier_init(&start, NULL, n);
	for (int i = 0; i < n; i++) {
		threads[i] = (struct busy){.cpu = i, .units = units};
		start_thread(&threads[i].thread, busy, &threads[i]);
	}
	for (int i = 0; i < n; i++) {
		pthread_join(threads[i].thread, NULL);
		errno = 0;
		if (threads[i].hash != (units & 1 ? hash : 0))
			work_die("busy");
		began = threads[i].began < began ? threads[i].began : began;
		ended = threads[i].ended > ended ? threads[i].ended : ended;
	}
	return ended - began;
}

/* How much more two threads get done than one. */
static void two_busy(double *result, uint64_t *checksum)
{
	uint64_t units = work_target_ns / work_repeat(busy_unit, checksum) + 1;

	*result = 2.0 * time_busy(1, units, *checksum) / time_busy(2, units, *checksum);
}

const struct work thread_works[] = {
	{.name = "pipe_same", .ops = TURNS, .setup = pipe_same_setup, .unit = pipe_unit},
	{.name = "pipe_two", .ops = TURNS, .setup = pipe_two_setup, .unit = pipe_unit},
	{.name = "mutex_contended",
	 .ops = 2 * LOCKS,
	 .setup = contended_setup,
	 .unit = contended_unit},
	{.name = "mutex_uncontended",
	 .ops = LOCKS,
	 .setup = uncontended_setup,
	 .unit = uncontended_unit},
	{.name = "two_busy", .measure = two_busy},
	{},
};
