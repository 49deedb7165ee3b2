/* The picture: a group of bars for each load, a bar for each method, time on a logarithmic scale.
 */
#include "cli/compare/compare.h"

#include <math.h>

#define WIDTH	   1000
#define LEFT	   190 /* of the bars */
#define RIGHT	   150 /* what stands behind them */
#define TOP	   128
#define BAR	   11
#define BAR_GAP	   2
#define GROUP_GAP  18
#define PLOT_WIDTH (WIDTH - LEFT - RIGHT)

/* The axis. */
struct scale {
	int first, last; /* powers of ten of a nanosecond */
};

static bool is_shown(const struct comparison *c, unsigned row, unsigned m)
{
	return c->method[m].on && compare_ns(c, row, m) > 0;
}

static struct scale find_scale(const struct comparison *c)
{
	struct scale s = { 100, -100 };

	for (unsigned row = 0; row < N_ROWS; row++) {
		for (unsigned m = 0; m < N_METHODS; m++) {
			double exponent;

			if (!is_shown(c, row, m))
				continue;
			exponent = log10(compare_ns(c, row, m));
			s.first = fmin(s.first, floor(exponent));
			s.last = fmax(s.last, ceil(exponent));
		}
	}
	/* The shortest bar is to be seen. */
	if (s.first > s.last)
		s = (struct scale){ 0, 1 };
	s.first--;
	return s;
}

static double place(struct scale s, double ns)
{
	return LEFT + PLOT_WIDTH * (log10(ns) - s.first) / (s.last - s.first);
}

static unsigned n_bars(const struct comparison *c, unsigned row)
{
	unsigned n = 0;

	for (unsigned m = 0; m < N_METHODS; m++)
		n += is_shown(c, row, m);
	return n;
}

static unsigned group_height(const struct comparison *c, unsigned row)
{
	unsigned n = n_bars(c, row);

	return n ? (n < 2 ? 2 : n) * (BAR + BAR_GAP) + GROUP_GAP : 0;
}

static unsigned plot_height(const struct comparison *c)
{
	unsigned height = 0;

	for (unsigned row = 0; row < N_ROWS; row++)
		height += group_height(c, row);
	return height;
}

/* Text may hold what XML reads otherwise. */
static void put_text(FILE *f, const char *text)
{
	for (; *text; text++) {
		switch (*text) {
		case '<': fputs("&lt;", f); break;
		case '>': fputs("&gt;", f); break;
		case '&': fputs("&amp;", f); break;
		default: fputc(*text, f);
		}
	}
}

/* Colours that are told apart by who sees few, on white and on black. Paravirtual ones are the
 * darker of a pair on white, the lighter on black. */
static void put_head(FILE *f, unsigned height)
{
	fprintf(f,
		"<svg xmlns=\"http://www.w3.org/2000/svg\" width=\"%d\" height=\"%u\" "
		"viewBox=\"0 0 %d %u\" role=\"img\" aria-labelledby=\"title desc\">\n"
		"<title id=\"title\">Methods of virtualization compared</title>\n"
		"<desc id=\"desc\">Time of one operation for several loads, natively and by each "
		"method, on a logarithmic scale; shorter bars are better.</desc>\n"
		"<style>\n"
		"svg { --paper: #ffffff; --ink: #1b1f24; --dim: #5b6470; --line: #d9dee4;\n"
		"  --m0: #8a929c; --m1: #d55e00; --m2: #56a9df; --m3: #0b5c96; --m4: #2bb58c;\n"
		"  --m5: #04694e }\n"
		"@media (prefers-color-scheme: dark) {\n"
		"svg { --paper: #14171c; --ink: #eef1f5; --dim: #a4adb8; --line: #343b45;\n"
		"  --m0: #a0a8b2; --m1: #ef8a3c; --m2: #2f83bd; --m3: #8accf5; --m4: #128a68;\n"
		"  --m5: #6fe0bd } }\n"
		"text { font: 12px system-ui, sans-serif; fill: var(--ink) }\n"
		".head { font-size: 20px; font-weight: 600 }\n"
		".name { font-weight: 600; text-anchor: end }\n"
		".dim { fill: var(--dim) }\n"
		".small { font-size: 10.5px; fill: var(--dim) }\n"
		".tick { text-anchor: middle; fill: var(--dim) }\n"
		".grid { stroke: var(--line); stroke-width: 1 }\n",
		WIDTH, height, WIDTH, height);
	for (unsigned m = 0; m < N_METHODS; m++)
		fprintf(f, ".m%u { fill: var(--m%u) }\n", m, m);
	fprintf(f,
		"</style>\n"
		"<rect width=\"%d\" height=\"%u\" fill=\"var(--paper)\"/>\n"
		"<text class=\"head\" x=\"24\" y=\"38\">Methods of virtualization compared</text>\n"
		"<text class=\"dim\" x=\"24\" y=\"60\">Time of one operation, logarithmic scale; "
		"shorter is better. Behind each bar: the time, and how many times native.</text>\n",
		WIDTH, height);
}

