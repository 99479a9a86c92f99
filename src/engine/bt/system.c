/* Privileged instructions that are short enough to be done in place. */
#include "src/engine/bt/translate.h"

#define GS_BASE_OFF (CPU_OFF(seg) + SEG_GS * sizeof(struct seg) + offsetof(struct seg, base))

static void emit_swapgs(struct tr *t, struct tr_insn *in)
{
	struct emit *e = t->e;

	e_load(e, SCRATCH0, GS_BASE_OFF);
	e_load(e, SCRATCH1, CPU_OFF(kernel_gs_base));
	e_store(e, SCRATCH1, GS_BASE_OFF);
	e_store(e, SCRATCH0, CPU_OFF(kernel_gs_base));
	t->addend = NO_GROUP;
}

/* Interrupts that wait already have asked for the next point where they can be taken. */
static void emit_cli(struct tr *t, struct tr_insn *in)
{
	struct emit *e = t->e;

	tr_flags_clobber(t, in->live_in, SCRATCH0);
	e_code(e, 0x65, 0x81, 0x24, 0x25); /* and dword gs:[rflags], imm32 */
	e32(e, CPU_OFF(rflags));
	e32(e, ~FLAG_IF);
}

bool tr_plan_system(struct tr *t, struct tr_insn *in)
{
	if (!block_key_cpl0(t->b->key))
		return false;
	switch (in->zi.mnemonic) {
	case ZYDIS_MNEMONIC_SWAPGS:
		in->emit = emit_swapgs;
		/* What was checked relative to GS no longer is. */
		in->barrier = true;
		return true;
	case ZYDIS_MNEMONIC_CLI: in->emit = emit_cli; return true;
	default: return false;
	}
}
