/* Floating point: scalar SSE2, x87, FMA. Sums are of the results' bits: they are the same on every
 * CPU that keeps to IEEE 754 and, for x87, to 80 bits.
 */
#include "bench.h"

#include <math.h>
#include <string.h>

static uint64_t bits(double x)
{
	uint64_t u;

	memcpy(&u, &x, sizeof(u));
	return u;
}

struct body {
	double p[3], v[3], mass;
};

static double energy(const struct body *b, unsigned n)
{
	double e = 0;

	for (unsigned i = 0; i < n; i++) {
		e += 0.5 * b[i].mass *
		     (b[i].v[0] * b[i].v[0] + b[i].v[1] * b[i].v[1] + b[i].v[2] * b[i].v[2]);
		for (unsigned k = i + 1; k < n; k++) {
			double d2 = 0;

			for (unsigned x = 0; x < 3; x++)
				d2 += (b[i].p[x] - b[k].p[x]) * (b[i].p[x] - b[k].p[x]);
			e -= b[i].mass * b[k].mass / sqrt(d2);
		}
	}
	return e;
}

static void advance(struct body *b, unsigned n, double dt)
{
	for (unsigned i = 0; i < n; i++) {
		for (unsigned k = i + 1; k < n; k++) {
			double d[3], d2 = 0, mag;

			for (unsigned x = 0; x < 3; x++) {
				d[x] = b[i].p[x] - b[k].p[x];
				d2 += d[x] * d[x];
			}
			mag = dt / (d2 * sqrt(d2));
			for (unsigned x = 0; x < 3; x++) {
				b[i].v[x] -= d[x] * b[k].mass * mag;
				b[k].v[x] += d[x] * b[i].mass * mag;
			}
		}
	}
	for (unsigned i = 0; i < n; i++)
		for (unsigned x = 0; x < 3; x++)
			b[i].p[x] += dt * b[i].v[x];
}

/* The Sun and the giant planets, in astronomical units, days and solar masses * 4 pi^2. */
static uint64_t nbody(void)
{
	struct body b[] = {
		{ { 0, 0, 0 }, { 0, 0, 0 }, 39.47 },
		{ { 4.84, -1.16, -0.10 }, { 0.60, 2.81, -0.02 }, 0.0376 },
		{ { 8.34, 4.12, -0.40 }, { -1.01, 1.82, 0.008 }, 0.0112 },
		{ { 12.89, -15.11, -0.22 }, { 1.08, 0.86, -0.01 }, 0.0017 },
		{ { 15.37, -25.91, 0.17 }, { 0.97, 0.59, -0.03 }, 0.0020 },
	};
	double before = energy(b, 5), after;

	for (unsigned i = 0; i < 800000; i++)
		advance(b, 5, 0.001);
	after = energy(b, 5);
	return fabs(after - before) < 1e-6 ? bits(after) : 0;
}

/* Gaussian elimination with partial pivoting; the residual says whether it is right. */
static uint64_t linpack(void)
{
	enum { N = 640 };
	static double a[N][N], keep[N][N], b[N], x[N];
	uint64_t seed = 17;
	double worst = 0;

	for (unsigned i = 0; i < N; i++) {
		for (unsigned k = 0; k < N; k++)
			keep[i][k] = a[i][k] = (double)(int64_t)bench_random(&seed) / 9.3e18;
		b[i] = x[i] = 1 + i % 7;
	}
	for (unsigned c = 0; c < N; c++) {
		unsigned pivot = c;

		for (unsigned i = c + 1; i < N; i++)
			if (fabs(a[i][c]) > fabs(a[pivot][c]))
				pivot = i;
		for (unsigned k = 0; k < N; k++) {
			double t = a[c][k];

			a[c][k] = a[pivot][k];
			a[pivot][k] = t;
		}
		double t = x[c];
		x[c] = x[pivot];
		x[pivot] = t;
		for (unsigned i = c + 1; i < N; i++) {
			double f = a[i][c] / a[c][c];

			for (unsigned k = c; k < N; k++)
				a[i][k] -= f * a[c][k];
			x[i] -= f * x[c];
		}
	}
	for (unsigned i = N; i-- > 0;) {
		for (unsigned k = i + 1; k < N; k++)
			x[i] -= a[i][k] * x[k];
		x[i] /= a[i][i];
	}
	for (unsigned i = 0; i < N; i++) {
		double r = -b[i];

		for (unsigned k = 0; k < N; k++)
			r += keep[i][k] * x[k];
		if (fabs(r) > worst)
			worst = fabs(r);
	}
	return worst < 1e-8 ? bits(x[0]) : 0;
}

