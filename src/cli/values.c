#include "src/cli/values.h"

#include <net/if.h>
#include <stdlib.h>

#include "src/dev/net_backend.h"
#include "src/engine/engine.h"

/* Digits only: strtoul() would let signs, blanks and an empty string pass. False if too large. */
static bool parse_number(const char *s, const char *end, uint64_t *out)
{
	uint64_t v = 0;

	if (s == end)
		return false;
	for (; s < end; s++) {
		if (*s < '0' || *s > '9')
			return false;
		if (__builtin_mul_overflow(v, 10, &v) || __builtin_add_overflow(v, *s - '0', &v))
			return false;
	}
	*out = v;
	return true;
}

/* "key=value" -> value, or NULL if item has another key. */
static char *after_key(char *item, const char *key)
{
	size_t n = strlen(key);

	return !strncmp(item, key, n) && item[n] == '=' ? item + n + 1 : NULL;
}

static int too_many_cpus(struct options *o, const char *value)
{
	return options_fail(o, "--cpus %s: a guest can have 1 to %d CPUs", value, CLI_MAX_CPUS);
}

/* One of sockets=, cores=, threads=. 0 in *field means that it was not given yet. */
static int parse_level(struct options *o, char *item)
{
	static const char *const names[] = {"sockets", "cores", "threads"};
	unsigned *const fields[] = {&o->vm.sockets, &o->vm.cores, &o->vm.threads};
	uint64_t n;

	for (unsigned i = 0; i < ARRAY_SIZE(names); i++) {
		char *v = after_key(item, names[i]);

		if (!v)
			continue;
		if (*fields[i])
			return options_fail(o, "--cpus: %s= is given twice", names[i]);
		if (!parse_number(v, v + strlen(v), &n) || !n || n > CLI_MAX_CPUS)
			return options_fail(o, "--cpus: %s=%s is not a number from 1 to %d",
					    names[i], v, CLI_MAX_CPUS);
		*fields[i] = n;
		return 0;
	}
	return options_fail(o, "--cpus: '%s' is not a number, sockets=, cores= or threads=", item);
}

static int parse_levels(struct options *o, char *value)
{
	struct vm_config *vm = &o->vm;
	char *item;
	int r;

	vm->sockets = vm->cores = vm->threads = 0;
	while ((item = strsep(&value, ","))) {
		r = parse_level(o, item);
		if (r)
			return r;
	}
	vm->sockets = MAX(vm->sockets, 1U);
	vm->cores = MAX(vm->cores, 1U);
	vm->threads = MAX(vm->threads, 1U);
	if ((uint64_t)vm->sockets * vm->cores * vm->threads > CLI_MAX_CPUS)
		return options_fail(o,
				    "--cpus: %u sockets of %u cores of %u threads is too many: "
				    "a guest can have 1 to %d CPUs",
				    vm->sockets, vm->cores, vm->threads, CLI_MAX_CPUS);
	return 0;
}

int value_cpus(struct options *o, char *value)
{
	uint64_t n;

	if (!parse_number(value, value + strlen(value), &n))
		return parse_levels(o, value);
	if (!n || n > CLI_MAX_CPUS)
		return too_many_cpus(o, value);
	o->vm.sockets = 1;
	o->vm.cores = n;
	o->vm.threads = 1;
	return 0;
}

static bool parse_size(const char *value, uint64_t *bytes)
{
	static const char units[] = "KMGT";
	const char *end = value + strlen(value);
	const char *unit = end > value ? strchr(units, end[-1] & ~0x20) : NULL;
	unsigned shift = 0;

	if (unit && *unit) {
		shift = 10 * (unit - units + 1);
		end--;
	}
	if (!parse_number(value, end, bytes) || *bytes > UINT64_MAX >> shift)
		return false;
	*bytes <<= shift;
	return true;
}

int value_memory(struct options *o, char *value)
{
	if (!parse_size(value, &o->vm.memory))
		return options_fail(o, "--memory %s: not a size; write e.g. 512M or 4G", value);
	if (!o->vm.memory || o->vm.memory % MIB(1))
		return options_fail(o, "--memory %s: not a multiple of 1M; write e.g. 512M or 4G",
				    value);
	return 0;
}

