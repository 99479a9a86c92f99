/*
 * Differential test: the same instruction sequence in user mode on the bare host CPU and in the
 * interpreter, from the same state; all that the guest can see afterwards must be equal.
 *
 * Code and data lie at the same fixed addresses on both sides. One thread; the native side owns the
 * process's SIGSEGV, SIGBUS, SIGILL, SIGFPE and SIGTRAP.
 */
#ifndef DIFF_H
#define DIFF_H

#include "src/base/types.h"

#define CODE_BASE 0x10000000ul
#define CODE_SIZE (4 * PAGE_SIZE)
/* Two writable pages, one unmapped, one read-only, one unmapped. */
#define DATA_BASE 0x20000000ul
#define DATA_SIZE (2 * PAGE_SIZE)
#define RO_BASE	  (DATA_BASE + 3 * PAGE_SIZE)
#define RO_SIZE	  PAGE_SIZE
/*
 * Of programs (prog.h): the stack, words that nothing stores to by chance (all are RSP's first
 * value at first), and read-only tables of branch targets; nothing around them.
 */
#define STACK_BASE (DATA_BASE + 0x10000)
#define STACK_SIZE (2 * PAGE_SIZE)
#define SAVED_BASE (DATA_BASE + 0x18000)
#define SAVED_SIZE PAGE_SIZE
#define TABLE_BASE (DATA_BASE + 0x20000)
#define TABLE_SIZE PAGE_SIZE
#define GS_BASE	   0x40ul

#define X87_BYTES 160 /* of an FXSAVE image */

/* Selectors of user mode, the same as Linux has. */
#define USER_CS	  0x33
#define USER_SS	  0x2b
#define USER_CS32 0x23

struct diff_state {
	bool compat;	  /* 32-bit code: only the low halves of gpr[0..7] count */
	uint64_t gpr[16]; /* in encoding order */
	uint64_t rip;
	uint64_t rflags;
	uint32_t mxcsr;
	uint8_t ymm[16][32] __attribute__((aligned(64)));
	uint8_t fx[X87_BYTES] __attribute__((aligned(64)));
	uint8_t data[DATA_SIZE];
	uint8_t stack[STACK_SIZE];
};

/* The native side did not come to an end. */
#define VECTOR_ENDLESS 256

/* How a run ended. The code ends in INT3, so vector 3 there is the normal case. */
struct diff_result {
	struct diff_state st;
	unsigned vector;
	uint32_t error;
	uint64_t cr2;
};

/* What both sides are given before a run. */
struct diff_image {
	uint8_t code[CODE_SIZE];
	size_t len; /* of code that is to be loaded; the rest stays */
	uint64_t table[TABLE_SIZE / 8];
};

/* --- native.c ------------------------------------------------------------------------------- */

/*
 * 0, or -ENOTSUP if this host cannot run the native side (no XSAVE, AVX or, with compat, 32-bit
 * code). With code_writable the code under test may store to itself.
 */
int native_init(bool compat, bool code_writable);
/* From here on a run that does not end is ended, with VECTOR_ENDLESS, after 100 to 200 ms. */
int native_watch(void);
void native_load(const struct diff_image *image);
/* The code as it is now, CODE_SIZE bytes. */
const uint8_t *native_code(void);
/* init's data and stack to where the code finds them, and the words that are saved. */
void native_memory(const struct diff_state *init);
/* From init's registers, with memory as it is. */
void native_run(const struct diff_state *init, struct diff_result *res);

/* --- guest.c --------------------------------------------------------------------------------- */

struct guest;

struct guest_options {
	bool translate;	  /* run everything through the binary translator */
	bool exact_flags; /* in frames of faults, too */
	bool code_writable;
};

/* How guest_run() goes about it. */
struct guest_pace {
	unsigned slice; /* instructions between two safepoints; 0: many */
	bool disturb;	/* at safepoints, drop code and translations now and then */
	uint64_t seed;	/* of that */
};

int guest_create(struct guest **out, const struct guest_options *opt);
void guest_destroy(struct guest *g);
/* Blocks translated so far. */
uint64_t guest_translated(const struct guest *g);
/* Drops everything cached, so that a run does not depend on those before it. */
void guest_forget(struct guest *g);
/* -EIO on failure. */
int guest_load(struct guest *g, const struct diff_image *image);
/* The code as it is now, CODE_SIZE bytes. */
const uint8_t *guest_code(const struct guest *g);
void guest_memory(struct guest *g, const struct diff_state *init);
/* -EIO if the interpreter did not come to an end as expected. */
int guest_run(struct guest *g, const struct diff_state *init, const struct guest_pace *pace,
	      struct diff_result *res);

/* --- gen.c ----------------------------------------------------------------------------------- */

#define SEQ_MAX 64

/* What is open, on this host, of an instruction that faults. */
#define OPEN_PARTS 1u	/* which of its parts faults, or is looked at: nothing is compared */
#define OPEN_ORDER 2u	/* which of its operands, by RSI and RDI, faults */
#define OPEN_FLAGS 4u	/* arithmetic flags: from before it, or of its last repetition */
#define OPEN_TOP   8u	/* whether the x87 stack's top is 0 already */
#define OPEN_MASK  16u	/* of a vector's elements all but the sign may be what that is, or all 0 */
#define OPEN_STORE 32u	/* whether it faults at all, if it raises an unmasked x87 exception */
#define OPEN_MXCSR 64u	/* whether it has set exception flags already */
#define OPEN_WRAP  128u /* 32-bit code: what fault, if it goes beyond the last address */

struct seq_insn {
	uint8_t bytes[15];
	uint8_t len;
	uint8_t target;	    /* branches: how many instructions to skip, plus one; 0: no branch */
	uint8_t rel_size;   /* of the branch's displacement, the last bytes */
	uint8_t disp_at;    /* RIP-relative: where the displacement is, or 0 */
	uint32_t rip_dest;  /* ... and the address it must reach */
	uint32_t undefined; /* flags that it leaves undefined, RFLAGS bits */
	uint32_t defined;   /* flags that it certainly defines */
	unsigned open;	    /* OPEN_* */
};

struct sequence {
	unsigned count;
	struct seq_insn insn[SEQ_MAX];
	bool dropped[SEQ_MAX]; /* removed while shrinking */
	struct diff_state init;
};

struct gen_options {
	unsigned len;
	bool compat;	  /* 32-bit code, in compatibility mode */
	const char *only; /* mnemonic that every instruction should have, or NULL */
};

void gen_sequence(struct sequence *s, uint64_t seed, const struct gen_options *opt);
/*
 * Lays out the instructions that are not dropped, with INT3 behind them. offset[] gets the place of
 * each instruction, offset[count] that of the INT3.
 */
void gen_layout(const struct sequence *s, struct diff_image *image, uint16_t offset[SEQ_MAX + 1]);
/* Flags that are undefined when execution has reached instruction n. */
uint32_t gen_undefined_at(const struct sequence *s, unsigned n);

/* --- compare.c ------------------------------------------------------------------------------- */

struct compare_options {
	uint32_t undefined; /* flags not to look at */
	unsigned open;	    /* of the instruction that both sides stopped at */
};

/*
 * Whether there is nothing to compare: each side stopped at an instruction of which some things are
 * open, and these decide what it did, or whether the bare CPU stopped where the interpreter did.
 */
bool compare_parted(const struct diff_result *native, const struct diff_result *guest,
		    unsigned native_open, unsigned guest_open);
/* True if equal. With out (a FILE), prints every difference. */
bool compare_results(const struct diff_result *native, const struct diff_result *guest,
		     const struct compare_options *opt, void *out);

#endif
