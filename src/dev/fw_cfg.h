/*
 * QEMU's firmware configuration interface by ports (QEMU docs/specs/fw_cfg.rst): a 16-bit selector
 * at offset 0 and a byte stream at offset 1. Without DMA; writes of data are ignored.
 */
#ifndef DEV_FW_CFG_H
#define DEV_FW_CFG_H

#include "src/dev/device.h"

#define FW_CFG_BASE  0x510
#define FW_CFG_PORTS 2

#define FW_CFG_SIGNATURE  0x00
#define FW_CFG_ID	  0x01
#define FW_CFG_RAM_SIZE	  0x03 /* 8 bytes */
#define FW_CFG_NB_CPUS	  0x05 /* 2 bytes */
#define FW_CFG_MAX_CPUS	  0x0f /* 2 bytes */
#define FW_CFG_FILE_DIR	  0x19
#define FW_CFG_FILE_FIRST 0x20

#define FW_CFG_FILE_NAME 56 /* bytes, terminator included */

struct fw_cfg;

/* With the signature and id keys and an empty directory. 0 or -ENOMEM. */
int fw_cfg_create(struct fw_cfg **fw);
/* Destroying the device frees everything. */
struct device *fw_cfg_device(struct fw_cfg *fw);
/*
 * Before VCPUs run. Copies the data. 0, -ENOMEM, -EEXIST (key or name is taken), -ENAMETOOLONG or
 * -ENOSPC.
 */
int fw_cfg_add(struct fw_cfg *fw, uint16_t key, const void *data, uint32_t len);
int fw_cfg_add_file(struct fw_cfg *fw, const char *name, const void *data, uint32_t len);

#endif
