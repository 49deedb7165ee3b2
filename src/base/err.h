/* Why something failed, told so that a person can act on it. */
#ifndef BASE_ERR_H
#define BASE_ERR_H

#define ERR_LEN 512

/* Lives on the caller's stack. Every function that takes one accepts NULL. */
struct err {
	int code;	   /* positive errno */
	char msg[ERR_LEN]; /* one sentence without a full stop or newline */
};

/* Set the reason: "<what>: <strerror(code)>", or only "<what>" when code is 0 (then the
 * error's code is EINVAL). Returns -code, so that a caller writes `return err_set(...)`.
 */
int err_set(struct err *err, int code, const char *fmt, ...) __attribute__((format(printf, 3, 4)));

/* Set the reason without the text of errno; the error keeps code. Returns -code. */
int err_say(struct err *err, int code, const char *fmt, ...) __attribute__((format(printf, 3, 4)));

/* Put "<what>: " before the reason that is already there. Returns -err->code (-EIO when err
 * is NULL).
 */
int err_wrap(struct err *err, const char *fmt, ...) __attribute__((format(printf, 2, 3)));

#endif
