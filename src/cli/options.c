#include "src/cli/options.h"

#include <stdarg.h>
#include <stdlib.h>

#include "src/cli/values.h"

#define DEFAULT_MEMORY MIB(512)

int options_fail(struct options *o, const char *fmt, ...)
{
	va_list ap;

	va_start(ap, fmt);
	vsnprintf(o->error, sizeof(o->error), fmt, ap);
	va_end(ap);
	return -EINVAL;
}

static int value_kernel(struct options *o, char *value)
{
	o->vm.kernel = value;
	return 0;
}

static int value_initrd(struct options *o, char *value)
{
	o->vm.initrd = value;
	return 0;
}

static int value_append(struct options *o, char *value)
{
	o->vm.append = value;
	return 0;
}

static int value_stats(struct options *o, char *value)
{
	o->stats = value;
	return 0;
}

static int value_bt_log(struct options *o, char *value)
{
	o->bt_log = value;
	return 0;
}

static int set_perf_map(struct options *o, char *value)
{
	o->perf_map = true;
	return 0;
}

static int set_exact_flags(struct options *o, char *value)
{
	o->vm.exact_flags = true;
	return 0;
}

static int set_gdb_jit(struct options *o, char *value)
{
	o->vm.gdb_jit = true;
	return 0;
}

static int set_rng(struct options *o, char *value)
{
	o->vm.rng = true;
	return 0;
}

static int set_overcommit(struct options *o, char *value)
{
	o->vm.overcommit = true;
	return 0;
}

static int set_test_device(struct options *o, char *value)
{
	o->vm.test_device = true;
	return 0;
}

struct flag {
	const char *name;
	int (*parse)(struct options *o, char *value); /* value: NULL where has_value is false */
	bool has_value;
	bool may_be_empty;
	bool repeatable;
};

static const struct flag flags[] = {
	{"--kernel", value_kernel, .has_value = true},
	{"--initrd", value_initrd, .has_value = true},
	{"--append", value_append, .has_value = true, .may_be_empty = true},
	{"--cpus", value_cpus, .has_value = true},
	{"--memory", value_memory, .has_value = true},
	{"--overcommit", set_overcommit, .has_value = false},
	{"--disk", value_disk, .has_value = true, .repeatable = true},
	{"--net", value_net, .has_value = true},
	{"--rng", set_rng, .has_value = false},
	{"--engine", value_engine, .has_value = true},
	{"--check", value_check, .has_value = true},
	{"--exact-flags", set_exact_flags, .has_value = false},
	{"--serial", value_serial, .has_value = true},
	{"--stats", value_stats, .has_value = true},
	{"--bt-log", value_bt_log, .has_value = true},
	{"--perf-map", set_perf_map, .has_value = false},
	{"--gdb-jit", set_gdb_jit, .has_value = false},
	{"--test-device", set_test_device, .has_value = false},
};

_Static_assert(ARRAY_SIZE(flags) <= 32, "one bit each in the set of flags seen");

/* The flag that arg names, up to an equals sign; NULL if there is none. */
static const struct flag *find_flag(const char *arg)
{
	size_t n = strcspn(arg, "=");

	for (size_t i = 0; i < ARRAY_SIZE(flags); i++) {
		if (strlen(flags[i].name) == n && !strncmp(flags[i].name, arg, n))
			return &flags[i];
	}
	return NULL;
}

static char *copy_text(struct options *o, const char *s)
{
	char *copy = o->text + o->used;

	strcpy(copy, s);
	o->used += strlen(s) + 1;
	return copy;
}

static int parse_flag(struct options *o, const struct flag *f, const char *value)
{
	if (!f->has_value)
		return value ? options_fail(o, "%s takes no value", f->name) : f->parse(o, NULL);
	/* A flag in the place of a value is a value that was forgotten; a value that really starts
	 * so can be joined to its flag by an equals sign. */
	if (!value || (!*value && !f->may_be_empty))
		return options_fail(o, "%s needs a value; see numavisor --help", f->name);
	return f->parse(o, copy_text(o, value));
}

/* What some flags ask for is there only for code that is compiled, or for one CPU. */
static int check_together(struct options *o)
{
	bool compiles = strncmp(o->vm.engine, "interp", 6);

	if (o->vm.check_every && o->vm.sockets * o->vm.cores * o->vm.threads != 1)
		return options_fail(o, "--check needs a guest with one CPU");
	if (o->vm.check_every && !compiles)
		return options_fail(o, "--check needs --engine bt");
	if (o->vm.gdb_jit && !compiles)
		return options_fail(o, "--gdb-jit needs --engine bt");
	if (o->vm.exact_flags && !compiles)
		return options_fail(o, "--exact-flags needs --engine bt");
	return 0;
}

static int parse_run(struct options *o, int argc, char *const argv[])
{
	uint32_t seen = 0;
	int r;

	for (int i = 0; i < argc; i++) {
		const struct flag *f = find_flag(argv[i]);
		const char *value = strchr(argv[i], '=');
		uint32_t bit;

		if (!strcmp(argv[i], "--help") || !strcmp(argv[i], "-h")) {
			o->command = CLI_HELP;
			return 0;
		}
		if (!f)
			return options_fail(o, "unknown %s '%s'; see numavisor --help",
					    argv[i][0] == '-' ? "flag" : "argument", argv[i]);
		bit = 1U << (f - flags);
		if ((seen & bit) && !f->repeatable)
			return options_fail(o, "%s is given twice", f->name);
		seen |= bit;
		if (value)
			value++;
		else if (f->has_value && i + 1 < argc && strncmp(argv[i + 1], "--", 2))
			value = argv[++i];
		r = parse_flag(o, f, value);
		if (r)
			return r;
	}
	if (!o->vm.kernel)
		return options_fail(o, "--kernel FILE is missing; see numavisor --help");
	return check_together(o);
}

static void set_defaults(struct options *o)
{
	memset(o, 0, sizeof(*o));
	o->vm.sockets = o->vm.cores = o->vm.threads = 1;
	o->vm.memory = DEFAULT_MEMORY;
	o->vm.engine = "auto";
	o->vm.serial = VM_SERIAL_STDIO;
}

static int parse_command(struct options *o, int argc, char *const argv[])
{
	const char *name = argc > 1 ? argv[1] : NULL;

	if (!name)
		return options_fail(o, "a command is missing: run or topology; see --help");
	if (!strcmp(name, "run"))
		return parse_run(o, argc - 2, argv + 2);
	if (!strcmp(name, "--help") || !strcmp(name, "-h") || !strcmp(name, "help"))
		o->command = CLI_HELP;
	else if (!strcmp(name, "--version") || !strcmp(name, "-V"))
		o->command = CLI_VERSION;
	else if (strcmp(name, "topology"))
		return options_fail(o, "unknown command '%s'; use run or topology, see --help",
				    name);
	else if (argc > 2 && !strcmp(argv[2], "--help"))
		o->command = CLI_HELP;
	else if (argc > 2)
		return options_fail(o, "topology takes no argument '%s'", argv[2]);
	else
		o->command = CLI_TOPOLOGY;
	return 0;
}

int options_parse(struct options *o, int argc, char *const argv[])
{
	size_t len = 1;

	set_defaults(o);
	for (int i = 1; i < argc; i++)
		len += strlen(argv[i]) + 1;
	o->text = malloc(len);
	if (!o->text)
		return -ENOMEM;
	return parse_command(o, argc, argv);
}

void options_free(struct options *o)
{
	free(o->text);
	o->text = NULL;
}
