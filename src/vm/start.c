/* The start of the guest: tables and kernel into memory, the boot processor at its entry. */
#include "src/boot/acpi.h"
#include "src/dev/misc_ports.h"
#include "src/vm/vm_int.h"

static void set_flat(struct seg *s, uint16_t sel, uint16_t attr)
{
	*s = (struct seg){.sel = sel,
			  .limit = 0xffffffff,
			  .attr = SEG_P | SEG_S | SEG_RW | SEG_A | SEG_G | attr};
}

static void set_entry(struct cpu *cpu, const struct boot_entry *e)
{
	bool lm = e->mode == BOOT_LONG64;

	cpu->gpr[RAX] = e->rax;
	cpu->gpr[RBX] = e->rbx;
	cpu->gpr[RDX] = 0;
	cpu->gpr[RSI] = e->rsi;
	cpu->gpr[RSP] = e->rsp;
	cpu->rip = e->rip;
	cpu->gdtr = (struct dtable){.base = e->gdt_base, .limit = e->gdt_limit};
	cpu->idtr = (struct dtable){0};
	set_flat(&cpu->seg[SEG_CS], BOOT_CS, SEG_CODE | (lm ? SEG_L : SEG_DB));
	for (unsigned s = SEG_ES; s <= SEG_GS; s++)
		if (s != SEG_CS)
			set_flat(&cpu->seg[s], BOOT_DS, SEG_DB);
	cpu->seg[SEG_TR] = (struct seg){.sel = BOOT_TR, .limit = 0x67, .attr = SEG_P | 0xb};
	cpu->cr0 = CR0_PE | CR0_ET | (lm ? CR0_PG : 0);
	if (lm) {
		cpu->cr3 = e->cr3;
		cpu->cr4 = CR4_PAE;
		cpu->efer = EFER_LME | EFER_LMA;
	}
	cpu_update_ctx(cpu);
}

static int build_acpi(struct vm *vm, struct acpi_info *info)
{
	struct acpi_cpu cpu[SMP_MAX_VCPUS];
	struct acpi_config cfg = {
		.cpu = cpu,
		.ncpus = vm->smp->n,
		.ram = vm->ram,
		.nram = vm->nram,
		.nnodes = vm->nnodes,
		.ecam_base = ECAM_BASE,
		.nbuses = 1,
		.mmio32_base = MMIO32_BASE,
		.mmio32_size = MMIO32_SIZE,
		.mmio64_base = MMIO64_BASE,
		.mmio64_size = MMIO64_SIZE,
		.intx_gsi = {GSI_INTX, GSI_INTX + 1, GSI_INTX + 2, GSI_INTX + 3},
		.ioapic_base = IOAPIC_MMIO_BASE,
		.ioapic_id = 0,
		.lapic_base = APIC_DEFAULT_BASE,
		.pm_base = ACPI_PM_BASE,
		.sci_irq = IRQ_SCI,
		.slp_typ_s5 = ACPI_PM_SLP_TYP_S5,
		.pvpanic_port = PVPANIC_PORT,
	};

	for (unsigned n = 0; n < vm->smp->n; n++)
		cpu[n] = (struct acpi_cpu){.apic_id = smp_apic_id(vm->smp, n),
					   .node = memory_node_of_vcpu(vm, n)};
	return acpi_build(&cfg, &vm->gmem, info);
}

/* What firmware would have left behind on every processor. */
static void firmware_state(struct vm *vm, struct vcpu *v)
{
	v->cpu.mtrr_deftype = 0x806; /* MTRRs on, all memory write-back */
	/* Ids that xAPIC mode cannot name need x2APIC mode from the start. */
	if (vm->smp->napic_ids > 255)
		lapic_write_msr(v, MSR_APIC_BASE, v->lapic.base | APIC_BASE_X2APIC);
	if (v->index == 0)
		lapic_virtual_wire(v);
}

int start_state(struct vm *vm)
{
	struct boot_config cfg = {
		.kernel_path = vm->cfg.kernel,
		.initrd_path = vm->cfg.initrd,
		.cmdline = vm->cfg.append,
		.ram = vm->ram,
		.nram = vm->nram,
		.ecam_base = ECAM_BASE,
		.ecam_size = ECAM_SIZE,
	};
	struct boot_entry entry;
	struct acpi_info info;
	int r = build_acpi(vm, &info);

	if (r)
		return r;
	cfg.rsdp = info.rsdp;
	cfg.acpi_base = info.base;
	cfg.acpi_size = info.size;
	r = boot_load(&cfg, &vm->gmem, &entry);
	if (r)
		return r;
	for (unsigned n = 0; n < vm->smp->n; n++)
		firmware_state(vm, vm->smp->vcpu[n]);
	set_entry(&vm->smp->vcpu[0]->cpu, &entry);
	return 0;
}
