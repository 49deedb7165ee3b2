/* cleave disk: make disk images, look at them, check, copy and resize them. */
#include "base/bits.h"
#include "base/err.h"
#include "cli/cli.h"
#include "cli/disk_image.h"
#include "dev/backend/qcow2/qcow2.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/stat.h>
#include <time.h>
#include <unistd.h>

/* The size of a backing file as a disk, where no size was said. */
static int backing_size(const struct disk_args *a, const char *image, uint64_t *bytes,
			struct err *err)
{
	struct blk_open how = { .path = a->backing_file, .readonly = true, .backing = true };
	const char *slash = strrchr(image, '/');
	struct blk_info info;
	char *path = NULL;
	struct blk *b;
	int ret;

	/* As the image will find it: from its own folder. */
	if (a->backing_file[0] != '/' && slash) {
		if (asprintf(&path, "%.*s/%s", (int)(slash - image), image, a->backing_file) < 0)
			return err_set(err, ENOMEM, "create");
		how.path = path;
	}
	blk_format_parse(a->backing_format, &how.format);
	ret = blk_open(&b, NULL, &how, err);
	free(path);
	if (ret < 0)
		return err_wrap(err, "--backing");
	blk_info(b, &info);
	*bytes = info.bytes;
	blk_close(b, NULL);
	return 0;
}

int disk_create(const struct disk_args *a, struct err *err)
{
	enum blk_format format = BLK_QCOW2, ignored;
	struct new_file f;
	uint64_t bytes;
	int ret = 0;

	if (a->format && !blk_format_parse(a->format, &format))
		return err_say(err, EINVAL,
			       "--format: '%s' is not raw or qcow2, as in --format qcow2",
			       a->format);
	if (a->backing_file &&
	    (!a->backing_format || !blk_format_parse(a->backing_format, &ignored)))
		return err_say(err, EINVAL,
			       "--backing needs --backing-format raw or --backing-format qcow2");
	if (a->n_files > 1)
		ret = disk_parse_size(a->file[1], &bytes, err);
	else if (a->backing_file)
		ret = backing_size(a, a->file[0], &bytes, err);
	else
		ret = err_say(err, EINVAL, "the size is missing, as in: cleave disk create %s 10G",
			      a->file[0]);
	if (ret < 0)
		return ret;
	ret = new_file_begin(&f, a->file[0], a->force, err);
	if (ret < 0)
		return ret;
	return new_file_end(&f, disk_make(a, f.temporary, format, bytes, err), err);
}

static void print_facts_json(const struct qcow2_facts *f)
{
	printf(", \"cluster_bytes\": %llu, \"version\": %u, \"refcount_bits\": %u, "
	       "\"compression\": \"%s\", \"dirty\": %s, \"corrupt\": %s, \"lazy_refcounts\": %s, "
	       "\"bitmaps\": %s, \"encrypted\": %s, \"data_file\": %s, \"extended_l2\": %s",
	       BIT(f->cluster_bits), f->version, f->refcount_bits, f->zstd ? "zstd" : "zlib",
	       f->dirty ? "true" : "false", f->corrupt ? "true" : "false",
	       f->lazy_refcounts ? "true" : "false", f->bitmaps ? "true" : "false",
	       f->encrypted ? "true" : "false", f->data_file ? "true" : "false",
	       f->extended_l2 ? "true" : "false");
	if (f->backing[0]) {
		printf(", \"backing\": ");
		print_json_string(f->backing);
		printf(", \"backing_format\": ");
		print_json_string(f->backing_format);
	}
	printf(", \"snapshots\": [");
	for (unsigned i = 0; i < f->n_snapshots; i++) {
		const struct qcow2_snapshot *s = &f->snapshot[i];

		printf("%s{\"id\": ", i ? ", " : "");
		print_json_string(s->id);
		printf(", \"name\": ");
		print_json_string(s->name);
		printf(", \"bytes\": %llu, \"vm_state_bytes\": %llu, \"seconds\": %u}",
		       (unsigned long long)s->bytes, (unsigned long long)s->vm_state_bytes,
		       s->seconds);
	}
	printf("]");
}

