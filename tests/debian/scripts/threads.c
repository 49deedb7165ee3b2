/* Compiled inside the guest: threads, floating point, long double, varargs and a table of
 * functions. */
#include <math.h>
#include <pthread.h>
#include <stdatomic.h>
#include <stdio.h>

static atomic_long total;

static void *add(void *arg)
{
	for (long i = 0; i < 100000; i++)
		atomic_fetch_add(&total, (long)arg);
	return arg;
}

int main(void)
{
	double (*const f[])(double) = { sin, cos, exp, log };
	long double fact = 1;
	pthread_t t[4];
	double sum = 0;

	for (long i = 0; i < 4; i++)
		pthread_create(&t[i], NULL, add, (void *)(i + 1));
	for (long i = 0; i < 4; i++)
		pthread_join(t[i], NULL);
	for (int i = 1; i <= 20; i++) {
		sum += f[i % 4](i / 10.0);
		fact *= i;
	}
	printf("%ld %.9f %.0Lf\n", total, sum, fact);
	return 0;
}
