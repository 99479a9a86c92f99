/*
 * Architectural constants: AMD64 Architecture Programmer's Manual volume 2 and Intel SDM volume 3.
 */
#ifndef X86_ARCH_H
#define X86_ARCH_H

#define CR0_PE (1u << 0)
#define CR0_MP (1u << 1)
#define CR0_EM (1u << 2)
#define CR0_TS (1u << 3)
#define CR0_ET (1u << 4)
#define CR0_NE (1u << 5)
#define CR0_WP (1u << 16)
#define CR0_AM (1u << 18)
#define CR0_NW (1u << 29)
#define CR0_CD (1u << 30)
#define CR0_PG (1u << 31)

#define CR3_NOFLUSH (1ull << 63)

#define CR4_VME	       (1u << 0)
#define CR4_PVI	       (1u << 1)
#define CR4_TSD	       (1u << 2)
#define CR4_DE	       (1u << 3)
#define CR4_PSE	       (1u << 4)
#define CR4_PAE	       (1u << 5)
#define CR4_MCE	       (1u << 6)
#define CR4_PGE	       (1u << 7)
#define CR4_PCE	       (1u << 8)
#define CR4_OSFXSR     (1u << 9)
#define CR4_OSXMMEXCPT (1u << 10)
#define CR4_UMIP       (1u << 11)
#define CR4_FSGSBASE   (1u << 16)
#define CR4_PCIDE      (1u << 17)
#define CR4_OSXSAVE    (1u << 18)
#define CR4_SMEP       (1u << 20)
#define CR4_SMAP       (1u << 21)

#define EFER_SCE   (1u << 0)
#define EFER_LME   (1u << 8)
#define EFER_LMA   (1u << 10)
#define EFER_NXE   (1u << 11)
#define EFER_FFXSR (1u << 14)
#define EFER_AIBRS (1u << 21)

#define FLAG_CF	    (1u << 0)
#define FLAG_ONE    (1u << 1)
#define FLAG_PF	    (1u << 2)
#define FLAG_AF	    (1u << 4)
#define FLAG_ZF	    (1u << 6)
#define FLAG_SF	    (1u << 7)
#define FLAG_TF	    (1u << 8)
#define FLAG_IF	    (1u << 9)
#define FLAG_DF	    (1u << 10)
#define FLAG_OF	    (1u << 11)
#define FLAG_IOPL   (3u << 12)
#define FLAG_NT	    (1u << 14)
#define FLAG_RF	    (1u << 16)
#define FLAG_VM	    (1u << 17)
#define FLAG_AC	    (1u << 18)
#define FLAG_VIF    (1u << 19)
#define FLAG_VIP    (1u << 20)
#define FLAG_ID	    (1u << 21)
#define FLAGS_ARITH (FLAG_CF | FLAG_PF | FLAG_AF | FLAG_ZF | FLAG_SF | FLAG_OF)

enum exception {
	EXC_DE = 0,
	EXC_DB = 1,
	EXC_NMI = 2,
	EXC_BP = 3,
	EXC_OF = 4,
	EXC_BR = 5,
	EXC_UD = 6,
	EXC_NM = 7,
	EXC_DF = 8,
	EXC_TS = 10,
	EXC_NP = 11,
	EXC_SS = 12,
	EXC_GP = 13,
	EXC_PF = 14,
	EXC_MF = 16,
	EXC_AC = 17,
	EXC_MC = 18,
	EXC_XM = 19,
};

/* Page fault error code. */
#define PFEC_P	  (1u << 0)
#define PFEC_W	  (1u << 1)
#define PFEC_U	  (1u << 2)
#define PFEC_RSVD (1u << 3)
#define PFEC_I	  (1u << 4)

/* Page table entry bits common to all levels. */
#define PTE_P  (1ull << 0)
#define PTE_W  (1ull << 1)
#define PTE_U  (1ull << 2)
#define PTE_A  (1ull << 5)
#define PTE_D  (1ull << 6)
#define PTE_PS (1ull << 7)
#define PTE_G  (1ull << 8)
#define PTE_NX (1ull << 63)

