/*
 * A file to be loaded into a guest. Every function logs its own failure, with the file's name.
 */
#ifndef BOOT_IMAGE_H
#define BOOT_IMAGE_H

#include "mmu/gmem.h"
#include "src/base/types.h"

struct image {
	const char *path; /* the caller's */
	uint64_t size;
	int fd;
};

/* what: "kernel" or "initrd", for the log line. Only regular files. 0 or -errno. */
int image_open(struct image *img, const char *what, const char *path);
void image_close(struct image *img);

/* Reads exactly len bytes at off. -ENOEXEC if the file ends before that ("truncated"). */
int image_read(const struct image *img, uint64_t off, void *buf, uint64_t len);
/* The same into guest memory. -ENOMEM if the range is not RAM. */
int image_load(const struct image *img, uint64_t off, uint64_t len, struct gmem *gm, gpa_t gpa);
/* Clears guest memory. -ENOMEM if the range is not RAM. */
int image_zero(const struct image *img, uint64_t len, struct gmem *gm, gpa_t gpa);

/*
 * Loads a whole file as high as it fits, page-aligned, in [floor, ceiling). With path NULL, size is
 * 0. -ENOMEM if it does not fit.
 */
int image_load_initrd(const char *path, struct gmem *gm, gpa_t floor, gpa_t ceiling, gpa_t *gpa,
		      uint64_t *size);

#endif
