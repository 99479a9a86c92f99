/* What the parts of the program generator share. Items are appended; emit functions make them. */
#ifndef DIFF_PROG_GEN_H
#define DIFF_PROG_GEN_H

#include "src/x86/cpu.h"
#include "tests/diff/prog.h"

#define FUEL R13

typedef ZydisEncoderOperand prog_op;

struct prog_gen {
	struct rng r;
	struct program *p;
	const struct prog_options *opt;
	ZydisDecoder dec;
	uint32_t undefined; /* flags, where the next item will stand */
	unsigned depth;	    /* of statements in each other */
	struct prog_item *open;
	bool failed;	 /* the open item cannot be encoded */
	bool label_next; /* the next item has a label */
	bool rbp_busy;	 /* RBP is a frame pointer */
	bool in_main;
	/* Functions from `next` on may be called here. */
	unsigned functions, next;
	uint16_t entry[8];
	uint16_t landing[4]; /* labels in main */
	uint16_t end;	     /* label of the program's last INT3 */
};

/* --- prog_emit.c ---------------------------------------------------------------------------- */

/* Register of an encoding number and a size in bits. With 8 bits, sometimes AH to BH. */
ZydisRegister prog_reg(struct prog_gen *g, unsigned n, unsigned bits);
prog_op op_r(ZydisRegister r);
prog_op op_i(int64_t v);
/* Of bytes bytes, at [base + disp]; base may be ZYDIS_REGISTER_NONE. */
prog_op op_m(ZydisRegister base, int64_t disp, unsigned bytes);
prog_op op_mx(ZydisRegister base, ZydisRegister index, unsigned scale, int64_t disp,
	      unsigned bytes);

/* Instructions between these two are one item. False: it cannot stand here and is taken back. */
void prog_begin(struct prog_gen *g);
bool prog_end(struct prog_gen *g);
/* One instruction: part of the open item, or an item of its own. */
bool prog_bytes(struct prog_gen *g, const uint8_t *bytes, unsigned len);
bool prog_ins(struct prog_gen *g, ZydisMnemonic m, ZydisInstructionAttributes prefixes,
	      unsigned count, const prog_op *op);
#define INS_WITH(g, m, prefixes, ...)             \
	prog_ins(g, ZYDIS_MNEMONIC_##m, prefixes, \
		 sizeof((prog_op[]){__VA_ARGS__}) / sizeof(prog_op), (prog_op[]){__VA_ARGS__})
#define INS(g, m, ...) INS_WITH(g, m, 0, __VA_ARGS__)
#define INS0(g, m)     prog_ins(g, ZYDIS_MNEMONIC_##m, 0, 0, NULL)

/* The instruction just emitted into the open item refers to something by its last bytes. */
void prog_refer(struct prog_gen *g, enum prog_ref_kind kind, uint32_t to);
/* The same for a displacement with `behind` bytes of immediate behind it; add: distance. */
void prog_refer_disp(struct prog_gen *g, enum prog_ref_kind kind, uint32_t to, uint32_t add,
		     unsigned behind);

uint16_t prog_label(struct prog_gen *g);
/* The label stands before the next item. Makes flags defined first. */
void prog_place(struct prog_gen *g, uint16_t label);
/* Makes all flags but AF defined. */
void prog_settle(struct prog_gen *g);

void prog_jmp(struct prog_gen *g, uint16_t to);
/* A jump, short, that is taken on a condition to a label placed a few items on. */
void prog_jcc_short(struct prog_gen *g, unsigned cc, uint16_t to);
void prog_jcc(struct prog_gen *g, unsigned cc, uint16_t to);
void prog_call(struct prog_gen *g, uint16_t to);
/* After another call: control comes back here. */
void prog_returned(struct prog_gen *g);
/* The address of an entry of the table that holds the label. */
uint32_t prog_table(struct prog_gen *g, uint16_t label);
/*
 * In an open item: what is emitted until prog_guard_end() runs only if there is fuel, and burns
 * some. Flags stay.
 */
unsigned prog_guard(struct prog_gen *g);
void prog_guard_end(struct prog_gen *g, unsigned guard);

/* A general register that may be overwritten, and one that may be read. */
unsigned prog_dst(struct prog_gen *g);
unsigned prog_src(struct prog_gen *g);
/* One that points into the data, and is never overwritten: RBX, RBP or R14. */
ZydisRegister prog_pointer(struct prog_gen *g);
unsigned prog_bits(struct prog_gen *g); /* 8, 16, 32 or 64 */

/* --- statements: each appends a few items -------------------------------------------------- */

void fill_random(struct prog_gen *g); /* prog_fill.c: anything */
void fill_by(struct prog_gen *g, bool (*want)(const ZydisDecodedInstruction *zi));
void fill_pointers(struct prog_gen *g);
void fill_memory(struct prog_gen *g);	 /* prog_memory.c */
void fill_flags(struct prog_gen *g);	 /* prog_flags.c */
void fill_vector(struct prog_gen *g);	 /* prog_vector.c */
void fill_string(struct prog_gen *g);	 /* prog_string.c */
void fill_patch(struct prog_gen *g);	 /* prog_smc.c */
void flow_statement(struct prog_gen *g); /* prog_flow.c */
void flow_program(struct prog_gen *g);	 /* main, functions, the end */
/* A filler as the program's kind has it. */
void prog_filler(struct prog_gen *g);

#endif