static void print_facts(const struct qcow2_facts *f)
{
	printf("clusters         %llu bytes\n"
	       "version          %u\n"
	       "refcounts        %u bits\n"
	       "compression      %s\n",
	       BIT(f->cluster_bits), f->version, f->refcount_bits, f->zstd ? "zstd" : "zlib");
	printf("state           %s%s%s\n", f->dirty ? " dirty" : "", f->corrupt ? " corrupt" : "",
	       f->dirty || f->corrupt ? "" : " fine");
	if (f->encrypted || f->data_file || f->extended_l2)
		printf("cannot be used   %s%s%s\n", f->encrypted ? "encrypted " : "",
		       f->data_file ? "data in another file " : "",
		       f->extended_l2 ? "extended L2 entries" : "");
	if (f->bitmaps)
		printf("bitmaps          lost at the first write\n");
	if (f->backing[0]) {
		printf("backing file     ");
		print_safely(f->backing);
		printf(" (");
		print_safely(f->backing_format[0] ? f->backing_format : "format not said");
		printf(")\n");
	}
	for (unsigned i = 0; i < f->n_snapshots; i++) {
		const struct qcow2_snapshot *s = &f->snapshot[i];
		char when[40] = "?";
		time_t t = s->seconds;
		struct tm tm;

		if (gmtime_r(&t, &tm))
			strftime(when, sizeof(when), "%Y-%m-%d %H:%M:%S UTC", &tm);
		printf("snapshot         ");
		print_safely(s->id);
		printf(" ");
		print_safely(s->name);
		printf(", %s, %llu bytes\n", when, (unsigned long long)s->bytes);
	}
}

int disk_info(const struct disk_args *a, struct err *err)
{
	const char *path = a->file[0];
	struct qcow2_facts f = { 0 };
	bool qcow2 = qcow2_has_magic(path);
	struct stat st;
	int ret = 0;

	if (stat(path, &st) < 0)
		return err_set(err, errno, "look at %s", path);
	if (qcow2) {
		ret = qcow2_facts(path, &f, err);
	} else {
		struct blk_open how = { .path = path, .readonly = true, .no_lock = true };
		struct blk_info info;
		struct blk *b;

		ret = blk_open(&b, NULL, &how, err);
		if (ret == 0) {
			blk_info(b, &info);
			f.bytes = info.bytes;
			blk_close(b, NULL);
		}
	}
	if (ret < 0)
		return err_wrap(err, "%s", path);
	if (a->json) {
		printf("{\"file\": ");
		print_json_string(path);
		printf(", \"format\": \"%s\", \"bytes\": %llu, \"host_bytes\": %llu",
		       qcow2 ? "qcow2" : "raw", (unsigned long long)f.bytes,
		       (unsigned long long)st.st_blocks * 512);
		if (qcow2)
			print_facts_json(&f);
		printf("}\n");
	} else {
		printf("file             %s\n"
		       "format           %s\n"
		       "disk             %llu bytes\n"
		       "on the host      %llu bytes\n",
		       path, qcow2 ? "qcow2" : "raw", (unsigned long long)f.bytes,
		       (unsigned long long)st.st_blocks * 512);
		if (qcow2)
			print_facts(&f);
	}
	free(f.snapshot);
	return 0;
}

static void print_check_json(const char *path, const struct qcow2_check *c)
{
	printf("{\"file\": ");
	print_json_string(path);
	printf(", \"clusters\": %llu, \"allocated\": %llu, \"compressed\": %llu, \"leaks\": %llu, "
	       "\"errors\": %llu, \"damage\": %llu, \"repaired\": %llu, \"image_end\": %llu, "
	       "\"first\": ",
	       (unsigned long long)c->clusters, (unsigned long long)c->allocated,
	       (unsigned long long)c->compressed, (unsigned long long)c->leaks,
	       (unsigned long long)c->errors, (unsigned long long)c->damage,
	       (unsigned long long)c->repaired, (unsigned long long)c->image_end);
	print_json_string(c->first);
	printf("}\n");
}

static void print_check(const struct qcow2_check *c)
{
	printf("%llu of %llu clusters are stored, %llu of them compressed\n",
	       (unsigned long long)c->allocated, (unsigned long long)c->clusters,
	       (unsigned long long)c->compressed);
	if (c->repaired)
		printf("%llu repaired\n", (unsigned long long)c->repaired);
	if (c->leaks)
		printf("%llu clusters leak: they take room and harm nothing\n",
		       (unsigned long long)c->leaks);
	if (c->errors)
		printf("%llu errors that can lose data; --repair mends them\n",
		       (unsigned long long)c->errors);
	if (c->damage)
		printf("%llu entries point to where nothing can be\n",
		       (unsigned long long)c->damage);
	if (c->first[0])
		printf("the first: %s\n", c->first);
	if (!c->leaks && !c->errors && !c->damage)
		printf("the image is in order\n");
}

