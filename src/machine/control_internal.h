/* What control.c (sockets) and control_command.c (commands) share. All on the control's thread. */
#ifndef MACHINE_CONTROL_INTERNAL_H
#define MACHINE_CONTROL_INTERNAL_H

#include "host/evloop.h"
#include "machine/control.h"
#include "machine/machine.h"

#include <jansson.h>
#include <sys/un.h>
#include <time.h>

#define CONTROL_CLIENTS 16
#define CONTROL_LINE	4096 /* bytes, the newline included */

struct client {
	struct control *c;
	int fd; /* -1: free */
	struct ev_watch watch;
	char line[CONTROL_LINE];
	size_t n;
};

struct control {
	struct machine *m; /* borrowed */
	char name[CONTROL_NAME_MAX + 1];
	char dir[4096], lock_path[4096 + CONTROL_NAME_MAX + 8];
	struct sockaddr_un addr;
	struct timespec since;
	struct evloop *loop;
	int socket, timer, lock, folder;
	bool bound;
	struct ev_watch on_socket, on_timer;
	struct client client[CONTROL_CLIENTS];
};

/* The answer to a request, which is an object. Owned by the caller; NULL when out of memory. */
json_t *control_execute(struct control *c, json_t *request);
json_t *control_error(json_t *request, const char *code, const char *message);

/* The console command hands the client's socket to the console, and answers itself; what is
 * returned is the answer when that failed. */
bool control_is_console(json_t *request);
json_t *control_console(struct client *k, json_t *request);

/* End the machine if it still runs after so many seconds. */
void control_stop_within(struct control *c, unsigned timeout_s);

#endif
