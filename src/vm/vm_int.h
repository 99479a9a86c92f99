/* What the files of src/vm share. */
#ifndef VM_VM_INT_H
#define VM_VM_INT_H

#include <pthread.h>

#include "mmu/gmem.h"
#include "numa/mem.h"
#include "smp/ioapic.h"
#include "smp/smp.h"
#include "src/base/evloop.h"
#include "src/boot/boot.h"
#include "src/dev/acpi_pm.h"
#include "src/dev/bus.h"
#include "src/dev/chardev.h"
#include "src/dev/machine_events.h"
#include "src/dev/pci.h"
#include "src/dev/pic.h"
#include "src/engine/engine.h"
#include "src/vm/vm.h"

#define VM_MAX_NODES   64
#define VM_MAX_RAM     (VM_MAX_NODES + 1) /* one node's memory is cut by the hole below 4 GiB */
#define VM_MAX_DEVICES 32

#define LOW_RAM_END 0xb0000000u
#define ECAM_BASE   0xb0000000u
#define ECAM_SIZE   MIB(1)
#define MMIO32_BASE 0xc0000000u
#define MMIO32_SIZE (0xfec00000u - MMIO32_BASE)
#define MMIO64_BASE GIB(512)
#define MMIO64_SIZE GIB(256)
#define RAM_MAX	    GIB(500)

#define ISA_IRQS 16
#define GSI_INTX 16 /* GSIs 16-19 */
#define IRQ_SCI	 9

/* A line that goes to the PIC and to the IOAPIC. */
struct isa_line {
	struct irq_line pic, ioapic;
};

struct vm {
	struct vm_config cfg;
	const struct engine_ops *engine;
	struct engine_config engine_cfg;
	struct clock clk;
	struct gmem gmem;
	struct numa_mem mem[VM_MAX_NODES];
	unsigned nnodes;
	struct boot_ram ram[VM_MAX_RAM];
	unsigned nram;
	struct evloop *loop;
	struct bus *bus;
	struct smp *smp;
	struct ioapic *ioapic;
	struct pic *pic;
	struct pci_host *pci;
	struct acpi_pm *pm;
	struct chardev *chardev;
	struct isa_line isa[ISA_IRQS];
	struct device *device[VM_MAX_DEVICES]; /* in order of creation; destroyed in reverse */
	unsigned ndevices;
	struct machine_events events;

	/* From any thread to the loop: bits of VM_CONTROL_* in the eventfd's count. */
	struct ev_fd control;

	pthread_mutex_t lock; /* below */
	bool ending;	      /* VCPUs are to leave their loops: for a reset, unless ... */
	bool ended;	      /* ... the machine has ended, as result says */
	struct vm_result result;
};

/* Returned so that vm_end_with() ends the run: the first caller wins. Any thread. */
void vm_end_with(struct vm *vm, enum vm_end end, uint32_t value);
void vm_request_reset(struct vm *vm);
bool vm_ending(struct vm *vm);

/* machine.c */
int machine_create(struct vm *vm);
/* Power-on state of all devices; no VCPU runs. */
void machine_reset(struct vm *vm);
/* The I/O thread has stopped. */
void machine_destroy(struct vm *vm);

/* memory.c */
int memory_create(struct vm *vm);
void memory_destroy(struct vm *vm);
unsigned memory_node_of_vcpu(const struct vm *vm, unsigned index);

/* start.c: loads the kernel and puts the BSP at its entry. */
int start_state(struct vm *vm);

/* run.c: a VCPU's thread, argument struct vcpu_thread. */
struct vcpu_thread {
	struct vm *vm;
	struct vcpu *vcpu;
};
void *run_vcpu_thread(void *arg);

#endif
