/* One thread a CPU: locked instructions, futexes and plain stores between CPUs must add up. */
#define _GNU_SOURCE
#include <pthread.h>
#include <sched.h>
#include <stdatomic.h>
#include <stdint.h>
#include <stdio.h>
#include <unistd.h>

#define ROUNDS 20000

static atomic_long added;
static atomic_llong swapped;
static long guarded, handed;
static pthread_mutex_t mutex = PTHREAD_MUTEX_INITIALIZER;
static pthread_barrier_t barrier;

static void *work(void *arg)
{
	cpu_set_t set;

	CPU_ZERO(&set);
	CPU_SET((long)(intptr_t)arg, &set);
	sched_setaffinity(0, sizeof(set), &set);
	pthread_barrier_wait(&barrier);
	for (int i = 0; i < ROUNDS; i++) {
		long long old = atomic_load(&swapped);

		atomic_fetch_add(&added, 1);
		while (!atomic_compare_exchange_weak(&swapped, &old, old + 3))
			;
		pthread_mutex_lock(&mutex);
		guarded++;
		pthread_mutex_unlock(&mutex);
	}
	for (int i = 0; i < 20; i++)
		if (pthread_barrier_wait(&barrier) == PTHREAD_BARRIER_SERIAL_THREAD)
			handed++;
	return NULL;
}

int main(void)
{
	long n = sysconf(_SC_NPROCESSORS_ONLN);
	pthread_t t[64];

	pthread_barrier_init(&barrier, NULL, (unsigned)n);
	for (long i = 0; i < n; i++)
		pthread_create(&t[i], NULL, work, (void *)(intptr_t)i);
	for (long i = 0; i < n; i++)
		pthread_join(t[i], NULL);
	printf("report smp: %s\n", added == n * ROUNDS && swapped == 3LL * n * ROUNDS &&
						   guarded == n * ROUNDS && handed == 20
					   ? "adds up"
					   : "lost");
	return 0;
}
