#include "src/dev/fw_cfg.h"

#include <pthread.h>
#include <stdlib.h>

#include "src/dev/regs.h"

#define MAX_ITEMS 64
#define NONE	  MAX_ITEMS

#define ID_TRADITIONAL 1 /* the port interface */

/* An entry of the file directory; numbers are big-endian. */
struct dir_entry {
	uint32_t size;
	uint16_t key;
	uint16_t reserved;
	char name[FW_CFG_FILE_NAME];
};

struct item {
	uint16_t key;
	uint32_t len;
	uint8_t *data;
};

struct fw_cfg {
	struct device dev;
	pthread_mutex_t lock; /* protects the two cursors; the items are fixed when VCPUs run */
	unsigned selected;    /* index of an item, or NONE */
	uint32_t offset;
	unsigned nitems;
	unsigned nfiles;
	struct item item[MAX_ITEMS];
};

static unsigned find(const struct fw_cfg *fw, uint16_t key)
{
	unsigned i;

	for (i = 0; i < fw->nitems; i++)
		if (fw->item[i].key == key)
			return i;
	return NONE;
}

int fw_cfg_add(struct fw_cfg *fw, uint16_t key, const void *data, uint32_t len)
{
	struct item *it = &fw->item[fw->nitems];

	if (find(fw, key) != NONE)
		return -EEXIST;
	if (fw->nitems == MAX_ITEMS)
		return -ENOSPC;
	it->data = malloc(len ? len : 1);
	if (!it->data)
		return -ENOMEM;
	memcpy(it->data, data, len);
	it->key = key;
	it->len = len;
	fw->nitems++;
	return 0;
}

/* The directory grows by one entry; it stays the same item. */
static int add_to_directory(struct fw_cfg *fw, const char *name, uint16_t key, uint32_t len)
{
	struct item *dir = &fw->item[find(fw, FW_CFG_FILE_DIR)];
	uint32_t count = __builtin_bswap32(fw->nfiles + 1);
	struct dir_entry e = {__builtin_bswap32(len), __builtin_bswap16(key), 0, {0}};
	uint8_t *p = realloc(dir->data, dir->len + sizeof(e));

	if (!p)
		return -ENOMEM;
	strcpy(e.name, name);
	memcpy(p, &count, sizeof(count));
	memcpy(p + dir->len, &e, sizeof(e));
	dir->data = p;
	dir->len += sizeof(e);
	fw->nfiles++;
	return 0;
}

static bool has_file(const struct fw_cfg *fw, const char *name)
{
	const struct item *dir = &fw->item[find(fw, FW_CFG_FILE_DIR)];
	unsigned i;

	for (i = 0; i < fw->nfiles; i++) {
		struct dir_entry e;

		memcpy(&e, dir->data + sizeof(uint32_t) + i * sizeof(e), sizeof(e));
		if (!strcmp(e.name, name))
			return true;
	}
	return false;
}

int fw_cfg_add_file(struct fw_cfg *fw, const char *name, const void *data, uint32_t len)
{
	uint16_t key = FW_CFG_FILE_FIRST + fw->nfiles;
	int r;

	if (strlen(name) >= FW_CFG_FILE_NAME)
		return -ENAMETOOLONG;
	if (has_file(fw, name))
		return -EEXIST;
	r = fw_cfg_add(fw, key, data, len);
	if (r)
		return r;
	r = add_to_directory(fw, name, key, len);
	if (r)
		free(fw->item[--fw->nitems].data);
	return r;
}

static uint8_t next_byte_locked(struct fw_cfg *fw)
{
	const struct item *it = &fw->item[fw->selected];

	if (fw->selected == NONE || fw->offset >= it->len)
		return 0;
	return it->data[fw->offset++];
}

/* The stream answers at both ports, as in QEMU. */
static void fw_cfg_read(struct device *dev, uint64_t off, void *data, unsigned len)
{
	struct fw_cfg *fw = container_of(dev, struct fw_cfg, dev);
	unsigned i;

	pthread_mutex_lock(&fw->lock);
	for (i = 0; i < len; i++)
		((uint8_t *)data)[i] = next_byte_locked(fw);
	pthread_mutex_unlock(&fw->lock);
}

static void fw_cfg_write(struct device *dev, uint64_t off, const void *data, unsigned len)
{
	struct fw_cfg *fw = container_of(dev, struct fw_cfg, dev);

	if (off != 0 || len != 2)
		return;
	pthread_mutex_lock(&fw->lock);
	fw->selected = find(fw, reg_get(data, len));
	fw->offset = 0;
	pthread_mutex_unlock(&fw->lock);
}

static void fw_cfg_reset(struct device *dev)
{
	struct fw_cfg *fw = container_of(dev, struct fw_cfg, dev);

	pthread_mutex_lock(&fw->lock);
	fw->selected = find(fw, FW_CFG_SIGNATURE);
	fw->offset = 0;
	pthread_mutex_unlock(&fw->lock);
}

static void fw_cfg_destroy(struct device *dev)
{
	struct fw_cfg *fw = container_of(dev, struct fw_cfg, dev);
	unsigned i;

	for (i = 0; i < fw->nitems; i++)
		free(fw->item[i].data);
	pthread_mutex_destroy(&fw->lock);
	free(fw);
}

static const struct device_ops ops = {
	.name = "fw-cfg",
	.read = fw_cfg_read,
	.write = fw_cfg_write,
	.reset = fw_cfg_reset,
	.destroy = fw_cfg_destroy,
};

int fw_cfg_create(struct fw_cfg **out)
{
	const uint32_t id = ID_TRADITIONAL, empty = 0;
	struct fw_cfg *fw = calloc(1, sizeof(*fw));
	int r;

	if (!fw)
		return -ENOMEM;
	pthread_mutex_init(&fw->lock, NULL);
	fw->dev.ops = &ops;
	r = fw_cfg_add(fw, FW_CFG_SIGNATURE, "QEMU", 4);
	if (!r)
		r = fw_cfg_add(fw, FW_CFG_ID, &id, sizeof(id));
	if (!r)
		r = fw_cfg_add(fw, FW_CFG_FILE_DIR, &empty, sizeof(empty));
	if (r) {
		fw_cfg_destroy(&fw->dev);
		return r;
	}
	fw_cfg_reset(&fw->dev);
	*out = fw;
	return 0;
}

struct device *fw_cfg_device(struct fw_cfg *fw)
{
	return &fw->dev;
}
