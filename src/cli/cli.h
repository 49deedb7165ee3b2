/* What the subcommands share. */
#ifndef CLI_CLI_H
#define CLI_CLI_H

#include <stdbool.h>
#include <stdint.h>

struct err;

/* Exit statuses. A debug exit gives (value << 1) | 1. */
#define STATUS_OK	    0
#define STATUS_ERROR	    1
#define STATUS_BROKEN	    2
#define STATUS_TRIPLE_FAULT 3

/* argv starts at the subcommand's name. Return the exit status. */
int cmd_run(int argc, char **argv);
int cmd_image(int argc, char **argv);
int cmd_disk(int argc, char **argv);
int cmd_help(int argc, char **argv);
int cmd_doctor(int argc, char **argv);
int cmd_compare(int argc, char **argv);
int cmd_ps(int argc, char **argv);
int cmd_ctl(int argc, char **argv);
int cmd_stop(int argc, char **argv);
int cmd_console(int argc, char **argv);
int cmd_ssh(int argc, char **argv);
int cmd_net_helper(int argc, char **argv); /* hidden: for ourselves */

/* Print what a command's --help prints, to stdout; help_command returns false if there is no such
 * command. */
void help_general(void);
bool help_command(const char *command);
/* --help or -h */
bool is_help_option(const char *arg);

/* Bytes from text: a number with K, M, G or T behind it; a bare number is MiB, as people write
 * memory sizes. -EINVAL for anything else or nothing.
 */
int parse_size(const char *text, uint64_t *bytes);
/* The same, but a bare number is bytes. */
int parse_bytes(const char *text, uint64_t *bytes);
/* A whole decimal number from min to max. -EINVAL. */
int parse_number(const char *text, unsigned min, unsigned max, unsigned *n);

#endif
