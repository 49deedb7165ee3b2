#include "base/err.h"
#include "base/own.h"
#include "machine/boot/boot_internal.h"
#include "machine/memmap.h"
#include "mem/physmap.h"

#include <errno.h>
#include <fcntl.h>
#include <sys/stat.h>

/* Read all of it. */
static int fetch(struct boot_file *f, struct err *err)
{
	uint64_t done = 0;

	if (lseek(f->fd, 0, SEEK_SET) < 0)
		return err_set(err, errno, "read %s", f->text);

	AUTO_FREE uint8_t *data = malloc(f->len + 1);

	if (!data)
		return err_set(err, ENOMEM, "read %s", f->text);
	while (done < f->len) {
		ssize_t n = read(f->fd, data + done, f->len - done);

		if (n < 0)
			return err_set(err, errno, "read %s", f->text);
		if (n == 0)
			return err_say(err, EIO, "%s has become shorter", f->text);
		done += (uint64_t)n;
	}
	f->data = move_ptr(&data);
	return 0;
}

static int read_file(struct boot_file *f, const char *path, const char *option, struct err *err)
{
	struct stat st;

	f->fd = open(path, O_RDONLY | O_CLOEXEC);
	if (f->fd < 0 || fstat(f->fd, &st) < 0)
		return err_set(err, errno, "%s: open %s", option, path);
	if (!S_ISREG(st.st_mode))
		return err_say(err, EINVAL, "%s: %s is not a regular file", option, path);
	f->len = (uint64_t)st.st_size;
	return fetch(f, err) < 0 ? err_wrap(err, "%s", option) : 0;
}

/* A module may be "path command line"; a file that has the whole text as its name comes first. */
static int read_module(struct boot_file *f, const char *text, struct err *err)
{
	const char *space = strchr(text, ' ');

	f->text = text;
	if (!space || access(text, F_OK) == 0)
		return read_file(f, text, "--initrd", err);

	AUTO_FREE char *path = strndup(text, (size_t)(space - text));

	if (!path)
		return err_set(err, ENOMEM, "--initrd");
	return read_file(f, path, "--initrd", err);
}

static int identify(struct boot *b, struct err *err)
{
	const char *name = b->kernel.text;

	if (linux_is(&b->kernel)) {
		b->kind = BOOT_LINUX;
		return linux_check(b, err);
	}
	if (pvh_is(&b->kernel)) {
		b->kind = BOOT_PVH;
		return 0;
	}
	if (multiboot_is(&b->kernel)) {
		b->kind = BOOT_MULTIBOOT;
		return multiboot_check(b, err);
	}
	return err_say(err, EINVAL,
		       "--kernel: %s is not a kernel that can be started: neither a Linux bzImage "
		       "nor an ELF file with a PVH note nor a multiboot image",
		       name);
}

static int load(struct boot *b, const struct boot_cfg *cfg, struct err *err)
{
	int ret;

	b->append = cfg->append;
	b->kernel.text = cfg->kernel;
	b->kernel.fd = -1;
	ret = read_file(&b->kernel, cfg->kernel, "--kernel", err);
	if (ret < 0)
		return ret;
	if (cfg->n_initrd) {
		b->initrd = calloc(cfg->n_initrd, sizeof(*b->initrd));
		if (!b->initrd)
			return err_set(err, ENOMEM, "--initrd");
	}
	for (unsigned i = 0; i < cfg->n_initrd; i++) {
		b->initrd[b->n_initrd++].fd = -1;
		ret = read_module(&b->initrd[i], cfg->initrd[i], err);
		if (ret < 0)
			return ret;
	}
	return identify(b, err);
}

int boot_load(struct boot **out, const struct boot_cfg *cfg, struct err *err)
{
	struct boot *b = calloc(1, sizeof(*b));
	int ret = b ? load(b, cfg, err) : err_set(err, ENOMEM, "--kernel");

	if (ret < 0)
		boot_free(b);
	else
		*out = b;
	return ret;
}

int boot_load_image(struct boot **out, const char *name, const void *image, size_t len,
		    const char *append, struct err *err)
{
	struct boot *b = calloc(1, sizeof(*b));
	int ret;

	if (!b)
		return err_set(err, ENOMEM, "%s", name);
	b->append = append;
	b->kernel =
		(struct boot_file){ .data = malloc(len + 1), .len = len, .fd = -1, .text = name };
	if (!b->kernel.data) {
		ret = err_set(err, ENOMEM, "%s", name);
	} else {
		memcpy(b->kernel.data, image, len);
		ret = identify(b, err);
	}
	if (ret < 0)
		boot_free(b);
	else
		*out = b;
	return ret;
}

