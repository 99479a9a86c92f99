/* Scattered buffers. Sizes are bytes. */
#ifndef DEV_IOV_H
#define DEV_IOV_H

#include <sys/uio.h>

#include "src/base/types.h"

/* Copy from or to byte off of the buffer; the number of bytes that were there is returned. */
size_t iov_to_buf(const struct iovec *iov, unsigned n, size_t off, void *buf, size_t len);
size_t iov_from_buf(const struct iovec *iov, unsigned n, size_t off, const void *buf, size_t len);
/* Drops len bytes from the front, in place; *iov and *n move on. */
void iov_drop_front(struct iovec **iov, unsigned *n, size_t len);
/* Drops len bytes from the end, in place. */
void iov_drop_back(struct iovec *iov, unsigned *n, size_t len);

#endif
