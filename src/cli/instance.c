#include "cli/instance.h"

#include "base/bits.h"
#include "base/err.h"
#include "base/own.h"
#include "cli/disk_image.h"
#include "cli/image.h"
#include "cli/seed.h"
#include "cli/store.h"
#include "dev/backend/qcow2/qcow2.h"
#include "machine/control.h"

#include <ctype.h>
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>

#define MAX_KEYS      (64 * KiB)
#define KEY_STRING    "io.systemd.credential.binary:ssh.authorized_keys.root="
#define MAX_MADE_UP   10000
#define DEFAULT_WORDS "root=/dev/vda ro console=ttyS0 quiet"

static int instance_path(char *path, const char *name, const char *file, struct err *err)
{
	return store_path(path, PATH_MAX, err, "instances/%s/%s", name, file);
}

/* Read all of f, of at most max bytes, with a zero byte behind it. */
static int fill_text(char *text, FILE *f, size_t max, size_t *len)
{
	*len = fread(text, 1, max, f);
	text[*len] = 0;
	if (ferror(f))
		return -EIO;
	return getc(f) == EOF ? 0 : -EFBIG;
}

/* All of a file of at most max bytes, with a zero byte behind it; owned by the caller. */
static char *read_text(const char *path, size_t max, size_t *len, struct err *err)
{
	FILE *f = fopen(path, "re");
	char *text = NULL;
	int ret = f ? 0 : -errno;

	if (f) {
		text = malloc(max + 1);
		ret = text ? fill_text(text, f, max, len) : -ENOMEM;
		fclose(f);
	}
	if (ret == 0)
		return text;
	free(text);
	if (ret == -EFBIG)
		err_say(err, EFBIG, "%s has more than %zu KiB", path, max / 1024);
	else
		err_set(err, -ret, "read %s", path);
	return NULL;
}

static char *base64(const char *text)
{
	static const char digit[] =
		"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
	size_t len = strlen(text), n = 0;
	char *out = malloc((len + 2) / 3 * 4 + 1);

	for (size_t i = 0; out && i < len; i += 3) {
		uint32_t v = 0;

		for (unsigned k = 0; k < 3; k++)
			v = v << 8 | (i + k < len ? (uint8_t)text[i + k] : 0);
		for (unsigned k = 0; k < 4; k++)
			out[n++] = i + k > len ? '=' : digit[v >> (18 - 6 * k) & 63];
	}
	if (out)
		out[n] = 0;
	return out;
}

static int check_keys(const char *path, const char *text, struct err *err)
{
	bool fine = strstr(text, "ssh-") || strstr(text, "ecdsa-") || strstr(text, "sk-");

	if (!fine || strstr(text, "PRIVATE KEY"))
		return err_say(err, EINVAL,
			       "--ssh-key: %s holds no public keys; name the public one, as in "
			       "--ssh-key ~/.ssh/id_ed25519.pub",
			       path);
	return 0;
}

/* Who may log in as root, as a string that systemd in the guest finds in the SMBIOS tables. */
static int make_keys(struct instance *in, const struct instance_order *o, struct err *err)
{
	AUTO_FREE char *own = ssh_key_public(err), *more = NULL, *all = NULL, *coded = NULL;
	size_t len;
	int ret = own ? 0 : -ENOENT;

	if (ret == 0 && o->ssh_key) {
		more = read_text(o->ssh_key, MAX_KEYS / 2, &len, err);
		ret = more ? check_keys(o->ssh_key, more, err) : err_wrap(err, "--ssh-key");
	}
	if (ret < 0)
		return ret;
	if (asprintf(&all, "%s%s", own, more ? more : "") >= 0)
		coded = base64(all);
	else
		all = NULL;
	if (!coded || asprintf(&in->oem[0], KEY_STRING "%s", coded) < 0)
		return err_set(err, ENOMEM, "start");
	return 0;
}

