/* The bare CPU: code and data mapped at their addresses, entered by native_enter.S, left by a
 * signal. */
#include <asm/prctl.h>
#include <cpuid.h>
#include <setjmp.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <sys/time.h>
#include <ucontext.h>
#include <unistd.h>

#include "src/x86/arch.h"
#include "tests/diff/diff.h"

#define XSAVE_SIZE     832
#define XSAVE_HEADER   512
#define XSAVE_YMM_HI   576
#define XSAVE_MAGIC    0x46505853u /* FP_XSTATE_MAGIC1 */
#define XSAVE_MAGIC_AT 464

/* Offsets are known to native_enter.S. */
struct native_regs {
	uint8_t xsave[1024] __attribute__((aligned(64)));
	uint64_t gpr[16];
};
_Static_assert(offsetof(struct native_regs, gpr) == 1024, "native_enter.S");

/* What native_enter() leaves by. */
extern struct {
	uint64_t rip, cs, rflags, rsp, ss;
} native_frame;

_Noreturn void native_enter(const struct native_regs *regs, bool compat);

/* A signal handler has no argument of ours: the process's one native side. */
static struct native_side {
	uint8_t *code, *table; /* writable aliases */
	uint8_t stack[65536];
	struct native_regs regs;
	struct diff_result *res;
	sigjmp_buf back;
	uint64_t runs, runs_at_tick;
} side;

static const int gpr_order[16] = {REG_RAX, REG_RCX, REG_RDX, REG_RBX, REG_RSP, REG_RBP,
				  REG_RSI, REG_RDI, REG_R8,  REG_R9,  REG_R10, REG_R11,
				  REG_R12, REG_R13, REG_R14, REG_R15};

static void save_vectors(struct diff_state *st, const uint8_t *fp)
{
	uint32_t magic;
	uint64_t bv = 0;

	memcpy(st->fx, fp, X87_BYTES);
	memcpy(&st->mxcsr, fp + 24, 4);
	memcpy(&magic, fp + XSAVE_MAGIC_AT, 4);
	if (magic == XSAVE_MAGIC)
		memcpy(&bv, fp + XSAVE_HEADER, 8);
	for (unsigned n = 0; n < 16; n++) {
		memcpy(st->ymm[n], fp + 160 + 16 * n, 16);
		if (bv & 4)
			memcpy(st->ymm[n] + 16, fp + XSAVE_YMM_HI + 16 * n, 16);
		else
			memset(st->ymm[n] + 16, 0, 16);
	}
}

/*
 * No processor has #UD for an INT3, but a host that is itself a guest may: there the first
 * instruction behind a page fault of the hypervisor's own is sometimes emulated, INT3 not among
 * those known.
 */
static void mend_breakpoint(struct diff_result *res)
{
	const uint8_t *code = (const uint8_t *)res->st.rip;

	if (res->vector != 6 || res->st.rip - CODE_BASE >= CODE_SIZE || *code != 0xcc)
		return;
	res->vector = 3;
	res->st.rip++;
	res->st.rflags &= ~FLAG_RF;
}

static void on_signal(int sig, siginfo_t *info, void *arg)
{
	const mcontext_t *mc = &((ucontext_t *)arg)->uc_mcontext;
	struct diff_result *res = side.res;

	/* The kernel leaves alignment checks on, which our own code does not pass. */
	__builtin_ia32_writeeflags_u64(__builtin_ia32_readeflags_u64() & ~(uint64_t)FLAG_AC);
	if (!res) {
		/* A bug of ours: let it kill the process where it happened. */
		signal(sig, SIG_DFL);
		return;
	}
	for (unsigned n = 0; n < 16; n++)
		res->st.gpr[n] = mc->gregs[gpr_order[n]];
	res->st.rip = mc->gregs[REG_RIP];
	res->st.rflags = mc->gregs[REG_EFL];
	res->vector = mc->gregs[REG_TRAPNO];
	res->error = res->vector == 14 ? mc->gregs[REG_ERR] : 0;
	res->cr2 = res->vector == 14 ? mc->gregs[REG_CR2] : 0;
	save_vectors(&res->st, (const uint8_t *)mc->fpregs);
	mend_breakpoint(res);
	siglongjmp(side.back, 1);
}

/* A tick of the watch: the second one in the same run ends it. */
static void on_tick(int sig)
{
	if (side.res && side.runs_at_tick == side.runs) {
		side.res->vector = VECTOR_ENDLESS;
		siglongjmp(side.back, 1);
	}
	side.runs_at_tick = side.runs;
}

/* A sanitizer's shadow memory is at addresses that the code under test must find unmapped. */
static bool sanitized(void)
{
#if defined(__SANITIZE_ADDRESS__) || defined(__SANITIZE_THREAD__)
	return true;
#else
	return false;
#endif
}

static bool host_has_avx(void)
{
	unsigned a, b, c, d;
	uint32_t lo, hi;

	if (!__get_cpuid(1, &a, &b, &c, &d) || !(c & bit_OSXSAVE) || !(c & bit_AVX))
		return false;
	__asm__ volatile("xgetbv" : "=a"(lo), "=d"(hi) : "c"(0));
	return (lo & 7) == 7;
}

/* Kernels can be built or started without 32-bit user code: its segment is absent or unusable. */
static bool host_has_compat(void)
{
	uint32_t rights = 0;

	__asm__("lar %1, %0" : "+r"(rights) : "r"(USER_CS32));
	return rights & 1u << 15;
}

