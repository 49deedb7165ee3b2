#include "dev/backend/net.h"

#include <stddef.h>

void net_start(struct net *n)
{
	n->ops->start(n);
}

void net_free(struct net *n)
{
	if (n)
		n->ops->free(n);
}