int disk_check(const struct disk_args *a, struct err *err)
{
	struct qcow2_check c;
	int ret;

	if (access(a->file[0], R_OK) == 0 && !qcow2_has_magic(a->file[0]))
		return err_say(err, EINVAL,
			       "%s is not a qcow2 image, and others have nothing to check",
			       a->file[0]);
	ret = qcow2_check_image(a->file[0], a->repair, &c, err);
	if (ret < 0)
		return err_wrap(err, "%s", a->file[0]);
	if (a->json)
		print_check_json(a->file[0], &c);
	else
		print_check(&c);
	return c.errors || c.damage ? STATUS_ERROR : STATUS_OK;
}

static int new_size(const struct disk_args *a, uint64_t was, uint64_t *bytes, struct err *err)
{
	const char *text = a->file[1];
	int ret = disk_parse_size(text + (text[0] == '+'), bytes, err);

	if (ret < 0)
		return ret;
	if (text[0] == '+')
		*bytes += was;
	if (*bytes < was && !a->shrink)
		return err_say(err, EINVAL,
			       "that would cut off the end of the disk; --shrink does it");
	return 0;
}

int disk_resize(const struct disk_args *a, struct err *err)
{
	struct blk_open how = { .path = a->file[0], .backing = true };
	struct blk_info info;
	uint64_t bytes;
	struct blk *b;
	int closed, ret = disk_source_format(a, a->file[0], &how.format, err);

	if (ret == 0)
		ret = blk_open(&b, NULL, &how, err);
	if (ret < 0)
		return ret;
	blk_info(b, &info);
	ret = new_size(a, info.bytes, &bytes, err);
	if (ret == 0)
		ret = blk_resize(b, bytes, err);
	closed = blk_close(b, ret == 0 ? err : NULL);
	return ret == 0 ? closed : ret;
}

static void print_extent(const struct disk_args *a, const struct blk_extent *e, bool first)
{
	static const char *const kind[] = {
		[BLK_HOLE] = "hole",
		[BLK_ZERO] = "zero",
		[BLK_DATA] = "data",
		[BLK_COMPRESSED] = "compressed",
	};
	unsigned long long off = e->off, len = e->len, host = e->host_off;

	if (a->json) {
		printf("%s{\"offset\": %llu, \"bytes\": %llu, \"kind\": \"%s\", \"depth\": %u",
		       first ? "" : ",\n ", off, len, kind[e->kind], e->depth);
		if (e->has_host_off)
			printf(", \"host_offset\": %llu", host);
		printf("}");
		return;
	}
	if (first)
		printf("%16s %16s %-10s %5s %16s\n", "offset", "bytes", "kind", "depth", "in file");
	printf("%16llu %16llu %-10s %5u", off, len, kind[e->kind], e->depth);
	if (e->has_host_off)
		printf(" %16llu", host);
	printf("\n");
}

static bool goes_on(const struct blk_extent *a, const struct blk_extent *b)
{
	return a->kind == b->kind && a->depth == b->depth && a->has_host_off == b->has_host_off &&
	       (!a->has_host_off || a->host_off + a->len == b->host_off);
}

static int print_map(const struct disk_args *a, struct blk *b, struct err *err)
{
	struct blk_extent all = { 0 }, e;
	struct blk_info info;
	bool first = true;

	blk_info(b, &info);
	if (a->json)
		printf("[");
	for (uint64_t off = 0; off < info.bytes; off += e.len) {
		int ret = blk_map(b, off, info.bytes - off, &e);

		if (ret < 0)
			return err_set(err, -ret, "map %s", a->file[0]);
		if (all.len && goes_on(&all, &e)) {
			all.len += e.len;
			continue;
		}
		if (all.len) {
			print_extent(a, &all, first);
			first = false;
		}
		all = e;
	}
	if (all.len)
		print_extent(a, &all, first);
	if (a->json)
		printf("]\n");
	return 0;
}

int disk_map(const struct disk_args *a, struct err *err)
{
	struct blk_open how = {
		.path = a->file[0], .readonly = true, .backing = a->backing, .as_is = !a->backing
	};
	struct blk *b;
	int ret = disk_source_format(a, a->file[0], &how.format, err);

	if (ret == 0)
		ret = blk_open(&b, NULL, &how, err);
	if (ret < 0)
		return ret;
	ret = print_map(a, b, err);
	blk_close(b, NULL);
	return ret;
}

enum { CREATE = 1, INFO = 2, CHECK = 4, CONVERT = 8, RESIZE = 16, MAP = 32 };

static const struct {
	const char *name;
	unsigned bit, min_files, max_files;
	const char *files; /* what they are */
	int (*run)(const struct disk_args *a, struct err *err);
} commands[] = {
	{ "create", CREATE, 1, 2, "FILE [SIZE]", disk_create },
	{ "info", INFO, 1, 1, "FILE", disk_info },
	{ "check", CHECK, 1, 1, "FILE", disk_check },
	{ "convert", CONVERT, 2, 2, "SOURCE TARGET", disk_convert },
	{ "resize", RESIZE, 2, 2, "FILE SIZE", disk_resize },
	{ "map", MAP, 1, 1, "FILE", disk_map },
};

