/* The other side of a machine's control socket: what ps, stop, console and ssh share.
 * docs/control.md. */
#ifndef CLI_CLIENT_H
#define CLI_CLIENT_H

#include <jansson.h>

struct err;

/* Connect to the machine called name. Returns the descriptor, which the caller closes, or -errno:
 * -ENOENT where no machine of that name runs. */
int client_connect(const char *name, struct err *err);

/* Send request (its reference is taken) and wait up to 10 s for the answer. *result gets the
 * answer's result, owned by the caller. The machine's refusal is an error. */
int client_ask(int fd, json_t *request, json_t **result, struct err *err);
/* A request with a command and nothing else. */
json_t *client_command(const char *command);

/* What machines are running: an array of their statuses, by name; owned by the caller. Sockets that
 * nobody listens at are removed. */
int client_list(json_t **list, struct err *err);

#endif
