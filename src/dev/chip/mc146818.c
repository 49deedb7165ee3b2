#include "dev/chip/mc146818.h"

#include <string.h>
#include <time.h>

#define NS 1000000000ll

enum {
	SECONDS,
	SECONDS_ALARM,
	MINUTES,
	MINUTES_ALARM,
	HOURS,
	HOURS_ALARM,
	WEEKDAY,
	DAY,
	MONTH,
	YEAR,
	REG_A,
	REG_B,
	REG_C,
	REG_D
};

#define A_UIP  0x80
#define A_DV   0x70
#define A_RS   0x0f
#define B_SET  0x80
#define B_PIE  0x40
#define B_AIE  0x20
#define B_UIE  0x10
#define B_DM   0x04 /* binary */
#define B_24H  0x02
#define C_IRQF 0x80
#define C_PF   0x40
#define C_AF   0x20
#define C_UF   0x10
#define D_VRT  0x80

/* UIP rises 244 us before the update, which takes 1984 us with a 32 kHz crystal. */
#define UPDATE_NS ((244 + 1984) * 1000ll)

static bool divider_runs(const struct mc146818 *r)
{
	return (r->ram[REG_A] & 0x60) != 0x60;
}

static bool time_runs(const struct mc146818 *r)
{
	return divider_runs(r) && !(r->ram[REG_B] & B_SET);
}

static uint8_t encode(const struct mc146818 *r, unsigned v)
{
	return (uint8_t)(r->ram[REG_B] & B_DM ? v : v / 10 << 4 | v % 10);
}

static unsigned decode(const struct mc146818 *r, uint8_t v)
{
	return r->ram[REG_B] & B_DM ? v : (v >> 4) * 10u + (v & 15);
}

static uint8_t encode_hour(const struct mc146818 *r, unsigned hour)
{
	if (r->ram[REG_B] & B_24H)
		return encode(r, hour);

	unsigned h = hour % 12 ? hour % 12 : 12;

	return encode(r, h) | (hour >= 12 ? 0x80 : 0);
}

static unsigned decode_hour(const struct mc146818 *r, uint8_t v)
{
	if (r->ram[REG_B] & B_24H)
		return decode(r, v);
	return decode(r, v & 0x7f) % 12 + (v & 0x80 ? 12 : 0);
}

/* Put the calendar time ns into the time registers. */
static void store_time(struct mc146818 *r, int64_t ns)
{
	time_t t = (time_t)(ns / NS);
	struct tm tm;

	gmtime_r(&t, &tm);
	r->ram[SECONDS] = encode(r, (unsigned)tm.tm_sec);
	r->ram[MINUTES] = encode(r, (unsigned)tm.tm_min);
	r->ram[HOURS] = encode_hour(r, (unsigned)tm.tm_hour);
	r->ram[WEEKDAY] = encode(r, (unsigned)tm.tm_wday + 1);
	r->ram[DAY] = encode(r, (unsigned)tm.tm_mday);
	r->ram[MONTH] = encode(r, (unsigned)tm.tm_mon + 1);
	r->ram[YEAR] = encode(r, (unsigned)(tm.tm_year + 1900) % 100);
	r->ram[RTC_CENTURY] = encode(r, (unsigned)(tm.tm_year + 1900) / 100);
}

/* The calendar time in s that the time registers say; nonsense is carried over like overflow. */
static int64_t load_time(const struct mc146818 *r)
{
	unsigned century = decode(r, r->ram[RTC_CENTURY]);
	struct tm tm = {
		.tm_sec = (int)decode(r, r->ram[SECONDS]),
		.tm_min = (int)decode(r, r->ram[MINUTES]),
		.tm_hour = (int)decode_hour(r, r->ram[HOURS]),
		.tm_mday = (int)decode(r, r->ram[DAY]),
		.tm_mon = (int)decode(r, r->ram[MONTH]) - 1,
		.tm_year = (int)(decode(r, r->ram[YEAR]) + century * 100) - 1900,
	};

	return timegm(&tm);
}

static int64_t calendar(const struct mc146818 *r, int64_t now)
{
	return r->base_ns + now;
}

void mc146818_init(struct mc146818 *r, int64_t wall_ns)
{
	memset(r, 0, sizeof(*r));
	r->base_ns = r->seen_ns = wall_ns;
	r->ram[REG_A] = 0x26; /* 32 kHz crystal, 1024 Hz */
	r->ram[REG_B] = B_24H;
	r->ram[REG_D] = D_VRT;
}

void mc146818_reset(struct mc146818 *r)
{
	r->ram[REG_B] &= (uint8_t) ~(B_PIE | B_AIE | B_UIE);
	r->ram[REG_C] = 0;
	r->index = 0;
}

/* Length of the periodic interrupt's period in ticks of 32768 Hz, or 0 if it is off. */
static int64_t period_ticks(const struct mc146818 *r)
{
	unsigned rate = r->ram[REG_A] & A_RS;

	if (!rate || !divider_runs(r))
		return 0;
	return 1ll << ((rate <= 2 ? rate + 7 : rate) - 1);
}

static int64_t ns_to_ticks(int64_t ns)
{
	return ns / NS * 32768 + ns % NS * 32768 / NS;
}

static int64_t ticks_to_ns(int64_t t)
{
	return t / 32768 * NS + (t % 32768 * NS + 32767) / 32768;
}

