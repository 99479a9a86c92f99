/* Generation of stubs, and the memory that they live in. See vec_int.h for the scheme. */
#include <stdlib.h>
#include <sys/mman.h>
#include <unistd.h>

#include "src/base/log.h"
#include "src/x86/vec_int.h"

/*
 * Address space for stubs, backed as it is used. All forms with all immediates need about half of
 * it, so it cannot run out.
 */
#define STUB_SPACE MIB(16)
#define STUB_MAX   256u

struct emit {
	uint8_t buf[STUB_MAX];
	unsigned n;
};

static void put(struct emit *e, const void *bytes, unsigned n)
{
	memcpy(e->buf + e->n, bytes, n);
	e->n += n;
}

#define EMIT(e, ...)                                           \
	do {                                                   \
		static const uint8_t bytes_[] = {__VA_ARGS__}; \
		put(e, bytes_, sizeof(bytes_));                \
	} while (0)

static void put8(struct emit *e, uint8_t b)
{
	put(e, &b, 1);
}

static void put32(struct emit *e, uint32_t v)
{
	put(e, &v, 4);
}

/* Host registers that hold the selectors while the stub runs, and the fixed operands. */
enum { R_AX = 0, R_R8 = 8, R_R9 = 9, R_R10 = 10 };
static const uint8_t slot_index[SLOT_COUNT] = {R_R8, R_R9, R_R10, R_AX};
static const uint8_t slot_vec[SLOT_COUNT] = {1, 3, 2, 4};
static const uint8_t slot_gpr[SLOT_COUNT] = {0 /* rax */, 1 /* rcx */, 0, 0};

#define SEL_IS4 (offsetof(struct insn, imm) + 7)
static const uint8_t slot_sel[SLOT_COUNT] = {
	offsetof(struct insn, dst),
	offsetof(struct insn, src),
	offsetof(struct insn, aux),
	SEL_IS4,
};

/* movzx slot_index, byte [rcx + selector] */
static void emit_selector(struct emit *e, enum vec_slot s)
{
	uint8_t r = slot_index[s];

	if (r >= 8)
		put8(e, 0x44);
	EMIT(e, 0x0f, 0xb6);
	put8(e, 0x41 | (r & 7) << 3);
	put8(e, slot_sel[s]);
}

/* ModRM and SIB of [base + index << scale (+ disp32)], reg field given. */
static void emit_sib(struct emit *e, uint8_t reg, uint8_t base, uint8_t index, uint8_t scale,
		     uint32_t disp)
{
	put8(e, (disp ? 0x84 : 0x04) | (reg & 7) << 3);
	put8(e, scale << 6 | (index & 7) << 3 | (base & 7));
	if (disp)
		put32(e, disp);
}

/* movups or vmovups between a host register and vec_state.ymm[sel]. */
static void emit_xmm(struct emit *e, enum vec_slot s, bool vex, bool wide, bool store)
{
	uint8_t x = slot_index[s] >= 8;

	if (vex) {
		put8(e, 0xc4);
		put8(e, 0xa1 | (x ? 0 : 0x40)); /* R = B = 0 (inverted 1), map 0F */
		put8(e, 0x78 | (wide ? 4 : 0));
	} else {
		if (x)
			put8(e, 0x42);
		put8(e, 0x0f);
	}
	put8(e, store ? 0x11 : 0x10);
	emit_sib(e, slot_vec[s], 7, slot_index[s], 2, 0);
}

/* The low 64 bits of an x87 register slot; a store also sets the exponent to all ones. */
static void emit_mmx(struct emit *e, enum vec_slot s, bool store)
{
	uint8_t rex = slot_index[s] >= 8 ? 0x42 : 0x40;
	uint32_t off = offsetof(struct vec_state, fx) + FX_ST;

	put8(e, rex);
	put8(e, 0x0f);
	put8(e, store ? 0x7f : 0x6f);
	emit_sib(e, slot_vec[s], 7, slot_index[s], 1, off);
	if (store) {
		put8(e, 0x66);
		put8(e, rex);
		put8(e, 0xc7); /* mov word [..], -1 */
		emit_sib(e, 0, 7, slot_index[s], 1, off + 8);
		EMIT(e, 0xff, 0xff);
	}
}

