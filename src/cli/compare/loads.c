#include "cli/compare/loads.h"

USER_CODE static uint64_t next(uint64_t *state)
{
	*state = *state * 6364136223846793005u + 1442695040888963407u;
	return *state ^ *state >> 29;
}

/* Shifts, additions, multiplications and a branch that nobody can guess, all in registers. */
USER_CODE uint64_t load_integer(void *buf, uint64_t n)
{
	uint64_t a = 1, b = 2, state = 3;

	for (uint64_t i = 0; i < n; i++) {
		uint64_t r = next(&state);

		a += r ^ a >> 7;
		b = (b << 5 | b >> 59) + a;
		if (r & 0x4000)
			a -= b;
	}
	return a ^ b;
}

USER_CODE static void sift_down(uint64_t *a, uint64_t root, uint64_t n)
{
	uint64_t val = a[root];

	for (uint64_t child; (child = 2 * root + 1) < n; root = child) {
		if (child + 1 < n && a[child] < a[child + 1])
			child++;
		if (a[child] <= val)
			break;
		a[root] = a[child];
	}
	a[root] = val;
}

USER_CODE static void heap_sort(uint64_t *a, uint64_t n)
{
	for (uint64_t i = n / 2; i-- > 0;)
		sift_down(a, i, n);
	for (uint64_t end = n; end-- > 1;) {
		uint64_t largest = a[0];

		a[0] = a[end];
		a[end] = largest;
		sift_down(a, 0, end);
	}
}

USER_CODE uint64_t load_sort(void *buf, uint64_t n)
{
	uint64_t *a = buf, most = LOADS_BUFFER / 16, state = 5, sum = 0;

	while (n) {
		uint64_t len = n < most ? n : most;

		for (uint64_t i = 0; i < len; i++)
			a[i] = next(&state);
		heap_sort(a, len);
		for (uint64_t i = 0; i < len; i += 97)
			sum = sum * 31 + a[i];
		n -= len;
	}
	return sum;
}

/* Count keys in a table with open addressing: reads and writes at places that nobody can guess. */
USER_CODE uint64_t load_hash(void *buf, uint64_t n)
{
	uint64_t *table = buf, slots = LOADS_BUFFER / 16, state = 7, sum = 0;

	for (uint64_t i = 0; i < LOADS_BUFFER / 8; i++)
		table[i] = 0;
	for (uint64_t i = 0; i < n; i++) {
		uint64_t key = (next(&state) & 0x7fff) | 0x10000;
		uint64_t slot = key * 0x9e3779b97f4a7c15u >> 40;

		while (table[2 * (slot % slots)] && table[2 * (slot % slots)] != key)
			slot++;
		table[2 * (slot % slots)] = key;
		sum += ++table[2 * (slot % slots) + 1];
	}
	return sum;
}