#define FFT_BITS 16
#define FFT_N	 (1u << FFT_BITS)

static double fft_re[FFT_N], fft_im[FFT_N], fft_cos[FFT_N / 2], fft_sin[FFT_N / 2];

static void fft_setup(void)
{
	uint64_t seed = 3;

	for (unsigned i = 0; i < FFT_N; i++) {
		fft_re[i] = (double)(int64_t)bench_random(&seed) / 9.3e18;
		fft_im[i] = 0;
	}
	for (unsigned i = 0; i < FFT_N / 2; i++) {
		fft_cos[i] = cos(2 * M_PI * i / FFT_N);
		fft_sin[i] = sin(2 * M_PI * i / FFT_N);
	}
}

static void fft(double *re, double *im, double sign)
{
	for (unsigned i = 1, k = 0; i < FFT_N; i++) {
		unsigned bit = FFT_N >> 1;

		for (; k & bit; bit >>= 1)
			k ^= bit;
		k ^= bit;
		if (i < k) {
			double t = re[i];

			re[i] = re[k];
			re[k] = t;
			t = im[i];
			im[i] = im[k];
			im[k] = t;
		}
	}
	for (unsigned len = 2; len <= FFT_N; len <<= 1) {
		for (unsigned i = 0; i < FFT_N; i += len) {
			for (unsigned k = 0; k < len / 2; k++) {
				double wr = fft_cos[k * (FFT_N / len)];
				double wi = sign * fft_sin[k * (FFT_N / len)];
				unsigned a = i + k, b = a + len / 2;
				double xr = re[b] * wr - im[b] * wi, xi = re[b] * wi + im[b] * wr;

				re[b] = re[a] - xr;
				im[b] = im[a] - xi;
				re[a] += xr;
				im[a] += xi;
			}
		}
	}
}

/* There and back again gives what went in. cos and sin are the C library's, which picks them by
 * CPU: so no sum of bits.
 */
static uint64_t fft_rounds(void)
{
	static double keep[FFT_N];
	double worst = 0;

	memcpy(keep, fft_re, sizeof(keep));
	for (unsigned round = 0; round < 15; round++) {
		fft(fft_re, fft_im, -1);
		fft(fft_re, fft_im, 1);
		for (unsigned i = 0; i < FFT_N; i++) {
			fft_re[i] /= FFT_N;
			fft_im[i] /= FFT_N;
		}
	}
	for (unsigned i = 0; i < FFT_N; i++)
		worst = fmax(worst, fabs(fft_re[i] - keep[i]));
	return worst < 1e-10;
}

static uint64_t mandelbrot(void)
{
	uint64_t sum = 0;

	for (unsigned y = 0; y < 300; y++) {
		for (unsigned x = 0; x < 400; x++) {
			double cr = x / 150.0 - 2, ci = y / 150.0 - 1, zr = 0, zi = 0;
			unsigned n = 0;

			while (n < 500 && zr * zr + zi * zi < 4) {
				double t = zr * zr - zi * zi + cr;

				zi = 2 * zr * zi + ci;
				zr = t;
				n++;
			}
			sum = bench_mix(sum, n);
		}
	}
	return sum;
}

/* The same by the x87 unit. */
static uint64_t x87_mandelbrot(void)
{
	uint64_t sum = 0;

	for (unsigned y = 0; y < 225; y++) {
		for (unsigned x = 0; x < 300; x++) {
			long double cr = x / 112.5L - 2, ci = y / 112.5L - 1, zr = 0, zi = 0;
			unsigned n = 0;

			while (n < 500 && zr * zr + zi * zi < 4) {
				long double t = zr * zr - zi * zi + cr;

				zi = 2 * zr * zi + ci;
				zr = t;
				n++;
			}
			sum = bench_mix(sum, n);
		}
	}
	return sum;
}

