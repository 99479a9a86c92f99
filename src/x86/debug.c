#include "src/x86/debug.h"

static bool enabled(const struct cpu *cpu, unsigned n)
{
	return cpu->dr7 >> (2 * n) & 3;
}

static bool is_data(unsigned type)
{
	return type == 1 || type == 3;
}

static gva_t start(const struct cpu *cpu, unsigned n)
{
	return cpu->dr[n] & ~(uint64_t)(debug_len(cpu, n) - 1);
}

bool debug_page_watched_slow(const struct cpu *cpu, gva_t gva)
{
	for (unsigned n = 0; n < 4; n++)
		if (enabled(cpu, n) && is_data(debug_type(cpu, n)) &&
		    ((start(cpu, n) ^ gva) & PAGE_MASK) == 0)
			return true;
	return false;
}

void debug_data_access_slow(struct cpu *cpu, gva_t gva, unsigned len, bool write)
{
	for (unsigned n = 0; n < 4; n++) {
		unsigned type = debug_type(cpu, n);
		gva_t s = start(cpu, n);

		if (!enabled(cpu, n) || !is_data(type) || (type == 1 && !write))
			continue;
		if (gva < s + debug_len(cpu, n) && s < gva + len) {
			cpu->dr6_pending |= 1u << n;
			cpu->event |= CPU_EVENT_DATA_BP;
		}
	}
}

uint32_t debug_code_match(const struct cpu *cpu, gva_t rip)
{
	uint32_t bits = 0;

	for (unsigned n = 0; n < 4; n++)
		if (enabled(cpu, n) && debug_type(cpu, n) == 0 && cpu->dr[n] == rip)
			bits |= 1u << n;
	return bits;
}
