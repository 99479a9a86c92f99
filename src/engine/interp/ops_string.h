/* String instructions; seg is the source's segment, the destination is always ES. */
#ifndef ENGINE_INTERP_OPS_STRING_H
#define ENGINE_INTERP_OPS_STRING_H

#include "src/engine/interp/ops.h"

OP(op_movs);
OP(op_stos);
OP(op_lods);
OP(op_cmps);
OP(op_scas);
OP(op_ins);
OP(op_outs);

#endif
