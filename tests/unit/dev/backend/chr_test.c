#include "dev/backend/chr.h"

#include "base/bits.h"
#include "check.h"
#include "dev/backend/chr_fd.h"
#include "host/evloop.h"

#include <fcntl.h>
#include <pthread.h>
#include <pty.h>
#include <signal.h>
#include <stdatomic.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <sys/ioctl.h>
#include <unistd.h>

static void sleep_ms(long ms)
{
	nanosleep(&(struct timespec){ .tv_nsec = ms * 1000000 }, NULL);
}

/* A device that takes room bytes. */
struct sink {
	_Atomic unsigned room, n;
	uint8_t got[64];
	_Atomic int breaks, escape, drained;
};

static unsigned sink_room(void *arg)
{
	struct sink *s = arg;

	return s->room;
}

static void sink_rx(void *arg, const uint8_t *buf, unsigned n)
{
	struct sink *s = arg;

	for (unsigned i = 0; i < n; i++)
		s->got[(s->n + i) % sizeof(s->got)] = buf[i];
	s->n += n;
	s->room -= n;
}

static void sink_break(void *arg)
{
	((struct sink *)arg)->breaks++;
}

static void sink_drained(void *arg)
{
	((struct sink *)arg)->drained++;
}

static void on_escape(void *arg, enum chr_escape what)
{
	((struct sink *)arg)->escape = 1 + (int)what;
}

struct rig {
	struct evloop *loop;
	struct chr *chr;
	struct sink sink;
	int in[2], out[2];
};

static void rig_up(struct rig *r, bool escape)
{
	memset(r, 0, sizeof(*r));
	signal(SIGPIPE, SIG_IGN); /* as the program does */
	CHECK_EQ(pipe(r->in), 0);
	CHECK_EQ(pipe(r->out), 0);
	evloop_new(&r->loop, NULL);
	struct chr_fd_cfg cfg = { .in_fd = r->in[0], .out_fd = r->out[1] };
	if (escape)
		cfg.escape = (struct chr_escape_fn){ on_escape, &r->sink };
	CHECK_EQ(chr_fd_new(&r->chr, r->loop, &cfg, NULL), 0);
	r->sink.room = 16;
	chr_start(r->chr, (struct chr_front){ .room = sink_room,
					      .rx = sink_rx,
					      .rx_break = sink_break,
					      .drained = sink_drained,
					      .arg = &r->sink });
}

static void rig_down(struct rig *r)
{
	chr_free(r->chr);
	evloop_free(r->loop);
	for (unsigned i = 0; i < 2; i++) {
		close(r->in[i]);
		close(r->out[i]);
	}
}

static void type(struct rig *r, const char *text)
{
	int left = 1;

	CHECK_EQ(write(r->in[1], text, strlen(text)), (ssize_t)strlen(text));
	/* Until it was taken, however busy the host is; some of it may have to stay, though. */
	for (unsigned n = 0; n < 50 && left; n++) {
		sleep_ms(10);
		ioctl(r->in[0], FIONREAD, &left);
	}
	sleep_ms(50);
}

TEST(input_goes_to_the_device_as_it_has_room)
{
	struct rig r;

	rig_up(&r, false);
	r.sink.room = 2;
	type(&r, "hello");
	CHECK_EQ(r.sink.n, 2);
	r.sink.room = 10;
	chr_accept(r.chr);
	CHECK_EQ(r.sink.n, 5);
	CHECK_MEM(r.sink.got, "hello", 5);
	rig_down(&r);
}

TEST(without_an_escape_key_all_bytes_pass)
{
	struct rig r;

	rig_up(&r, false);
	type(&r, "\001x");
	CHECK_EQ(r.sink.n, 2);
	CHECK_EQ(r.sink.escape, 0);
	rig_down(&r);
}

TEST(the_escape_key_is_for_us_and_twice_for_the_guest)
{
	struct rig r;

	rig_up(&r, true);
	type(&r, "a\001\001b\001c");
	CHECK_MEM(r.sink.got, "a\001b", 3);
	CHECK_EQ(r.sink.n, 3);
	type(&r, "\001b");
	CHECK_EQ(r.sink.breaks, 1);
	type(&r, "\001x");
	CHECK_EQ(r.sink.escape, 1 + CHR_QUIT);
	rig_down(&r);
}

TEST(the_escape_key_works_while_the_guest_reads_nothing)
{
	struct rig r;

	rig_up(&r, true);
	r.sink.room = 0;
	type(&r, "abcdef\001x");
	CHECK_EQ(r.sink.escape, 1 + CHR_QUIT);
	rig_down(&r);
}

/* A rig whose input is a raw terminal, and a device that takes nothing yet. */
static void rig_up_tty(struct rig *r, bool escape, int *master, int *slave)
{
	struct termios tio;

	if (openpty(master, slave, NULL, NULL, NULL) < 0)
		skip(); /* no /dev/pts here */
	tcgetattr(*slave, &tio);
	cfmakeraw(&tio);
	tcsetattr(*slave, TCSANOW, &tio);
	rig_up(r, escape);
	chr_free(r->chr);
	struct chr_fd_cfg cfg = { .in_fd = *slave, .out_fd = r->out[1] };
	if (escape)
		cfg.escape = (struct chr_escape_fn){ on_escape, &r->sink };
	CHECK_EQ(chr_fd_new(&r->chr, r->loop, &cfg, NULL), 0);
	r->sink.room = 0;
	chr_start(r->chr, (struct chr_front){ .room = sink_room,
					      .rx = sink_rx,
					      .rx_break = sink_break,
					      .drained = sink_drained,
					      .arg = &r->sink });
}

