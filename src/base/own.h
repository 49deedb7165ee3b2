/* Ownership of locals: released at the end of their scope unless they are moved out of it. */
#ifndef BASE_OWN_H
#define BASE_OWN_H

#include <stdlib.h>
#include <unistd.h>

static inline void own_free(void *p)
{
	free(*(void **)p);
}

static inline void own_close(const int *fd)
{
	if (*fd >= 0)
		close(*fd);
}

#define AUTO_FREE __attribute__((cleanup(own_free)))
#define AUTO_FD	  __attribute__((cleanup(own_close)))

/* Take the value out of a local: the local no longer owns it. */
#define move_ptr(pp)                                                                               \
	({                                                                                         \
		__typeof__(*(pp)) moved_ = *(pp);                                                  \
		*(pp) = NULL;                                                                      \
		moved_;                                                                            \
	})

static inline int move_fd(int *fd)
{
	int moved = *fd;

	*fd = -1;
	return moved;
}

#endif
