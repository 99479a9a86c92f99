/*
 * A character stream between one guest device (the client: a UART, a virtio console) and the host:
 * standard input and output, a file, or a pseudo-terminal.
 *
 * Output is put in a buffer and written by the I/O thread, so a client never waits for the host.
 * Input is read by the I/O thread only while the client has room for it. The process must ignore
 * SIGPIPE.
 *
 * Locks: callbacks run on the I/O thread without any lock of the chardev, so a client may call
 * every function here both from its callbacks and while it holds its own lock.
 */
#ifndef DEV_CHARDEV_H
#define DEV_CHARDEV_H

#include "src/base/evloop.h"
#include "src/base/types.h"

struct chardev;

/* Callbacks of the client; all on the I/O thread. */
struct chardev_client {
	/* How many bytes input() would take now. 0: ask again after chardev_input_ready(). */
	size_t (*room)(void *opaque);
	/* len is not more than what room() just returned. */
	void (*input)(void *opaque, const uint8_t *data, size_t len);
	/* A chardev_write() had taken less than it was given; now there is room. May be NULL. */
	void (*output_ready)(void *opaque);
};

/*
 * Each returns 0, or -errno after one log line. The I/O thread need not run yet.
 * chardev_open_stdio() leaves the terminal's mode alone. chardev_open_file() truncates or creates
 * the file; it gives no input. chardev_open_pty() makes a pseudo-terminal in raw mode, whose name
 * chardev_name() tells.
 */
int chardev_open_stdio(struct chardev **cd, struct evloop *loop);
int chardev_open_file(struct chardev **cd, struct evloop *loop, const char *path);
int chardev_open_pty(struct chardev **cd, struct evloop *loop);
/* Takes both descriptors (either may be -1), also when it fails. */
int chardev_open_fds(struct chardev **cd, struct evloop *loop, int in_fd, int out_fd);

/* What the user would look for: "stdio", the path, or the slave's name (/dev/pts/N). */
const char *chardev_name(const struct chardev *cd);

/* Once, before the I/O thread starts. Without a client input is not read. */
void chardev_attach(struct chardev *cd, const struct chardev_client *client, void *opaque);

/*
 * An escape filter on the input, before the client sees it (Ctrl-A of a terminal). It may change
 * the n bytes in place and returns how many are left. On the I/O thread. Before that thread starts.
 */
typedef size_t (*chardev_filter_fn)(void *opaque, uint8_t *data, size_t n);
void chardev_set_filter(struct chardev *cd, chardev_filter_fn filter, void *opaque);

/*
 * Any thread; never blocks. Returns how many bytes were taken; if fewer than len, the client's
 * output_ready() follows. A pseudo-terminal takes everything and forgets the oldest output that
 * nobody has read; so does a stream whose reader has gone.
 */
size_t chardev_write(struct chardev *cd, const void *data, size_t len);

/* Any thread: room() became positive after it had been 0. */
void chardev_input_ready(struct chardev *cd);

/*
 * Waits up to a second for buffered output to be written. After the I/O thread has stopped, e.g.
 * from chardev_destroy(), which does the same.
 */
void chardev_flush(struct chardev *cd);
void chardev_destroy(struct chardev *cd);

#endif
