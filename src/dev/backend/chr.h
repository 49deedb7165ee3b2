/* Where a character device's bytes come from and go to. */
#ifndef DEV_BACKEND_CHR_H
#define DEV_BACKEND_CHR_H

#include <stdbool.h>
#include <stdint.h>

struct chr;
struct err;
struct evloop;

/* The device's side. Called on the event loop's thread or from chr_accept, with the backend's
 * input lock held: they may take the device's lock, so the device never calls chr_accept with it
 * held.
 */
struct chr_front {
	unsigned (*room)(void *arg);			       /* bytes that rx takes now */
	void (*rx)(void *arg, const uint8_t *buf, unsigned n); /* at most room() bytes */
	void (*rx_break)(void *arg);			       /* may be NULL */
	/* chr_room grew again after it was 0. Any thread, no lock held: wake a worker, no more. May
	 * be NULL. */
	void (*drained)(void *arg);
	void *arg;
};

struct chr_ops {
	void (*start)(struct chr *b); /* front is set: begin to read */
	void (*write)(struct chr *b, const uint8_t *buf, unsigned n);
	unsigned (*room)(struct chr *b);
	void (*accept)(struct chr *b);
	void (*unblock)(struct chr *b, bool on);
	void (*free)(struct chr *b);
};

struct chr {
	const struct chr_ops *ops;
	struct chr_front front;
};

/* What a key after Ctrl-A asks for. Called on the event loop's thread. */
enum chr_escape { CHR_QUIT, CHR_POWER_BUTTON, CHR_RESET, CHR_CONTINUE };
struct chr_escape_fn {
	void (*fn)(void *arg, enum chr_escape what);
	void *arg;
};

/* Bind the device and begin to read. Once. */
void chr_start(struct chr *b, struct chr_front front);
/* Send n bytes on their way, in order. Nothing is lost: if the reader stalls with more than 1 MiB
 * on the way this waits, until there is room or chr_unblock. Any thread; not with a lock held that
 * front's functions take.
 */
void chr_write(struct chr *b, const uint8_t *buf, unsigned n);
/* Bytes that chr_write takes now without waiting, as long as nobody else writes. Any thread. */
unsigned chr_room(struct chr *b);
/* The device has room again. */
void chr_accept(struct chr *b);
/* While on, chr_write does not wait (what comes is kept beyond the limit), so that vCPUs can be
 * stopped. */
void chr_unblock(struct chr *b, bool on);
/* Write out what is on the way, waiting a second for a reader at most, and release. NULL is fine.
 */
void chr_free(struct chr *b);

/* Constructors. loop is borrowed. Errors: the host's.
 *
 * stdio: the process's own; a terminal is made raw and Ctrl-A is the escape key. End of input does
 * not end anything. null: drops output, has no input. file: output only, truncates path. pty: a
 * pseudo-terminal of its own; stderr is told that it is what.
 */
int chr_stdio_new(struct chr **out, struct evloop *loop, struct chr_escape_fn escape,
		  struct err *err);
int chr_null_new(struct chr **out, struct err *err);
int chr_file_new(struct chr **out, struct evloop *loop, const char *path, struct err *err);
int chr_pty_new(struct chr **out, struct evloop *loop, const char *what, struct err *err);

#endif
