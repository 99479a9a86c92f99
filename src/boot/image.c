#include "src/boot/image.h"

#include <fcntl.h>
#include <sys/stat.h>
#include <unistd.h>

#include "src/base/log.h"

/* Guest RAM is one slot per node, so a piece may straddle two: large pieces first, then pages. */
#define LARGE_PIECE MIB(2)

int image_open(struct image *img, const char *what, const char *path)
{
	struct stat st;
	int r = 0;

	img->path = path;
	img->fd = open(path, O_RDONLY | O_CLOEXEC);
	if (img->fd < 0 || fstat(img->fd, &st)) {
		r = -errno;
		log_err("cannot open %s '%s': %s", what, path, strerror(-r));
	} else if (!S_ISREG(st.st_mode)) {
		r = -ENOEXEC;
		log_err("%s '%s' is not a regular file", what, path);
	}
	if (r) {
		image_close(img);
		return r;
	}
	img->size = st.st_size;
	return 0;
}

void image_close(struct image *img)
{
	if (img->fd >= 0)
		close(img->fd);
	img->fd = -1;
}

int image_read(const struct image *img, uint64_t off, void *buf, uint64_t len)
{
	uint64_t done = 0;

	while (done < len) {
		ssize_t n = pread(img->fd, (char *)buf + done, len - done, off + done);

		if (n < 0 && errno == EINTR)
			continue;
		if (n < 0) {
			int r = -errno;

			log_err("cannot read '%s': %s", img->path, strerror(-r));
			return r;
		}
		if (n == 0) {
			log_err("'%s' is truncated", img->path);
			return -ENOEXEC;
		}
		done += n;
	}
	return 0;
}

/* The next piece of [gpa, gpa + len) that lies in one slot; *piece is its size. */
static void *next_piece(struct gmem *gm, gpa_t gpa, uint64_t len, uint64_t *piece)
{
	void *p;

	*piece = MIN(len, LARGE_PIECE);
	p = gmem_ptr(gm, gpa, *piece, true);
	if (p)
		return p;
	*piece = MIN(len, PAGE_SIZE - (gpa & (PAGE_SIZE - 1)));
	return gmem_ptr(gm, gpa, *piece, true);
}

/* off: where the data comes from in the file, or -1 to clear. */
static int fill(const struct image *img, int64_t off, uint64_t len, struct gmem *gm, gpa_t gpa)
{
	uint64_t done = 0, piece;
	int r;

	for (; done < len; done += piece) {
		void *p = next_piece(gm, gpa + done, len - done, &piece);

		if (!p) {
			log_err("'%s': %#llx bytes at %#llx do not lie in guest memory", img->path,
				(unsigned long long)len, (unsigned long long)gpa);
			return -ENOMEM;
		}
		if (off < 0) {
			memset(p, 0, piece);
		} else {
			r = image_read(img, off + done, p, piece);
			if (r)
				return r;
		}
		gmem_wrote(gm, gpa + done, piece);
	}
	return 0;
}

int image_load(const struct image *img, uint64_t off, uint64_t len, struct gmem *gm, gpa_t gpa)
{
	if (off > img->size || len > img->size - off) {
		log_err("'%s' is truncated", img->path);
		return -ENOEXEC;
	}
	return fill(img, off, len, gm, gpa);
}

int image_zero(const struct image *img, uint64_t len, struct gmem *gm, gpa_t gpa)
{
	return fill(img, -1, len, gm, gpa);
}

int image_load_initrd(const char *path, struct gmem *gm, gpa_t floor, gpa_t ceiling, gpa_t *gpa,
		      uint64_t *size)
{
	struct image img;
	int r;

	*gpa = 0;
	*size = 0;
	if (!path)
		return 0;
	r = image_open(&img, "initrd", path);
	if (r)
		return r;
	if (ceiling < floor || img.size > ceiling - floor ||
	    ALIGN_DOWN(ceiling - img.size, PAGE_SIZE) < floor) {
		log_err("initrd '%s' (%llu KiB) does not fit into the guest's memory below 4 GiB",
			path, (unsigned long long)(img.size >> 10));
		r = -ENOMEM;
	} else {
		*gpa = ALIGN_DOWN(ceiling - img.size, PAGE_SIZE);
		*size = img.size;
		r = image_load(&img, 0, img.size, gm, *gpa);
	}
	image_close(&img);
	return r;
}
