#include "src/engine/engine.h"

static const struct engine_ops *const engines[] = {&bt_engine, &interp_engine};

const struct engine_ops *engine_find(const char *name, const char **option)
{
	size_t len = strcspn(name, ":");

	*option = name[len] ? name + len + 1 : NULL;
	if (len == 4 && !memcmp(name, "auto", 4))
		return engines[0]; /* the fastest first */
	for (unsigned n = 0; n < ARRAY_SIZE(engines); n++)
		if (strlen(engines[n]->name) == len && !memcmp(name, engines[n]->name, len))
			return engines[n];
	return NULL;
}

const char *engine_names(void)
{
	return "auto, interp, bt";
}
