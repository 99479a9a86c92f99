/* The machine: every device, where it is mapped and to which interrupt it is wired. */
#include "src/base/log.h"
#include "src/dev/fw_cfg.h"
#include "src/dev/i8042.h"
#include "src/dev/ioapic_dev.h"
#include "src/dev/misc_ports.h"
#include "src/dev/net_backend.h"
#include "src/dev/pit.h"
#include "src/dev/rtc.h"
#include "src/dev/testdev.h"
#include "src/dev/uart.h"
#include "src/dev/virtio_blk.h"
#include "src/dev/virtio_net.h"
#include "src/dev/virtio_rng.h"
#include "src/vm/vm_int.h"

#define COM1_BASE 0x3f8
#define IRQ_PIT	  0
#define IRQ_COM1  4
#define IRQ_RTC	  8

/* --- interrupt wiring ------------------------------------------------------------------------ */

static void set_isa(void *opaque, unsigned n, bool level)
{
	struct vm *vm = opaque;

	irq_set(&vm->isa[n].pic, level);
	irq_set(&vm->isa[n].ioapic, level);
}

static struct irq_line isa_irq(struct vm *vm, unsigned n)
{
	return (struct irq_line){.set = set_isa, .opaque = vm, .n = n};
}

static int create_interrupts(struct vm *vm)
{
	struct apic_sink sink = smp_apic_sink(vm->smp);
	struct irq_line intr = smp_pic_line(vm->smp);
	struct pic_devices pics;
	struct device *io;
	int r = ioapic_create(&vm->ioapic, 0, &sink);

	if (!r)
		r = pic_create(&vm->pic, &pics, &intr);
	if (r)
		return r;
	vm->device[vm->ndevices++] = pics.master;
	r = ioapic_dev_create(&io, vm->ioapic);
	if (r)
		return r;
	vm->device[vm->ndevices++] = io;
	for (unsigned n = 0; n < ISA_IRQS; n++) {
		vm->isa[n].pic = pic_line(vm->pic, n);
		/* The override of the MADT: ISA interrupt 0 is pin 2, whose own line is the
		 * cascade. */
		if (n != 2)
			vm->isa[n].ioapic = ioapic_line(vm->ioapic, n ? n : 2);
	}
	r = bus_map(vm->bus, BUS_PIO, PIC_MASTER_BASE, PIC_PORTS, pics.master, 0);
	if (!r)
		r = bus_map(vm->bus, BUS_PIO, PIC_SLAVE_BASE, PIC_PORTS, pics.slave, 0);
	if (!r)
		r = bus_map(vm->bus, BUS_PIO, PIC_ELCR_BASE, 2, pics.elcr, 0);
	if (!r)
		r = bus_map(vm->bus, BUS_MMIO, IOAPIC_MMIO_BASE, IOAPIC_MMIO_SIZE, io, 0);
	return r;
}

/* --- simple devices --------------------------------------------------------------------------- */

/* Takes the result of a constructor: keeps the device and maps it. */
static int add(struct vm *vm, int created, struct device *dev, uint16_t port, unsigned len)
{
	if (created)
		return created;
	vm->device[vm->ndevices++] = dev;
	return bus_map(vm->bus, BUS_PIO, port, len, dev, 0);
}

static int create_rtc(struct vm *vm)
{
	struct irq_line irq = isa_irq(vm, IRQ_RTC);
	struct rtc_config rc = {.ncpus = vm->smp->n};
	struct device *dev;
	int r;

	for (unsigned n = 0; n < vm->nram; n++) {
		if (vm->ram[n].gpa < GIB(4))
			rc.low_ram += vm->ram[n].size;
		else
			rc.high_ram += vm->ram[n].size;
	}
	r = rtc_create(&dev, &rc, vm->loop, &vm->clk, &irq);
	return add(vm, r, dev, RTC_BASE, RTC_PORTS);
}

static int create_pit(struct vm *vm)
{
	struct irq_line irq = isa_irq(vm, IRQ_PIT);
	struct pit_devices pits;
	int r = pit_create(&pits, vm->loop, &vm->clk, &irq);

	r = add(vm, r, r ? NULL : pits.timer, PIT_BASE, PIT_PORTS);
	if (!r)
		r = bus_map(vm->bus, BUS_PIO, PIT_CONTROL_PORT, 1, pits.control, 0);
	return r;
}

