/* Whole machines with guests of a few instructions: ends, resets, stops, and interrupt windows. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <unistd.h>
#include <cmocka.h>

#include "src/base/types.h"
#include "src/vm/vm.h"

#define LOAD_ADDR 0x100000u
#define STACK	  "0x90000"

/* 32-bit protected mode without paging, loaded by multiboot at 1 MiB; interrupts off. */
#define GUEST(name, text)                                                                  \
	__asm__(".pushsection .rodata\n.code32\n.balign 4\n" #name "_image:\n"             \
		".long 0x1badb002, 0x10000, -(0x1badb002 + 0x10000)\n"                     \
		".long 0x100000, 0x100000, 0x100000 + " #name "_end - " #name "_image\n"   \
		".long 0x100000 + " #name "_end - " #name "_image\n"                       \
		".long 0x100000 + " #name "_start - " #name "_image\n" #name "_start:\n"   \
		"mov $" STACK ", %esp\n" text "\n" #name "_end:\n.code64\n.popsection\n"); \
	extern const uint8_t name##_image[], name##_end[];

/* Ends the machine with the value in EAX. */
#define EXIT "mov $0xf4, %dx; out %eax, %dx; 1: hlt; jmp 1b\n"

struct fixture {
	char dir[32], kernel[64], serial[64];
	struct vm *vm;
	struct vm_result result;
	pthread_t stopper;
	unsigned stop_after_us;
};

static int setup(void **state)
{
	struct fixture *f = calloc(1, sizeof(*f));

	strcpy(f->dir, "/tmp/test_vm.XXXXXX");
	assert_non_null(mkdtemp(f->dir));
	snprintf(f->kernel, sizeof(f->kernel), "%s/kernel", f->dir);
	snprintf(f->serial, sizeof(f->serial), "%s/serial", f->dir);
	*state = f;
	return 0;
}

static int teardown(void **state)
{
	struct fixture *f = *state;

	remove(f->kernel);
	remove(f->serial);
	remove(f->dir);
	free(f);
	return 0;
}

static void create(struct fixture *f, const uint8_t *image, const uint8_t *end, unsigned cpus)
{
	struct vm_config cfg = {
		.kernel = f->kernel,
		.sockets = 1,
		.cores = cpus,
		.threads = 1,
		.memory = MIB(32),
		.engine = "interp",
		.serial = VM_SERIAL_FILE,
		.serial_path = f->serial,
	};
	FILE *out = fopen(f->kernel, "w");
	bool host_error;

	assert_non_null(out);
	assert_int_equal(fwrite(image, end - image, 1, out), 1);
	fclose(out);
	assert_int_equal(vm_create(&f->vm, &cfg, &host_error), 0);
}

static void run(struct fixture *f)
{
	alarm(60); /* a machine that does not end is what these tests look for */
	vm_run(f->vm, &f->result);
	alarm(0);
	vm_destroy(f->vm);
}

#define CREATE(f, name, cpus) create(f, name##_image, name##_end, cpus)

/* --- ends ----------------------------------------------------------------------------------- */

/* Wakes the others, which wait to be started, again and again. */
GUEST(leave, "mov $100, %ecx; 2: movl $0xc4400, 0xfee00300; loop 2b; mov $0x2a, %eax\n" EXIT)

/* The end comes while the other VCPUs are about to sleep. */
static void test_end_beside_sleepers(void **state)
{
	struct fixture *f = *state;

	for (unsigned n = 0; n < 30; n++) {
		CREATE(f, leave, 16);
		run(f);
		assert_int_equal(f->result.end, VM_END_DEBUG_EXIT);
		assert_int_equal(f->result.value, 0x2a);
	}
}

/* --- resets --------------------------------------------------------------------------------- */

#define RESET "mov $6, %al; mov $0xcf9, %dx; out %al, %dx; 1: hlt; jmp 1b\n"

/* The number of resets is kept in CMOS memory, which has a battery. */
GUEST(reset, "mov $0x40, %al; out %al, $0x70; in $0x71, %al; movzx %al, %ebx; inc %ebx\n"
	     "mov $0x40, %al; out %al, $0x70; mov %bl, %al; out %al, $0x71\n"
	     /* The timer runs and the receiver of the serial port is enabled. */
	     "mov $0x34, %al; out %al, $0x43; mov $0xff, %al; out %al, $0x40; out %al, $0x40\n"
	     "mov $1, %al; mov $0x3f9, %dx; out %al, %dx\n"
	     /* All others are started at 0x8000, where they loop. */
	     "movw $0xfeeb, 0x8000; movl $0x1ff, 0xfee000f0\n"
	     "movl $0xc4500, 0xfee00300; movl $0xc4608, 0xfee00300\n"
	     "cmp $20, %ebx; jae 2f\n" RESET "2: mov %ebx, %eax\n" EXIT)

static void test_resets(void **state)
{
	struct fixture *f = *state;

	CREATE(f, reset, 4);
	run(f);
	assert_int_equal(f->result.end, VM_END_DEBUG_EXIT);
	assert_int_equal(f->result.value, 20);
}

GUEST(reset_forever, RESET)

static void *stop_later(void *arg)
{
	struct fixture *f = arg;

	usleep(f->stop_after_us);
	vm_stop(f->vm);
	return NULL;
}

/* A stop is not forgotten because it came while the machine was being reset. */
static void test_stop_during_reset(void **state)
{
	struct fixture *f = *state;

	for (unsigned n = 0; n < 20; n++) {
		CREATE(f, reset_forever, 2);
		f->stop_after_us = 5000 + 1777 * n;
		assert_int_equal(pthread_create(&f->stopper, NULL, stop_later, f), 0);
		alarm(60);
		vm_run(f->vm, &f->result);
		alarm(0);
		pthread_join(f->stopper, NULL);
		vm_destroy(f->vm);
		assert_int_equal(f->result.end, VM_END_STOPPED);
	}
}

/* A timer that is always due must not keep the I/O thread from everything else. */
GUEST(busy_timer, "mov $0x14, %al; out %al, $0x43; mov $2, %al; out %al, $0x40; 1: hlt; jmp 1b")

static void test_stop_with_busy_timer(void **state)
{
	struct fixture *f = *state;

	CREATE(f, busy_timer, 1);
	f->stop_after_us = 50000;
	assert_int_equal(pthread_create(&f->stopper, NULL, stop_later, f), 0);
	alarm(60);
	vm_run(f->vm, &f->result);
	alarm(0);
	pthread_join(f->stopper, NULL);
	vm_destroy(f->vm);
	assert_int_equal(f->result.end, VM_END_STOPPED);
}

/* --- interrupt windows ---------------------------------------------------------------------- */

/*
 * An IDT at 0x6000: every gate leads to the handler in ESI, which is given the selector of the
 * multiboot code segment. %edi, %ecx and %eax are lost.
 */
#define IDT                                                                        \
	"mov $0x6000, %edi; mov $256, %ecx\n"                                      \
	"3: mov %si, (%edi); mov %cs, 2(%edi); movw $0x8e00, 4(%edi)\n"            \
	"mov %esi, %eax; shr $16, %eax; mov %ax, 6(%edi); add $8, %edi; loop 3b\n" \
	"sub $8, %esp; movw $0x7ff, (%esp); movl $0x6000, 2(%esp); lidt (%esp)\n"
/* Address of a label of a guest. */
#define AT(name, label) "0x100000 + " #label " - " #name "_image"
#define X2APIC_ON                                          \
	"mov $0x1b, %ecx; rdmsr; or $0xc00, %eax; wrmsr\n" \
	"mov $0x80f, %ecx; xor %edx, %edx; mov $0x1ff, %eax; wrmsr\n"

/* Two interrupts of different priority: the second is due right after the end of the first. */
GUEST(windows, "mov $" AT(windows, windows_irq) ", %esi\n" IDT X2APIC_ON
						"xor %ebx, %ebx; mov $0x83f, %ecx; mov $0x50, "
						"%eax; wrmsr; mov $0x40, %eax; wrmsr\n"
						"sti; nop; nop; cli; mov %ebx, %eax\n" EXIT
						"windows_irq: inc %ebx; mov $0x80b, %ecx; xor "
						"%eax, %eax; xor %edx, %edx; wrmsr; iret")

static void test_interrupt_windows(void **state)
{
	struct fixture *f = *state;

	CREATE(f, windows, 1);
	run(f);
	assert_int_equal(f->result.end, VM_END_DEBUG_EXIT);
	assert_int_equal(f->result.value, 2);
}

/* Lowering the priority lets a pending interrupt through at once. */
GUEST(priority,
      "mov $" AT(
	      priority,
	      priority_irq) ", %esi\n" IDT X2APIC_ON
			    "mov $0x808, %ecx; mov $0x60, %eax; wrmsr; xor %ebx, %ebx; sti\n"
			    "mov $0x83f, %ecx; mov $0x50, %eax; wrmsr; nop; test %ebx, %ebx; jnz "
			    "2f\n"
			    "mov $0x808, %ecx; xor %eax, %eax; wrmsr; nop\n"
			    "mov %ebx, %eax\n" EXIT "2: mov $99, %eax\n" EXIT
			    "priority_irq: inc %ebx; mov $0x80b, %ecx; xor %eax, %eax; wrmsr; iret")

static void test_priority(void **state)
{
	struct fixture *f = *state;

	CREATE(f, priority, 1);
	run(f);
	assert_int_equal(f->result.end, VM_END_DEBUG_EXIT);
	assert_int_equal(f->result.value, 1);
}

/* An NMI sent in the handler of another is taken when that one returns. */
GUEST(nmi, "mov $" AT(nmi, nmi_handler) ", %esi\n" IDT X2APIC_ON
					"xor %ebx, %ebx; mov $0x830, %ecx; mov $0x4400, %eax; xor "
					"%edx, %edx; wrmsr; nop\n"
					"mov %ebx, %eax\n" EXIT
					"nmi_handler: inc %ebx; cmp $1, %ebx; jne 2f; wrmsr; cmp "
					"$1, %ebx; je 2f; mov $77, %ebx\n"
					"2: iret")

static void test_nmi_in_nmi(void **state)
{
	struct fixture *f = *state;

	CREATE(f, nmi, 1);
	run(f);
	assert_int_equal(f->result.end, VM_END_DEBUG_EXIT);
	assert_int_equal(f->result.value, 2);
}

/* --- several machines ------------------------------------------------------------------------ */

static void *run_one(void *arg)
{
	struct fixture *f = arg;

	for (unsigned n = 0; n < 5; n++) {
		CREATE(f, reset, 2);
		vm_run(f->vm, &f->result);
		vm_destroy(f->vm);
		if (f->result.end != VM_END_DEBUG_EXIT)
			break;
	}
	return NULL;
}

/* Made by one thread one after the other, and run by several at the same time. */
static void test_several_machines(void **state)
{
	struct fixture *f = *state, a = *f, b = *f;
	pthread_t thread;

	CREATE(&a, leave, 1);
	CREATE(&b, leave, 1);
	run(&a);
	assert_int_equal(a.result.value, 0x2a);
	run(&b);
	assert_int_equal(b.result.value, 0x2a);
	alarm(60);
	strcat(a.kernel, ".a");
	strcat(a.serial, ".a");
	assert_int_equal(pthread_create(&thread, NULL, run_one, &a), 0);
	run_one(&b);
	pthread_join(thread, NULL);
	alarm(0);
	assert_int_equal(a.result.value, 20);
	assert_int_equal(b.result.value, 20);
	remove(a.kernel);
	remove(a.serial);
}

/* --- bad configurations ---------------------------------------------------------------------- */

static void test_create_fails(void **state)
{
	struct fixture *f = *state;
	struct vm_config cfg = {
		.kernel = f->kernel,
		.sockets = 1,
		.cores = 2,
		.threads = 1,
		.memory = MIB(32),
		.engine = "none",
		.serial = VM_SERIAL_FILE,
		.serial_path = f->serial,
	};
	struct vm *vm;
	bool host_error;

	assert_int_equal(vm_create(&vm, &cfg, &host_error), -EINVAL);
	cfg.engine = "interp";
	cfg.memory = MIB(1);
	assert_int_equal(vm_create(&vm, &cfg, &host_error), -EINVAL);
	cfg.memory = 1ull << 60;
	assert_int_equal(vm_create(&vm, &cfg, &host_error), -EINVAL);
	cfg.memory = MIB(32);
	cfg.serial_path = "/nowhere/at/all";
	assert_int_equal(vm_create(&vm, &cfg, &host_error), -ENOENT);
	cfg.serial_path = f->serial;
	assert_int_equal(vm_create(&vm, &cfg, &host_error), -ENOENT);
	cfg.ndisks = 1;
	cfg.disk[0].path = "/nowhere/at/all";
	assert_int_equal(vm_create(&vm, &cfg, &host_error), -ENOENT);
	cfg.ndisks = 0;
	cfg.net = VM_NET_TAP;
	cfg.tap = "a-name-that-is-too-long";
	assert_true(vm_create(&vm, &cfg, &host_error) < 0);
}

#define TEST(fn) cmocka_unit_test_setup_teardown(fn, setup, teardown)

int main(void)
{
	const struct CMUnitTest tests[] = {
		TEST(test_end_beside_sleepers), TEST(test_resets),
		TEST(test_stop_during_reset),	TEST(test_stop_with_busy_timer),
		TEST(test_interrupt_windows),	TEST(test_priority),
		TEST(test_nmi_in_nmi),		TEST(test_several_machines),
		TEST(test_create_fails),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
