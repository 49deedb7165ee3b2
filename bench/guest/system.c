/* What the kernel does for programs: calls, processes, faults, signals, wakeups, files. */
#include "bench.h"

#include <dirent.h>
#include <fcntl.h>
#include <limits.h>
#include <pthread.h>
#include <sched.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

#define PAGE   4096
#define MODULE "vsock" /* what guests/build puts there */

/* A tmpfs on every host. */
static char dir_path[] = "/dev/shm/bench.XXXXXX";
static char file_path[64];

static void remove_files(void)
{
	unlink(file_path);
	rmdir(dir_path);
}

static void make_file(void)
{
	int fd;

	if (file_path[0])
		return;
	if (!mkdtemp(dir_path))
		bench_die(dir_path);
	snprintf(file_path, sizeof(file_path), "%s/file", dir_path);
	fd = open(file_path, O_CREAT | O_WRONLY, 0600);
	if (fd < 0 || write(fd, "0123456789abcdef", 16) != 16)
		bench_die(file_path);
	close(fd);
	atexit(remove_files);
}

/* Ends a child without the parent's exit handlers. */
static int wait_for(pid_t pid)
{
	int status;

	return waitpid(pid, &status, 0) == pid && WIFEXITED(status) ? WEXITSTATUS(status) : -1;
}

static uint64_t getppids(void)
{
	long me = getppid();
	uint64_t same = 0;

	for (unsigned i = 0; i < 600000; i++)
		same += syscall(SYS_getppid) == me;
	return same;
}

static uint64_t clocks(void)
{
	uint64_t last = 0, backwards = 0;

	for (unsigned i = 0; i < 3000000; i++) {
		uint64_t now = bench_clock_ns();

		backwards += now < last;
		last = now;
	}
	return backwards;
}

/* A word there and back between two processes on one CPU. */
static uint64_t ping_pong(int out[2], int back[2])
{
	enum { ROUNDS = 20000 };
	uint32_t word = 0;
	pid_t child;

	bench_pin();
	child = fork();
	if (child < 0)
		bench_die("fork");
	if (!child) {
		while (word < ROUNDS) {
			if (read(out[0], &word, sizeof(word)) != sizeof(word))
				_exit(1);
			word++;
			if (write(back[1], &word, sizeof(word)) != sizeof(word))
				_exit(1);
		}
		_exit(0);
	}
	while (word < ROUNDS) {
		if (write(out[1], &word, sizeof(word)) != sizeof(word) ||
		    read(back[0], &word, sizeof(word)) != sizeof(word))
			bench_die("ping-pong");
	}
	return wait_for(child) ? 0 : word;
}

static uint64_t pipes(void)
{
	int out[2], back[2];

	if (pipe(out) || pipe(back))
		bench_die("pipe");
	return ping_pong(out, back);
}

static uint64_t sockets(void)
{
	int s[2], ends[2];

	if (socketpair(AF_UNIX, SOCK_STREAM, 0, s))
		bench_die("socketpair");
	ends[0] = s[1];
	ends[1] = s[0];
	return ping_pong((int[]){ ends[0], ends[1] }, (int[]){ s[0], s[1] });
}

/* A large stream through a pipe: copies and few switches. */
static uint64_t pipe_stream(void)
{
	enum { CHUNK = 65536, CHUNKS = 5000 };
	static uint8_t buf[CHUNK];
	uint64_t total = 0;
	int p[2];
	pid_t child;
	ssize_t n;

	if (pipe(p))
		bench_die("pipe");
	child = fork();
	if (child < 0)
		bench_die("fork");
	if (!child) {
		close(p[0]);
		for (unsigned i = 0; i < CHUNKS; i++) {
			memset(buf, (int)(i & 0xff), CHUNK);
			if (write(p[1], buf, CHUNK) != CHUNK)
				_exit(1);
		}
		_exit(0);
	}
	close(p[1]);
	while ((n = read(p[0], buf, CHUNK)) > 0)
		total += (uint64_t)n;
	close(p[0]);
	return wait_for(child) ? 0 : total;
}

