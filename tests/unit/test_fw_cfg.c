#include <stdarg.h>
#include <stddef.h>
#include <setjmp.h>
#include <stdint.h>
#include <cmocka.h>
#include <stdio.h>
#include <stdlib.h>

#include "src/dev/fw_cfg.h"
#include "tests/unit/fake_machine.h"

static int setup(void **state)
{
	return fw_cfg_create((struct fw_cfg **)state);
}

static int teardown(void **state)
{
	struct device *dev = fw_cfg_device(*state);

	dev->ops->destroy(dev);
	return 0;
}

static void get(struct device *dev, uint16_t key, void *buf, unsigned len)
{
	unsigned i;

	out16(dev, 0, key);
	for (i = 0; i < len; i++)
		((uint8_t *)buf)[i] = in8(dev, 1);
}

static void test_keys(void **state)
{
	struct fw_cfg *fw = *state;
	struct device *dev = fw_cfg_device(fw);
	const uint64_t ram = GIB(6);
	uint64_t v = 0;
	char buf[8];

	assert_int_equal(fw_cfg_add(fw, FW_CFG_RAM_SIZE, &ram, sizeof(ram)), 0);
	assert_int_equal(fw_cfg_add(fw, FW_CFG_RAM_SIZE, &ram, sizeof(ram)), -EEXIST);
	get(dev, FW_CFG_SIGNATURE, buf, 6);
	assert_memory_equal(buf, "QEMU\0\0", 6);
	get(dev, FW_CFG_ID, &v, 4);
	assert_int_equal(v, 1);
	get(dev, FW_CFG_RAM_SIZE, &v, 8);
	assert_int_equal(v, GIB(6));
	get(dev, 0x1234, &v, 8);
	assert_int_equal(v, 0);
	out16(dev, 0, FW_CFG_SIGNATURE);
	assert_int_equal(in8(dev, 1), 'Q');
	out8(dev, 1, 'x'); /* data cannot be written, and the selector is 16 bits wide */
	out8(dev, 0, 1);
	assert_int_equal(in8(dev, 1), 'E');
	dev->ops->reset(dev);
	assert_int_equal(in8(dev, 1), 'Q');
}

static void test_files(void **state)
{
	struct fw_cfg *fw = *state;
	struct device *dev = fw_cfg_device(fw);
	char long_name[FW_CFG_FILE_NAME + 1];
	uint8_t dir[4 + 2 * 64], buf[8];

	memset(long_name, 'x', FW_CFG_FILE_NAME);
	long_name[FW_CFG_FILE_NAME] = 0;
	assert_int_equal(fw_cfg_add_file(fw, "opt/a", "12345", 5), 0);
	assert_int_equal(fw_cfg_add_file(fw, "opt/b", "", 0), 0);
	assert_int_equal(fw_cfg_add_file(fw, "opt/a", "1", 1), -EEXIST);
	assert_int_equal(fw_cfg_add_file(fw, long_name, "1", 1), -ENAMETOOLONG);
	get(dev, FW_CFG_FILE_DIR, dir, sizeof(dir));
	assert_memory_equal(dir, "\0\0\0\2\0\0\0\5\0\x20\0\0opt/a", 18);
	assert_memory_equal(dir + 4 + 64, "\0\0\0\0\0\x21\0\0opt/b", 14);
	get(dev, 0x20, buf, 6);
	assert_memory_equal(buf, "12345\0", 6);
}

static void test_full(void **state)
{
	struct fw_cfg *fw = *state;
	unsigned i;
	int r = 0;

	for (i = 0; !r && i < 100; i++) {
		char name[16];

		snprintf(name, sizeof(name), "f%u", i);
		r = fw_cfg_add_file(fw, name, name, 3);
	}
	assert_int_equal(r, -ENOSPC);
}

#define TEST(f) cmocka_unit_test_setup_teardown(f, setup, teardown)

int main(void)
{
	const struct CMUnitTest tests[] = {TEST(test_keys), TEST(test_files), TEST(test_full)};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
