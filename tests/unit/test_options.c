#include <stdarg.h>
#include <stddef.h>
#include <setjmp.h>
#include <stdint.h>
#include <cmocka.h>
#include <stdlib.h>

#include "src/cli/options.h"

#define MAX_ARGS 80

/* Parses words, which end in NULL, as "numavisor words...". */
static int parse(struct options *o, const char *const *words)
{
	char *argv[MAX_ARGS] = {"numavisor"};
	int argc = 1;

	for (; *words; words++)
		argv[argc++] = (char *)*words;
	return options_parse(o, argc, argv);
}

#define PARSE(o, ...) parse(o, (const char *const[]){__VA_ARGS__, NULL})
#define RUN(o, ...)   PARSE(o, "run", "--kernel", "bzImage", __VA_ARGS__)

/* The words after run --kernel are refused, with text somewhere in the reason. */
#define assert_refused(text, ...)                                       \
	do {                                                            \
		struct options o;                                       \
		assert_int_equal(RUN(&o, __VA_ARGS__), -EINVAL);        \
		if (!strstr(o.error, text))                             \
			fail_msg("'%s' is not in '%s'", text, o.error); \
		assert_null(strchr(o.error, '\n'));                     \
		options_free(&o);                                       \
	} while (0)

static void test_defaults(void **state)
{
	struct options o;

	assert_int_equal(PARSE(&o, "run", "--kernel", "bzImage"), 0);
	assert_int_equal(o.command, CLI_RUN);
	assert_string_equal(o.vm.kernel, "bzImage");
	assert_null(o.vm.initrd);
	assert_null(o.vm.append);
	assert_int_equal(o.vm.sockets * o.vm.cores * o.vm.threads, 1);
	assert_int_equal(o.vm.memory, MIB(512));
	assert_false(o.vm.overcommit || o.vm.rng || o.vm.test_device);
	assert_int_equal(o.vm.ndisks, 0);
	assert_int_equal(o.vm.net, VM_NET_NONE);
	assert_string_equal(o.vm.engine, "auto");
	assert_int_equal(o.vm.serial, VM_SERIAL_STDIO);
	assert_int_equal(o.vm.check_every, 0);
	assert_null(o.stats);
	options_free(&o);
}

static void test_everything(void **state)
{
	struct options o;

	assert_int_equal(RUN(&o, "--initrd", "rd", "--append", "a=b quiet", "--cpus",
			     "threads=2,sockets=2,cores=4", "--memory", "4G", "--overcommit",
			     "--disk", "path=a.img", "--disk", "readonly,path=b=c.img", "--net",
			     "user,hostfwd=tcp:127.0.0.1:5432-:5432,hostfwd=udp::53-10.0.2.15:53",
			     "--rng", "--engine", "interp", "--serial", "file:out", "--stats",
			     "s.json", "--test-device"),
			 0);
	assert_string_equal(o.vm.initrd, "rd");
	assert_string_equal(o.vm.append, "a=b quiet");
	assert_int_equal(o.vm.sockets, 2);
	assert_int_equal(o.vm.cores, 4);
	assert_int_equal(o.vm.threads, 2);
	assert_int_equal(o.vm.memory, GIB(4));
	assert_int_equal(o.vm.ndisks, 2);
	assert_string_equal(o.vm.disk[0].path, "a.img");
	assert_false(o.vm.disk[0].readonly);
	assert_string_equal(o.vm.disk[1].path, "b=c.img");
	assert_true(o.vm.disk[1].readonly);
	assert_int_equal(o.vm.net, VM_NET_USER);
	assert_int_equal(o.vm.nhostfwd, 2);
	assert_string_equal(o.vm.hostfwd[1], "udp::53-10.0.2.15:53");
	assert_string_equal(o.vm.engine, "interp");
	assert_int_equal(o.vm.serial, VM_SERIAL_FILE);
	assert_string_equal(o.vm.serial_path, "out");
	assert_string_equal(o.stats, "s.json");
	assert_true(o.vm.overcommit && o.vm.rng && o.vm.test_device);
	options_free(&o);
}