/* mov between a host register and gpr[sel]; r11 holds the address of the array. */
static void emit_gpr(struct emit *e, enum vec_slot s, bool store)
{
	put8(e, 0x49 | (slot_index[s] >= 8 ? 2 : 0));
	put8(e, store ? 0x89 : 0x8b);
	emit_sib(e, slot_gpr[s], R_R8 + 3, slot_index[s], 0, 0);
}

static void emit_slot(struct emit *e, const struct vec_form *f, enum vec_slot s, bool store)
{
	bool vex = f->cls == VEC_AVX;

	switch (f->kind[s]) {
	case KIND_XMM:
		/* VEX instructions define the whole YMM register: zero above what they compute. */
		emit_xmm(e, s, vex, f->wide || (vex && store), store);
		break;
	case KIND_MMX: emit_mmx(e, s, store); break;
	case KIND_GPR: emit_gpr(e, s, store); break;
	}
}

/* xmm0 <- or -> vec_state.ymm[0], which is at offset 0. */
static void emit_xmm0(struct emit *e, const struct vec_form *f, bool store)
{
	if (f->cls == VEC_AVX && store)
		EMIT(e, 0xc5, 0xfc, 0x11, 0x07);
	else if (store)
		EMIT(e, 0x0f, 0x11, 0x07);
	else
		EMIT(e, 0x0f, 0x10, 0x07);
}

static void emit_loads(struct emit *e, const struct vec_form *f)
{
	EMIT(e, 0x49, 0x89, 0xd3); /* mov r11, rdx */
	for (enum vec_slot s = 0; s < SLOT_COUNT; s++)
		if (f->kind[s])
			emit_selector(e, s);
	/* From the last: the immediate's selector is in RAX, which ModRM.reg may need. */
	for (int s = SLOT_COUNT - 1; s >= 0; s--)
		if (f->kind[s] && f->load[s])
			emit_slot(e, f, s, false);
	if (f->xmm0_load)
		emit_xmm0(e, f, false);
	if (f->str_explicit) {
		EMIT(e, 0x49, 0x8b, 0x03);	 /* mov rax, [r11 + RAX * 8] */
		EMIT(e, 0x49, 0x8b, 0x53, 0x10); /* mov rdx, [r11 + RDX * 8] */
	}
}

static void emit_stores(struct emit *e, const struct vec_form *f)
{
	for (enum vec_slot s = 0; s < SLOT_COUNT; s++)
		if (f->kind[s] && f->store[s])
			emit_slot(e, f, s, true);
	if (f->xmm0_store)
		emit_xmm0(e, f, true);
	if (f->str_index)
		EMIT(e, 0x49, 0x89, 0x4b, 0x08); /* mov [r11 + RCX * 8], rcx */
	if (f->flags_write)
		EMIT(e, 0x9c, 0x58); /* pushfq; pop rax */
}

static void emit_mxcsr(struct emit *e, uint8_t modrm_reg)
{
	EMIT(e, 0x0f, 0xae);
	put8(e, 0x87 | modrm_reg << 3); /* [rdi + disp32] */
	put32(e, offsetof(struct vec_state, mxcsr));
}

/* ldmxcsr from the word that stands before the stub */
static void emit_mxcsr_restore(struct emit *e, unsigned start)
{
	EMIT(e, 0x0f, 0xae, 0x15);
	put32(e, (uint32_t)(start - 4 - (e->n + 4)));
}

static unsigned emit_vec(struct emit *e, const struct vec_form *f)
{
	unsigned start = 0;

	if (f->fp) {
		put32(e, MXCSR_INIT);
		start = e->n;
	}
	emit_loads(e, f);
	if (f->fp)
		emit_mxcsr(e, 2);
	put(e, f->code, f->code_len);
	if (f->fp)
		emit_mxcsr(e, 3);
	emit_stores(e, f);
	if (f->mmx)
		EMIT(e, 0x0f, 0x77); /* emms */
	if (f->wide)
		EMIT(e, 0xc5, 0xf8, 0x77); /* vzeroupper: else SSE code pays for dirty halves */
	if (f->fp)
		emit_mxcsr_restore(e, start);
	EMIT(e, 0xc3);
	return start;
}

