/*
 * What the files of vec.h share.
 *
 * A stub is a small host routine, the same for every choice of registers: it loads the vector
 * registers that the instruction names into fixed host registers, executes the instruction
 * re-encoded for those, and stores what it writes. Which registers to take it reads from the
 * decoded instruction, in four selector bytes, each the register's number times eight:
 *   insn->dst  ModRM.reg      insn->aux          VEX.vvvv
 *   insn->src  ModRM.rm       top byte of imm    the register in an immediate (is4)
 * So the number of different stubs is bounded by the instruction set times the immediates, whatever
 * the guest does.
 */
#ifndef X86_VEC_INT_H
#define X86_VEC_INT_H

#include <pthread.h>

#include "src/x86/hostisa.h"
#include "src/x86/mem.h"
#include "src/x86/vec.h"

enum vec_class { VEC_SSE, VEC_AVX, VEC_MMX, VEC_X87 };

enum vec_slot { SLOT_REG, SLOT_RM, SLOT_VVVV, SLOT_IS4, SLOT_COUNT };
enum vec_kind { KIND_NONE, KIND_XMM, KIND_MMX, KIND_GPR };

#define VEC_BYTES_MAX 16

/* What a stub is made from, and all that tells it from others; zeroed before it is filled in. */
struct vec_form {
	uint8_t cls;		  /* enum vec_class */
	uint8_t kind[SLOT_COUNT]; /* enum vec_kind */
	bool load[SLOT_COUNT];
	bool store[SLOT_COUNT];
	bool wide;	/* uses YMM registers: VEX.L */
	bool xmm0_load; /* implicit operand */
	bool xmm0_store;
	bool str_explicit; /* PCMPESTRx: lengths in RAX, RDX */
	bool str_index;	   /* PCMPxSTRI: result in RCX */
	bool fp;	   /* reads and writes MXCSR */
	bool mmx;	   /* uses MMX registers: x87 state becomes MMX state */
	bool flags_read;
	bool flags_write;
	bool align; /* memory operand must be naturally aligned */
	bool mem_read;
	bool mem_write;
	bool x87_control; /* leaves the x87 instruction and data pointers alone */
	uint8_t mem_len;
	uint8_t code_len;
	uint8_t code[VEC_BYTES_MAX]; /* the instruction, re-encoded */
};

struct vec_op {
	/* Returns RFLAGS after the instruction if form.flags_write. */
	uint64_t (*stub)(struct vec_state *v, void *mem, uint64_t *gpr, const struct insn *insn,
			 uint64_t flags);
	struct vec_form form;
	struct vec_op *next; /* in the hash chain */
};

#define VEC_HASH_SIZE 1024u

struct vec_cache {
	struct host_isa isa;
	pthread_mutex_t lock; /* of what follows */
	uint8_t *rw, *rx;     /* two mappings of the same memory */
	size_t used;
	struct vec_op *hash[VEC_HASH_SIZE];
};

/* vec_stub.c: finds or makes the operation for a form. NULL: out of memory. */
int vec_stubs_init(struct vec_cache *vc);
void vec_stubs_fini(struct vec_cache *vc);
struct vec_op *vec_op_get(struct vec_cache *vc, const struct vec_form *form);

/* vec_encode.c: fills in form and the selectors of insn; -ENOTSUP if it does not fit the scheme. */
int vec_encode(struct vec_form *form, struct insn *insn, const ZydisDecodedInstruction *zi,
	       const ZydisDecodedOperand *ops);
int vec_encode_x87(struct vec_form *form, struct insn *insn, const ZydisDecodedInstruction *zi,
		   const ZydisDecodedOperand *ops, const uint8_t *bytes);

/* Each returns true and sets insn->exec if the instruction is one that it does in C. */
bool vec_move_decode(struct insn *insn, const ZydisDecodedInstruction *zi,
		     const ZydisDecodedOperand *ops);
bool vec_mask_decode(struct insn *insn, const ZydisDecodedInstruction *zi,
		     const ZydisDecodedOperand *ops);
bool vec_x87_decode(struct insn *insn, const ZydisDecodedInstruction *zi,
		    const ZydisDecodedOperand *ops);
bool vec_xsave_decode(struct insn *insn, const ZydisDecodedInstruction *zi);
/* The stub-run instruction's exec function. */
void vec_x87_exec(struct cpu *c, const struct insn *i);

static inline const struct vec_op *insn_op(const struct insn *i)
{
	return (const struct vec_op *)(uintptr_t)(i->imm & ((1ull << 56) - 1));
}

/* A vector register by selector. */
static inline void *vec_reg(struct cpu *c, uint8_t sel)
{
	return (uint8_t *)c->vec.ymm + sel * 4;
}

/* --- availability: SDM volume 3, table 13-1 and volume 2, table 2-? by class --------------- */

_Noreturn void vec_unavailable_sse(struct cpu *c);
_Noreturn void vec_unavailable_avx(struct cpu *c);
_Noreturn void vec_unavailable_mmx(struct cpu *c);

static force_inline void vec_check_sse(struct cpu *c)
{
	if (unlikely((c->cr0 & (CR0_EM | CR0_TS)) || !(c->cr4 & CR4_OSFXSR)))
		vec_unavailable_sse(c);
}

static force_inline void vec_check_avx(struct cpu *c)
{
	if (unlikely((c->cr0 & (CR0_PE | CR0_TS)) != CR0_PE || !(c->cr4 & CR4_OSXSAVE) ||
		     (c->xcr0 & 6) != 6))
		vec_unavailable_avx(c);
}

/* Also for x87 data instructions that are MMX's neighbours: a pending x87 exception comes first. */
void vec_check_mmx(struct cpu *c);
/* The x87 state becomes MMX state: TOP = 0, all tags valid. */
void vec_mmx_enter(struct vec_state *v);

/* --- FXSAVE image fields ------------------------------------------------------------------- */

#define FCW_INIT   0x37fu
#define MXCSR_MASK 0xffffu

static inline uint16_t fx_get16(const struct vec_state *v, unsigned off)
{
	uint16_t x;

	memcpy(&x, v->fx + off, 2);
	return x;
}

static inline void fx_set16(struct vec_state *v, unsigned off, uint16_t x)
{
	memcpy(v->fx + off, &x, 2);
}

static inline uint64_t fx_get64(const struct vec_state *v, unsigned off)
{
	uint64_t x;

	memcpy(&x, v->fx + off, 8);
	return x;
}

static inline void fx_set64(struct vec_state *v, unsigned off, uint64_t x)
{
	memcpy(v->fx + off, &x, 8);
}

/* Makes physical register top ST(0): the image holds the registers in the order of the stack. */
void vec_top_set(struct vec_state *v, unsigned top);
/* Sets FSW with ES and B recomputed from the exceptions that the control word leaves unmasked. */
void vec_fsw_set(struct vec_state *v, uint16_t fsw);

#endif
