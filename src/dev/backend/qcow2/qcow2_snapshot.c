/* The table of internal snapshots. */
#include "base/err.h"
#include "dev/backend/qcow2/qcow2_internal.h"

#include <errno.h>
#include <stdlib.h>

#define ENTRY_BYTES	40
#define MAX_EXTRA_BYTES 1024 /* QEMU's limit */

static void copy_text(char *to, size_t room, const uint8_t *from, size_t len)
{
	len = MIN(len, room - 1);
	memcpy(to, from, len);
	to[len] = 0;
}

/* One entry from b, of which len bytes are there. Returns its length, or 0 if it is not valid. */
static size_t parse_entry(const struct q2_header *h, struct qcow2_snapshot *s, const uint8_t *b,
			  size_t len)
{
	if (len < ENTRY_BYTES)
		return 0;

	size_t id_len = __builtin_bswap16(load16(b + 12));
	size_t name_len = __builtin_bswap16(load16(b + 14));
	size_t extra = be32_at(b + 36);

	if (extra > MAX_EXTRA_BYTES || ENTRY_BYTES + extra + id_len + name_len > len)
		return 0;
	*s = (struct qcow2_snapshot){
		.l1_off = be64_at(b),
		.l1_entries = be32_at(b + 8),
		.seconds = be32_at(b + 16),
		.nanoseconds = be32_at(b + 20),
		.vm_state_bytes = extra >= 8 ? be64_at(b + 40) : be32_at(b + 32),
		.bytes = extra >= 16 ? be64_at(b + 48) : h->bytes,
	};
	copy_text(s->id, sizeof(s->id), b + ENTRY_BYTES + extra, id_len);
	copy_text(s->name, sizeof(s->name), b + ENTRY_BYTES + extra + id_len, name_len);
	return ALIGN_UP(ENTRY_BYTES + extra + id_len + name_len, 8);
}

/* The longest that an entry can be. */
#define MAX_ENTRY_BYTES (ENTRY_BYTES + MAX_EXTRA_BYTES + 2 * 65536)

int q2_snapshots_read(struct blk_place *file, const struct q2_header *h,
		      struct qcow2_snapshot **list, uint64_t *table_bytes, struct err *err)
{
	uint64_t at = h->snapshots_off;
	uint8_t *buf = malloc(MAX_ENTRY_BYTES);
	int ret = 0;

	*list = calloc(MAX(h->n_snapshots, 1u), sizeof(**list));
	if (!buf || !*list)
		ret = err_set(err, ENOMEM, "read the snapshot table");
	if (h->n_snapshots > QCOW2_MAX_SNAPSHOTS)
		ret = err_say(err, EFBIG, "more than %u snapshots", QCOW2_MAX_SNAPSHOTS);
	for (uint32_t i = 0; i < h->n_snapshots && ret == 0; i++) {
		ret = place_read(file, at, buf, MAX_ENTRY_BYTES);
		if (ret < 0) {
			err_set(err, -ret, "read the snapshot table");
			break;
		}

		size_t n = parse_entry(h, &(*list)[i], buf, MAX_ENTRY_BYTES);

		at += n;
		if (n == 0 || at - h->snapshots_off > Q2_MAX_SNAPSHOTS_BYTES)
			ret = err_say(err, EINVAL, "not a valid qcow2 image: its snapshot table");
	}
	free(buf);
	if (table_bytes)
		*table_bytes = at - h->snapshots_off;
	if (ret < 0) {
		free(*list);
		*list = NULL;
	}
	return ret;
}
