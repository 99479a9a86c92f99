#include "src/engine/bt/dump.h"

static void disassemble(FILE *out, const char *indent, const uint8_t *from, const uint8_t *to,
			uint64_t address)
{
	ZydisDisassembledInstruction di;

	while (from < to) {
		if (!ZYAN_SUCCESS(ZydisDisassembleIntel(ZYDIS_MACHINE_MODE_LONG_64, address, from,
							to - from, &di))) {
			fprintf(out, "%s%lx  (%02x)\n", indent, address, *from);
			di.info.length = 1;
		} else {
			fprintf(out, "%s%lx  %s\n", indent, address, di.text);
		}
		from += di.info.length;
		address += di.info.length;
	}
}

void bt_dump_unit(FILE *out, const struct tr *t, const uint8_t *cold)
{
	const struct emit *hot = &t->bt->e;

	flockfile(out);
	fprintf(out, "unit at guest-physical %lx, key %x, %u blocks, %u instructions\n", t->b->gpa,
		t->b->key, t->nblocks, t->n);
	disassemble(out, "    ", t->entry, t->in[0].host, (uintptr_t)t->entry + hot->to_exec);
	for (unsigned n = 0; n < t->n; n++) {
		const struct tr_insn *in = &t->in[n];
		const uint8_t *end = n + 1 < t->n ? in[1].host : hot->p;

		disassemble(out, "", in->bytes, in->bytes + MAX(in->zi.length, 1),
			    (t->b->gpa & PAGE_MASK) + in->off);
		disassemble(out, "    ", in->host, end, (uintptr_t)in->host + hot->to_exec);
	}
	fprintf(out, "out of line\n");
	disassemble(out, "    ", cold, t->bt->cold.p, (uintptr_t)cold + hot->to_exec);
	fputc('\n', out);
	funlockfile(out);
}

void bt_name_unit(FILE *out, const struct tr *t, const uint8_t *cold)
{
	const struct emit *hot = &t->bt->e, *away = &t->bt->cold;

	fprintf(out, "%lx %lx guest-%lx\n%lx %lx guest-%lx-slow\n",
		(uintptr_t)t->entry + hot->to_exec, hot->p - t->entry, t->b->gpa,
		(uintptr_t)cold + away->to_exec, away->p - cold, t->b->gpa);
}
