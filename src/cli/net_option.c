#include "cli/net_option.h"

#include "base/bits.h"
#include "base/err.h"
#include "base/own.h"
#include "cli/cli.h"
#include "machine/machine.h"

#include <arpa/inet.h>
#include <ctype.h>
#include <errno.h>
#include <stdio.h>

static int parse_port(const char *text, uint16_t *port)
{
	unsigned n;
	int ret = parse_number(text, 1, 65535, &n);

	*port = (uint16_t)n;
	return ret;
}

/* [ADDRESS:]PORT:GUESTPORT, cut up in place. */
static int parse_ends(struct net_forward *f, char *text)
{
	char *guest = strrchr(text, ':'), *host;
	struct in_addr addr = { htonl(INADDR_LOOPBACK) };

	if (!guest)
		return -EINVAL;
	*guest++ = 0;
	host = strrchr(text, ':');
	if (host)
		*host++ = 0;
	if (host && inet_pton(AF_INET, text, &addr) != 1)
		return -EINVAL;
	f->host_addr = ntohl(addr.s_addr);
	return parse_port(host ? host : text, &f->host_port) < 0 ||
			       parse_port(guest, &f->guest_port) < 0
		       ? -EINVAL
		       : 0;
}

int parse_forward(struct nic_config *nic, const char *text, struct err *err)
{
	struct net_forward f = { .udp = strncmp(text, "udp:", 4) == 0 };
	bool has_kind = f.udp || strncmp(text, "tcp:", 4) == 0;
	AUTO_FREE char *ends = strdup(text + (has_kind ? 4 : 0));

	if (!ends)
		return err_set(err, ENOMEM, "forward");
	if (parse_ends(&f, ends) < 0)
		return err_say(err, EINVAL,
			       "'%s' is not [udp:][ADDRESS:]PORT:GUESTPORT, as in "
			       "forward=127.0.0.1:2222:22",
			       text);
	if (nic->user.n_forwards == NET_MAX_FORWARDS)
		return err_say(err, E2BIG, "at most %u forwards", NET_MAX_FORWARDS);
	nic->user.forward[nic->user.n_forwards++] = f;
	return 0;
}

static int parse_mac(struct nic_config *nic, const char *text, struct err *err)
{
	int end = 0;

	if (strlen(text) != 17 ||
	    sscanf(text, "%2hhx:%2hhx:%2hhx:%2hhx:%2hhx:%2hhx%n", &nic->mac[0], &nic->mac[1],
		   &nic->mac[2], &nic->mac[3], &nic->mac[4], &nic->mac[5], &end) != 6 ||
	    end != 17 || nic->mac[0] & 1)
		return err_say(err, EINVAL,
			       "'%s' is not the address of a card, as in mac=52:54:00:12:34:56",
			       text);
	return 0;
}

/* RFC 1123, 2.1. */
static int parse_hostname(struct nic_config *nic, const char *text, struct err *err)
{
	size_t len = strlen(text);

	for (size_t i = 0; i < len; i++)
		if (!isalnum((unsigned char)text[i]) && text[i] != '-' && text[i] != '.')
			len = 0;
	if (!len || len >= NET_HOSTNAME_SIZE)
		return err_say(err, EINVAL, "'%s' is not a host's name, as in hostname=box", text);
	memcpy(nic->user.hostname, text, len);
	return 0;
}

static int parse_mtu(struct nic_config *nic, const char *text, struct err *err)
{
	if (parse_number(text, NET_USER_MIN_MTU, NET_USER_MAX_MTU, &nic->user.mtu) < 0)
		return err_say(err, EINVAL, "'%s' is not from %u to %u, as in mtu=1500", text,
			       NET_USER_MIN_MTU, NET_USER_MAX_MTU);
	return 0;
}

/* One word behind the kind. */
static int parse_word(struct nic_config *nic, const char *word, struct err *err)
{
	if (strncmp(word, "mac=", 4) == 0)
		return parse_mac(nic, word + 4, err);
	if (nic->kind == NIC_USER) {
		if (strncmp(word, "forward=", 8) == 0)
			return parse_forward(nic, word + 8, err);
		if (strncmp(word, "hostname=", 9) == 0)
			return parse_hostname(nic, word + 9, err);
		if (strncmp(word, "mtu=", 4) == 0)
			return parse_mtu(nic, word + 4, err);
		if (strcmp(word, "restrict") == 0) {
			nic->user.restricted = true;
			return 0;
		}
	}
	return err_say(err, EINVAL, "'%s' is nothing that a %s network has, as in --net %s", word,
		       nic->kind == NIC_USER ? "user" : "tap",
		       nic->kind == NIC_USER ? "user,restrict" : "tap=tap0,mac=52:54:00:12:34:56");
}

int parse_net(struct nic_config *nic, const char *text, struct err *err)
{
	AUTO_FREE char *copy = strdup(text);
	char *rest = NULL, *word = copy ? strtok_r(copy, ",", &rest) : NULL;
	AUTO_FREE char *tap = NULL;

	if (!copy)
		return err_set(err, ENOMEM, "network card");
	if (word && strcmp(word, "user") == 0) {
		nic->kind = NIC_USER;
	} else if (word && strncmp(word, "tap=", 4) == 0 && word[4]) {
		nic->kind = NIC_TAP;
		tap = strdup(word + 4);
		if (!tap)
			return err_set(err, ENOMEM, "network card");
	} else {
		return err_say(err, EINVAL,
			       "'%s' is not user, tap=INTERFACE or none, as in "
			       "--net user,forward=127.0.0.1:2222:22",
			       text);
	}
	while ((word = strtok_r(NULL, ",", &rest))) {
		int ret = parse_word(nic, word, err);

		if (ret < 0)
			return ret;
	}
	nic->tap = move_ptr(&tap);
	return 0;
}
