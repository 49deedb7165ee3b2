/* The value of `cleave run --disk`. */
#ifndef CLI_DISK_OPTION_H
#define CLI_DISK_OPTION_H

#include "machine/machine.h"

struct err;

struct disk_option {
	struct disk_config cfg; /* its strings point into text */
	char *text;		/* owned */
};

/* Parse "FILE[,NAME[=VALUE]]...". Errors name what was wrong and how it is written. */
int disk_option_parse(struct disk_option *d, const char *val, struct err *err);
void disk_option_fini(struct disk_option *d);

#endif