static int create_serial(struct vm *vm)
{
	struct irq_line irq = isa_irq(vm, IRQ_COM1);
	struct device *dev;
	int r;

	switch (vm->cfg.serial) {
	case VM_SERIAL_FILE:
		r = chardev_open_file(&vm->chardev, vm->loop, vm->cfg.serial_path);
		break;
	case VM_SERIAL_PTY: r = chardev_open_pty(&vm->chardev, vm->loop); break;
	default: r = chardev_open_stdio(&vm->chardev, vm->loop); break;
	}
	if (r)
		return r;
	if (vm->cfg.input_filter)
		chardev_set_filter(vm->chardev, vm->cfg.input_filter, vm->cfg.input_filter_opaque);
	r = uart_create(&dev, vm->chardev, vm->loop, &vm->clk, &irq);
	return add(vm, r, dev, COM1_BASE, UART_PORTS);
}

static int create_power(struct vm *vm)
{
	struct irq_line sci = isa_irq(vm, IRQ_SCI);
	int r = acpi_pm_create(&vm->pm, vm->loop, &vm->clk, &sci, &vm->events);

	return add(vm, r, r ? NULL : acpi_pm_device(vm->pm), ACPI_PM_BASE, ACPI_PM_PORTS);
}

static int create_fw_cfg(struct vm *vm)
{
	uint16_t cpus = vm->smp->n;
	struct fw_cfg *fw;
	int r = fw_cfg_create(&fw);

	r = add(vm, r, r ? NULL : fw_cfg_device(fw), FW_CFG_BASE, FW_CFG_PORTS);
	if (!r)
		r = fw_cfg_add(fw, FW_CFG_RAM_SIZE, &vm->cfg.memory, 8);
	if (!r)
		r = fw_cfg_add(fw, FW_CFG_NB_CPUS, &cpus, 2);
	if (!r)
		r = fw_cfg_add(fw, FW_CFG_MAX_CPUS, &cpus, 2);
	return r;
}

static int create_misc(struct vm *vm)
{
	struct device *dev;
	int r = i8042_create(&dev, &vm->events);

	r = add(vm, r, dev, I8042_DATA_PORT, 1);
	if (!r)
		r = bus_map(vm->bus, BUS_PIO, I8042_COMMAND_PORT, 1, dev, I8042_COMMAND_OFFSET);
	if (!r) {
		r = system_port_create(&dev, &vm->events);
		r = add(vm, r, dev, SYSTEM_PORT_A, 1);
	}
	if (!r) {
		r = pvpanic_create(&dev, &vm->events);
		r = add(vm, r, dev, PVPANIC_PORT, 1);
	}
	if (!r) {
		r = debug_exit_create(&dev, &vm->events);
		r = add(vm, r, dev, DEBUG_EXIT_PORT, DEBUG_EXIT_PORTS);
	}
	if (!r) {
		r = scratch_port_create(&dev);
		r = add(vm, r, dev, POST_PORT, 1);
	}
	if (!r)
		r = bus_map(vm->bus, BUS_PIO, DELAY_PORT, 1, dev, 0);
	return r;
}

static int create_testdev(struct vm *vm)
{
	struct irq_line lines[TESTDEV_LINES];
	struct testdev_devices t;
	int r;

	for (unsigned n = 0; n < TESTDEV_LINES; n++)
		lines[n] = n < ISA_IRQS ? isa_irq(vm, n) : ioapic_line(vm->ioapic, n);
	r = testdev_create(&t, lines);
	r = add(vm, r, r ? NULL : t.echo, TESTDEV_ECHO_PORT, TESTDEV_ECHO_PORTS);
	if (!r)
		r = bus_map(vm->bus, BUS_PIO, TESTDEV_IRQ_PORT, TESTDEV_LINES, t.irq, 0);
	if (!r)
		r = bus_map(vm->bus, BUS_MMIO, TESTDEV_MMIO, TESTDEV_MMIO_SIZE, t.memory, 0);
	return r;
}

/* --- PCI -------------------------------------------------------------------------------------- */

