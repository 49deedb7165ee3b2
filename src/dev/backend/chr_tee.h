/* A character backend that others can join: what the device writes goes to the backend below and to
 * the one who is attached, and both can type.
 */
#ifndef DEV_BACKEND_CHR_TEE_H
#define DEV_BACKEND_CHR_TEE_H

#include "dev/backend/chr.h"

/* under is owned from now on, also on failure. loop is borrowed. -ENOMEM. */
int chr_tee_new(struct chr **out, struct evloop *loop, struct chr *under, struct err *err);

/* Attach a connected stream socket, which is owned from now on, also on failure: first it gets the
 * last 16 KiB that the device wrote, then what it writes. A reader that stalls loses bytes; it
 * never holds up the device. When it hangs up it is forgotten. -EBUSY: there is one already. Any
 * thread.
 */
int chr_tee_attach(struct chr *tee, int fd, struct err *err);
/* Whether somebody is attached now. Any thread. */
bool chr_tee_is_taken(struct chr *tee);

#endif