static int parse_on_off(struct options *o, const char *flag, const char *v, bool *out)
{
	if (strcmp(v, "on") && strcmp(v, "off"))
		return options_fail(o, "%s=%s: write on or off", flag, v);
	*out = !strcmp(v, "on");
	return 0;
}

static int parse_disk_item(struct options *o, struct vm_disk *d, char *item)
{
	char *v;

	if ((v = after_key(item, "path"))) {
		if (d->path)
			return options_fail(o, "--disk: path= is given twice");
		d->path = v;
		return 0;
	}
	if ((v = after_key(item, "readonly")))
		return parse_on_off(o, "--disk: readonly", v, &d->readonly);
	if (strcmp(item, "readonly"))
		return options_fail(o, "--disk: '%s' is not path=FILE or readonly", item);
	d->readonly = true;
	return 0;
}

int value_disk(struct options *o, char *value)
{
	struct vm_disk d = {0};
	char *item;
	int r;

	if (o->vm.ndisks == VM_MAX_DISKS)
		return options_fail(o, "--disk: a guest can have at most %d disks", VM_MAX_DISKS);
	while ((item = strsep(&value, ","))) {
		r = parse_disk_item(o, &d, item);
		if (r)
			return r;
	}
	if (!d.path || !*d.path)
		return options_fail(o, "--disk: path=FILE is missing");
	o->vm.disk[o->vm.ndisks++] = d;
	return 0;
}

static int parse_forward(struct options *o, const char *v)
{
	struct net_hostfwd fwd;

	if (o->vm.nhostfwd == VM_MAX_FORWARDS)
		return options_fail(o, "--net: at most %d port forwards", VM_MAX_FORWARDS);
	if (net_parse_hostfwd(v, &fwd))
		return options_fail(o, "--net: hostfwd=%s is not like tcp:127.0.0.1:5432-:5432", v);
	o->vm.hostfwd[o->vm.nhostfwd++] = v;
	return 0;
}

static int parse_user_net(struct options *o, char *rest)
{
	char *item, *v;
	int r;

	o->vm.net = VM_NET_USER;
	while ((item = strsep(&rest, ","))) {
		v = after_key(item, "hostfwd");
		if (!v)
			return options_fail(o, "--net user: '%s' is not hostfwd=", item);
		r = parse_forward(o, v);
		if (r)
			return r;
	}
	return 0;
}

int value_net(struct options *o, char *value)
{
	char *rest = value;
	char *kind = strsep(&rest, ",");
	char *tap = after_key(kind, "tap");

	if (!strcmp(kind, "user"))
		return parse_user_net(o, rest);
	if (!tap)
		return options_fail(o, "--net: '%s' is not user or tap=NAME", kind);
	if (rest)
		return options_fail(o, "--net tap: '%s' is not understood", rest);
	if (!*tap || strlen(tap) >= IFNAMSIZ)
		return options_fail(o, "--net: '%s' is not an interface name", tap);
	o->vm.net = VM_NET_TAP;
	o->vm.tap = tap;
	return 0;
}

int value_engine(struct options *o, char *value)
{
	const char *option;

	if (!engine_find(value, &option))
		return options_fail(o, "--engine %s: unknown; use one of %s", value,
				    engine_names());
	o->vm.engine = value;
	return 0;
}

int value_check(struct options *o, char *value)
{
	char *every = value;
	char *kind = strsep(&every, ":");
	uint64_t n = 1;

	if (strcmp(kind, "interp"))
		return options_fail(o, "--check: '%s' is not interp or interp:N", kind);
	if (every && (!parse_number(every, every + strlen(every), &n) || !n || n > UINT32_MAX))
		return options_fail(o, "--check interp:%s: not a number from 1 on", every);
	o->vm.check_every = n;
	return 0;
}

int value_serial(struct options *o, char *value)
{
	if (!strcmp(value, "stdio")) {
		o->vm.serial = VM_SERIAL_STDIO;
	} else if (!strcmp(value, "pty")) {
		o->vm.serial = VM_SERIAL_PTY;
	} else if (!strncmp(value, "file:", 5) && value[5]) {
		o->vm.serial = VM_SERIAL_FILE;
		o->vm.serial_path = value + 5;
	} else {
		return options_fail(o, "--serial %s: use stdio, file:FILE or pty", value);
	}
	return 0;
}
