/* System instructions. Those that may change what follows end their block. */
#ifndef ENGINE_INTERP_OPS_SYS_H
#define ENGINE_INTERP_OPS_SYS_H

#include "src/engine/interp/ops.h"

OP(op_hlt);
OP(op_cli);
OP(op_sti);
OP(op_pushf);
OP(op_popf);
OP(op_int); /* imm: vector */
OP(op_int1);
OP(op_int3);
OP(op_into);
OP(op_bound);
OP(op_iret);
OP(op_syscall);
OP(op_sysret);
OP(op_sysenter);
OP(op_sysexit);
OP(op_jmp_far_imm); /* imm: offset; disp: selector */
OP(op_jmp_far_mem);
OP(op_call_far_imm);
OP(op_call_far_mem);
OP(op_ret_far);	    /* imm: bytes released */
OP(op_mov_from_cr); /* aux: number */
OP(op_mov_to_cr);
OP(op_mov_from_dr);
OP(op_mov_to_dr);
OP(op_mov_from_seg); /* aux: segment */
OP(op_mov_to_seg);
OP(op_load_far); /* LDS, LES, LFS, LGS, LSS; aux: segment */
OP(op_sgdt);
OP(op_sidt);
OP(op_lgdt);
OP(op_lidt);
OP(op_sldt);
OP(op_str);
OP(op_lldt);
OP(op_ltr);
OP(op_smsw);
OP(op_lmsw);
OP(op_clts);
OP(op_seg_query); /* aux: enum seg_query */
OP(op_verr);
OP(op_arpl);
OP(op_invlpg);
OP(op_invpcid);
OP(op_wbinvd);
OP(op_clflush);
OP(op_cpuid);
OP(op_rdmsr);
OP(op_wrmsr);
OP(op_rdtsc);
OP(op_rdtscp);
OP(op_rdpid);
OP(op_rdpmc);
OP(op_swapgs);
OP(op_rdfsbase); /* aux: segment */
OP(op_wrfsbase);
OP(op_stac);
OP(op_clac);
OP(op_in); /* imm: port, or DX if aux */
OP(op_out);
OP(op_rdrand);
OP(op_rdseed);
OP(op_pause);
OP(op_fence);
OP(op_vmcall);
OP(op_gp); /* an encoding that is longer than 15 bytes */

#endif