/* A port for data may be a pseudo-terminal: no byte is lost when the guest is slow. */
TEST(a_pty_without_keys_waits_for_the_device)
{
	enum { BYTES = 100000 };
	uint8_t data[500];
	struct rig r;
	int master, slave;
	unsigned sent = 0;

	rig_up_tty(&r, false, &master, &slave);
	CHECK_EQ(fcntl(master, F_SETFL, O_NONBLOCK), 0);
	for (unsigned i = 0; i < 40000 && r.sink.n < BYTES; i++) {
		for (unsigned k = 0; k < sizeof(data); k++)
			data[k] = (uint8_t)((sent + k) % 64);

		ssize_t n = write(master, data, MIN(sizeof(data), BYTES - sent));

		sent += n > 0 ? (unsigned)n : 0;
		if (n > 0)
			continue;
		sleep_ms(1);
		r.sink.room = 3000;
		chr_accept(r.chr);
	}
	CHECK_EQ(r.sink.n, BYTES);
	for (unsigned i = 0; i < sizeof(r.sink.got); i++)
		CHECK_EQ(r.sink.got[i], i);
	rig_down(&r);
	close(master);
	close(slave);
}

TEST(a_terminals_escape_key_works_behind_a_full_buffer)
{
	uint8_t junk[24000];
	struct rig r;
	int master, slave;

	rig_up_tty(&r, true, &master, &slave);
	memset(junk, 'j', sizeof(junk));
	for (unsigned i = 0; i < sizeof(junk); i += 500)
		CHECK_EQ(write(master, junk + i, 500), 500);
	CHECK_EQ(write(master, "\001x", 2), 2);
	for (unsigned i = 0; i < 200 && !r.sink.escape; i++)
		sleep_ms(5);
	CHECK_EQ(r.sink.escape, 1 + CHR_QUIT);
	rig_down(&r);
	close(master);
	close(slave);
}

TEST(output_arrives_whole_and_in_order)
{
	enum { N = 200000 };
	uint8_t *sent = malloc(N), *got = malloc(N);
	size_t n = 0;
	struct rig r;

	rig_up(&r, false);
	for (unsigned i = 0; i < N; i++)
		sent[i] = (uint8_t)(i * 7 + i / 256);
	for (unsigned i = 0; i < N; i += 16)
		chr_write(r.chr, sent + i, 16);
	while (n < N) {
		ssize_t k = read(r.out[0], got + n, N - n);

		CHECK(k > 0);
		n += (size_t)k;
	}
	CHECK_MEM(sent, got, N);
	rig_down(&r);
	free(sent);
	free(got);
}

static void *flood(void *arg)
{
	static const uint8_t block[4096];
	struct rig *r = arg;

	for (unsigned i = 0; i < 300; i++)
		chr_write(r->chr, block, sizeof(block));
	return NULL;
}

TEST(a_stalled_reader_holds_the_writer_until_unblocked)
{
	struct timespec soon;
	struct rig r;
	pthread_t t;

	rig_up(&r, false);
	pthread_create(&t, NULL, flood, &r);
	clock_gettime(CLOCK_REALTIME, &soon);
	soon.tv_sec += 1;
	CHECK(pthread_timedjoin_np(t, NULL, &soon) != 0);
	chr_unblock(r.chr, true);
	CHECK_EQ(pthread_join(t, NULL), 0);
	rig_down(&r);
}

TEST(end_of_input_ends_nothing)
{
	static const uint8_t x = 'x';
	struct rig r;
	char got;

	rig_up(&r, false);
	close(r.in[1]);
	sleep_ms(20);
	chr_write(r.chr, &x, 1);
	CHECK_EQ(read(r.out[0], &got, 1), 1);
	r.in[1] = dup(r.in[0]);
	rig_down(&r);
}

TEST(who_asked_for_room_is_told_when_the_reader_goes_on)
{
	static const uint8_t chunk[4096];
	struct rig r;
	uint8_t sink[65536];
	unsigned room;

	rig_up(&r, false);
	while ((room = chr_room(r.chr)) != 0)
		chr_write(r.chr, chunk, room < sizeof(chunk) ? room : sizeof(chunk));
	CHECK_EQ(r.sink.drained, 0);
	for (unsigned got = 0; got < 1000000;)
		got += (unsigned)read(r.out[0], sink, sizeof(sink));
	for (unsigned n = 0; n < 500 && !r.sink.drained; n++)
		sleep_ms(10);
	CHECK_EQ(r.sink.drained, 1);
	CHECK(chr_room(r.chr) > 0);
	close(r.out[0]); /* the rest need not be waited for */
	r.out[0] = dup(r.out[1]);
	rig_down(&r);
}

TESTS(T(who_asked_for_room_is_told_when_the_reader_goes_on),
      T(input_goes_to_the_device_as_it_has_room), T(without_an_escape_key_all_bytes_pass),
      T(a_pty_without_keys_waits_for_the_device),
      T(the_escape_key_is_for_us_and_twice_for_the_guest),
      T(the_escape_key_works_while_the_guest_reads_nothing),
      T(a_terminals_escape_key_works_behind_a_full_buffer), T(output_arrives_whole_and_in_order),
      T(a_stalled_reader_holds_the_writer_until_unblocked), T(end_of_input_ends_nothing))
