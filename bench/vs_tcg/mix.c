/* What ordinary integer programs do: linked lists, matrices, a checksum by table, parsing text. */
#include <stdio.h>
#include <string.h>

#include "work.h"

#define NODES 512
#define SIDE  24
#define TEXT  4096

struct node {
	struct node *next;
	uint32_t key;
};

static struct node nodes[NODES];
static int32_t a[SIDE][SIDE], b[SIDE][SIDE], product[SIDE][SIDE];
static uint32_t crc_table[256];
static char text[TEXT];

static void mix_setup(void)
{
	uint64_t state = 7;
	size_t n = 0;

	for (int i = 0; i < SIDE * SIDE; i++) {
		a[i / SIDE][i % SIDE] = (int32_t)(work_random(&state) % 1000) - 500;
		b[i / SIDE][i % SIDE] = (int32_t)(work_random(&state) % 1000) - 500;
	}
	for (uint32_t i = 0; i < 256; i++) {
		crc_table[i] = i;
		for (int bit = 0; bit < 8; bit++)
			crc_table[i] = crc_table[i] >> 1 ^ (crc_table[i] & 1 ? 0xedb88320 : 0);
	}
	while (n < TEXT - 32) {
		unsigned value = work_random(&state) >> 40;

		n += snprintf(text + n, TEXT - n, value & 1 ? "%u, " : "-%u x%x\n", value >> 3,
			      value);
	}
}

static struct node *merge(struct node *x, struct node *y)
{
	struct node head, *tail = &head;

	while (x && y) {
		struct node **least = x->key <= y->key ? &x : &y;

		tail->next = *least;
		tail = *least;
		*least = tail->next;
	}
	tail->next = x ? x : y;
	return head.next;
}

static struct node *sort(struct node *list)
{
	struct node *slow = list, *fast = list->next, *second;

	if (!fast)
		return list;
	while (fast && fast->next) {
		slow = slow->next;
		fast = fast->next->next;
	}
	second = slow->next;
	slow->next = NULL;
	return merge(sort(list), sort(second));
}

static uint64_t lists(void)
{
	uint64_t state = 3, hash = 0;

	for (int i = 0; i < NODES; i++) {
		nodes[i].key = work_random(&state);
		nodes[i].next = i + 1 < NODES ? &nodes[i + 1] : NULL;
	}
	for (struct node *n = sort(nodes); n; n = n->next)
		hash = work_hash(hash, n->key);
	return hash;
}

static uint64_t matrices(void)
{
	uint64_t hash = 0;

	for (int i = 0; i < SIDE; i++) {
		for (int j = 0; j < SIDE; j++) {
			int32_t sum = 0;

			for (int n = 0; n < SIDE; n++)
				sum += a[i][n] * b[n][j];
			product[i][j] = sum;
		}
		hash = work_hash(hash, product[i][i]);
	}
	return hash;
}

static uint32_t crc32(const void *data, size_t size)
{
	const uint8_t *p = data;
	uint32_t crc = ~0u;

	for (size_t i = 0; i < size; i++)
		crc = crc >> 8 ^ crc_table[(uint8_t)(crc ^ p[i])];
	return ~crc;
}

static int digit(char c)
{
	if (c >= '0' && c <= '9')
		return c - '0';
	if (c >= 'a' && c <= 'f')
		return c - 'a' + 10;
	return 16;
}

/* Sums the numbers: decimal with sign, hexadecimal after an x. */
static uint64_t parse(const char *s)
{
	uint64_t sum = 0;

	while (*s) {
		int base = 10, negative = 0;
		uint64_t value = 0;

		for (; *s && digit(*s) >= 10; s++)
			switch (*s) {
			case '-': negative = 1; break;
			case 'x': base = 16; break;
			default: break;
			}
		for (; digit(*s) < base; s++)
			value = value * base + digit(*s);
		sum += negative ? -value : value;
	}
	return sum;
}

static uint64_t mix_unit(void)
{
	uint64_t hash = lists();

	hash = work_hash(hash, matrices());
	hash = work_hash(hash, crc32(product, sizeof(product)));
	hash = work_hash(hash, crc32(text, sizeof(text)));
	return work_hash(hash, parse(text));
}

const struct work mix_works[] = {
	{.name = "intmix", .ops = 1, .setup = mix_setup, .unit = mix_unit},
	{},
};
