#include "src/dev/net_csum.h"

/* Ones' complement sum in memory order: the result is stored in memory order too (RFC 1071). */
static uint16_t sum(const uint8_t *p, size_t len)
{
	uint64_t s = 0;
	uint16_t v;

	for (; len >= 2; p += 2, len -= 2) {
		memcpy(&v, p, 2);
		s += v;
	}
	if (len)
		s += *p;
	while (s >> 16)
		s = (s & 0xffff) + (s >> 16);
	return s;
}

bool net_csum_complete(const struct net_hdr *h, uint8_t *frame, size_t len)
{
	uint16_t v;

	if (!(h->flags & NET_HDR_F_NEEDS_CSUM))
		return true;
	if ((size_t)h->csum_start + h->csum_offset + 2 > len)
		return false;
	v = ~sum(frame + h->csum_start, len - h->csum_start);
	if (!v)
		v = 0xffff; /* for UDP 0 would mean "none"; for TCP both are zero */
	memcpy(frame + h->csum_start + h->csum_offset, &v, 2);
	return true;
}