#define GUEST_PHYS_BITS 40

#define DR6_FIXED 0xffff0ff0u
#define DR6_BD	  (1u << 13)
#define DR6_BS	  (1u << 14)
#define DR6_BT	  (1u << 15)
#define DR7_FIXED 0x400u
#define DR7_GD	  (1u << 13)

/* Segment attributes, as bits 40-55 of a descriptor shifted down (bits 8-11 are limit bits, zero).
 */
#define SEG_TYPE      0x000f
#define SEG_A	      0x0001 /* accessed */
#define SEG_RW	      0x0002 /* data: writable, code: readable */
#define SEG_EC	      0x0004 /* data: expand down, code: conforming */
#define SEG_CODE      0x0008
#define SEG_S	      0x0010 /* code or data, not system */
#define SEG_DPL	      0x0060
#define SEG_P	      0x0080
#define SEG_AVL	      0x1000
#define SEG_L	      0x2000
#define SEG_DB	      0x4000
#define SEG_G	      0x8000
#define SEG_DPL_SHIFT 5

#define MSR_TSC		   0x10
#define MSR_APIC_BASE	   0x1b
#define MSR_TSC_ADJUST	   0x3b
#define MSR_BIOS_SIGN_ID   0x8b
#define MSR_MTRRCAP	   0xfe
#define MSR_SYSENTER_CS	   0x174
#define MSR_SYSENTER_ESP   0x175
#define MSR_SYSENTER_EIP   0x176
#define MSR_MCG_CAP	   0x179
#define MSR_MCG_STATUS	   0x17a
#define MSR_MCG_CTL	   0x17b
#define MSR_MISC_ENABLE	   0x1a0
#define MSR_DEBUGCTL	   0x1d9
#define MSR_MTRR_PHYSBASE0 0x200
#define MSR_MTRR_FIX64K	   0x250
#define MSR_MTRR_FIX16K_80 0x258
#define MSR_MTRR_FIX16K_A0 0x259
#define MSR_MTRR_FIX4K_C0  0x268
#define MSR_PAT		   0x277
#define MSR_MTRR_DEFTYPE   0x2ff
#define MSR_TSC_DEADLINE   0x6e0
#define MSR_X2APIC_BASE	   0x800
#define MSR_X2APIC_LAST	   0x8ff
#define MSR_EFER	   0xc0000080
#define MSR_STAR	   0xc0000081
#define MSR_LSTAR	   0xc0000082
#define MSR_CSTAR	   0xc0000083
#define MSR_SFMASK	   0xc0000084
#define MSR_FS_BASE	   0xc0000100
#define MSR_GS_BASE	   0xc0000101
#define MSR_KERNEL_GS_BASE 0xc0000102
#define MSR_TSC_AUX	   0xc0000103
#define MSR_SYSCFG	   0xc0010010
#define MSR_HWCR	   0xc0010015
#define MSR_NB_CFG	   0xc001001f
#define MSR_PATCH_LEVEL	   0x8b
#define MSR_DE_CFG	   0xc0011029

/* The TSC counts at the P0 frequency. */
#define HWCR_TSC_FREQ_SEL (1u << 24)

/* All exceptions masked and none raised. */
#define MXCSR_INIT 0x1f80u

/* Fields of the FXSAVE image. */
#define FX_FCW	 0
#define FX_FSW	 2
#define FX_FTW	 4 /* abridged: bit set for a register in use */
#define FX_FOP	 6
#define FX_FIP	 8
#define FX_FDP	 16
#define FX_MXCSR 24
#define FX_ST	 32
#define FX_XMM	 160

#define FSW_ES	       (1u << 7)
#define FSW_B	       (1u << 15)
#define FSW_TOP_SHIFT  11
#define FSW_TOP	       (7u << FSW_TOP_SHIFT)
#define X87_EXCEPTIONS 0x3fu

#endif
