#include "src/x86/mem.h"

#include "mmu/npt.h"
#include "src/base/atomic.h"
#include "src/x86/debug.h"
#include "src/x86/mem_int.h"
#include "src/x86/mem_overlay.h"

/* A memory operand based on RSP or RBP: its segment is SS, even where segments have no base. */
static bool stack_operand(const struct insn *i)
{
	return (i->flags & INSN_MEM) && i->seg == SEG_NONE && (i->base == RSP || i->base == RBP);
}

static bool canonical(const struct cpu *cpu, gva_t gva)
{
	return !(cpu->efer & EFER_LMA) || gva_canonical(gva);
}

static _Noreturn void raise_non_canonical(struct cpu *cpu)
{
	cpu_raise_err(cpu, stack_operand(cpu->cur) ? EXC_SS : EXC_GP, 0);
}

/* An access that crosses pages: its last byte is checked before the first is translated. */
static void check_crossing(struct cpu *cpu, gva_t last)
{
	if (unlikely(!canonical(cpu, last)))
		raise_non_canonical(cpu);
}

/* Walks, raising the fault; res->gpa is the byte at gva. */
static void translate(struct cpu *cpu, gva_t gva, unsigned access, struct walk_result *res)
{
	struct walk_regs regs;

	mem_walk_regs(cpu, &regs);
	STAT_INC(cpu->stats, walks);
	if (unlikely(!canonical(cpu, gva)))
		raise_non_canonical(cpu);
	if (walk(cpu->gmem, &regs, gva, access, res))
		cpu_raise_pf(cpu, gva, res->pf_error);
}

/*
 * Translates one byte's page for a data access and fills the TLB if it is RAM. Returns the host
 * address, or NULL for MMIO and for stores to ROM.
 */
static void *resolve(struct cpu *cpu, enum tlb_ctx ctx, gva_t gva, bool write, gpa_t *gpa)
{
	struct walk_result res;
	uint64_t page;
	struct tlb_fill fill;
	const struct tlb2_entry *e;

	STAT_INC(cpu->stats, tlb_misses);
	e = mem_find(cpu, gva, mem_need(ctx, write));
	if (likely(e)) {
		tlb_copy(&cpu->tlb, cpu->tlb.e[ctx], mem_kind(write), gva, e);
		*gpa = (gpa_t)tlb2_frame(&cpu->tlb, e)->gfn << PAGE_SHIFT | (gva & ~PAGE_MASK);
		return (void *)(gva + tlb2_addend(e));
	}
	translate(cpu, gva, mem_access(ctx, write), &res);
	*gpa = res.gpa;
	page = gmem_translate(cpu->gmem, res.gpa >> PAGE_SHIFT);
	if (!page)
		return NULL;
	mem_tlb_fill(cpu, gva, &res, page, gmem_code_word(cpu->gmem, res.gpa >> PAGE_SHIFT), &fill);
	if (ctx != TLB_ALIGN && likely(gva_canonical(gva) && !cpu->overlay)) {
		e = tlb2_insert(&cpu->tlb, &fill);
		if (fill.allow & mem_need(ctx, write))
			tlb_copy(&cpu->tlb, cpu->tlb.e[ctx], mem_kind(write), gva, e);
	}
	if (write && (page & NPT_READONLY))
		return NULL;
	return (void *)fill.hva;
}

static uint64_t load(const void *p, unsigned len)
{
	switch (len) {
	case 1: return *(volatile uint8_t *)p;
	case 2: return *(volatile uint16_t *)p;
	case 4: return *(volatile uint32_t *)p;
	default: return *(volatile uint64_t *)p;
	}
}

static void store(void *p, uint64_t v, unsigned len)
{
	switch (len) {
	case 1: *(volatile uint8_t *)p = v; break;
	case 2: *(volatile uint16_t *)p = v; break;
	case 4: *(volatile uint32_t *)p = v; break;
	default: *(volatile uint64_t *)p = v; break;
	}
}

static void wrote(struct cpu *cpu, gpa_t gpa)
{
	if (unlikely(gmem_code_written(cpu->gmem, gpa >> PAGE_SHIFT))) {
		STAT_INC(cpu->stats, code_writes);
		/* The running block may be stale from the next instruction on. */
		cpu->event |= CPU_EVENT_YIELD;
	}
}

