/* What the host's apt says about where Debian's packages are. apt itself is asked, so that all its
 * formats and folders count.
 */
#include "base/bits.h"
#include "base/err.h"
#include "base/own.h"
#include "cli/image.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <string.h>
#include <sys/wait.h>

#define MAX_OUTPUT (1 * MiB)
/* The host's loopback, as a guest behind NAT has it. */
#define GUEST_LOOPBACK "10.0.2.2"

static char *read_all(FILE *f)
{
	AUTO_FREE char *text = NULL;
	size_t size = 0, len;
	FILE *out = open_memstream(&text, &size);
	char buf[4096];

	if (!out)
		return NULL;
	while ((len = fread(buf, 1, sizeof(buf), f)) > 0 && size < MAX_OUTPUT) {
		fwrite(buf, 1, len, out);
		fflush(out);
	}
	fclose(out);
	return move_ptr(&text);
}

char *image_output(const char *const *argv)
{
	int pipes[2], status;
	pid_t pid;

	if (pipe2(pipes, O_CLOEXEC) < 0)
		return NULL;
	pid = fork();
	if (pid == 0) {
		int null = open("/dev/null", O_RDWR | O_CLOEXEC);

		dup2(null, STDIN_FILENO);
		dup2(null, STDERR_FILENO);
		dup2(pipes[1], STDOUT_FILENO);
		execvp(argv[0], (char **)(uintptr_t)argv);
		_exit(127);
	}
	close(pipes[1]);

	FILE *f = fdopen(pipes[0], "r");
	AUTO_FREE char *text = f && pid > 0 ? read_all(f) : NULL;

	if (f)
		fclose(f);
	if (pid < 0 || waitpid(pid, &status, 0) < 0 || status != 0)
		return NULL;
	return move_ptr(&text);
}

static bool ends_with(const char *text, size_t len, const char *end)
{
	size_t n = strlen(end);

	return len >= n && memcmp(text + len - n, end, n) == 0;
}

/* One that a guest can use as it is: Debian's own kind of archive, over the network, and no secrets
 * in it. */
static bool is_debian(const char *uri)
{
	size_t len = strlen(uri);

	while (len && uri[len - 1] == '/')
		len--;
	return (strncmp(uri, "http://", 7) == 0 || strncmp(uri, "https://", 8) == 0) &&
	       (ends_with(uri, len, "/debian") || ends_with(uri, len, "/debian-security")) &&
	       !strchr(uri, '@');
}

/* line: URI|SUITE|COMPONENT. Adds its source if it is one of the release's. */
static void take_source(FILE *out, char *line, const char *release, bool *has_base)
{
	char *uri = strsep(&line, "|"), *suite = strsep(&line, "|");
	size_t len = strlen(release);

	if (!suite || !line || strcmp(line, "main") != 0 || !is_debian(uri) ||
	    strncmp(suite, release, len) != 0)
		return;
	if (suite[len] && strcmp(suite + len, "-updates") != 0 &&
	    strcmp(suite + len, "-security") != 0)
		return;
	*has_base |= suite[len] == 0;
	fprintf(out, "deb %s %s main\n", uri, suite);
}

/* NULL where the host has none of its own. */
static char *host_sources(const char *release)
{
	static const char *const argv[] = { "apt-get",
					    "indextargets",
					    "--format",
					    "$(REPO_URI)|$(RELEASE)|$(COMPONENT)",
					    "Created-By: Packages",
					    NULL };
	AUTO_FREE char *text = image_output(argv), *list = NULL;
	char *rest = text, *line;
	bool has_base = false;
	size_t size;
	FILE *out = open_memstream(&list, &size);

	if (!out)
		return NULL;
	while (rest && (line = strsep(&rest, "\n")))
		take_source(out, line, release, &has_base);
	fclose(out);
	return has_base ? move_ptr(&list) : NULL;
}

static char *default_sources(const char *release)
{
	char *list;

	return asprintf(&list,
			"deb http://deb.debian.org/debian %s main\n"
			"deb http://deb.debian.org/debian %s-updates main\n"
			"deb http://deb.debian.org/debian-security %s-security main\n",
			release, release, release) < 0
		       ? NULL
		       : list;
}

/* A setting such as: Acquire::http::Proxy "http://127.0.0.1:3128"; with the host's loopback as the
 * guest reaches it. */
static void put_for_guest(FILE *out, const char *line)
{
	static const char *const here[] = { "//127.0.0.1", "//localhost", "//[::1]" };

	for (unsigned i = 0; i < ARRAY_SIZE(here); i++) {
		const char *at = strstr(line, here[i]);

		if (at) {
			fprintf(out, "%.*s//" GUEST_LOOPBACK "%s\n", (int)(at - line), line,
				at + strlen(here[i]));
			return;
		}
	}
	fprintf(out, "%s\n", line);
}

static bool is_proxy(const char *line)
{
	const char *value = strstr(line, "Proxy \"");

	return strncmp(line, "Acquire::http", 13) == 0 && value && value[7] != '"';
}

/* The proxies of the host's apt, for both. */
static int find_proxies(struct image_sources *s)
{
	static const char *const argv[] = { "apt-config", "dump", NULL };
	AUTO_FREE char *text = image_output(argv);
	char *rest = text, *line;
	size_t size;
	FILE *build = open_memstream(&s->build_conf, &size);
	FILE *guest = open_memstream(&s->guest_conf, &size);

	while (build && guest && rest && (line = strsep(&rest, "\n"))) {
		if (!is_proxy(line))
			continue;
		fprintf(build, "%s\n", line);
		put_for_guest(guest, line);
	}
	if (build)
		fclose(build);
	if (guest)
		fclose(guest);
	return build && guest && s->build_conf && s->guest_conf ? 0 : -ENOMEM;
}

int image_sources_find(struct image_sources *s, const char *release, struct err *err)
{
	*s = (struct image_sources){ 0 };
	s->sources = host_sources(release);
	if (!s->sources)
		s->sources = default_sources(release);
	if (find_proxies(s) < 0 || !s->sources) {
		image_sources_fini(s);
		return err_set(err, ENOMEM, "find Debian's packages");
	}
	return 0;
}

void image_sources_fini(struct image_sources *s)
{
	free(s->sources);
	free(s->build_conf);
	free(s->guest_conf);
}
