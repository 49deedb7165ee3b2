#include "dev/backend/chr.h"

#include <stddef.h>

void chr_start(struct chr *b, struct chr_front front)
{
	b->front = front;
	b->ops->start(b);
}

void chr_write(struct chr *b, const uint8_t *buf, unsigned n)
{
	b->ops->write(b, buf, n);
}

unsigned chr_room(struct chr *b)
{
	return b->ops->room(b);
}

void chr_accept(struct chr *b)
{
	b->ops->accept(b);
}

void chr_unblock(struct chr *b, bool on)
{
	b->ops->unblock(b, on);
}

void chr_free(struct chr *b)
{
	if (b)
		b->ops->free(b);
}