/*
 * The disk.
 */

/* Fill the empty file at path. */
static int create_overlay(const char *path, const char *image, struct err *err)
{
	char base[PATH_MAX];
	int ret = image_path(base, image, "disk.qcow2", err);
	struct qcow2_options o = { .version = 3,
				   .cluster_bits = 16,
				   .refcount_bits = 16,
				   .backing = base,
				   .backing_format = "qcow2" };
	struct qcow2_facts facts = { 0 };

	if (ret == 0)
		ret = qcow2_facts(base, &facts, err);
	free(facts.snapshot);
	o.bytes = facts.bytes;
	return ret < 0 ? ret : qcow2_create(path, &o, err);
}

/* A file without a name: gone with this process, however that ends. */
static int make_passing_disk(struct instance *in, const char *image, struct err *err)
{
	int ret = store_path(in->path, sizeof(in->path), err, "instances/.disk.XXXXXX");

	if (ret < 0)
		return ret;
	in->disk_fd = mkostemp(in->path, O_CLOEXEC);
	if (in->disk_fd < 0)
		return err_set(err, errno, "make %s", in->path);
	ret = create_overlay(in->path, image, err);
	unlink(in->path);
	snprintf(in->path, sizeof(in->path), "/proc/self/fd/%d", in->disk_fd);
	return ret;
}

static const char *image_of(const json_t *facts)
{
	const char *image = json_string_value(json_object_get(facts, "image"));

	return image ? image : "";
}

static int load_facts(json_t **facts, const char *name, struct err *err)
{
	char path[PATH_MAX];
	int ret = store_path(path, sizeof(path), err, "instances/");

	if (ret < 0)
		return ret;
	snprintf(path + strlen(path), sizeof(path) - strlen(path), "%s/instance.json", name);
	*facts = json_load_file(path, 0, NULL);
	return *facts ? 0
		      : err_say(err, ENOENT,
				"there is no instance '%s'; `cleave image list` lists them", name);
}

/* The disk of this name that is there already: of the same image. */
static int check_kept_disk(const struct instance *in, const char *image, struct err *err)
{
	json_t *facts;
	int ret = load_facts(&facts, in->name, err);

	if (ret < 0)
		return ret;
	if (strcmp(image_of(facts), image) != 0)
		ret = err_say(err, EEXIST,
			      "--name: %s was made from the image %s, not %s; another name, or "
			      "first: cleave image rm --instance %s",
			      in->name, image_of(facts), image, in->name);
	json_decref(facts);
	return ret;
}

static int write_facts(const struct instance *in, const char *image, struct err *err)
{
	char path[PATH_MAX];
	int ret = instance_path(path, in->name, "instance.json", err);
	json_t *facts = json_pack("{s:s, s:s}", "name", in->name, "image", image);

	if (ret == 0 && json_dump_file(facts, path, JSON_INDENT(2)) < 0)
		ret = err_set(err, errno, "write %s", path);
	json_decref(facts);
	return ret;
}

/* The disk comes last, and whole: without it there is no instance. */
static int make_kept_disk(struct instance *in, const char *image, struct err *err)
{
	struct new_file f;
	int ret = write_facts(in, image, err);

	if (ret == 0)
		ret = new_file_begin(&f, in->path, false, err);
	if (ret < 0)
		return ret;
	ret = new_file_end(&f, create_overlay(f.temporary, image, err), err);
	return ret > 0 ? err_say(err, EINTR, "stopped by a signal") : ret;
}

static int open_kept_disk(struct instance *in, const char *image, struct err *err)
{
	int ret = instance_path(in->path, in->name, "disk.qcow2", err);

	if (ret < 0)
		return ret;
	return access(in->path, F_OK) == 0 ? check_kept_disk(in, image, err)
					   : make_kept_disk(in, image, err);
}

