/*
 * fuzz_bt: draws inputs and runs them.
 *   --seed N    of the first input (default 1); input k has seed N + k
 *   --count N   how many (default 3000)
 *   --file F    runs the input in a file instead, as libFuzzer leaves it
 *   --save F    writes the first input to a file
 *   --unchecked without the lockstep checker: longer units, joined to each other
 * Exit status: 0 nothing found, 1 compiled code and the interpreter differ, 2 usage. A crash or an
 * endless run ends it by a signal.
 */
#include <getopt.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <unistd.h>

#include <Zydis/Zydis.h>

#include "tests/diff/gen.h"
#include "tests/fuzz/fuzz_bt.h"

/* Seconds that one input may take. */
#define TIME_LIMIT 60

struct options {
	uint64_t seed, count;
	const char *file, *save;
	bool unchecked;
};

static uint64_t current;

static void on_alarm(int sig)
{
	char line[64];
	int n = snprintf(line, sizeof(line), "endless at --seed %lu\n", current);

	if (write(STDERR_FILENO, line, n) == n)
		signal(SIGALRM, SIG_DFL);
	abort();
}

/* Short jumps and calls, so that there are blocks to be joined. */
static size_t draw_branch(struct rng *r, uint8_t *p)
{
	switch (rng_below(r, 4)) {
	case 0: p[0] = 0x70 | rng_below(r, 16), p[1] = rng_next(r); return 2;
	case 1: p[0] = 0xeb, p[1] = rng_below(r, 64); return 2;
	case 2: p[0] = 0xc3; return 1;
	default: {
		int32_t by = (int)rng_below(r, 1024) - 512;

		p[0] = 0xe8;
		memcpy(p + 1, &by, 4);
		return 5;
	}
	}
}

static size_t draw_insn(struct rng *r, const ZydisDecoder *d, uint8_t bytes[15])
{
	ZydisDecodedInstruction zi;
	uint32_t rip_dest;

	for (;;) {
		gen_bytes(r, false, bytes, &rip_dest);
		if (ZYAN_SUCCESS(ZydisDecoderDecodeInstruction(d, NULL, bytes, 15, &zi)))
			return zi.length;
	}
}

/* Of the system instructions those that compiled code does in place. */
static unsigned draw_system(struct rng *r, uint8_t *p)
{
	static const struct {
		uint8_t n, bytes[3];
	} insn[] = {
		{2, {0x0f, 0x05}},	 /* syscall */
		{3, {0x48, 0x0f, 0x07}}, /* sysretq */
		{1, {0xfa}},		 /* cli */
		{1, {0xfb}},		 /* sti */
		{3, {0x0f, 0x01, 0xca}}, /* clac */
		{3, {0x0f, 0x01, 0xcb}}, /* stac */
		{2, {0x0f, 0x31}},	 /* rdtsc */
		{3, {0x0f, 0x01, 0xf9}}, /* rdtscp */
		{3, {0x0f, 0x01, 0xf8}}, /* swapgs */
		{1, {0x9c}},		 /* pushfq */
		{3, {0x0f, 0x20, 0xd0}}, /* mov rax, cr2 */
	};
	unsigned k = rng_below(r, ARRAY_SIZE(insn));

	memcpy(p, insn[k].bytes, insn[k].n);
	return insn[k].n;
}

static size_t draw(uint64_t seed, uint8_t *data)
{
	struct rng r = {rng_next(&(struct rng){seed})};
	size_t want = FUZZ_HEADER + 64 + rng_below(&r, FUZZ_CODE - 64), n = FUZZ_HEADER;
	uint64_t state = rng_next(&r);
	ZydisDecoder d;

	ZydisDecoderInit(&d, ZYDIS_MACHINE_MODE_LONG_64, ZYDIS_STACK_WIDTH_64);
	memcpy(data, &state, FUZZ_HEADER);
	while (n < want) {
		unsigned kind = rng_below(&r, 100);

		if (kind < 6) {
			n += draw_system(&r, data + n);
		} else if (kind < 75) {
			n += draw_insn(&r, &d, data + n);
		} else if (kind < 97) {
			n += draw_branch(&r, data + n);
		} else {
			data[n++] = rng_next(&r);
		}
	}
	return MIN(n, FUZZ_HEADER + FUZZ_CODE);
}

static int load(const char *path, uint8_t *data, size_t size)
{
	FILE *f = fopen(path, "rb");
	int n;

	if (!f)
		return -errno;
	n = fread(data, 1, size, f);
	fclose(f);
	return n;
}

static int save(const char *path, const uint8_t *data, size_t size)
{
	FILE *f = fopen(path, "wb");
	size_t n;

	if (!f)
		return -errno;
	n = fwrite(data, 1, size, f);
	return fclose(f) || n != size ? -EIO : 0;
}

static int parse(struct options *o, int argc, char **argv)
{
	static const struct option opts[] = {
		{"seed", required_argument, NULL, 's'}, {"count", required_argument, NULL, 'c'},
		{"file", required_argument, NULL, 'f'}, {"save", required_argument, NULL, 'w'},
		{"unchecked", no_argument, NULL, 'u'},	{0},
	};
	int c;

	while ((c = getopt_long(argc, argv, "", opts, NULL)) != -1) {
		switch (c) {
		case 's': o->seed = strtoull(optarg, NULL, 0); break;
		case 'c': o->count = strtoull(optarg, NULL, 0); break;
		case 'f': o->file = optarg; break;
		case 'w': o->save = optarg; break;
		case 'u': o->unchecked = true; break;
		default: return -EINVAL;
		}
	}
	return optind == argc ? 0 : -EINVAL;
}

static int run_all(const struct options *o)
{
	static uint8_t data[FUZZ_HEADER + FUZZ_CODE + 16];

	for (uint64_t n = 0; n < o->count; n++) {
		size_t size = draw(o->seed + n, data);

		current = o->seed + n;
		if (!n && o->save && save(o->save, data, size))
			return 2;
		alarm(TIME_LIMIT);
		if (!fuzz_case(data, size)) {
			printf("difference at --seed %lu --count 1\n", current);
			return 1;
		}
	}
	return 0;
}

int main(int argc, char **argv)
{
	struct options o = {.seed = 1, .count = 3000};
	static uint8_t data[FUZZ_HEADER + FUZZ_CODE];
	const struct stats *st = fuzz_stats();
	int r;

	if (parse(&o, argc, argv)) {
		fprintf(stderr, "usage: fuzz_bt [--seed N] [--count N] [--file F] [--save F] "
				"[--unchecked]\n");
		return 2;
	}
	r = fuzz_init(o.unchecked ? 0 : 1);
	if (r) {
		fprintf(stderr, "fuzz_bt: %s\n", strerror(-r));
		return 2;
	}
	signal(SIGALRM, on_alarm);
	if (o.file) {
		r = load(o.file, data, sizeof(data));
		if (r < 0) {
			fprintf(stderr, "fuzz_bt: %s: %s\n", o.file, strerror(-r));
			return 2;
		}
		return fuzz_case(data, r) ? 0 : 1;
	}
	r = run_all(&o);
	printf("%lu inputs, %lu instructions, %lu blocks translated, %lu compared, %lu not\n",
	       o.count, st->instructions, st->blocks_compiled, st->blocks_checked,
	       st->blocks_unchecked);
	/* A translator that translates nothing would pass. */
	return r ? r : st->blocks_compiled < o.count;
}