static void test_joined_values(void **state)
{
	struct options o;

	assert_int_equal(PARSE(&o, "run", "--kernel=k", "--append=--x=y", "--net=tap=t0"), 0);
	assert_string_equal(o.vm.kernel, "k");
	assert_string_equal(o.vm.append, "--x=y");
	assert_int_equal(o.vm.net, VM_NET_TAP);
	assert_string_equal(o.vm.tap, "t0");
	options_free(&o);
	assert_int_equal(RUN(&o, "--bt-log", "code", "--perf-map"), 0);
	assert_string_equal(o.bt_log, "code");
	assert_true(o.perf_map);
	assert_false(o.vm.gdb_jit);
	options_free(&o);
	assert_int_equal(RUN(&o, "--gdb-jit", "--engine", "bt:1"), 0);
	assert_true(o.vm.gdb_jit);
	assert_false(o.vm.exact_flags);
	options_free(&o);
	assert_int_equal(RUN(&o, "--exact-flags", "--engine", "bt"), 0);
	assert_true(o.vm.exact_flags);
	options_free(&o);
	assert_int_equal(RUN(&o, "--check", "interp"), 0);
	assert_int_equal(o.vm.check_every, 1);
	options_free(&o);
	assert_int_equal(RUN(&o, "--check=interp:17", "--engine=bt:2"), 0);
	assert_int_equal(o.vm.check_every, 17);
	options_free(&o);
	assert_int_equal(RUN(&o, "--append", ""), 0);
	assert_string_equal(o.vm.append, "");
	options_free(&o);
}

static void test_commands(void **state)
{
	struct options o;

	assert_int_equal(PARSE(&o, "topology"), 0);
	assert_int_equal(o.command, CLI_TOPOLOGY);
	options_free(&o);
	assert_int_equal(PARSE(&o, "--help"), 0);
	assert_int_equal(o.command, CLI_HELP);
	options_free(&o);
	assert_int_equal(PARSE(&o, "run", "--rng", "--help"), 0);
	assert_int_equal(o.command, CLI_HELP);
	options_free(&o);
	assert_int_equal(PARSE(&o, "--version"), 0);
	assert_int_equal(o.command, CLI_VERSION);
	options_free(&o);
	assert_int_equal(PARSE(&o, "launch"), -EINVAL);
	assert_non_null(strstr(o.error, "'launch'"));
	options_free(&o);
	assert_int_equal(PARSE(&o, "topology", "x"), -EINVAL);
	options_free(&o);
	assert_int_equal(parse(&o, (const char *const[]){NULL}), -EINVAL);
	options_free(&o);
	assert_int_equal(PARSE(&o, "run", "--rng"), -EINVAL);
	assert_non_null(strstr(o.error, "--kernel"));
	options_free(&o);
}

static void test_cpus(void **state)
{
	struct options o;

	assert_int_equal(RUN(&o, "--cpus", "1024"), 0);
	assert_int_equal(o.vm.sockets, 1);
	assert_int_equal(o.vm.cores, 1024);
	options_free(&o);
	assert_int_equal(RUN(&o, "--cpus", "sockets=4"), 0);
	assert_int_equal(o.vm.sockets, 4);
	assert_int_equal(o.vm.cores, 1);
	assert_int_equal(o.vm.threads, 1);
	options_free(&o);
	assert_refused("1 to 1024", "--cpus", "0");
	assert_refused("1 to 1024", "--cpus", "1025");
	assert_refused("1 to 1024", "--cpus", "sockets=32,cores=33");
	assert_refused("1 to 1024", "--cpus", "sockets=1024,cores=1024,threads=1024");
	assert_refused("cores=0", "--cpus", "cores=0");
	assert_refused("cores=x", "--cpus", "cores=x");
	assert_refused("twice", "--cpus", "cores=1,cores=2");
	assert_refused("'-1'", "--cpus", "-1");
	assert_refused("'4x'", "--cpus", "4x");
	assert_refused("''", "--cpus", "cores=2,");
	assert_refused("'99999999999999999999'", "--cpus", "99999999999999999999");
}

static void test_memory(void **state)
{
	static const struct {
		const char *text;
		uint64_t bytes;
	} good[] = {{"1M", MIB(1)},    {"2048k", MIB(2)},   {"3G", GIB(3)},
		    {"1T", GIB(1024)}, {"1048576", MIB(1)}, {"512m", MIB(512)}};
	static const char *const bad[] = {"G",
					  "4GB",
					  "-4G",
					  "4 G",
					  "1.5G",
					  "0x10M",
					  "4Q",
					  "99999999999999999999",
					  "99999999999T",
					  " 4G",
					  "four"};
	struct options o;

	for (size_t i = 0; i < ARRAY_SIZE(good); i++) {
		assert_int_equal(RUN(&o, "--memory", good[i].text), 0);
		assert_int_equal(o.vm.memory, good[i].bytes);
		options_free(&o);
	}
	for (size_t i = 0; i < ARRAY_SIZE(bad); i++)
		assert_refused("not a size", "--memory", bad[i]);
	assert_refused("multiple of 1M", "--memory", "0");
	assert_refused("multiple of 1M", "--memory", "0G");
	assert_refused("multiple of 1M", "--memory", "512");
}

