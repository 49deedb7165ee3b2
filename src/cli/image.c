/* cleave image: build, list, describe and remove guest images; and where the store has them. */
#include "cli/image.h"

#include "base/bits.h"
#include "base/err.h"
#include "base/own.h"
#include "cli/cli.h"
#include "cli/disk_image.h"
#include "cli/instance.h"
#include "cli/store.h"

#include <ctype.h>
#include <dirent.h>
#include <errno.h>
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>
#include <time.h>

#define MAX_NAME 64

bool image_is_name(const char *name)
{
	unsigned colons = 0;
	size_t len = strlen(name);

	if (len == 0 || len > MAX_NAME || !isalnum((unsigned char)name[0]) || name[len - 1] == ':')
		return false;
	for (const char *c = name; *c; c++) {
		colons += *c == ':';
		if (!isalnum((unsigned char)*c) && !strchr("._-:", *c))
			return false;
	}
	return colons <= 1;
}

bool image_is_system(const char *name)
{
	return strcmp(name, IMAGE_EXAMPLE) == 0;
}

int image_path(char *path, const char *name, const char *file, struct err *err)
{
	return store_path(path, PATH_MAX, err, "images/%s/%s", name, file);
}

int image_load(json_t **facts, const char *name, struct err *err)
{
	char path[PATH_MAX];
	int ret = store_path(path, sizeof(path), err, "images/");

	if (ret < 0)
		return ret;
	snprintf(path + strlen(path), sizeof(path) - strlen(path), "%s/image.json", name);
	*facts = image_is_name(name) ? json_load_file(path, 0, NULL) : NULL;
	if (json_is_object(*facts))
		return 0;
	json_decref(*facts);
	return err_say(
		err, ENOENT,
		"there is no image '%s'; `cleave image list` lists them, `cleave image build " IMAGE_EXAMPLE
		"` makes one",
		name);
}

int image_names(json_t **names, const char *folder, const char *file, struct err *err)
{
	char path[PATH_MAX];
	struct dirent **entry;
	int ret = store_path(path, sizeof(path), err, "%s/", folder), n;
	size_t len = strlen(path);

	if (ret < 0)
		return ret;
	*names = json_array();
	n = scandir(path, &entry, NULL, alphasort);
	for (int i = 0; i < n; i++) {
		snprintf(path + len, sizeof(path) - len, "%s/%s", entry[i]->d_name, file);
		if (entry[i]->d_name[0] != '.' && access(path, F_OK) == 0)
			json_array_append_new(*names, json_string(entry[i]->d_name));
		free(entry[i]);
	}
	if (n >= 0)
		free(entry);
	return 0;
}

static const char *text_of(const json_t *facts, const char *key)
{
	const char *text = json_string_value(json_object_get(facts, key));

	return text ? text : "";
}

static void print_created(const json_t *facts, char *buf, size_t size)
{
	time_t when = (time_t)json_integer_value(json_object_get(facts, "created_s"));
	struct tm tm;

	strftime(buf, size, "%Y-%m-%d %H:%M UTC", gmtime_r(&when, &tm));
}

/* What the image takes on the host, added to its facts with where it is. */
static void add_place(json_t *facts, const char *name)
{
	char path[PATH_MAX];
	struct stat st;

	if (image_path(path, name, "disk.qcow2", NULL) < 0 || stat(path, &st) < 0)
		return;
	json_object_set_new(facts, "file", json_string(path));
	json_object_set_new(facts, "host_bytes", json_integer((json_int_t)st.st_blocks * 512));
}

static int load_all(json_t **all, struct err *err)
{
	json_t *names, *name, *facts;
	int ret = image_names(&names, "images", "image.json", err);
	size_t i;

	if (ret < 0)
		return ret;
	*all = json_array();
	json_array_foreach(names, i, name)
	{
		if (image_load(&facts, json_string_value(name), NULL) < 0)
			continue;
		json_object_del(facts, "console_password");
		add_place(facts, json_string_value(name));
		json_array_append_new(*all, facts);
	}
	json_decref(names);
	return 0;
}

static void print_json(const json_t *value)
{
	json_dumpf(value, stdout, JSON_INDENT(2));
	putchar('\n');
}

