/*
 * Bytes that may be an instruction: prefixes, a uniformly chosen opcode of some map, and a ModRM of
 * which the memory forms mostly reach the data window. What Zydis cannot decode is thrown away by
 * the caller, so every opcode that it knows comes up.
 */
#include "tests/diff/gen.h"

struct out {
	uint8_t *p;
	unsigned n;
	bool compat; /* 32-bit code: no REX, no RIP-relative form */
};

static void put(struct out *o, uint8_t b)
{
	if (o->n < 15)
		o->p[o->n++] = b;
}

static void put_n(struct out *o, uint64_t v, unsigned n)
{
	while (n--) {
		put(o, v);
		v >>= 8;
	}
}

static void put_absolute(struct rng *r, struct out *o, uint8_t reg)
{
	put(o, reg << 3 | 4);
	put(o, 0x25);
	put_n(o, gen_address(r), 4);
}

static void put_pointer(struct rng *r, struct out *o, uint8_t reg, uint8_t *rex)
{
	uint8_t base = gen_pointer_regs[rng_below(r, o->compat ? POINTER_REGS32 : POINTER_REGS)];
	bool index = rng_chance(r, 15);

	*rex = (*rex & ~3u) | (base >> 3);
	put(o, 0x40 | reg << 3 | (index ? 4 : base & 7));
	if (index) {
		*rex |= o->compat ? 0 : 2; /* RCX or R15 */
		put(o, rng_below(r, 4) << 6 | (o->compat ? 1 : 7) << 3 | (base & 7));
	}
	put(o, rng_chance(r, 50) ? 0 : rng_next(r));
}

static void put_random(struct rng *r, struct out *o, uint8_t reg)
{
	put(o, rng_below(r, 3) << 6 | reg << 3 | rng_below(r, 8));
	put(o, rng_next(r));
	put_n(o, rng_next(r), 4);
}

/*
 * The ModRM byte and what belongs to it. rex: RXB bits, which the caller emits before; *rip_dest is
 * set for a RIP-relative operand.
 */
static void put_modrm(struct rng *r, struct out *o, uint8_t *rex, uint32_t *rip_dest)
{
	uint8_t reg = rng_below(r, 8);
	unsigned form = rng_below(r, 100);

	if (form < 45) {
		put(o, 0xc0 | reg << 3 | rng_below(r, 8));
	} else if (form < 65) {
		*rex &= ~3u;
		put_absolute(r, o, reg);
	} else if (form < 73 && !o->compat) {
		*rip_dest = gen_address(r);
		put(o, reg << 3 | 5);
		put_n(o, 0, 4);
	} else if (form < 96) {
		put_pointer(r, o, reg, rex);
	} else {
		put_random(r, o, reg);
	}
}

static void put_legacy_prefixes(struct rng *r, struct out *o, bool simd)
{
	/* Not both: whether a null prefix hides GS is beyond the decoder. */
	if (rng_chance(r, 3))
		put(o, 0x65);
	else if (rng_chance(r, 2))
		put(o, 0x3e);
	if (rng_chance(r, 2))
		put(o, 0x67);
	if (rng_chance(r, simd ? 1 : 6))
		put(o, 0xf0);
	switch (rng_below(r, simd ? 4 : 12)) {
	case 0: put(o, 0x66); break;
	case 1: put(o, 0xf2); break;
	case 2: put(o, 0xf3); break;
	case 4:
	case 5: put(o, 0x66); break;
	}
}

static uint8_t opcode_of_map0(struct rng *r, bool compat)
{
	for (;;) {
		uint8_t op = rng_next(r);

		/* Prefixes, escapes, and x87, which has a share of its own. */
		if ((op & 0xe7) == 0x26 || (op & 0xfc) == 0x64 ||
		    ((op & 0xf0) == 0x40 && !compat) || op == 0x0f || op == 0xc4 || op == 0xc5 ||
		    op == 0x62 || op == 0xf0 || op == 0xf2 || op == 0xf3 || (op & 0xf8) == 0xd8)
			continue;
		return op;
	}
}

/* [prefixes] [REX] [escapes] opcode ModRM ... */
static void gen_legacy(struct rng *r, struct out *o, uint32_t *rip_dest, unsigned map)
{
	uint8_t tail_bytes[15], rex = rng_chance(r, map ? 35 : 50) ? 0x40 | rng_below(r, 16) : 0;
	struct out tail = {tail_bytes, 0, o->compat};

	if (o->compat)
		rex = 0;
	put_legacy_prefixes(r, o, map > 0);
	if (map >= 1 && map <= 3)
		put(&tail, 0x0f);
	if (map == 2)
		put(&tail, 0x38);
	else if (map == 3)
		put(&tail, 0x3a);
	put(&tail, map == 4 ? 0xd8 | rng_below(r, 8)
		   : map    ? rng_next(r)
			    : opcode_of_map0(r, o->compat));
	put_modrm(r, &tail, &rex, rip_dest);
	if (rex & 0xf)
		rex |= 0x40;
	if (rex && !o->compat)
		put(o, rex);
	for (unsigned n = 0; n < tail.n; n++)
		put(o, tail_bytes[n]);
}

static void gen_vex(struct rng *r, struct out *o, uint32_t *rip_dest)
{
	uint8_t tail_bytes[15], rex = rng_below(r, 8);
	struct out tail = {tail_bytes, 0, o->compat};
	uint8_t map = 1 + rng_below(r, 3), vvvv = rng_chance(r, 30) ? 15 : rng_below(r, 16);
	uint8_t w = rng_chance(r, 30), l = rng_chance(r, 50), pp = rng_below(r, 4);

	if (o->compat)
		vvvv |= 8;
	put(&tail, rng_next(r));
	put_modrm(r, &tail, &rex, rip_dest);
	if (o->compat)
		rex = 0;
	if (rng_chance(r, 3))
		put(o, 0x65);
	if (map == 1 && !(rex & 3) && !w && rng_chance(r, 50)) {
		put(o, 0xc5);
		put(o, (rex & 4 ? 0 : 0x80) | vvvv << 3 | l << 2 | pp);
	} else {
		put(o, 0xc4);
		put(o, (~rex & 7) << 5 | map);
		put(o, w << 7 | vvvv << 3 | l << 2 | pp);
	}
	for (unsigned n = 0; n < tail.n; n++)
		put(o, tail_bytes[n]);
}

void gen_bytes(struct rng *r, bool compat, uint8_t bytes[15], uint32_t *rip_dest)
{
	struct out o = {bytes, 0, compat};
	unsigned kind = rng_below(r, 100);

	*rip_dest = 0;
	if (kind < 40)
		gen_legacy(r, &o, rip_dest, 0);
	else if (kind < 60)
		gen_legacy(r, &o, rip_dest, 1);
	else if (kind < 68)
		gen_legacy(r, &o, rip_dest, 2);
	else if (kind < 72)
		gen_legacy(r, &o, rip_dest, 3);
	else if (kind < 80)
		gen_legacy(r, &o, rip_dest, 4);
	else
		gen_vex(r, &o, rip_dest);
	/* Immediates: small ones more often than chance has it. */
	if (rng_chance(r, 40))
		put(&o, rng_below(r, 72));
	while (o.n < 15)
		put(&o, rng_next(r));
}