static void test_disks(void **state)
{
	const char *words[3 + 2 * (VM_MAX_DISKS + 1) + 1] = {"run", "--kernel", "k"};
	struct options o;

	for (unsigned i = 0; i <= VM_MAX_DISKS; i++) {
		words[3 + 2 * i] = "--disk";
		words[4 + 2 * i] = "path=x";
	}
	assert_int_equal(parse(&o, words), -EINVAL);
	assert_non_null(strstr(o.error, "at most 16"));
	options_free(&o);
	words[3 + 2 * VM_MAX_DISKS] = NULL;
	assert_int_equal(parse(&o, words), 0);
	assert_int_equal(o.vm.ndisks, VM_MAX_DISKS);
	options_free(&o);
	assert_int_equal(RUN(&o, "--disk", "path=x,readonly=off"), 0);
	assert_false(o.vm.disk[0].readonly);
	options_free(&o);
	assert_refused("path=FILE is missing", "--disk", "readonly");
	assert_refused("path=FILE is missing", "--disk", "path=");
	assert_refused("'x.img'", "--disk", "x.img");
	assert_refused("twice", "--disk", "path=a,path=b");
	assert_refused("on or off", "--disk", "path=a,readonly=yes");
}

static void test_net(void **state)
{
	assert_refused("'usr'", "--net", "usr");
	assert_refused("'' is not an interface", "--net", "tap=");
	assert_refused("not an interface", "--net", "tap=sixteen-letters-");
	assert_refused("'fd=3'", "--net", "tap=a,fd=3");
	assert_refused("'mac=1'", "--net", "user,mac=1");
	assert_refused("hostfwd=tcp:1-2", "--net", "user,hostfwd=tcp:1-2");
	assert_refused("hostfwd=tcp::99999-:1", "--net", "user,hostfwd=tcp::99999-:1");
	assert_refused("twice", "--net", "user", "--net", "tap=a");
}

static void test_other_refusals(void **state)
{
	assert_refused("unknown flag '--kernal'", "--kernal", "x");
	assert_refused("unknown flag '--'", "--");
	assert_refused("unknown flag '-m'", "-m", "4G");
	assert_refused("unknown argument 'x'", "x");
	assert_refused("--memory needs a value", "--memory");
	assert_refused("--memory needs a value", "--memory", "--rng");
	assert_refused("--initrd needs a value", "--initrd", "");
	assert_refused("--rng takes no value", "--rng=on");
	assert_refused("--kernel is given twice", "--kernel", "b");
	assert_refused("--rng is given twice", "--rng", "--rng");
	assert_refused("--engine qemu", "--engine", "qemu");
	assert_refused("'bt' is not interp", "--check", "bt");
	assert_refused("--check interp:", "--check", "interp:");
	assert_refused("--check interp:0", "--check", "interp:0");
	assert_refused("--check interp:4294967296", "--check", "interp:4294967296");
	assert_refused("--check needs a guest with one CPU", "--check", "interp", "--cpus", "2");
	assert_refused("--check needs --engine bt", "--check", "interp", "--engine", "interp");
	assert_refused("--gdb-jit needs --engine bt", "--engine", "interp", "--gdb-jit");
	assert_refused("--exact-flags needs --engine bt", "--exact-flags", "--engine", "interp");
	assert_refused("--serial file:", "--serial", "file:");
	assert_refused("--serial tcp", "--serial", "tcp");
}

/* A path longer than the room for the reason is cut, not overrun. */
static void test_long_argument(void **state)
{
	char *text = malloc(5000);

	memset(text, 'x', 4999);
	text[4999] = 0;
	assert_refused("unknown argument", text);
	free(text);
}

/* One screen: at most 40 lines of at most 80 columns. */
static void test_usage(void **state)
{
	size_t size = 0, lines = 0;
	char *text = NULL, *line, *rest;
	FILE *f = open_memstream(&text, &size);

	options_usage(f);
	fclose(f);
	for (rest = text; (line = strsep(&rest, "\n")); lines++)
		assert_true(strlen(line) <= 80);
	assert_true(lines <= 40);
	free(text);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_defaults),       cmocka_unit_test(test_everything),
		cmocka_unit_test(test_joined_values),  cmocka_unit_test(test_commands),
		cmocka_unit_test(test_cpus),	       cmocka_unit_test(test_memory),
		cmocka_unit_test(test_disks),	       cmocka_unit_test(test_net),
		cmocka_unit_test(test_other_refusals), cmocka_unit_test(test_long_argument),
		cmocka_unit_test(test_usage),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
