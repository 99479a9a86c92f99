/* The x87 state between struct cpu and the host's registers: parts of the stubs in stubs.c. */
#include "src/engine/bt/bt_int.h"

#define FX_OFF(field) (CPU_OFF(vec.fx) + (field))

/* fxrstor64 (reg 1) or fxsave64 (reg 0): XMM0-15 and MXCSR as well, which nobody has an interest in
 * where these stubs are called. */
static void fx(struct emit *e, unsigned reg)
{
	e_code(e, 0x65, 0x48, 0x0f, 0xae, 0x04 | reg << 3, 0x25);
	e32(e, FX_OFF(0));
}

/* mov dword gs:[x87_live], v */
static void set_live(struct emit *e, bool v)
{
	e_code(e, 0x65, 0xc7, 0x04, 0x25);
	e32(e, CPU_OFF(bt.x87_live));
	e32(e, v);
}

static void emit_save(struct bt_stubs *s)
{
	struct emit *e = &s->e;

	s->x87_save = e->p;
	fx(e, 0);
	e_code(e, 0xdb, 0xe3); /* fninit: the monitor's own x87 state */
	e_gs(e, false, 0x8b, H_RAX, CPU_OFF(bt.x87_ip));
	e_code(e, 0x25), e32(e, PAGE_SIZE - 1); /* and eax, imm32 */
	e_gs(e, true, 0x0b, H_RAX, CPU_OFF(bt.x87_page));
	e_store(e, H_RAX, FX_OFF(FX_FIP));
	e_gs(e, false, 0x8b, H_RAX, CPU_OFF(bt.x87_ip));
	e_code(e, 0xc1, 0xe8, PAGE_SHIFT); /* shr eax, imm8 */
	e_store16(e, H_RAX, FX_OFF(FX_FOP));
	e_load(e, H_RAX, CPU_OFF(bt.x87_fdp));
	e_store(e, H_RAX, FX_OFF(FX_FDP));
	set_live(e, false);
	e8(e, 0xc3);
}

static void emit_load(struct bt_stubs *s)
{
	struct emit *e = &s->e;

	s->x87_load = e->p;
	e_load(e, H_RAX, FX_OFF(FX_FIP));
	e_code(e, 0x25), e32(e, PAGE_SIZE - 1); /* and eax, imm32 */
	e_gs(e, false, 0x89, H_RAX, CPU_OFF(bt.x87_ip));
	e_load(e, H_RAX, FX_OFF(FX_FIP));
	e_code(e, 0x48, 0x25), e32(e, -(uint32_t)PAGE_SIZE); /* and rax, imm32 */
	e_store(e, H_RAX, CPU_OFF(bt.x87_page));
	e_code(e, 0x65, 0x0f, 0xb7, 0x04, 0x25), e32(e, FX_OFF(FX_FOP)); /* movzx eax, word */
	e_code(e, 0xc1, 0xe0, PAGE_SHIFT);				 /* shl eax, imm8 */
	e_gs(e, false, 0x09, H_RAX, CPU_OFF(bt.x87_ip));
	e_load(e, H_RAX, FX_OFF(FX_FDP));
	e_store(e, H_RAX, CPU_OFF(bt.x87_fdp));
	fx(e, 1);
	set_live(e, true);
	e8(e, 0xc3);
}

void bt_emit_x87_stubs(struct bt_stubs *s)
{
	emit_save(s);
	emit_load(s);
}
