#include <stdarg.h>
#include <stddef.h>
#include <setjmp.h>
#include <stdint.h>
#include <cmocka.h>

#include "src/cli/escape.h"
#include "src/cli/run.h"

/* Feeds text at a time; what is left must be left. Returns what was asked for. */
static unsigned feed(struct escape *e, uint64_t ns, const char *text, const char *left)
{
	uint8_t buf[64];
	unsigned asked = 0;
	size_t n;

	memcpy(buf, text, strlen(text));
	n = escape_filter(e, ns, buf, strlen(text), &asked);
	assert_int_equal(n, strlen(left));
	assert_memory_equal(buf, left, n);
	return asked;
}

static void test_plain(void **state)
{
	struct escape e = {0};

	assert_int_equal(feed(&e, 1, "hello x h\r", "hello x h\r"), 0);
	assert_int_equal(feed(&e, 1, "", ""), 0);
}

static void test_prefix(void **state)
{
	struct escape e = {0};

	assert_int_equal(feed(&e, 1, "a\001xb", "ab"), ESCAPE_LEAVE);
	assert_int_equal(feed(&e, 1, "\001H", ""), ESCAPE_HELP);
	assert_int_equal(feed(&e, 1, "\001\001x", "\001x"), 0);
	assert_int_equal(feed(&e, 1, "\001q\001\001", "\001"), 0);
	/* The two keys may come in two reads. */
	assert_int_equal(feed(&e, 1, "ab\001", "ab"), 0);
	assert_int_equal(feed(&e, 1, "Xc", "c"), ESCAPE_LEAVE);
}

static void test_interrupt_twice(void **state)
{
	const uint64_t sec = ESCAPE_TWICE_NS;
	struct escape e = {0};

	assert_int_equal(feed(&e, 1, "\003\003", "\003\003"), ESCAPE_POWER_OFF);
	assert_int_equal(feed(&e, 10 * sec, "\003", "\003"), 0);
	assert_int_equal(feed(&e, 11 * sec, "\003", "\003"), ESCAPE_POWER_OFF);
	/* The third begins a new pair. */
	assert_int_equal(feed(&e, 11 * sec, "\003", "\003"), 0);
	assert_int_equal(feed(&e, 12 * sec + 1, "\003", "\003"), 0);
	assert_int_equal(feed(&e, 12 * sec + 1, "a\003b\003", "a\003b\003"), 0);
	assert_int_equal(feed(&e, 20 * sec, "\003\001h\003", "\003\003"), ESCAPE_HELP);
}

static void test_exit_status(void **state)
{
	struct vm_result res = {.end = VM_END_POWER_OFF};

	assert_int_equal(cli_exit_status(&res, 15), 0);
	res = (struct vm_result){.end = VM_END_DEBUG_EXIT, .value = 0x21};
	assert_int_equal(cli_exit_status(&res, 0), 0x43);
	res.value = 0x1ff;
	assert_int_equal(cli_exit_status(&res, 0), 0xff);
	res.end = VM_END_CRASHED;
	assert_int_equal(cli_exit_status(&res, 0), 1);
	res.end = VM_END_HOST_ERROR;
	assert_int_equal(cli_exit_status(&res, 0), 3);
	res.end = VM_END_STOPPED;
	assert_int_equal(cli_exit_status(&res, 0), 0);
	assert_int_equal(cli_exit_status(&res, 15), 143);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_plain),
		cmocka_unit_test(test_prefix),
		cmocka_unit_test(test_interrupt_twice),
		cmocka_unit_test(test_exit_status),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