/* NAME, NAME-2, ...: the first that no instance has. */
static int make_up_name(struct instance *in, const char *image, struct err *err)
{
	char base[INSTANCE_MAX_NAME - 8];
	json_t *facts;

	snprintf(base, sizeof(base), "%s", image);
	for (char *c = base; *c; c++)
		if (*c == ':')
			*c = '-';
	snprintf(in->name, sizeof(in->name), "%s", base);
	for (unsigned n = 2; load_facts(&facts, in->name, err) == 0; n++) {
		json_decref(facts);
		if (n > MAX_MADE_UP)
			return err_say(err, EEXIST, "--keep: give it a name, as in --name web");
		snprintf(in->name, sizeof(in->name), "%s-%u", base, n);
	}
	return 0;
}

static int make_disk(struct instance *in, const struct instance_order *o, struct err *err)
{
	int ret = 0;

	if (o->name)
		snprintf(in->name, sizeof(in->name), "%s", o->name);
	else if (o->keep)
		ret = make_up_name(in, o->image, err);
	if (ret == 0)
		ret = in->name[0] ? open_kept_disk(in, o->image, err)
				  : make_passing_disk(in, o->image, err);
	if (ret < 0)
		return ret;
	in->disk[in->n_disks++] =
		(struct blk_open){ .path = in->path, .format = BLK_QCOW2, .backing = true };
	return 0;
}

/*
 * What the guest is told.
 */

static bool has_cloud_init(const json_t *facts)
{
	json_t *package;
	size_t i;

	json_array_foreach(json_object_get(facts, "packages"), i,
			   package) if (strcmp(json_string_value(package), "cloud-init") ==
					0) return true;
	return false;
}

static int fill_seed(struct instance *in, const char *meta, const char *user, size_t user_len,
		     struct err *err)
{
	size_t size;
	AUTO_FREE uint8_t *disk = seed_build(meta, strlen(meta), user, user_len, &size);

	in->seed_fd = memfd_create("seed", MFD_CLOEXEC);
	if (!disk || in->seed_fd < 0 || write(in->seed_fd, disk, size) != (ssize_t)size)
		return err_set(err, errno, "--user-data");
	snprintf(in->seed, sizeof(in->seed), "/proc/self/fd/%d", in->seed_fd);
	in->disk[in->n_disks++] = (struct blk_open){ .path = in->seed, .readonly = true };
	return 0;
}

static int make_seed(struct instance *in, const struct instance_order *o, const json_t *facts,
		     struct err *err)
{
	const char *name = in->name[0] ? in->name : "passing";
	AUTO_FREE char *user = NULL, *meta = NULL;
	size_t len;

	if (!has_cloud_init(facts))
		return err_say(err, EINVAL,
			       "--user-data: image %s has no cloud-init, which reads it; build one "
			       "with it, as in: cleave image build " IMAGE_EXAMPLE
			       " --name cloud --package cloud-init",
			       o->image);
	user = read_text(o->user_data, SEED_MAX_FILE, &len, err);
	if (!user)
		return err_wrap(err, "--user-data");
	if (asprintf(&meta, "instance-id: %s\nlocal-hostname: %s\n", name,
		     o->hostname ? o->hostname : name) < 0)
		return err_set(err, ENOMEM, "--user-data");
	return fill_seed(in, meta, user, len, err);
}

static int check_hostname(const char *name, struct err *err)
{
	size_t len = strlen(name);
	bool fine = len > 0 && len <= INSTANCE_MAX_NAME && isalnum((unsigned char)name[0]);

	for (const char *c = name; *c; c++)
		fine = fine && (isalnum((unsigned char)*c) || *c == '-' || *c == '.');
	return fine ? 0
		    : err_say(err, EINVAL,
			      "--hostname: '%s' is no name of a host, as in --hostname web1", name);
}