static void put_legend(FILE *f, const struct comparison *c)
{
	static const char *const names[] = {
		"native",
		"interp: hardware emulation",
		"dbt: binary translation",
		"dbt+pv: and paravirtual",
		"kvm: hardware-assisted",
		"kvm+pv: and paravirtual",
	};
	static const unsigned widths[] = { 70, 202, 170, 165, 170, 165 };
	unsigned x = 24;

	for (unsigned m = 0; m < N_METHODS; m++) {
		if (!c->method[m].on)
			continue;
		fprintf(f,
			"<rect class=\"m%u\" x=\"%u\" y=\"76\" width=\"12\" height=\"12\" rx=\"2\"/>"
			"<text x=\"%u\" y=\"86\">%s</text>\n",
			m, x, x + 18, names[m]);
		x += widths[m];
	}
}

static void put_tick(FILE *f, int exponent)
{
	static const char *const unit[] = { "ns", "\302\265s", "ms", "s" };
	int n = exponent < 0 ? 0 : exponent / 3 > 3 ? 3 : exponent / 3;

	fprintf(f, "%g %s", pow(10, exponent - 3 * n), unit[n]);
}

static void put_axis(FILE *f, struct scale s, unsigned height)
{
	for (int e = s.first; e <= s.last; e++) {
		double x = place(s, pow(10, e));

		fprintf(f,
			"<line class=\"grid\" x1=\"%.1f\" y1=\"%d\" x2=\"%.1f\" y2=\"%u\"/>"
			"<text class=\"tick\" x=\"%.1f\" y=\"%d\">",
			x, TOP - 8, x, TOP + height, x, TOP - 14);
		put_tick(f, e);
		fputs("</text>\n", f);
	}
}

static void put_bar(FILE *f, const struct comparison *c, struct scale s, unsigned row, unsigned m,
		    unsigned y)
{
	double ns = compare_ns(c, row, m), ratio = compare_ratio(c, row, m), x = place(s, ns);
	char time[32];

	fprintf(f,
		"<rect class=\"m%u\" x=\"%d\" y=\"%u\" width=\"%.1f\" height=\"%d\" rx=\"2\">"
		"<title>%s: %s</title></rect>"
		"<text class=\"small\" x=\"%.1f\" y=\"%u\">%s",
		m, LEFT, y, x - LEFT, BAR, compare_methods[m].id, compare_loads[row].name, x + 5,
		y + BAR - 2, report_time(time, ns));
	if (m != METHOD_NATIVE && ratio > 0)
		fprintf(f, ratio < 99.5 ? ", \303\227%.2f" : ", \303\227%.0f", ratio);
	fputs("</text>\n", f);
}

static void put_group(FILE *f, const struct comparison *c, struct scale s, unsigned row, unsigned y)
{
	unsigned middle = y + (group_height(c, row) - GROUP_GAP) / 2;

	fprintf(f, "<text class=\"name\" x=\"%d\" y=\"%u\">", LEFT - 12, middle);
	put_text(f, compare_loads[row].name);
	fprintf(f, "</text><text class=\"small\" text-anchor=\"end\" x=\"%d\" y=\"%u\">", LEFT - 12,
		middle + 14);
	put_text(f, compare_loads[row].group);
	fputs("</text>\n", f);
	for (unsigned m = 0; m < N_METHODS; m++) {
		if (!is_shown(c, row, m))
			continue;
		put_bar(f, c, s, row, m, y);
		y += BAR + BAR_GAP;
	}
}

static void put_absent(FILE *f, const struct comparison *c, unsigned y)
{
	for (unsigned m = 0; m < N_METHODS; m++) {
		if (c->method[m].on || !*c->method[m].why_not)
			continue;
		fprintf(f, "<text class=\"small\" x=\"24\" y=\"%u\">%s: ", y,
			compare_methods[m].id);
		put_text(f, c->method[m].why_not);
		fputs("</text>\n", f);
		y += 15;
	}
}

void chart_write(const struct comparison *c, FILE *f)
{
	struct scale s = find_scale(c);
	unsigned height = plot_height(c), y = TOP;

	put_head(f, TOP + height + 60);
	put_legend(f, c);
	put_axis(f, s, height);
	for (unsigned row = 0; row < N_ROWS; row++) {
		if (n_bars(c, row) == 0)
			continue;
		put_group(f, c, s, row, y + GROUP_GAP / 2);
		y += group_height(c, row);
	}
	put_absent(f, c, TOP + height + 22);
	fputs("</svg>\n", f);
}
