#include "src/base/log.h"

#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <unistd.h>

#include "src/base/atomic.h"

static enum log_level max_level = LOG_WARN;

void log_set_level(enum log_level level)
{
	atomic_store_relaxed(&max_level, level);
}

void log_print(enum log_level level, const char *fmt, ...)
{
	static const char *const names[] = {"error", "warning", "info", "debug"};
	char line[6144]; /* a register dump is one message */
	va_list ap;
	int n, m;

	if (level > atomic_load_relaxed(&max_level))
		return;
	n = snprintf(line, sizeof(line), "numavisor: %s: ", names[level]);
	va_start(ap, fmt);
	m = vsnprintf(line + n, sizeof(line) - n - 1, fmt, ap);
	va_end(ap);
	n = MIN(n + MAX(m, 0), (int)sizeof(line) - 2);
	line[n++] = '\n';
	/* One write, so that lines of several threads do not mix. */
	if (write(STDERR_FILENO, line, n) < 0)
		return;
}

_Noreturn void log_bug(const char *file, int line, const char *what)
{
	log_err("internal error at %s:%d: %s", file, line, what);
	abort();
}