static const struct {
	const char *name;
	unsigned commands;
	size_t flag, text; /* offset of the bool, or of the string, in struct disk_args */
} options[] = {
	{ "--json", INFO | CHECK | MAP, offsetof(struct disk_args, json), 0 },
	{ "--repair", CHECK, offsetof(struct disk_args, repair), 0 },
	{ "--force", CREATE | CONVERT, offsetof(struct disk_args, force), 0 },
	{ "--backing", CONVERT | MAP, offsetof(struct disk_args, backing), 0 },
	{ "--backing", CREATE, 0, offsetof(struct disk_args, backing_file) },
	{ "--shrink", RESIZE, offsetof(struct disk_args, shrink), 0 },
	{ "--format", CREATE | CONVERT | RESIZE | MAP, 0, offsetof(struct disk_args, format) },
	{ "--to", CONVERT, 0, offsetof(struct disk_args, to) },
	{ "--cluster-size", CREATE | CONVERT, 0, offsetof(struct disk_args, cluster_size) },
	{ "--compat", CREATE | CONVERT, 0, offsetof(struct disk_args, compat) },
	{ "--refcount-bits", CREATE | CONVERT, 0, offsetof(struct disk_args, refcount_bits) },
	{ "--backing-format", CREATE, 0, offsetof(struct disk_args, backing_format) },
	{ "--snapshot", CONVERT, 0, offsetof(struct disk_args, snapshot) },
};

/* Take the option at argv[*i], "--name value" or "--name=value". */
static int take_option(struct disk_args *a, unsigned command, int argc, char **argv, int *i,
		       struct err *err)
{
	const char *arg = argv[*i], *val;
	size_t len = strcspn(arg, "=");

	for (unsigned k = 0; k < ARRAY_SIZE(options); k++) {
		if (!(options[k].commands & command) || strlen(options[k].name) != len ||
		    memcmp(options[k].name, arg, len) != 0)
			continue;
		if (options[k].flag) {
			*(bool *)((char *)a + options[k].flag) = true;
			return arg[len] ? err_say(err, EINVAL, "%s takes no value", options[k].name)
					: 0;
		}
		val = arg[len] ? arg + len + 1 : ++*i < argc ? argv[*i] : NULL;
		if (!val || !*val)
			return err_say(err, EINVAL, "%s needs a value", options[k].name);
		*(const char **)(void *)((char *)a + options[k].text) = val;
		return 0;
	}
	return err_say(err, EINVAL, "there is no option '%s'; see `cleave disk --help`", arg);
}

/* argv[1] is the command at k. */
static int run(unsigned k, int argc, char **argv, struct err *err)
{
	struct disk_args a = { .command = commands[k].name };
	bool only_files = false;
	int ret = 0;

	for (int i = 2; i < argc && ret == 0; i++) {
		if (!only_files && strcmp(argv[i], "--") == 0)
			only_files = true;
		else if (!only_files && argv[i][0] == '-' && argv[i][1])
			ret = take_option(&a, commands[k].bit, argc, argv, &i, err);
		else if (a.n_files == commands[k].max_files)
			ret = err_say(err, EINVAL, "'%s' is too much: give %s", argv[i],
				      commands[k].files);
		else
			a.file[a.n_files++] = argv[i];
	}
	if (ret == 0 && a.n_files < commands[k].min_files)
		ret = err_say(err, EINVAL, "give %s", commands[k].files);
	return ret < 0 ? ret : commands[k].run(&a, err);
}

int cmd_disk(int argc, char **argv)
{
	const char *command = argc > 1 ? argv[1] : "";
	struct err err;

	for (int i = 1; i < argc; i++) {
		if (is_help_option(argv[i])) {
			help_command("disk");
			return STATUS_OK;
		}
	}
	signal(SIGXFSZ, SIG_IGN); /* a limit on files is an error of writing */
	for (unsigned k = 0; k < ARRAY_SIZE(commands); k++) {
		if (strcmp(commands[k].name, command) != 0)
			continue;

		int ret = run(k, argc, argv, &err);

		if (ret < 0)
			fprintf(stderr, "cleave disk %s: %s\n", command, err.msg);
		return ret < 0 ? STATUS_ERROR : ret;
	}
	fprintf(stderr,
		"cleave disk: '%s' is not create, info, check, convert, resize or map; see "
		"`cleave disk --help`\n",
		command);
	return STATUS_ERROR;
}
