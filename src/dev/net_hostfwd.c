#include <arpa/inet.h>
#include <stdlib.h>

#include "src/dev/net_backend.h"

/* "[ADDR]:PORT" up to end. */
static int parse_endpoint(const char *s, const char *end, uint32_t none, uint32_t *addr,
			  uint16_t *port)
{
	const char *colon = memchr(s, ':', end - s);
	char text[INET_ADDRSTRLEN] = "";
	struct in_addr in;
	unsigned long v = 0;

	if (!colon || colon - s >= (long)sizeof(text) || colon + 1 == end)
		return -EINVAL;
	memcpy(text, s, colon - s);
	*addr = none;
	if (colon > s) {
		if (inet_pton(AF_INET, text, &in) != 1)
			return -EINVAL;
		*addr = ntohl(in.s_addr);
	}
	for (const char *p = colon + 1; p < end; p++) {
		if (*p < '0' || *p > '9' || v > UINT16_MAX)
			return -EINVAL;
		v = v * 10 + (*p - '0');
	}
	*port = v;
	return v && v <= UINT16_MAX ? 0 : -EINVAL;
}

int net_parse_hostfwd(const char *text, struct net_hostfwd *fwd)
{
	const char *dash = strchr(text, '-');
	int r;

	memset(fwd, 0, sizeof(*fwd));
	fwd->udp = !strncmp(text, "udp:", 4);
	if ((!fwd->udp && strncmp(text, "tcp:", 4)) || !dash)
		return -EINVAL;
	r = parse_endpoint(text + 4, dash, INADDR_LOOPBACK, &fwd->host_addr, &fwd->host_port);
	if (r)
		return r;
	return parse_endpoint(dash + 1, dash + 1 + strlen(dash + 1), 0, &fwd->guest_addr,
			      &fwd->guest_port);
}