static void free_file(struct boot_file *f)
{
	free(f->data);
	if (f->fd >= 0)
		close(f->fd);
}

void boot_free(struct boot *b)
{
	if (!b)
		return;
	for (unsigned i = 0; i < b->n_initrd; i++)
		free_file(&b->initrd[i]);
	free(b->initrd);
	free_file(&b->kernel);
	free(b);
}

/* Have the files in memory, which they were when the machine was made. */
static int fetch_all(struct boot *b, struct err *err)
{
	int ret = 0;

	for (unsigned i = 0; i < b->n_initrd && ret == 0; i++)
		if (!b->initrd[i].data)
			ret = fetch(&b->initrd[i], err);
	if (ret < 0 || b->kernel.data)
		return ret;
	ret = fetch(&b->kernel, err);
	return ret < 0 ? ret : identify(b, err); /* it may be another one now */
}

static void drop(struct boot_file *f)
{
	if (f->fd < 0)
		return;
	free(f->data);
	f->data = NULL;
}

static int place(const struct boot *b, const struct boot_board *board, struct boot_entry *entry,
		 struct err *err)
{
	switch (b->kind) {
	case BOOT_LINUX: return linux_place(b, board, entry, err);
	case BOOT_PVH: return pvh_place(b, board, entry, err);
	default: return multiboot_place(b, board, entry, err);
	}
}

int boot_place(struct boot *b, const struct boot_board *board, struct boot_entry *entry,
	       struct err *err)
{
	int ret = fetch_all(b, err);

	*entry = (struct boot_entry){ 0 };
	if (ret == 0)
		ret = place(b, board, entry, err);
	for (unsigned i = 0; i < b->n_initrd; i++)
		drop(&b->initrd[i]);
	drop(&b->kernel);
	return ret;
}

uint64_t boot_low_ram(const struct physmap *pm)
{
	return MIN(pm->ram_bytes, HOLE_BASE);
}

unsigned boot_memory_map(const struct physmap *pm, struct boot_range map[BOOT_MAX_RANGES])
{
	uint64_t low = boot_low_ram(pm);
	unsigned n = 0;

	map[n++] = (struct boot_range){ 0, LOW_RAM_END, E820_RAM };
	map[n++] = (struct boot_range){ EBDA_BASE, VGA_BASE - EBDA_BASE, E820_RESERVED };
	map[n++] = (struct boot_range){ ACPI_BASE, SMBIOS_END - ACPI_BASE, E820_RESERVED };
	if (low > HIGH_RAM_BASE)
		map[n++] = (struct boot_range){ HIGH_RAM_BASE, low - HIGH_RAM_BASE, E820_RAM };
	map[n++] = (struct boot_range){ ECAM_BASE, ECAM_BUSES * MiB, E820_RESERVED };
	if (pm->ram_bytes > low)
		map[n++] = (struct boot_range){ 4 * GiB, pm->ram_bytes - low, E820_RAM };
	return n;
}

int boot_write(struct physmap *pm, gpa_t gpa, const void *data, uint64_t len, const char *what,
	       struct err *err)
{
	if (physmap_write(pm, gpa, data, len))
		return 0;
	return err_say(err, ENOMEM,
		       "%s (%llu KiB at %#llx) does not fit into %llu MiB of memory; "
		       "give more, as in --memory 1G",
		       what, (unsigned long long)((len + 1023) / 1024), (unsigned long long)gpa,
		       (unsigned long long)(pm->ram_bytes / MiB));
}

int boot_check_range(const struct physmap *pm, gpa_t gpa, uint64_t len, struct err *err)
{
	if (!range_fits(gpa, len, UINT64_MAX) || !physmap_host(pm, gpa, len, NULL))
		return err_say(err, ENOMEM,
			       "the kernel wants %#llx bytes at %#llx, which is not in the "
			       "guest's %llu MiB of memory; give more, as in --memory 1G",
			       (unsigned long long)len, (unsigned long long)gpa,
			       (unsigned long long)(pm->ram_bytes / MiB));
	if (gpa < BOOT_MODULES_END || (gpa < SMBIOS_END && gpa + len > EBDA_BASE))
		return err_say(err, EINVAL,
			       "the kernel wants %#llx bytes at %#llx, over the boot information "
			       "or the firmware's tables",
			       (unsigned long long)len, (unsigned long long)gpa);
	return 0;
}
