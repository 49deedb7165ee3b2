/* What this host offers to virtual machines and containers, found out by trying. */
#ifndef HOST_FACTS_H
#define HOST_FACTS_H

#include <stdbool.h>
#include <stddef.h>

/* One thing that was looked at. */
struct fact {
	const char *id; /* short name, stable, for scripts */
	bool ok;
	char found[160];     /* what there is */
	const char *meaning; /* what the lack means; for good facts what it is used for */
};

#define MAX_FACTS 32

/* Fill facts with at most MAX_FACTS entries and return their number. Changes nothing on the host;
 * takes a few milliseconds. */
size_t host_facts(struct fact facts[MAX_FACTS]);

#endif
