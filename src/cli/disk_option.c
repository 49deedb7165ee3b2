#include "cli/disk_option.h"

#include "base/bits.h"
#include "base/err.h"
#include "cli/cli.h"
#include "dev/backend/qcow2/qcow2.h"
#include "dev/virtio/blk.h"

#include <ctype.h>
#include <errno.h>
#include <stdlib.h>

#define MAX_RATE (1ull << 50)

struct parse {
	struct disk_config *cfg;
	bool has_format, has_backing_format;
};

static int parse_format(const char *val, enum blk_format *format, struct err *err)
{
	if (blk_format_parse(val, format))
		return 0;
	return err_say(err, EINVAL, "'%s' is not raw or qcow2, as in disk.img,format=qcow2", val);
}

static int set_format(struct parse *p, const char *val, struct err *err)
{
	p->has_format = true;
	return parse_format(val, &p->cfg->open.format, err);
}

static int set_backing_format(struct parse *p, const char *val, struct err *err)
{
	p->has_backing_format = true;
	return parse_format(val, &p->cfg->open.backing_format, err);
}

static int set_readonly(struct parse *p, const char *val, struct err *err)
{
	p->cfg->open.readonly = true;
	return 0;
}

static int set_direct(struct parse *p, const char *val, struct err *err)
{
	p->cfg->open.direct = true;
	return 0;
}

static int set_backing(struct parse *p, const char *val, struct err *err)
{
	p->cfg->open.backing = true;
	p->cfg->open.backing_path = val;
	return 0;
}

static int set_snapshot(struct parse *p, const char *val, struct err *err)
{
	p->cfg->open.snapshot = val;
	p->cfg->open.readonly = true;
	return 0;
}

static int set_serial(struct parse *p, const char *val, struct err *err)
{
	for (const char *c = val; *c; c++)
		if (!isgraph((unsigned char)*c))
			return err_say(err, EINVAL,
				       "a serial number has printable characters and no blanks, "
				       "as in disk.img,serial=root0");
	if (strlen(val) > VIRTIO_BLK_SERIAL_BYTES)
		return err_say(err, EINVAL,
			       "serial '%s' is longer than %u characters, as in "
			       "disk.img,serial=root0",
			       val, VIRTIO_BLK_SERIAL_BYTES);
	p->cfg->serial = val;
	return 0;
}

static int set_queues(struct parse *p, const char *val, struct err *err)
{
	if (parse_number(val, 1, VIRTIO_BLK_MAX_QUEUES, &p->cfg->n_queues) < 0)
		return err_say(err, EINVAL,
			       "'%s' is not a number of queues from 1 to %u, as in "
			       "disk.img,queues=2",
			       val, VIRTIO_BLK_MAX_QUEUES);
	return 0;
}

static int parse_rate(const char *val, uint64_t *rate, struct err *err)
{
	if (parse_bytes(val, rate) < 0 || *rate == 0 || *rate > MAX_RATE)
		return err_say(err, EINVAL, "'%s' is not a rate, as in disk.img,iops=500,bps=20M",
			       val);
	return 0;
}

static int set_iops(struct parse *p, const char *val, struct err *err)
{
	return parse_rate(val, &p->cfg->limits.iops, err);
}

static int set_iops_burst(struct parse *p, const char *val, struct err *err)
{
	return parse_rate(val, &p->cfg->limits.iops_burst, err);
}

static int set_bps(struct parse *p, const char *val, struct err *err)
{
	return parse_rate(val, &p->cfg->limits.bytes_per_s, err);
}

static int set_bps_burst(struct parse *p, const char *val, struct err *err)
{
	return parse_rate(val, &p->cfg->limits.bytes_burst, err);
}

enum value { NEEDS_NONE, MAY_HAVE, NEEDS };

