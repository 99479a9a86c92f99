/*
 * KVM's paravirtual clock (Linux Documentation/virt/kvm/x86/msr.rst). The virtual TSC counts
 * nanoseconds of guest time, so the clock is the TSC itself: multiplier and shift are the identity.
 */
#include "smp/smp.h"
#include "src/base/atomic.h"

#define MSR_WALL_CLOCK	    0x11
#define MSR_SYSTEM_TIME	    0x12
#define MSR_WALL_CLOCK_NEW  0x4b564d00
#define MSR_SYSTEM_TIME_NEW 0x4b564d01

#define CLOCK_TSC_STABLE 1

struct wall_clock {
	uint32_t version;
	uint32_t sec;
	uint32_t nsec;
};

struct time_info {
	uint32_t version;
	uint32_t pad0;
	uint64_t tsc_timestamp;
	uint64_t system_time;
	uint32_t tsc_to_system_mul;
	int8_t tsc_shift;
	uint8_t flags;
	uint8_t pad[2];
};

_Static_assert(sizeof(struct time_info) == 32, "ABI");

/* The date at which guest time was zero; system time is added by the guest. */
static void write_wall_clock(struct vcpu *v, gpa_t gpa)
{
	uint64_t t = v->smp->clk->epoch_ns;
	struct wall_clock wc = {.version = 2, .sec = t / NSEC_PER_SEC, .nsec = t % NSEC_PER_SEC};

	gmem_write(v->smp->gmem, gpa, &wc, sizeof(wc));
}

/*
 * Other VCPUs may be reading: the version is odd while the rest changes. A TSC that was moved does
 * not agree with those of the others any more, so the guest may not take one for another.
 */
static void write_time_info(struct vcpu *v)
{
	struct gmem *gm = v->smp->gmem;
	struct time_info ti = {
		.version = v->kvmclock_version + 1,
		.tsc_timestamp = v->tsc_offset,
		.tsc_to_system_mul = 1u << 31,
		.tsc_shift = 1,
		.flags = v->tsc_offset ? 0 : CLOCK_TSC_STABLE,
	};

	gmem_write(gm, v->kvmclock_gpa, &ti.version, sizeof(ti.version));
	/* Both fences pair with the guest's between its looks at the version. */
	atomic_fence_seq();
	gmem_write(gm, v->kvmclock_gpa, &ti, sizeof(ti));
	atomic_fence_seq();
	ti.version = v->kvmclock_version += 2;
	gmem_write(gm, v->kvmclock_gpa, &ti.version, sizeof(ti.version));
}

void pv_tsc_moved(struct vcpu *v)
{
	if (v->kvmclock_gpa)
		write_time_info(v);
}

int pv_write_msr(struct vcpu *v, uint32_t msr, uint64_t value)
{
	switch (msr) {
	case MSR_WALL_CLOCK:
	case MSR_WALL_CLOCK_NEW: write_wall_clock(v, value & ~3ull); return 0;
	case MSR_SYSTEM_TIME:
	case MSR_SYSTEM_TIME_NEW:
		v->kvmclock_gpa = value & 1 ? value & ~1ull : 0;
		if (v->kvmclock_gpa)
			write_time_info(v);
		return 0;
	default: return -EINVAL;
	}
}

int pv_read_msr(struct vcpu *v, uint32_t msr, uint64_t *value)
{
	switch (msr) {
	case MSR_WALL_CLOCK:
	case MSR_WALL_CLOCK_NEW: *value = 0; return 0;
	case MSR_SYSTEM_TIME:
	case MSR_SYSTEM_TIME_NEW: *value = v->kvmclock_gpa | (v->kvmclock_gpa ? 1 : 0); return 0;
	default: return -EINVAL;
	}
}