static int map_at(uint64_t addr, size_t size, int prot, int flags, int fd)
{
	void *p = mmap((void *)addr, size, prot, flags | MAP_FIXED_NOREPLACE | MAP_POPULATE, fd, 0);

	return p == (void *)addr ? 0 : -ENOMEM;
}

/* Memory that the code under test has by prot at addr, and we may write at *alias. */
static int map_twice(uint64_t addr, size_t size, int prot, uint8_t **alias)
{
	int fd = memfd_create("diff", MFD_CLOEXEC), err;

	if (fd < 0 || ftruncate(fd, size))
		return -errno;
	*alias = mmap(NULL, size, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
	err = *alias == MAP_FAILED ? -errno : map_at(addr, size, prot, MAP_SHARED, fd);
	close(fd);
	return err;
}

static int map_all(bool code_writable)
{
	const int own = MAP_PRIVATE | MAP_ANONYMOUS, rw = PROT_READ | PROT_WRITE;
	int err = map_twice(CODE_BASE, CODE_SIZE,
			    PROT_READ | PROT_EXEC | (code_writable ? PROT_WRITE : 0), &side.code);

	if (!err)
		err = map_twice(TABLE_BASE, TABLE_SIZE, PROT_READ, &side.table);
	if (!err)
		err = map_at(DATA_BASE, DATA_SIZE, rw, own, -1);
	if (!err)
		err = map_at(STACK_BASE, STACK_SIZE, rw, own, -1);
	if (!err)
		err = map_at(SAVED_BASE, SAVED_SIZE, rw, own, -1);
	if (!err)
		err = map_at(RO_BASE, RO_SIZE, PROT_READ, own, -1);
	/* Where the monitor's code would lie, at addresses that programs may use. */
	if (!err && mmap((void *)GIB(1), GIB(1), PROT_NONE,
			 own | MAP_NORESERVE | MAP_FIXED_NOREPLACE, -1, 0) == MAP_FAILED)
		err = -errno;
	return err;
}

int native_init(bool compat, bool code_writable)
{
	static const int signals[] = {SIGSEGV, SIGBUS, SIGILL, SIGFPE, SIGTRAP};
	struct sigaction sa = {.sa_sigaction = on_signal, .sa_flags = SA_SIGINFO | SA_ONSTACK};
	stack_t ss = {.ss_sp = side.stack, .ss_size = sizeof(side.stack)};
	int err;

	if (sanitized() || !host_has_avx() || (compat && !host_has_compat()))
		return -ENOTSUP;
	err = map_all(code_writable);
	if (err)
		return err;
	if (sigaltstack(&ss, NULL))
		return -errno;
	sigfillset(&sa.sa_mask);
	for (unsigned n = 0; n < ARRAY_SIZE(signals); n++)
		if (sigaction(signals[n], &sa, NULL))
			return -errno;
	if (syscall(SYS_arch_prctl, ARCH_SET_GS, GS_BASE))
		return -errno;
	return 0;
}

int native_watch(void)
{
	const struct itimerval every = {{0, 100000}, {0, 100000}};
	struct sigaction sa = {.sa_handler = on_tick, .sa_flags = SA_ONSTACK | SA_RESTART};

	sigfillset(&sa.sa_mask);
	return sigaction(SIGVTALRM, &sa, NULL) || setitimer(ITIMER_VIRTUAL, &every, NULL) ? -errno
											  : 0;
}

static void load_regs(struct native_regs *r, const struct diff_state *init)
{
	const uint64_t all = 7;

	memset(r->xsave, 0, XSAVE_SIZE);
	memcpy(r->xsave, init->fx, X87_BYTES);
	memcpy(r->xsave + 24, &init->mxcsr, 4);
	memcpy(r->xsave + XSAVE_HEADER, &all, 8);
	for (unsigned n = 0; n < 16; n++) {
		memcpy(r->xsave + 160 + 16 * n, init->ymm[n], 16);
		memcpy(r->xsave + XSAVE_YMM_HI + 16 * n, init->ymm[n] + 16, 16);
	}
	memcpy(r->gpr, init->gpr, sizeof(r->gpr));
	native_frame.rip = init->rip;
	native_frame.cs = init->compat ? USER_CS32 : USER_CS;
	native_frame.rflags = init->rflags;
	native_frame.rsp = init->gpr[4];
	native_frame.ss = USER_SS;
}

void native_load(const struct diff_image *image)
{
	memcpy(side.code, image->code, image->len);
	memcpy(side.table, image->table, TABLE_SIZE);
}

const uint8_t *native_code(void)
{
	return side.code;
}

void native_memory(const struct diff_state *init)
{
	memcpy((void *)DATA_BASE, init->data, DATA_SIZE);
	memcpy((void *)STACK_BASE, init->stack, STACK_SIZE);
	for (unsigned n = 0; n < SAVED_SIZE; n += 8)
		memcpy((char *)SAVED_BASE + n, &init->gpr[4], 8);
}

void native_run(const struct diff_state *init, struct diff_result *res)
{
	load_regs(&side.regs, init);
	res->st.compat = init->compat;
	side.runs++;
	if (!sigsetjmp(side.back, 1)) {
		side.res = res;
		native_enter(&side.regs, init->compat);
	}
	side.res = NULL;
	memcpy(res->st.data, (void *)DATA_BASE, DATA_SIZE);
	memcpy(res->st.stack, (void *)STACK_BASE, STACK_SIZE);
}