static uint64_t yields(void)
{
	enum { ROUNDS = 40000 };
	pid_t child;

	bench_pin();
	child = fork();
	if (child < 0)
		bench_die("fork");
	for (unsigned i = 0; i < ROUNDS; i++)
		sched_yield();
	if (!child)
		_exit(0);
	return (uint64_t)wait_for(child);
}

static uint64_t forks(void)
{
	uint64_t ok = 0;

	for (unsigned i = 0; i < 1000; i++) {
		pid_t child = fork();

		if (child < 0)
			bench_die("fork");
		if (!child)
			_exit(i & 0x7f);
		ok += wait_for(child) == (int)(i & 0x7f);
	}
	return ok;
}

/* Fork from a process of 32 MiB of touched pages, all written again by the child. */
static uint64_t forks_large(void)
{
	enum { PAGES = 8192 };
	uint8_t *p = mmap(NULL, PAGES * PAGE, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS,
			  -1, 0);
	uint64_t ok = 0;

	if (p == MAP_FAILED || madvise(p, PAGES * PAGE, MADV_NOHUGEPAGE))
		bench_die("mmap");
	for (unsigned i = 0; i < PAGES; i++)
		p[i * PAGE] = (uint8_t)i;
	for (unsigned round = 0; round < 5; round++) {
		pid_t child = fork();
		uint64_t same = 0;

		if (child < 0)
			bench_die("fork");
		if (!child) {
			for (unsigned i = 0; i < PAGES; i++) {
				same += p[i * PAGE] == (uint8_t)i;
				p[i * PAGE] = 0xff;
			}
			_exit(same == PAGES ? 7 : 1);
		}
		ok += wait_for(child) == 7;
	}
	munmap(p, PAGES * PAGE);
	return ok;
}

/* Start this program again by what start is, fork or vfork, and get its status. */
static uint64_t execs(pid_t (*start)(void))
{
	static volatile uint64_t ok; /* not in a register that vfork's child could change */

	ok = 0;
	for (unsigned i = 0; i < 150; i++) {
		pid_t child = start();

		if (child < 0)
			bench_die("fork");
		if (!child) {
			execl("/proc/self/exe", "system", "--nothing", (char *)NULL);
			_exit(127);
		}
		ok += wait_for(child) == 42;
	}
	return ok;
}

static uint64_t vfork_execs(void)
{
	return execs(vfork);
}

static uint64_t fork_execs(void)
{
	return execs(fork);
}

static void *nothing(void *arg)
{
	return arg;
}

static uint64_t threads(void)
{
	uint64_t ok = 0;

	for (uintptr_t i = 0; i < 4000; i++) {
		pthread_t t;
		void *back = NULL;

		if (pthread_create(&t, NULL, nothing, (void *)i) || pthread_join(t, &back))
			bench_die("thread");
		ok += (uintptr_t)back == i;
	}
	return ok;
}

/* The first touch of anonymous pages. */
static uint64_t faults(void)
{
	enum { PAGES = 4096 };
	uint64_t zero = 0;

	for (unsigned round = 0; round < 8; round++) {
		uint8_t *p = mmap(NULL, PAGES * PAGE, PROT_READ | PROT_WRITE,
				  MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);

		if (p == MAP_FAILED || madvise(p, PAGES * PAGE, MADV_NOHUGEPAGE))
			bench_die("mmap");
		for (unsigned i = 0; i < PAGES; i++) {
			zero += !p[i * PAGE];
			p[i * PAGE] = 1;
		}
		munmap(p, PAGES * PAGE);
	}
	return zero;
}

static uint64_t small_maps(void)
{
	uint64_t ok = 0;

	for (unsigned i = 0; i < 20000; i++) {
		uint8_t *p = mmap(NULL, 4 * PAGE, PROT_READ | PROT_WRITE,
				  MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);

		if (p == MAP_FAILED)
			bench_die("mmap");
		p[0] = (uint8_t)i;
		ok += p[0] == (uint8_t)i && !p[1];
		munmap(p, 4 * PAGE);
	}
	return ok;
}

