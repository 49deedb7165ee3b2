/* What `cleave run` was told. */
#ifndef CLI_RUN_OPTIONS_H
#define CLI_RUN_OPTIONS_H

#include "cli/disk_option.h"
#include "cli/instance.h"
#include "machine/machine.h"

struct err;

struct run_options {
	struct machine_config cfg;
	const char **initrd; /* cfg's; owned */
	char **text; /* copies of values that were cut up: cfg points into them; all owned */
	unsigned n_texts;
	struct disk_config disk[MACHINE_MAX_DISKS];
	struct disk_option disk_option[MACHINE_MAX_DISKS];
	unsigned n_disks;
	bool stop_on_error;
	struct nic_config nic[MACHINE_MAX_NICS];
	bool memory_said, net_said;
	struct instance_order order; /* image: the positional argument; NULL: none */
	bool help;
};

/* Parse argv, which starts at the subcommand's name and outlives o. Errors name the option, what
 * was wrong, and one example. To be released by run_options_fini, also after an error. */
int run_options_parse(struct run_options *o, int argc, char **argv, struct err *err);
void run_options_fini(struct run_options *o);

#endif
