/* Block I/O by threads that make the plain system calls. */
#include <fcntl.h>
#include <pthread.h>
#include <signal.h>
#include <stdlib.h>
#include <sys/eventfd.h>
#include <unistd.h>

#include "src/dev/blk_io.h"

struct op_list {
	struct blk_op *first, **end;
};

/* lock protects the lists and stop; it is inside the queue's lock. */
struct thread_io {
	struct blk_io io;
	pthread_mutex_t lock;
	pthread_cond_t wake;
	struct op_list todo, done;
	bool stop;
	unsigned nthreads;
	pthread_t thread[];
};

static struct thread_io *from_io(struct blk_io *io)
{
	return container_of(io, struct thread_io, io);
}

static void list_put(struct op_list *l, struct blk_op *op)
{
	op->next = NULL;
	*l->end = op;
	l->end = &op->next;
}

static struct blk_op *list_get(struct op_list *l)
{
	struct blk_op *op = l->first;

	if (op) {
		l->first = op->next;
		if (!l->first)
			l->end = &l->first;
	}
	return op;
}

static int64_t perform(int fd, const struct blk_op *op)
{
	int64_t r = -1;

	switch (op->kind) {
	case BLK_READ: r = preadv(fd, op->iov, op->niov, op->offset); break;
	case BLK_WRITE: r = pwritev(fd, op->iov, op->niov, op->offset); break;
	case BLK_WRITE_DSYNC: r = pwritev2(fd, op->iov, op->niov, op->offset, RWF_DSYNC); break;
	case BLK_FLUSH: r = fdatasync(fd); break;
	case BLK_PUNCH:
	case BLK_ZERO:
		r = fallocate(fd, blk_io_fallocate_mode(op->kind), op->offset, op->len);
		break;
	}
	return r < 0 ? -errno : r;
}

static void *worker(void *arg)
{
	struct thread_io *t = arg;
	struct blk_op *op;

	pthread_mutex_lock(&t->lock);
	while (!t->stop) {
		op = list_get(&t->todo);
		if (!op) {
			pthread_cond_wait(&t->wake, &t->lock);
			continue;
		}
		pthread_mutex_unlock(&t->lock);
		op->result = perform(t->io.fd, op);
		pthread_mutex_lock(&t->lock);
		list_put(&t->done, op);
		eventfd_write(t->io.event_fd, 1);
	}
	pthread_mutex_unlock(&t->lock);
	return NULL;
}

static void threads_submit(struct blk_io *io, struct blk_op *op)
{
	struct thread_io *t = from_io(io);

	pthread_mutex_lock(&t->lock);
	list_put(&t->todo, op);
	pthread_cond_signal(&t->wake);
	pthread_mutex_unlock(&t->lock);
}

static void threads_kick(struct blk_io *io)
{
}

static struct blk_op *threads_reap(struct blk_io *io)
{
	struct thread_io *t = from_io(io);
	struct blk_op *op;

	pthread_mutex_lock(&t->lock);
	op = list_get(&t->done);
	pthread_mutex_unlock(&t->lock);
	return op;
}

static void threads_destroy(struct blk_io *io)
{
	struct thread_io *t = from_io(io);

	pthread_mutex_lock(&t->lock);
	t->stop = true;
	pthread_cond_broadcast(&t->wake);
	pthread_mutex_unlock(&t->lock);
	for (unsigned i = 0; i < t->nthreads; i++)
		pthread_join(t->thread[i], NULL);
	pthread_cond_destroy(&t->wake);
	pthread_mutex_destroy(&t->lock);
	free(t);
}

static const struct blk_io_ops threads_ops = {
	.submit = threads_submit,
	.kick = threads_kick,
	.reap = threads_reap,
	.destroy = threads_destroy,
};

/* Signals are for the monitor's other threads. */
static int start_worker(struct thread_io *t)
{
	sigset_t all, old;
	int r;

	sigfillset(&all);
	pthread_sigmask(SIG_SETMASK, &all, &old);
	r = pthread_create(&t->thread[t->nthreads], NULL, worker, t);
	pthread_sigmask(SIG_SETMASK, &old, NULL);
	if (!r)
		t->nthreads++;
	return -r;
}

int blk_io_create_threads(struct blk_io **io, int fd, int event_fd, unsigned nthreads)
{
	struct thread_io *t = calloc(1, sizeof(*t) + nthreads * sizeof(t->thread[0]));
	int r;

	if (!t)
		return -ENOMEM;
	t->io = (struct blk_io){.ops = &threads_ops, .fd = fd, .event_fd = event_fd};
	pthread_mutex_init(&t->lock, NULL);
	pthread_cond_init(&t->wake, NULL);
	t->todo.end = &t->todo.first;
	t->done.end = &t->done.first;
	for (unsigned i = 0; i < nthreads; i++) {
		r = start_worker(t);
		if (r) {
			threads_destroy(&t->io);
			return r;
		}
	}
	*io = &t->io;
	return 0;
}