/* Stored and loaded long doubles: a polynomial over an array. */
static uint64_t x87_horner(void)
{
	static long double c[64];
	long double total = 0;
	uint64_t mantissa;

	for (unsigned i = 0; i < 64; i++)
		c[i] = 1.0L / (i + 3);
	for (unsigned round = 0; round < 250000; round++) {
		long double x = (long double)(round % 1000) / 1001, r = 0;

		for (unsigned i = 0; i < 64; i++)
			r = r * x + c[i];
		total += r;
	}
	memcpy(&mantissa, &total, sizeof(mantissa));
	return mantissa;
}

static uint64_t spectral(void)
{
	enum { N = 1000 };
	static double u[N], v[N];
	double top = 0, bottom = 0;

	for (unsigned i = 0; i < N; i++)
		u[i] = 1;
	for (unsigned round = 0; round < 20; round++) {
		double *in = round % 2 ? v : u, *out = round % 2 ? u : v;

		for (unsigned i = 0; i < N; i++) {
			double s = 0;

			for (unsigned k = 0; k < N; k++)
				s += in[k] / ((i + k) * (i + k + 1) / 2 + i + 1);
			out[i] = s;
		}
	}
	for (unsigned i = 0; i < N; i++) {
		top += u[i] * v[i];
		bottom += v[i] * v[i];
	}
	return bits(sqrt(top / bottom));
}

/* Plain matrix product that the compiler turns into AVX2 and FMA. */
__attribute__((target("avx2,fma"), optimize("O3"))) static uint64_t matmul(void)
{
	enum { N = 512 };
	static double a[N][N], b[N][N], c[N][N];
	uint64_t sum = 0;

	for (unsigned i = 0; i < N; i++) {
		for (unsigned k = 0; k < N; k++) {
			a[i][k] = (double)(i * k % 17) - 8;
			b[i][k] = (double)((i + 3 * k) % 13) - 6;
			c[i][k] = 0;
		}
	}
	for (unsigned round = 0; round < 2; round++)
		for (unsigned i = 0; i < N; i++)
			for (unsigned k = 0; k < N; k++)
				for (unsigned j = 0; j < N; j++)
					c[i][j] += a[i][k] * b[k][j];
	for (unsigned i = 0; i < N; i++)
		for (unsigned k = 0; k < N; k++)
			sum = bench_mix(sum, bits(c[i][k]));
	return sum;
}

static uint64_t libm(void)
{
	double s = 0;

	for (unsigned i = 1; i < 2500000; i++) {
		double x = i * 1e-4;

		s += sin(x) * exp(-x * 1e-2) + log(x) * 1e-3;
	}
	/* The last bits differ with the C library's choice of FMA or not. */
	return (uint64_t)llround(s * 1e4);
}

static const struct bench table[] = {
	{ "fp.nbody", nbody, 0xbfc5aaf54741ebe9, NULL, NULL },
	{ "fp.linpack", linpack, 0xc00c3bdf832e1261, NULL, NULL },
	{ "fp.fft", fft_rounds, 1, fft_setup, NULL },
	{ "fp.mandelbrot", mandelbrot, 0x5ea1e7870f9f5c5a, NULL, NULL },
	{ "fp.x87-mandelbrot", x87_mandelbrot, 0x2fd04df3798fb555, NULL, NULL },
	{ "fp.x87-horner", x87_horner, 0xe0b6617b9fb11180, NULL, NULL },
	{ "fp.spectral", spectral, 0x3ff1f4d97bb4f399, NULL, NULL },
	{ "fp.libm", libm, 0xc95914d, NULL, NULL },
	{ "simd.matmul-avx2", matmul, 0x2a4a889fb0f1e630, NULL, "fma" },
	{ NULL, NULL, 0, NULL, NULL },
};

int main(int argc, char **argv)
{
	return bench_main(table, argc, argv);
}