static int list(const struct image_args *a, struct err *err)
{
	json_t *images, *kept, *one;
	char created[32];
	size_t i;
	int ret = load_all(&images, err);

	if (ret == 0)
		ret = instance_list(&kept, err);
	if (ret < 0)
		return ret;
	if (a->json) {
		json_t *all = json_pack("{s:o, s:o}", "images", images, "instances", kept);

		print_json(all);
		json_decref(all);
		return 0;
	}
	printf("%-24s %-12s %10s  %s\n", "IMAGE", "SYSTEM", "MIB", "BUILT");
	json_array_foreach(images, i, one)
	{
		print_created(one, created, sizeof(created));
		printf("%-24s %-12s %10lld  %s\n", text_of(one, "name"), text_of(one, "system"),
		       json_integer_value(json_object_get(one, "host_bytes")) / (long long)MiB,
		       created);
	}
	if (json_array_size(kept))
		printf("\n%-24s %-12s %10s\n", "INSTANCE", "IMAGE", "MIB");
	json_array_foreach(kept, i, one)
		printf("%-24s %-12s %10lld\n", text_of(one, "name"), text_of(one, "image"),
		       json_integer_value(json_object_get(one, "host_bytes")) / (long long)MiB);
	json_decref(images);
	json_decref(kept);
	return 0;
}

static int info(const struct image_args *a, struct err *err)
{
	json_t *facts, *package;
	char created[32];
	size_t i;
	int ret = image_load(&facts, a->name, err);

	if (ret < 0)
		return ret;
	add_place(facts, a->name);
	if (a->json) {
		print_json(facts);
		json_decref(facts);
		return 0;
	}
	print_created(facts, created, sizeof(created));
	printf("image              %s\n"
	       "system             %s\n"
	       "built              %s\n"
	       "disk               %lld bytes\n"
	       "on the host        %lld bytes\n"
	       "file               %s\n"
	       "root's password    %s (on the console only; ssh takes keys)\n"
	       "further packages  ",
	       a->name, text_of(facts, "system"), created,
	       json_integer_value(json_object_get(facts, "disk_bytes")),
	       json_integer_value(json_object_get(facts, "host_bytes")), text_of(facts, "file"),
	       text_of(facts, "console_password"));
	json_array_foreach(json_object_get(facts, "packages"), i, package)
		printf(" %s", json_string_value(package));
	printf("%s\n", i ? "" : " none");
	json_decref(facts);
	return 0;
}

/* Remove the files of a folder of the store, and it. */
static int remove_folder(const char *kind, const char *name, struct err *err)
{
	char path[PATH_MAX];
	int ret = store_path(path, sizeof(path), err, "%s/%s", kind, name);
	DIR *dir = ret == 0 ? opendir(path) : NULL;
	struct dirent *e;

	if (ret < 0)
		return ret;
	while (dir && (e = readdir(dir)))
		unlinkat(dirfd(dir), e->d_name, 0);
	if (dir)
		closedir(dir);
	return rmdir(path) < 0 ? err_set(err, errno, "remove %s", path) : 0;
}

static int rm(const struct image_args *a, struct err *err)
{
	json_t *facts;
	int ret;

	if (a->instance) {
		ret = instance_check_idle(a->name, err);
		return ret < 0 ? ret : remove_folder("instances", a->name, err);
	}
	ret = image_load(&facts, a->name, err);
	if (ret < 0)
		return ret;
	json_decref(facts);
	ret = image_check_unused(a->name, err);
	return ret < 0 ? ret : remove_folder("images", a->name, err);
}

int image_check_unused(const char *name, struct err *err)
{
	json_t *kept, *one;
	size_t i;
	int ret = instance_list(&kept, err);

	if (ret < 0)
		return ret;
	json_array_foreach(kept, i, one) if (ret == 0 && strcmp(text_of(one, "image"), name) == 0)
		ret = err_say(err, EBUSY,
			      "instance %s stands on image %s; first: cleave image rm "
			      "--instance %s",
			      text_of(one, "name"), name, text_of(one, "name"));
	json_decref(kept);
	return ret;
}

static int build(const struct image_args *a, struct err *err)
{
	struct image_order o = a->order;

	o.system = a->name;
	return image_build(&o, err);
}

enum { BUILD = 1, LIST = 2, INFO = 4, RM = 8 };

