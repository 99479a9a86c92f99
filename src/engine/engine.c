#include "src/engine/engine.h"

static const struct engine_ops *const engines[] = {&interp_engine, &bt_engine};

const struct engine_ops *engine_find(const char *name)
{
	if (!strcmp(name, "auto"))
		return engines[0];
	for (unsigned n = 0; n < ARRAY_SIZE(engines); n++)
		if (!strcmp(name, engines[n]->name))
			return engines[n];
	return NULL;
}

const char *engine_names(void)
{
	return "auto, interp, bt";
}