/* MMIO of any length, cut into naturally aligned pieces of at most 8 bytes. */
static void mmio(struct cpu *cpu, gpa_t gpa, void *buf, unsigned len, bool write)
{
	STAT_INC(cpu->stats, mmio);
	while (len) {
		unsigned n = 8;

		while (n > len || (gpa & (n - 1)))
			n /= 2;
		if (write)
			cpu->ops->mmio_write(cpu, gpa, buf, n);
		else
			cpu->ops->mmio_read(cpu, gpa, buf, n);
		gpa += n;
		buf = (char *)buf + n;
		len -= n;
	}
}

static void copy_in(void *buf, const void *p, unsigned len)
{
	if (len == 1 || len == 2 || len == 4 || len == 8) {
		uint64_t v = load(p, len);

		memcpy(buf, &v, len);
	} else {
		memcpy(buf, p, len);
	}
}

static void copy_out(void *p, const void *buf, unsigned len)
{
	if (len == 1 || len == 2 || len == 4 || len == 8) {
		uint64_t v = 0;

		memcpy(&v, buf, len);
		store(p, v, len);
	} else {
		memcpy(p, buf, len);
	}
}

static void read_piece(struct cpu *cpu, gpa_t gpa, const void *p, void *buf, unsigned len)
{
	if (unlikely(!p))
		mmio(cpu, gpa, buf, len, false);
	else if (unlikely(cpu->overlay))
		overlay_load(cpu->overlay, gpa, p, buf, len);
	else
		copy_in(buf, p, len);
}

static void read_ctx(struct cpu *cpu, enum tlb_ctx ctx, gva_t gva, void *buf, unsigned len)
{
	unsigned first = MIN(len, PAGE_SIZE - (gva & ~PAGE_MASK));
	gpa_t gpa[2] = {0};
	void *p[2] = {NULL};

	if (unlikely(first < len))
		check_crossing(cpu, gva + len - 1);
	p[0] = resolve(cpu, ctx, gva, false, &gpa[0]);
	if (unlikely(first < len))
		p[1] = resolve(cpu, ctx, gva + first, false, &gpa[1]);
	read_piece(cpu, gpa[0], p[0], buf, first);
	if (unlikely(first < len))
		read_piece(cpu, gpa[1], p[1], (char *)buf + first, len - first);
}

/* As copy_out() and wrote(), but nobody else notices. */
static void pretend(struct cpu *cpu, gpa_t gpa, const void *p, const void *buf, unsigned len)
{
	overlay_store(cpu->overlay, gpa, p, buf, len);
	if (code_word_state(gmem_code_word(cpu->gmem, gpa >> PAGE_SHIFT)) != CODE_NONE)
		cpu->event |= CPU_EVENT_YIELD;
}

static void write_piece(struct cpu *cpu, gpa_t gpa, void *p, const void *buf, unsigned len)
{
	if (unlikely(p && cpu->overlay)) {
		pretend(cpu, gpa, p, buf, len);
	} else if (likely(p)) {
		copy_out(p, buf, len);
		wrote(cpu, gpa);
	} else if (!gmem_translate(cpu->gmem, gpa >> PAGE_SHIFT)) {
		mmio(cpu, gpa, (void *)buf, len, true);
	}
}

static void write_ctx(struct cpu *cpu, enum tlb_ctx ctx, gva_t gva, const void *buf, unsigned len)
{
	unsigned first = MIN(len, PAGE_SIZE - (gva & ~PAGE_MASK));
	gpa_t gpa[2] = {0};
	void *p[2] = {NULL};

	if (unlikely(first < len))
		check_crossing(cpu, gva + len - 1);
	p[0] = resolve(cpu, ctx, gva, true, &gpa[0]);
	if (unlikely(first < len))
		p[1] = resolve(cpu, ctx, gva + first, true, &gpa[1]);
	write_piece(cpu, gpa[0], p[0], buf, first);
	if (unlikely(first < len))
		write_piece(cpu, gpa[1], p[1], (const char *)buf + first, len - first);
}

/* #AC applies to data accesses at CPL 3 with CR0.AM and RFLAGS.AC set. */
static void check_alignment(struct cpu *cpu, gva_t gva, unsigned len)
{
	if (unlikely(cpu->cpl == 3 && (cpu->rflags & FLAG_AC) && (cpu->cr0 & CR0_AM)) &&
	    (gva & (len - 1)) && !(len & (len - 1)))
		cpu_raise_err(cpu, EXC_AC, 0);
}

