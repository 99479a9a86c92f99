/* Basic types and helpers used everywhere. No state. */
#ifndef BASE_TYPES_H
#define BASE_TYPES_H

#include <errno.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>

typedef uint64_t gva_t;	 /* guest virtual (linear) address */
typedef uint64_t gpa_t;	 /* guest physical address */
typedef uint64_t gfn_t;	 /* guest frame number: gpa >> 12 */
typedef uintptr_t hva_t; /* host virtual address */

#define PAGE_SHIFT 12
#define PAGE_SIZE  4096UL
#define PAGE_MASK  (~(PAGE_SIZE - 1))

#define KIB(x) ((uint64_t)(x) << 10)
#define MIB(x) ((uint64_t)(x) << 20)
#define GIB(x) ((uint64_t)(x) << 30)

#define NSEC_PER_SEC 1000000000ULL

#define ARRAY_SIZE(a)	 (sizeof(a) / sizeof((a)[0]))
#define ALIGN_UP(x, a)	 (((x) + (a)-1) & ~((__typeof__(x))(a)-1))
#define ALIGN_DOWN(x, a) ((x) & ~((__typeof__(x))(a)-1))
#define MIN(a, b)	 ((a) < (b) ? (a) : (b))
#define MAX(a, b)	 ((a) > (b) ? (a) : (b))

#define container_of(ptr, type, member) ((type *)((char *)(ptr)-offsetof(type, member)))

#define likely(x)	       __builtin_expect(!!(x), 1)
#define unlikely(x)	       __builtin_expect(!!(x), 0)
#define force_inline	       inline __attribute__((always_inline))
#define never_inline	       __attribute__((noinline))
#define cold_path	       __attribute__((cold, noinline))
#define printf_like(fmt, args) __attribute__((format(printf, fmt, args)))

#endif
