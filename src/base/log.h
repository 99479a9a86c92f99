/*
 * Log lines go to standard error as "numavisor: LEVEL: text". Any thread may call.
 * One line where a failure begins; callers further up pass -errno and stay silent.
 */
#ifndef BASE_LOG_H
#define BASE_LOG_H

#include "src/base/types.h"

enum log_level { LOG_ERR, LOG_WARN, LOG_INFO, LOG_DEBUG };

void log_set_level(enum log_level level);
void log_print(enum log_level level, const char *fmt, ...) printf_like(2, 3);

#define log_err(...)   log_print(LOG_ERR, __VA_ARGS__)
#define log_warn(...)  log_print(LOG_WARN, __VA_ARGS__)
#define log_info(...)  log_print(LOG_INFO, __VA_ARGS__)
#define log_debug(...) log_print(LOG_DEBUG, __VA_ARGS__)

/* A broken invariant of the monitor's own: prints where and ends the process. */
_Noreturn void log_bug(const char *file, int line, const char *what);
#define BUG_ON(cond)                                        \
	do {                                                \
		if (unlikely(cond))                         \
			log_bug(__FILE__, __LINE__, #cond); \
	} while (0)

#endif
