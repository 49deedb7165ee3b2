/* A running machine's control socket: JSON lines, docs/control.md. Clients are hostile: lines,
 * clients and answers are bounded, and nothing that they send ends more than the machine they may
 * end.
 */
#ifndef MACHINE_CONTROL_H
#define MACHINE_CONTROL_H

#include <stdbool.h>

struct control;
struct err;
struct machine;

#define CONTROL_NAME_MAX 63

/* Whether text can name a machine: a letter or digit, then letters, digits, '.', '_' and '-'. */
bool control_is_name(const char *text);

/* Listen at NAME.sock in the user's run folder, from a thread of its own, until control_free, which
 * comes before the machine is freed. m is borrowed. -EEXIST: a machine of that name runs; -EINVAL:
 * no name.
 */
int control_new(struct control **out, struct machine *m, const char *name, struct err *err);
/* The folder of its files, which are removed from there at the end. Borrowed. */
int control_folder(const struct control *c);
void control_free(struct control *c);

#endif
