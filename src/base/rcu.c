#include "src/base/rcu.h"

/* Of the calling thread: several VMs may have registered it. */
static _Thread_local unsigned registrations;

void rcu_thread_init(void)
{
	if (!registrations++)
		rcu_register_thread();
}

void rcu_thread_exit(void)
{
	if (!--registrations)
		rcu_unregister_thread();
}