/* fxrstor64 or fxsave64 of vec_state.fx */
static void emit_fx(struct emit *e, uint8_t modrm_reg)
{
	EMIT(e, 0x48, 0x0f, 0xae);
	put8(e, 0x87 | modrm_reg << 3);
	put32(e, offsetof(struct vec_state, fx));
}

static unsigned emit_x87(struct emit *e, const struct vec_form *f)
{
	emit_fx(e, 1);
	if (f->flags_read || f->flags_write)
		EMIT(e, 0x41, 0x50, 0x9d); /* push r8; popfq */
	put(e, f->code, f->code_len);
	if (f->flags_write)
		EMIT(e, 0x9c, 0x58); /* pushfq; pop rax */
	emit_fx(e, 0);
	EMIT(e, 0xdb, 0xe3); /* fninit: the monitor's own x87 state */
	EMIT(e, 0xc3);
	return 0;
}

int vec_stubs_init(struct vec_cache *vc)
{
	int fd = memfd_create("vec-stubs", MFD_CLOEXEC), err;

	if (fd < 0)
		goto fail;
	if (ftruncate(fd, STUB_SPACE))
		goto fail_fd;
	vc->rw = mmap(NULL, STUB_SPACE, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
	if (vc->rw == MAP_FAILED)
		goto fail_fd;
	vc->rx = mmap(NULL, STUB_SPACE, PROT_READ | PROT_EXEC, MAP_SHARED, fd, 0);
	if (vc->rx == MAP_FAILED)
		goto fail_rw;
	close(fd);
	return 0;

fail_rw:
	munmap(vc->rw, STUB_SPACE);
fail_fd:
	err = errno;
	close(fd);
	errno = err;
fail:
	log_err("cannot map memory for instruction stubs: %s", strerror(errno));
	return -errno;
}

void vec_stubs_fini(struct vec_cache *vc)
{
	for (unsigned h = 0; h < VEC_HASH_SIZE; h++) {
		struct vec_op *op = vc->hash[h], *next;

		for (; op; op = next) {
			next = op->next;
			free(op);
		}
	}
	munmap(vc->rw, STUB_SPACE);
	munmap(vc->rx, STUB_SPACE);
}

static unsigned form_hash(const struct vec_form *form)
{
	const uint8_t *p = (const uint8_t *)form;
	uint32_t h = 2166136261u;

	for (size_t n = 0; n < sizeof(*form); n++)
		h = (h ^ p[n]) * 16777619u;
	return (h ^ h >> 16) & (VEC_HASH_SIZE - 1);
}

static struct vec_op *get(struct vec_cache *vc, const struct vec_form *form)
{
	struct vec_op **head = &vc->hash[form_hash(form)], *op;
	struct emit e = {.n = 0};
	unsigned start;

	for (op = *head; op; op = op->next)
		if (!memcmp(&op->form, form, sizeof(*form)))
			return op;
	start = form->cls == VEC_X87 ? emit_x87(&e, form) : emit_vec(&e, form);
	if (vc->used + ALIGN_UP(e.n, 16) > STUB_SPACE)
		return NULL;
	op = calloc(1, sizeof(*op));
	if (!op)
		return NULL;
	/* New code at fresh addresses: no other instruction stream can have fetched it before. */
	memcpy(vc->rw + vc->used, e.buf, e.n);
	op->stub = (__typeof__(op->stub))(vc->rx + vc->used + start);
	vc->used += ALIGN_UP(e.n, 16);
	op->form = *form;
	op->next = *head;
	*head = op;
	return op;
}

struct vec_op *vec_op_get(struct vec_cache *vc, const struct vec_form *form)
{
	struct vec_op *op;

	pthread_mutex_lock(&vc->lock);
	op = get(vc, form);
	pthread_mutex_unlock(&vc->lock);
	return op;
}
