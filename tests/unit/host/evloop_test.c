#include "host/evloop.h"

#include "check.h"

#include <fcntl.h>
#include <poll.h>
#include <stdatomic.h>
#include <stdbool.h>
#include <time.h>
#include <unistd.h>

static void sleep_ms(long ms)
{
	nanosleep(&(struct timespec){ .tv_nsec = ms * 1000000 }, NULL);
}

struct probe {
	struct ev_watch w;
	struct evloop *l;
	_Atomic int calls;
	char got[16];
	bool rest_after;
};

/* Wait until it was called n times, on a busy host for seconds. */
static int wait_for_calls(const struct probe *p, int n)
{
	for (unsigned ms = 0; ms < 5000 && p->calls < n; ms += 5)
		sleep_ms(5);
	return p->calls;
}

static void on_ready(void *arg, short revents)
{
	struct probe *p = arg;
	ssize_t n = read(p->w.fd, p->got, sizeof(p->got));

	p->calls++;
	if (p->rest_after || n <= 0)
		evloop_set(p->l, &p->w, 0);
}

TEST(input_is_called_back_until_it_is_taken)
{
	struct probe p = { 0 };
	int fds[2];

	CHECK_EQ(pipe(fds), 0);
	CHECK_EQ(evloop_new(&p.l, NULL), 0);
	p.w = (struct ev_watch){ .fd = fds[0], .fn = on_ready, .arg = &p };
	evloop_add(p.l, &p.w, POLLIN, NULL);
	sleep_ms(10);
	CHECK_EQ(p.calls, 0);
	CHECK_EQ(write(fds[1], "abc", 3), 3);
	CHECK_EQ(wait_for_calls(&p, 1), 1);
	CHECK_MEM(p.got, "abc", 3);
	evloop_del(p.l, &p.w);
	CHECK_EQ(write(fds[1], "d", 1), 1);
	sleep_ms(20);
	CHECK_EQ(p.calls, 1);
	evloop_free(p.l);
	close(fds[0]);
	close(fds[1]);
}

TEST(a_resting_watch_wakes_when_it_is_set_again)
{
	struct probe p = { .rest_after = true };
	int fds[2];

	CHECK_EQ(pipe(fds), 0);
	evloop_new(&p.l, NULL);
	p.w = (struct ev_watch){ .fd = fds[0], .fn = on_ready, .arg = &p };
	evloop_add(p.l, &p.w, POLLIN, NULL);
	CHECK_EQ(write(fds[1], "a", 1), 1);
	CHECK_EQ(wait_for_calls(&p, 1), 1);
	CHECK_EQ(write(fds[1], "b", 1), 1);
	sleep_ms(20);
	CHECK_EQ(p.calls, 1);
	evloop_set(p.l, &p.w, POLLIN);
	CHECK_EQ(wait_for_calls(&p, 2), 2);
	evloop_del(p.l, &p.w);
	evloop_free(p.l);
	close(fds[0]);
	close(fds[1]);
}

TEST(the_null_device_can_be_watched)
{
	struct probe p = { 0 };

	evloop_new(&p.l, NULL);
	p.w = (struct ev_watch){ .fd = open("/dev/null", O_RDONLY), .fn = on_ready, .arg = &p };
	evloop_add(p.l, &p.w, POLLIN, NULL);
	CHECK_EQ(wait_for_calls(&p, 1), 1); /* end of file: rests */
	evloop_free(p.l);
	close(p.w.fd);
}

TESTS(T(input_is_called_back_until_it_is_taken), T(a_resting_watch_wakes_when_it_is_set_again),
      T(the_null_device_can_be_watched))
