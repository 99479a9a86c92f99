#include "src/cli/escape.h"

#define CTRL_A 0x01
#define CTRL_C 0x03

/* The key after Ctrl-A. True if the guest gets it. */
static bool second_key(uint8_t key, unsigned *asked)
{
	if (key == 'x' || key == 'X')
		*asked |= ESCAPE_LEAVE;
	else if (key == 'h' || key == 'H' || key == '?')
		*asked |= ESCAPE_HELP;
	return key == CTRL_A;
}

static void note_interrupt(struct escape *e, uint64_t now_ns, uint8_t key, unsigned *asked)
{
	bool twice = e->interrupted && now_ns - e->interrupt_ns <= ESCAPE_TWICE_NS;

	if (key == CTRL_C && twice)
		*asked |= ESCAPE_POWER_OFF;
	e->interrupted = key == CTRL_C && !twice;
	e->interrupt_ns = now_ns;
}

size_t escape_filter(struct escape *e, uint64_t now_ns, uint8_t *data, size_t n, unsigned *asked)
{
	size_t out = 0;

	for (size_t i = 0; i < n; i++) {
		uint8_t key = data[i];
		bool keep = key != CTRL_A;

		if (e->prefixed)
			keep = second_key(key, asked);
		e->prefixed = !e->prefixed && key == CTRL_A;
		if (!keep) {
			e->interrupted = false;
			continue;
		}
		note_interrupt(e, now_ns, key, asked);
		data[out++] = key;
	}
	return out;
}