static uint64_t mprotects(void)
{
	uint8_t *p =
		mmap(NULL, 16 * PAGE, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
	uint64_t sum = 0;

	if (p == MAP_FAILED)
		bench_die("mmap");
	memset(p, 1, 16 * PAGE);
	for (unsigned i = 0; i < 20000; i++) {
		if (mprotect(p, 4 * PAGE, PROT_READ))
			bench_die("mprotect");
		sum += p[i % 4 * PAGE];
		if (mprotect(p, 4 * PAGE, PROT_READ | PROT_WRITE))
			bench_die("mprotect");
		p[i % 4 * PAGE] = 1;
	}
	munmap(p, 16 * PAGE);
	return sum;
}

static volatile sig_atomic_t n_signals;

static void count_signal(int sig)
{
	n_signals++;
}

static uint64_t signals(void)
{
	struct sigaction act = { .sa_handler = count_signal };
	pid_t me = getpid();

	n_signals = 0;
	sigaction(SIGUSR1, &act, NULL);
	for (unsigned i = 0; i < 80000; i++)
		kill(me, SIGUSR1);
	return (uint64_t)n_signals;
}

static uint8_t *guarded;

static void open_guard(int sig, siginfo_t *info, void *context)
{
	n_signals++;
	if (info->si_addr != guarded || mprotect(guarded, PAGE, PROT_READ | PROT_WRITE))
		_exit(1);
}

/* Write barriers of garbage collectors: a store faults, the handler opens the page. */
static uint64_t segvs(void)
{
	struct sigaction act = { .sa_sigaction = open_guard, .sa_flags = SA_SIGINFO };

	n_signals = 0;
	guarded = mmap(NULL, PAGE, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
	if (guarded == MAP_FAILED)
		bench_die("mmap");
	sigaction(SIGSEGV, &act, NULL);
	for (unsigned i = 0; i < 20000; i++) {
		mprotect(guarded, PAGE, PROT_READ);
		*(volatile uint8_t *)guarded = (uint8_t)i;
	}
	signal(SIGSEGV, SIG_DFL);
	munmap(guarded, PAGE);
	return (uint64_t)n_signals;
}

static uint64_t stats(void)
{
	struct stat st;
	uint64_t bytes = 0;

	for (unsigned i = 0; i < 150000; i++)
		bytes += stat(file_path, &st) ? 0 : (uint64_t)st.st_size;
	return bytes;
}

static uint64_t files(void)
{
	char buf[16];
	uint64_t bytes = 0;

	for (unsigned i = 0; i < 60000; i++) {
		int fd = open(file_path, O_RDONLY);

		if (fd < 0)
			bench_die(file_path);
		bytes += (uint64_t)read(fd, buf, sizeof(buf));
		close(fd);
	}
	return bytes;
}

static uint64_t creates(void)
{
	char path[96];
	uint64_t ok = 0;

	for (unsigned i = 0; i < 10000; i++) {
		int fd;

		snprintf(path, sizeof(path), "%s/%u", dir_path, i % 100);
		fd = open(path, O_CREAT | O_EXCL | O_WRONLY, 0600);
		if (fd < 0)
			bench_die(path);
		close(fd);
		ok += !unlink(path);
	}
	return ok;
}

static uint64_t epolls(void)
{
	struct epoll_event ev = { .events = EPOLLIN };
	uint64_t ready = 0;
	char c = 1;
	int p[2], e = epoll_create1(0);

	if (e < 0 || pipe(p) || epoll_ctl(e, EPOLL_CTL_ADD, p[0], &ev))
		bench_die("epoll");
	for (unsigned i = 0; i < 100000; i++) {
		if (write(p[1], &c, 1) != 1)
			bench_die("write");
		ready += (uint64_t)epoll_wait(e, &ev, 1, -1);
		if (read(p[0], &c, 1) != 1)
			bench_die("read");
	}
	close(e);
	close(p[0]);
	close(p[1]);
	return ready;
}

static pthread_mutex_t mutex = PTHREAD_MUTEX_INITIALIZER;
static pthread_cond_t cond = PTHREAD_COND_INITIALIZER;
static unsigned turn;

static void *take_turns(void *arg)
{
	unsigned me = (unsigned)(uintptr_t)arg;

	pthread_mutex_lock(&mutex);
	for (unsigned i = 0; i < 20000; i++) {
		while (turn % 2 != me)
			pthread_cond_wait(&cond, &mutex);
		turn++;
		pthread_cond_signal(&cond);
	}
	pthread_mutex_unlock(&mutex);
	return NULL;
}

static uint64_t futexes(void)
{
	pthread_t t;

	bench_pin();
	turn = 0;
	if (pthread_create(&t, NULL, take_turns, (void *)1))
		bench_die("thread");
	take_turns(NULL);
	pthread_join(t, NULL);
	return turn;
}

/* A module of the guest's kernel that needs no other, beside this program. */
static int module_fd;

static void open_module(void)
{
	char path[PATH_MAX + 32] = "";
	int fd = open("/sys/kernel/rcu_expedited", O_WRONLY | O_CLOEXEC);

	/* Not to measure how long the kernel waits for its own grace periods. */
	if (fd < 0 || write(fd, "1", 1) != 1)
		bench_die("/sys/kernel/rcu_expedited");
	close(fd);
	if (readlink("/proc/self/exe", path, PATH_MAX) < 0)
		bench_die("/proc/self/exe");
	strcpy(strrchr(path, '/'), "/../data/module.ko");
	module_fd = open(path, O_RDONLY | O_CLOEXEC);
	if (module_fd < 0)
		bench_die(path);
}

static uint64_t modules(void)
{
	uint64_t n = 0;

	for (unsigned i = 0; i < 100; i++) {
		if (syscall(SYS_finit_module, module_fd, "", 0) ||
		    syscall(SYS_delete_module, MODULE, O_NONBLOCK))
			bench_die(MODULE);
		n++;
	}
	return n;
}

static const struct bench table[] = {
	{ "sys.getppid", getppids, 600000, NULL, NULL },
	{ "sys.clock", clocks, 0, NULL, NULL },
	{ "sys.pipe", pipes, 20000, NULL, NULL },
	{ "sys.socket", sockets, 20000, NULL, NULL },
	{ "sys.pipe-stream", pipe_stream, 5000ull * 65536, NULL, NULL },
	{ "sys.yield", yields, 0, NULL, NULL },
	{ "sys.fork", forks, 1000, NULL, NULL },
	{ "sys.fork-32m", forks_large, 5, NULL, NULL },
	{ "sys.vfork-exec", vfork_execs, 150, NULL, NULL },
	{ "sys.fork-exec", fork_execs, 150, NULL, NULL },
	{ "sys.thread", threads, 4000, NULL, NULL },
	{ "sys.faults", faults, 32768, NULL, NULL },
	{ "sys.mmap", small_maps, 20000, NULL, NULL },
	{ "sys.mprotect", mprotects, 20000, NULL, NULL },
	{ "sys.signal", signals, 80000, NULL, NULL },
	{ "sys.segv", segvs, 20000, NULL, NULL },
	{ "sys.stat", stats, 150000 * 16, make_file, NULL },
	{ "sys.open-read", files, 60000 * 16, make_file, NULL },
	{ "sys.create", creates, 10000, make_file, NULL },
	{ "sys.epoll", epolls, 100000, NULL, NULL },
	{ "sys.futex", futexes, 40000, NULL, NULL },
	{ "sys.module", modules, 100, open_module, NULL },
	{ NULL, NULL, 0, NULL, NULL },
};

int main(int argc, char **argv)
{
	if (argc > 1 && !strcmp(argv[1], "--nothing"))
		return 42;
	return bench_main(table, argc, argv);
}
