/* Branches, stack, conditional moves: handlers that the decoder names directly. */
#ifndef ENGINE_INTERP_OPS_BRANCH_H
#define ENGINE_INTERP_OPS_BRANCH_H

#include "src/engine/interp/ops.h"

OP(op_jmp64);
OP(op_jmp);
OP(op_jmp_ind); /* r/m */
OP(op_call64);
OP(op_call);
OP(op_call_ind);
OP(op_ret64);
OP(op_ret); /* imm: bytes released */
OP(op_jcxz);
OP(op_loop); /* aux: 0 LOOP, 1 LOOPE, 2 LOOPNE */
OP(op_push_r64);
OP(op_push_i64);
OP(op_pop_r64);
OP(op_push_rm);
OP(op_push_imm);
OP(op_pop_rm);
OP(op_push_seg); /* aux: segment */
OP(op_pop_seg);
OP(op_pusha);
OP(op_popa);
OP(op_enter);
OP(op_leave64);
OP(op_leave);

#endif