static const struct {
	const char *name;
	enum value value;
	int (*set)(struct parse *p, const char *val, struct err *err);
} keys[] = {
	{ "format", NEEDS, set_format },	 { "readonly", NEEDS_NONE, set_readonly },
	{ "serial", NEEDS, set_serial },	 { "iops", NEEDS, set_iops },
	{ "iops-burst", NEEDS, set_iops_burst }, { "bps", NEEDS, set_bps },
	{ "bps-burst", NEEDS, set_bps_burst },	 { "direct", NEEDS_NONE, set_direct },
	{ "backing", MAY_HAVE, set_backing },	 { "backing-format", NEEDS, set_backing_format },
	{ "queues", NEEDS, set_queues },	 { "snapshot", NEEDS, set_snapshot },
};

static int set_key(struct parse *p, char *word, struct err *err)
{
	char *val = strchr(word, '=');

	if (val)
		*val++ = 0;
	for (unsigned i = 0; i < ARRAY_SIZE(keys); i++) {
		if (strcmp(keys[i].name, word) != 0)
			continue;
		if (keys[i].value == NEEDS && (!val || !*val))
			return err_say(err, EINVAL, "'%s' needs a value, as in disk.img,%s=...",
				       word, word);
		if (keys[i].value == NEEDS_NONE && val)
			return err_say(err, EINVAL, "'%s' takes no value, as in disk.img,%s", word,
				       word);
		if (val && !*val)
			val = NULL;
		return keys[i].set(p, val, err);
	}
	return err_say(
		err, EINVAL,
		"there is no '%s'; a disk is FILE and then format, readonly, serial, iops, "
		"bps, direct, backing, queues ..., as in disk.qcow2,format=qcow2,serial=root",
		word);
}

/* Cut the next word off at its comma; two commas are one in the word. NULL if there is none. */
static char *next_word(char **at)
{
	char *word = *at, *to = word, *from = word;

	if (!word)
		return NULL;
	while (*from && (*from != ',' || from[1] == ',')) {
		from += *from == ',';
		*to++ = *from++;
	}
	*at = *from ? from + 1 : NULL;
	*to = 0;
	return word;
}

static int check(const struct parse *p, struct err *err)
{
	const struct blk_open *o = &p->cfg->open;
	const struct blk_limits *l = &p->cfg->limits;

	if (!p->has_format && qcow2_has_magic(o->path))
		return err_say(err, EINVAL,
			       "%s looks like qcow2: say so, as in %s,format=qcow2, or "
			       "format=raw to take its bytes as they are",
			       o->path, o->path);
	if (o->format == BLK_RAW && (o->backing || o->snapshot))
		return err_say(err, EINVAL,
			       "backing and snapshot are qcow2's, as in "
			       "disk.qcow2,format=qcow2,backing");
	if (o->backing_path && !p->has_backing_format)
		return err_say(err, EINVAL,
			       "the backing file's format is missing, as in "
			       "disk.qcow2,format=qcow2,backing=base.img,backing-format=raw");
	if (!o->backing_path && p->has_backing_format)
		return err_say(err, EINVAL,
			       "backing-format goes with a named backing file, as in "
			       "disk.qcow2,format=qcow2,backing=base.img,backing-format=raw");
	if ((l->iops_burst && !l->iops) || (l->bytes_burst && !l->bytes_per_s))
		return err_say(err, EINVAL,
			       "a burst goes with its rate, as in disk.img,iops=500,iops-burst=2K");
	return 0;
}

int disk_option_parse(struct disk_option *d, const char *val, struct err *err)
{
	struct parse p = { .cfg = &d->cfg };
	char *at, *word;
	int ret = 0;

	*d = (struct disk_option){ .text = strdup(val) };
	if (!d->text)
		return err_set(err, ENOMEM, "start");
	at = d->text;
	d->cfg.open.path = next_word(&at);
	if (!d->cfg.open.path[0])
		return err_say(err, EINVAL, "the file's name is missing, as in --disk disk.img");
	while (ret == 0 && (word = next_word(&at)))
		ret = set_key(&p, word, err);
	return ret < 0 ? ret : check(&p, err);
}

void disk_option_fini(struct disk_option *d)
{
	free(d->text);
}
