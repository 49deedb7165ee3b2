#include "host/tap.h"

#include "base/err.h"
#include "base/own.h"

#include <errno.h>
#include <fcntl.h>
#include <linux/if_tun.h>
#include <net/if.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/socket.h>

/* Linux 6.2; missing in older headers. */
#ifndef TUN_F_USO4
#define TUN_F_USO4 0x20
#define TUN_F_USO6 0x40
#endif
#define HEADER_BYTES 10

int tap_open(const char *name, bool *uso, struct err *err)
{
	struct ifreq req = { .ifr_flags = IFF_TAP | IFF_NO_PI | IFF_VNET_HDR };
	int header = HEADER_BYTES;

	if (!*name || strlen(name) >= sizeof(req.ifr_name))
		return err_say(err, EINVAL,
			       "'%s' is no interface's name: it has 1 to %zu characters", name,
			       sizeof(req.ifr_name) - 1);
	memcpy(req.ifr_name, name, strlen(name));

	AUTO_FD int fd = open("/dev/net/tun", O_RDWR | O_NONBLOCK | O_CLOEXEC);

	if (fd < 0)
		return err_set(err, errno, "open /dev/net/tun");
	if (ioctl(fd, TUNSETIFF, &req) < 0) {
		if (errno == EPERM)
			return err_say(
				err, EPERM,
				"you may not use the tap interface %s; as root: ip tuntap add "
				"dev %s mode tap user $USER",
				name, name);
		return err_set(err, errno, "attach to the tap interface %s", name);
	}
	if (ioctl(fd, TUNSETVNETHDRSZ, &header) < 0)
		return err_set(err, errno, "the tap interface %s", name);
	*uso = ioctl(fd, TUNSETOFFLOAD, TUN_F_CSUM | TUN_F_USO4 | TUN_F_USO6) == 0;
	if (ioctl(fd, TUNSETOFFLOAD, 0) < 0)
		return err_set(err, errno, "the tap interface %s", name);
	return move_fd(&fd);
}

uint16_t tap_mtu(const char *name)
{
	AUTO_FD int fd = socket(AF_INET, SOCK_DGRAM | SOCK_CLOEXEC, 0);
	struct ifreq req = { 0 };

	strncpy(req.ifr_name, name, sizeof(req.ifr_name) - 1);
	if (fd < 0 || ioctl(fd, SIOCGIFMTU, &req) < 0 || req.ifr_mtu < 68 || req.ifr_mtu > 65535)
		return 1500;
	return (uint16_t)req.ifr_mtu;
}

void tap_set_offload(int fd, const struct tap_offload *o)
{
	unsigned flags = o->csum ? TUN_F_CSUM : 0;

	/* The kernel takes the rest only with checksums. */
	if (o->csum)
		flags |= (o->tso4 ? TUN_F_TSO4 : 0u) | (o->tso6 ? TUN_F_TSO6 : 0u);
	if (o->csum && o->uso && ioctl(fd, TUNSETOFFLOAD, flags | TUN_F_USO4 | TUN_F_USO6) == 0)
		return;
	/* Refused: it then hands us complete frames, which every peer takes. */
	if (ioctl(fd, TUNSETOFFLOAD, flags) < 0)
		return;
}