static int create_pci_host(struct vm *vm)
{
	struct pci_layout layout = {
		.ecam_base = ECAM_BASE,
		.mmio32_base = MMIO32_BASE,
		.mmio32_size = MMIO32_SIZE,
		.mmio64_base = MMIO64_BASE,
		.mmio64_size = MMIO64_SIZE,
	};
	struct msi_sink msi = smp_msi_sink(vm->smp);
	struct irq_line intx[4];
	struct device *reset;
	int r;

	for (unsigned n = 0; n < 4; n++)
		intx[n] = ioapic_line(vm->ioapic, GSI_INTX + n);
	r = pci_host_create(&vm->pci, vm->bus, &layout, intx, &msi);
	if (r)
		return r;
	r = reset_control_create(&reset, &vm->events);
	if (r)
		return r;
	vm->device[vm->ndevices++] = reset;
	pci_host_set_reset_port(vm->pci, reset);
	return 0;
}

static int create_net(struct vm *vm, unsigned slot)
{
	static const uint8_t mac[6] = {0x52, 0x54, 0x00, 0x12, 0x34, 0x56};
	struct net_hostfwd fwd[VM_MAX_FORWARDS];
	struct net_backend *nb;
	int r;

	if (vm->cfg.net == VM_NET_TAP) {
		r = net_tap_create(&nb, vm->loop, vm->cfg.tap);
	} else {
		for (unsigned n = 0; n < vm->cfg.nhostfwd; n++)
			if (net_parse_hostfwd(vm->cfg.hostfwd[n], &fwd[n]))
				return -EINVAL;
		r = net_user_create(&nb, vm->loop, &vm->clk, fwd, vm->cfg.nhostfwd);
	}
	return r ? r : virtio_net_create(vm->pci, slot, &vm->gmem, vm->loop, nb, mac);
}

static int create_pci_devices(struct vm *vm)
{
	unsigned slot = 1;
	int r = 0;

	for (unsigned n = 0; !r && n < vm->cfg.ndisks; n++) {
		struct virtio_blk_params p = {
			.path = vm->cfg.disk[n].path,
			.readonly = vm->cfg.disk[n].readonly,
			.nqueues = vm->smp->n,
		};

		r = virtio_blk_create(vm->pci, slot++, &vm->gmem, vm->loop, &p);
	}
	if (!r && vm->cfg.net != VM_NET_NONE)
		r = create_net(vm, slot++);
	if (!r && vm->cfg.rng)
		r = virtio_rng_create(vm->pci, slot++, &vm->gmem);
	return r;
}

/* --- events from devices -----------------------------------------------------------------------
 */

static void event_power_off(void *opaque)
{
	vm_end_with(opaque, VM_END_POWER_OFF, 0);
}

static void event_reset(void *opaque)
{
	vm_request_reset(opaque);
}

static void event_debug_exit(void *opaque, uint32_t value)
{
	vm_end_with(opaque, VM_END_DEBUG_EXIT, value);
}

static void event_crashed(void *opaque)
{
	log_err("the guest's kernel panicked (pvpanic)");
	vm_end_with(opaque, VM_END_CRASHED, 0);
}

int machine_create(struct vm *vm)
{
	static int (*const steps[])(struct vm *) = {
		create_interrupts, create_rtc,	    create_pit,
		create_power,	   create_fw_cfg,   create_misc,
		create_serial,	   create_pci_host, create_pci_devices,
	};
	int r = 0;

	vm->events = (struct machine_events){
		.power_off = event_power_off,
		.reset = event_reset,
		.debug_exit = event_debug_exit,
		.crashed = event_crashed,
		.opaque = vm,
	};
	for (unsigned n = 0; !r && n < ARRAY_SIZE(steps); n++)
		r = steps[n](vm);
	if (!r && vm->cfg.test_device)
		r = create_testdev(vm);
	return r;
}

void machine_reset(struct vm *vm)
{
	for (unsigned n = 0; n < vm->ndevices; n++)
		if (vm->device[n]->ops->reset)
			vm->device[n]->ops->reset(vm->device[n]);
	pci_host_reset(vm->pci);
}

void machine_destroy(struct vm *vm)
{
	if (vm->pci)
		pci_host_destroy(vm->pci);
	while (vm->ndevices > 0) {
		struct device *dev = vm->device[--vm->ndevices];

		dev->ops->destroy(dev);
	}
	if (vm->chardev)
		chardev_destroy(vm->chardev);
	if (vm->ioapic)
		ioapic_destroy(vm->ioapic);
}
