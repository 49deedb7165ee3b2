/* Speaks over vsock with the host.
 *
 * vsock listen PORT: takes one connection and echoes until its end.
 * vsock connect CID PORT BYTES: sends so many bytes and checks that they come back; prints the
 * result.
 */
#include <poll.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <linux/vm_sockets.h>
#include <unistd.h>

static int open_socket(void)
{
	int fd = socket(AF_VSOCK, SOCK_STREAM, 0);

	if (fd < 0) {
		perror("socket");
		exit(1);
	}
	return fd;
}

static int listen_on(unsigned port)
{
	struct sockaddr_vm a = { .svm_family = AF_VSOCK,
				 .svm_cid = VMADDR_CID_ANY,
				 .svm_port = port };
	int fd = open_socket(), client;
	char buf[65536];
	ssize_t n;

	if (bind(fd, (struct sockaddr *)&a, sizeof(a)) < 0 || listen(fd, 1) < 0 ||
	    (client = accept(fd, NULL, NULL)) < 0) {
		perror("listen");
		return 1;
	}
	while ((n = read(client, buf, sizeof(buf))) > 0)
		for (ssize_t done = 0, part; done < n; done += part)
			if ((part = write(client, buf + done, n - done)) < 0)
				return 1;
	return 0;
}

static uint8_t byte_at(uint64_t i)
{
	return (uint8_t)(i * 2654435761u >> 11);
}

/* Sends and receives as both are possible. */
static int exchange(int fd, uint64_t bytes)
{
	static uint8_t out[40000], in[40000];
	uint64_t sent = 0, got = 0;

	while (got < bytes) {
		struct pollfd p = { .fd = fd, .events = POLLIN | (sent < bytes ? POLLOUT : 0) };
		ssize_t n;

		if (poll(&p, 1, 20000) <= 0)
			return printf("stuck at %llu of %llu bytes\n", (unsigned long long)got,
				      (unsigned long long)sent);
		if (p.revents & POLLOUT) {
			uint64_t want = bytes - sent < sizeof(out) ? bytes - sent : sizeof(out);

			for (uint64_t i = 0; i < want; i++)
				out[i] = byte_at(sent + i);
			n = send(fd, out, want, MSG_DONTWAIT);
			sent += n > 0 ? (uint64_t)n : 0;
		}
		if (p.revents & (POLLIN | POLLHUP | POLLERR)) {
			n = recv(fd, in, sizeof(in), MSG_DONTWAIT);
			if (n == 0)
				return printf("closed after %llu bytes\n", (unsigned long long)got);
			for (ssize_t i = 0; i < n; i++)
				if (in[i] != byte_at(got + i))
					return printf("byte %llu differs\n",
						      (unsigned long long)(got + i));
			got += n > 0 ? (uint64_t)n : 0;
		}
	}
	printf("%llu bytes came back\n", (unsigned long long)got);
	return 0;
}

static int connect_to(unsigned cid, unsigned port, uint64_t bytes)
{
	struct sockaddr_vm a = { .svm_family = AF_VSOCK, .svm_cid = cid, .svm_port = port };
	int fd = open_socket();

	if (connect(fd, (struct sockaddr *)&a, sizeof(a)) < 0) {
		perror("connect");
		return 1;
	}
	return exchange(fd, bytes) != 0;
}

int main(int argc, char **argv)
{
	if (argc == 3 && strcmp(argv[1], "listen") == 0)
		return listen_on((unsigned)atoi(argv[2]));
	if (argc == 5 && strcmp(argv[1], "connect") == 0)
		return connect_to((unsigned)atoi(argv[2]), (unsigned)atoi(argv[3]),
				  strtoull(argv[4], NULL, 10));
	fprintf(stderr, "usage: vsock listen PORT | connect CID PORT BYTES\n");
	return 2;
}