/* Does the alarm match second s of the day? Bytes with both top bits set match anything. */
static bool alarm_matches(const struct mc146818 *r, unsigned s)
{
	uint8_t sec = r->ram[SECONDS_ALARM], min = r->ram[MINUTES_ALARM],
		hour = r->ram[HOURS_ALARM];

	return (sec >= 0xc0 || decode(r, sec) == s % 60) &&
	       (min >= 0xc0 || decode(r, min) == s / 60 % 60) &&
	       (hour >= 0xc0 || decode_hour(r, hour) == s / 3600);
}

/* The first second after `after` (both in s since 1970) that the alarm matches, at most a day
 * ahead; INT64_MAX if the registers match nothing.
 */
static int64_t next_alarm(const struct mc146818 *r, int64_t after)
{
	for (int64_t s = after + 1; s <= after + 86400; s++)
		if (alarm_matches(r, (unsigned)(s % 86400)))
			return s;
	return INT64_MAX;
}

void mc146818_run(struct mc146818 *r, int64_t now)
{
	int64_t cal = calendar(r, now), was = r->seen_ns;
	int64_t period = period_ticks(r);

	if (cal <= was)
		return;
	r->seen_ns = cal;
	if (period && ns_to_ticks(cal) / period > ns_to_ticks(was) / period)
		r->ram[REG_C] |= C_PF;
	if (time_runs(r) && cal / NS > was / NS) {
		r->ram[REG_C] |= C_UF;
		if (!(r->ram[REG_C] & C_AF) && next_alarm(r, was / NS) <= cal / NS)
			r->ram[REG_C] |= C_AF;
	}
	if (r->ram[REG_C] & r->ram[REG_B] & (C_PF | C_AF | C_UF))
		r->ram[REG_C] |= C_IRQF;
}

bool mc146818_irq(const struct mc146818 *r)
{
	return r->ram[REG_C] & C_IRQF;
}

int64_t mc146818_next(const struct mc146818 *r, int64_t now)
{
	int64_t cal = calendar(r, now), next = INT64_MAX;
	int64_t period = period_ticks(r);

	/* With the pin active nothing new shows until register C is read. */
	if (mc146818_irq(r))
		return INT64_MAX;
	if ((r->ram[REG_B] & B_PIE) && period)
		next = ticks_to_ns((ns_to_ticks(cal) / period + 1) * period);
	if ((r->ram[REG_B] & B_UIE) && time_runs(r)) {
		int64_t update = (cal / NS + 1) * NS;

		next = update < next ? update : next;
	}
	if ((r->ram[REG_B] & B_AIE) && time_runs(r)) {
		int64_t s = next_alarm(r, cal / NS);

		if (s != INT64_MAX && s * NS < next)
			next = s * NS;
	}
	return next == INT64_MAX ? next : next - r->base_ns;
}

static bool is_time(unsigned addr)
{
	return addr == SECONDS || addr == MINUTES || addr == HOURS ||
	       (addr >= WEEKDAY && addr <= YEAR) || addr == RTC_CENTURY;
}

uint8_t mc146818_read(struct mc146818 *r, unsigned addr, int64_t now)
{
	uint8_t val;

	mc146818_run(r, now);
	if (is_time(addr) && time_runs(r))
		store_time(r, calendar(r, now));
	val = r->ram[addr];
	if (addr == REG_A && time_runs(r) && calendar(r, now) % NS >= NS - UPDATE_NS)
		val |= A_UIP;
	if (addr == REG_C)
		r->ram[REG_C] = 0;
	return val;
}

/* The time registers start to run, frac_ns into their second. */
static void start_time(struct mc146818 *r, int64_t frac_ns, int64_t now)
{
	r->base_ns = load_time(r) * NS + frac_ns - now;
	r->seen_ns = calendar(r, now);
}

static void write_control(struct mc146818 *r, unsigned addr, uint8_t val, int64_t now)
{
	bool ran = time_runs(r), divider_ran = divider_runs(r);
	int64_t frac = calendar(r, now) % NS;

	if (ran)
		store_time(r, calendar(r, now));
	if (addr == REG_A)
		r->ram[REG_A] = val & (A_DV | A_RS);
	else
		r->ram[REG_B] = val & B_SET ? val & (uint8_t)~B_UIE : val;
	/* Out of divider reset, the first update comes half a second later. */
	if (!ran && time_runs(r))
		start_time(r, divider_ran ? frac : NS / 2, now);
	/* A flag that was already set counts as soon as it is enabled. */
	if (r->ram[REG_C] & r->ram[REG_B] & (C_PF | C_AF | C_UF))
		r->ram[REG_C] |= C_IRQF;
	else
		r->ram[REG_C] &= (uint8_t)~C_IRQF;
}

void mc146818_write(struct mc146818 *r, unsigned addr, uint8_t val, int64_t now)
{
	mc146818_run(r, now);
	if (addr == REG_A || addr == REG_B) {
		write_control(r, addr, val, now);
		return;
	}
	if (addr == REG_C || addr == REG_D)
		return;
	if (!is_time(addr) || !time_runs(r)) {
		r->ram[addr] = val;
		return;
	}
	/* Written while it runs: the other fields go on from the present time. */
	int64_t frac = calendar(r, now) % NS;

	store_time(r, calendar(r, now));
	r->ram[addr] = val;
	start_time(r, frac, now);
}