uint64_t mem_read_slow(struct cpu *cpu, gva_t gva, unsigned len)
{
	uint64_t v = 0;

	check_alignment(cpu, gva, len);
	read_ctx(cpu, mem_ctx(cpu), gva, &v, len);
	debug_data_access(cpu, gva, len, false);
	return v;
}

void mem_write_slow(struct cpu *cpu, gva_t gva, uint64_t value, unsigned len)
{
	check_alignment(cpu, gva, len);
	write_ctx(cpu, mem_ctx(cpu), gva, &value, len);
	debug_data_access(cpu, gva, len, true);
}

void mem_read(struct cpu *cpu, gva_t gva, void *buf, unsigned len)
{
	check_alignment(cpu, gva, len);
	read_ctx(cpu, mem_ctx(cpu), gva, buf, len);
	debug_data_access(cpu, gva, len, false);
}

void mem_write(struct cpu *cpu, gva_t gva, const void *buf, unsigned len)
{
	check_alignment(cpu, gva, len);
	write_ctx(cpu, mem_ctx(cpu), gva, buf, len);
	debug_data_access(cpu, gva, len, true);
}

void mem_probe_write(struct cpu *cpu, gva_t gva, unsigned len)
{
	gpa_t gpa;
	gva_t second = (gva + len - 1) & PAGE_MASK;

	check_crossing(cpu, gva + len - 1);
	resolve(cpu, mem_ctx(cpu), gva, true, &gpa);
	if (second != (gva & PAGE_MASK))
		resolve(cpu, mem_ctx(cpu), second, true, &gpa);
}

uint64_t mem_sys_read(struct cpu *cpu, gva_t gva, unsigned len)
{
	const void *p = mem_fast_in(cpu, cpu->tlb.e[TLB_SUPER], TLB_LOADS, gva, len);
	uint64_t v = 0;

	if (likely(p))
		return load(p, len);
	read_ctx(cpu, TLB_SUPER, gva, &v, len);
	return v;
}

void mem_sys_write(struct cpu *cpu, gva_t gva, uint64_t value, unsigned len)
{
	void *p = mem_fast_in(cpu, cpu->tlb.e[TLB_SUPER], TLB_STORES, gva, len);

	if (likely(p))
		store(p, value, len);
	else
		write_ctx(cpu, TLB_SUPER, gva, &value, len);
}

void *mem_rmw_ptr(struct cpu *cpu, gva_t gva, unsigned len)
{
	gva_t second = (gva + len - 1) & PAGE_MASK;
	gpa_t *gpa = cpu->rmw_gpa;
	void *p, *q;

	check_alignment(cpu, gva, len);
	debug_data_access(cpu, gva, len, true);
	check_crossing(cpu, gva + len - 1);
	p = resolve(cpu, mem_ctx(cpu), gva, true, &gpa[0]);
	if (unlikely(cpu->overlay)) {
		if (second != (gva & PAGE_MASK))
			resolve(cpu, mem_ctx(cpu), second, true, &gpa[1]);
		return NULL;
	}
	if (likely(second == (gva & PAGE_MASK)))
		return p;
	/* Two pages that are neighbours in the host, too, can be locked together. */
	q = resolve(cpu, mem_ctx(cpu), second, true, &gpa[1]);
	return p && q && (char *)p + (second - gva) == (char *)q ? p : NULL;
}

void mem_rmw_done(struct cpu *cpu, gva_t gva, unsigned len)
{
	wrote(cpu, cpu->rmw_gpa[0]);
	if (unlikely((gva ^ (gva + len - 1)) & PAGE_MASK))
		wrote(cpu, cpu->rmw_gpa[1]);
}

const struct itlb_entry *mem_fetch(struct cpu *cpu, gva_t rip)
{
	bool user = cpu->cpl == 3;
	const struct itlb_entry *e = mem_fetch_quick(cpu, rip);
	struct walk_result res;
	struct tlb_fill fill;
	uint64_t page;

	if (likely(e))
		return e;
	translate(cpu, rip, WALK_FETCH | (user ? WALK_USER : 0), &res);
	page = gmem_translate(cpu->gmem, res.gpa >> PAGE_SHIFT);
	if (!page)
		return NULL;
	mem_tlb_fill(cpu, rip, &res, page, gmem_code_word(cpu->gmem, res.gpa >> PAGE_SHIFT), &fill);
	return tlb_fetch_copy(&cpu->tlb, rip, user, tlb2_insert(&cpu->tlb, &fill));
}
