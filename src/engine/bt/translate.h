/* What the passes of the translator share: one block on its way to host code. */
#ifndef ENGINE_BT_TRANSLATE_H
#define ENGINE_BT_TRANSLATE_H

#include "src/engine/bt/bt_int.h"

/* The six arithmetic flags, in Zydis's and the processor's bit positions. */
#define ARITH_FLAGS FLAGS_ARITH

/* One guest instruction. */
struct tr_insn {
	ZydisDecodedInstruction zi;
	ZydisDecodedOperand op[ZYDIS_MAX_OPERAND_COUNT];
	const uint8_t *bytes;
	const struct insn *insn; /* the interpreter's form; two slots for a vector instruction */
	uint32_t live_in;	 /* flags whose value before the instruction matters */
	uint16_t off;		 /* in the block */
};

/* A branch out of line, taken when a fast path does not apply. */
struct tr_slow {
	uint8_t *from;	       /* displacement of the jump to here */
	const uint8_t *resume; /* where to go on after the handler */
	struct bt_site *site;
	bool flags_saved;
};

struct tr {
	struct bt *bt;
	struct emit *e;
	const struct block *b;
	unsigned n;
	struct tr_insn in[BLOCK_MAX_INSNS];
	struct tr_slow slow[4 * BLOCK_MAX_INSNS];
	unsigned nslow;
	struct {
		uint8_t *from;	 /* displacement to patch to the stub, and later to the block */
		uint32_t target; /* offset in the page */
	} exit[2];
	unsigned nexits;
	unsigned page_off; /* of the block in its page */
	bool user;	   /* code of CPL 3 */
	bool failed;
	struct bt_site overflow; /* stands for sites there was no room for; failed is set */
};

/* Kept with the struct bt: too large for the stack. */
struct bt_space {
	struct tr tr;
};

/* flags.c: fills in live_in of every instruction. */
void tr_flags(struct tr *t);
/* What an instruction reads of, and surely overwrites in, the arithmetic flags. */
void tr_flags_of(const ZydisDecodedInstruction *zi, const ZydisDecodedOperand *op, uint32_t *reads,
		 uint32_t *kills);

/* memory.c: the inline look-up of the software TLB. Leaves the host address in SCRATCH0. */
bool tr_can_address(const struct tr *t, const struct tr_insn *in, const ZydisDecodedOperandMem *m);
void tr_access(struct tr *t, const struct tr_insn *in, const ZydisDecodedOperandMem *m,
	       unsigned len, bool write);
/* After the instruction's last native byte: slow paths made since `first` come back here. */
void tr_resume_here(struct tr *t, unsigned first);

/* native.c: true if the instruction was emitted as host code; false: nothing was emitted. */
bool tr_native(struct tr *t, const struct tr_insn *in);
/* control.c: the same for stack and control transfer. */
bool tr_control(struct tr *t, const struct tr_insn *in);
void tr_exit(struct tr *t, int64_t target, unsigned jcc);
#define TR_ALWAYS 16 /* jcc of an unconditional exit */

struct bt_site *tr_site(struct tr *t, const struct tr_insn *in);
/* Emits the unconditional hand-over of an instruction to its handler. */
void tr_hand_over(struct tr *t, const struct tr_insn *in);

/* The scale field of a SIB byte. */
static inline unsigned tr_scale(const ZydisDecodedOperandMem *m)
{
	return m->scale == 8 ? 3 : m->scale == 4 ? 2 : m->scale == 2 ? 1 : 0;
}

/* Guest register number (0-15), or -1 if the operand is no general register. */
static inline int tr_gpr(ZydisRegister r)
{
	if (r >= ZYDIS_REGISTER_RAX && r <= ZYDIS_REGISTER_R15)
		return r - ZYDIS_REGISTER_RAX;
	if (r >= ZYDIS_REGISTER_EAX && r <= ZYDIS_REGISTER_R15D)
		return r - ZYDIS_REGISTER_EAX;
	if (r >= ZYDIS_REGISTER_AX && r <= ZYDIS_REGISTER_R15W)
		return r - ZYDIS_REGISTER_AX;
	if (r >= ZYDIS_REGISTER_AL && r <= ZYDIS_REGISTER_BL)
		return r - ZYDIS_REGISTER_AL;
	if (r >= ZYDIS_REGISTER_SPL && r <= ZYDIS_REGISTER_DIL)
		return r - ZYDIS_REGISTER_SPL + RSP;
	if (r >= ZYDIS_REGISTER_R8B && r <= ZYDIS_REGISTER_R15B)
		return r - ZYDIS_REGISTER_R8B + R8;
	return -1;
}

#endif