static const struct {
	const char *name;
	unsigned bit;
	bool has_name;
	int (*run)(const struct image_args *a, struct err *err);
} commands[] = {
	{ "build", BUILD, true, build },
	{ "list", LIST, false, list },
	{ "info", INFO, true, info },
	{ "rm", RM, true, rm },
};

static int set_size(struct image_args *a, const char *val, struct err *err)
{
	return disk_parse_size(val, &a->order.bytes, err);
}

static int set_package(struct image_args *a, const char *val, struct err *err)
{
	if (a->order.n_packages == IMAGE_MAX_PACKAGES)
		return err_say(err, E2BIG, "at most %u packages", IMAGE_MAX_PACKAGES);
	a->order.package[a->order.n_packages++] = val;
	return 0;
}

static int set_name(struct image_args *a, const char *val, struct err *err)
{
	a->order.name = val;
	return 0;
}

static int set_force(struct image_args *a, const char *val, struct err *err)
{
	a->order.force = true;
	return 0;
}

static int set_json(struct image_args *a, const char *val, struct err *err)
{
	a->json = true;
	return 0;
}

static int set_instance(struct image_args *a, const char *val, struct err *err)
{
	a->instance = true;
	return 0;
}

static const struct {
	const char *name;
	unsigned commands;
	bool has_value;
	int (*set)(struct image_args *a, const char *val, struct err *err);
} options[] = {
	{ "--size", BUILD, true, set_size },	    { "--package", BUILD, true, set_package },
	{ "--name", BUILD, true, set_name },	    { "--force", BUILD, false, set_force },
	{ "--json", LIST | INFO, false, set_json }, { "--instance", RM, false, set_instance },
};

/* Take the option at argv[*i], "--name value" or "--name=value". */
static int take_option(struct image_args *a, unsigned command, char **argv, int *i, struct err *err)
{
	const char *arg = argv[*i], *val = NULL;
	size_t len = strcspn(arg, "=");

	for (unsigned k = 0; k < ARRAY_SIZE(options); k++) {
		if (!(options[k].commands & command) || strlen(options[k].name) != len ||
		    memcmp(options[k].name, arg, len) != 0)
			continue;
		if (options[k].has_value)
			val = arg[len] ? arg + len + 1 : argv[++*i];
		if (options[k].has_value ? !val || !*val : arg[len] != 0)
			return err_say(err, EINVAL, "%s %s", options[k].name,
				       options[k].has_value ? "needs a value" : "takes no value");

		int ret = options[k].set(a, val, err);

		return ret < 0 ? err_wrap(err, "%s", options[k].name) : 0;
	}
	return err_say(err, EINVAL, "there is no option '%s'; see `cleave image --help`", arg);
}

static int run(unsigned k, char **argv, struct err *err)
{
	struct image_args a = { 0 };
	int ret = 0;

	for (int i = 2; argv[i] && ret == 0; i++) {
		if (argv[i][0] == '-')
			ret = take_option(&a, commands[k].bit, argv, &i, err);
		else if (a.name || !commands[k].has_name)
			ret = err_say(err, EINVAL, "'%s' is too much", argv[i]);
		else
			a.name = argv[i];
		if (!argv[i])
			break;
	}
	if (ret == 0 && commands[k].has_name && !a.name)
		ret = err_say(err, EINVAL, "which? As in: cleave image %s " IMAGE_EXAMPLE,
			      commands[k].name);
	return ret < 0 ? ret : commands[k].run(&a, err);
}

int cmd_image(int argc, char **argv)
{
	const char *command = argc > 1 ? argv[1] : "";
	struct err err;

	for (int i = 1; i < argc; i++) {
		if (is_help_option(argv[i])) {
			help_command("image");
			return STATUS_OK;
		}
	}
	for (unsigned k = 0; k < ARRAY_SIZE(commands); k++) {
		if (strcmp(commands[k].name, command) != 0)
			continue;

		int ret = run(k, argv, &err);

		if (ret < 0)
			fprintf(stderr, "cleave image %s: %s\n", command, err.msg);
		return ret < 0 ? STATUS_ERROR : STATUS_OK;
	}
	fprintf(stderr,
		"cleave image: '%s' is not build, list, info or rm; see `cleave image --help`\n",
		command);
	return STATUS_ERROR;
}
