/* The kernel and the initrd that a disk's file system holds, as its boot loader would find them. */
#ifndef CLI_IMAGE_BOOT_H
#define CLI_IMAGE_BOOT_H

struct blk_open;
struct err;

#define IMAGE_BOOT_PATH_BYTES 32

/* Files in memory, to be read by a path of this process's descriptors. */
struct image_boot {
	int kernel_fd, initrd_fd; /* owned; initrd_fd is -1 if there is none */
	char kernel[IMAGE_BOOT_PATH_BYTES], initrd[IMAGE_BOOT_PATH_BYTES];
};

/* Read /vmlinuz and /initrd.img, or else the newest /boot/vmlinuz-* and its initrd.img-*, out of
 * the ext2, ext3 or ext4 file system that fills the whole disk, or its first Linux partition. The
 * file system is a guest's and may be anything: a child process without rights reads it. Needs to
 * be called before this process has threads. -ENOENT with a sentence where there is no kernel; what
 * was read is in *out, to be closed with image_boot_fini.
 */
int image_boot_read(struct image_boot *out, const struct blk_open *disk, struct err *err);
void image_boot_fini(struct image_boot *b);

#endif
