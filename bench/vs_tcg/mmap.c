/* Mapping memory, touching it, faults that a program handles itself, shootdowns. */
#include <pthread.h>
#include <signal.h>
#include <stdatomic.h>
#include <sys/mman.h>

#include "work.h"

#define PAGE  4096u
#define LARGE (4u << 20)

/* Maps size bytes, writes to each page, unmaps. Returns how many pages were zero before. */
static uint64_t map_and_touch(size_t size)
{
	uint8_t *p = mmap(NULL, size, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
	uint64_t zero = 0;

	if (p == MAP_FAILED)
		work_die("mmap");
	if (size > PAGE && madvise(p, size, MADV_NOHUGEPAGE))
		work_die("madvise");
	for (size_t i = 0; i < size; i += PAGE)
		zero += p[i]++ == 0;
	if (munmap(p, size))
		work_die("munmap");
	return zero;
}

static uint64_t mmap_touch_unit(void)
{
	return map_and_touch(LARGE);
}

static uint64_t mmap_one_unit(void)
{
	return map_and_touch(PAGE);
}

static uint8_t *page;
static volatile sig_atomic_t faults;

static void on_fault(int signal, siginfo_t *info, void *context)
{
	faults++;
	if (info->si_addr != page || mprotect(page, PAGE, PROT_READ | PROT_WRITE))
		work_die("an unexpected SIGSEGV");
}

static void segv_setup(void)
{
	struct sigaction action = {.sa_sigaction = on_fault, .sa_flags = SA_SIGINFO};

	page = work_pages(PAGE);
	if (sigaction(SIGSEGV, &action, NULL))
		work_die("sigaction");
}

static uint64_t segv_unit(void)
{
	faults = 0;
	if (mprotect(page, PAGE, PROT_NONE))
		work_die("mprotect");
	*(volatile uint8_t *)page = 1;
	return faults;
}

static atomic_int running;

/* Keeps the other CPU in user mode, so that each munmap has to interrupt it. */
static void *spin(void *unused)
{
	work_pin(1);
	atomic_store(&running, 1);
	for (;;)
		atomic_load_explicit(&running, memory_order_relaxed);
	return NULL;
}

static void munmap_threads_setup(void)
{
	pthread_t thread;

	work_pin(0);
	if (pthread_create(&thread, NULL, spin, NULL))
		work_die("pthread_create");
	while (!atomic_load(&running))
		__builtin_ia32_pause();
}

const struct work mmap_works[] = {
	{.name = "mmap_touch", .ops = 1, .unit = mmap_touch_unit},
	{.name = "mmap_one", .ops = 1, .unit = mmap_one_unit},
	{.name = "segv", .ops = 1, .setup = segv_setup, .unit = segv_unit},
	{.name = "munmap_threads", .ops = 1, .setup = munmap_threads_setup, .unit = mmap_one_unit},
	{},
};