static int make_command_line(struct instance *in, const struct instance_order *o, struct err *err)
{
	const char *host = o->hostname ? o->hostname : in->name;
	int ret = o->hostname ? check_hostname(host, err) : 0, len;

	if (ret < 0)
		return ret;
	len = snprintf(in->append, sizeof(in->append), DEFAULT_WORDS "%s%s%s%s",
		       host[0] ? " systemd.hostname=" : "", host, o->append[0] ? " " : "",
		       o->append);
	return (size_t)len < sizeof(in->append)
		       ? 0
		       : err_say(err, E2BIG, "--append: the command line is too long");
}

/* Load the image's facts, and build it first if it is one that can be. */
static int need_image(json_t **facts, const char *image, struct err *err)
{
	int ret = image_load(facts, image, err);

	if (ret != -ENOENT || !image_is_system(image))
		return ret;

	struct image_order o = { .system = image };

	ret = image_build(&o, err);
	return ret < 0 ? ret : image_load(facts, image, err);
}

static int prepare(struct instance *in, const struct instance_order *o, const json_t *facts,
		   struct err *err)
{
	const char *password = json_string_value(json_object_get(facts, "console_password"));
	int ret = make_disk(in, o, err);

	if (password)
		snprintf(in->password, sizeof(in->password), "%s", password);
	if (ret == 0)
		ret = make_keys(in, o, err);
	if (ret == 0 && o->user_data)
		ret = make_seed(in, o, facts, err);
	if (ret == 0)
		ret = make_command_line(in, o, err);
	if (ret == 0 && !o->has_kernel)
		ret = image_boot_read(&in->boot, &in->disk[0], err);
	return ret;
}

int instance_new(struct instance **out, const struct instance_order *o, struct err *err)
{
	struct instance *in = calloc(1, sizeof(*in));
	json_t *facts = NULL;
	int ret;

	if (!in)
		return err_set(err, ENOMEM, "start");
	in->disk_fd = in->seed_fd = in->boot.kernel_fd = in->boot.initrd_fd = -1;
	ret = need_image(&facts, o->image, err);
	if (ret == 0)
		ret = prepare(in, o, facts, err);
	json_decref(facts);
	if (ret < 0)
		instance_free(in);
	else
		*out = in;
	return ret;
}

void instance_free(struct instance *i)
{
	if (!i)
		return;
	image_boot_fini(&i->boot);
	if (i->disk_fd >= 0)
		close(i->disk_fd);
	if (i->seed_fd >= 0)
		close(i->seed_fd);
	free(i->oem[0]);
	free(i);
}

int instance_list(json_t **list, struct err *err)
{
	json_t *names, *name, *facts;
	char path[PATH_MAX];
	struct stat st;
	size_t i;
	int ret = image_names(&names, "instances", "disk.qcow2", err);

	if (ret < 0)
		return ret;
	*list = json_array();
	json_array_foreach(names, i, name)
	{
		if (load_facts(&facts, json_string_value(name), NULL) < 0)
			continue;
		if (instance_path(path, json_string_value(name), "disk.qcow2", NULL) == 0 &&
		    stat(path, &st) == 0)
			json_object_set_new(facts, "host_bytes",
					    json_integer((json_int_t)st.st_blocks * 512));
		json_array_append_new(*list, facts);
	}
	json_decref(names);
	return 0;
}

int instance_check_idle(const char *name, struct err *err)
{
	char path[PATH_MAX];
	struct blk_open how = { .path = path, .format = BLK_QCOW2, .backing = true };
	struct blk *b = NULL;
	json_t *facts;
	int ret = control_is_name(name) ? load_facts(&facts, name, err)
					: err_say(err, EINVAL, "'%s' is no name", name);

	if (ret < 0)
		return ret;
	json_decref(facts);
	ret = instance_path(path, name, "disk.qcow2", err);
	if (ret == 0 && blk_open(&b, NULL, &how, err) == -EBUSY)
		ret = err_wrap(err, "instance %s runs", name);
	blk_close(b, NULL);
	return ret;
}
