/* The commands of gdb's remote protocol: gdb manual, E.2 "Packets" to E.4 "General Query Packets".
 */
#include "machine/gdb/gdb_internal.h"

#include "cpu/engine.h"
#include "cpu/interp/interp.h"
#include "cpu/x86/paging.h"
#include "cpu/x86/vmem.h"
#include "machine/machine_internal.h"
#include "machine/move.h"
#include "mem/physmap.h"

#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>

#define MAX_MEMORY ((GDB_PACKET - 16) / 2) /* bytes of guest memory in a packet of hex */

/* -- Words ------------------------------------------------------------------------------------ */

void session_put(struct session *s, const char *fmt, ...)
{
	size_t room = GDB_PACKET - s->n_out;
	va_list args;
	int n;

	va_start(args, fmt);
	n = vsnprintf(s->out + s->n_out, room, fmt, args);
	va_end(args);
	s->n_out += n < 0 ? 0 : MIN((size_t)n, room ? room - 1 : 0);
}

void session_put_hex(struct session *s, const void *buf, size_t len)
{
	const uint8_t *p = buf;

	for (size_t i = 0; i < len; i++)
		session_put(s, "%02x", p[i]);
}

static int hex_digit(char ch)
{
	if (ch >= '0' && ch <= '9')
		return ch - '0';
	ch |= 0x20;
	return ch >= 'a' && ch <= 'f' ? ch - 'a' + 10 : -1;
}

/* Bytes from hex text; false if there are not so many. */
static bool get_hex(const char **text, uint8_t *buf, size_t len)
{
	for (size_t i = 0; i < len; i++) {
		int high = hex_digit((*text)[0]), low = high < 0 ? -1 : hex_digit((*text)[1]);

		if (low < 0)
			return false;
		buf[i] = (uint8_t)(high << 4 | low);
		*text += 2;
	}
	return true;
}

/* A number in hex, and the character behind it, which is taken too unless it is the end. */
static bool get_number(const char **text, uint64_t *n, char end)
{
	char *stop;

	if (hex_digit(**text) < 0)
		return false;
	*n = strtoull(*text, &stop, 16);
	*text = stop;
	if (*stop != end)
		return false;
	*text += end != 0;
	return true;
}

/* What follows word at the start of text; NULL if it begins otherwise. */
static const char *after(const char *text, const char *word)
{
	size_t len = strlen(word);

	return strncmp(text, word, len) ? NULL : text + len;
}

static void ok(struct session *s)
{
	session_put(s, "OK");
}

static void fail(struct session *s, unsigned code)
{
	session_put(s, "E%02x", code);
}

static struct vcpu *now(const struct session *s)
{
	return s->m->set.v[s->thread];
}

/* -- Registers -------------------------------------------------------------------------------- */

static void push(struct vcpu *c)
{
	const struct engine *e = c->engine;

	e->push(c);
}

static void read_all(struct session *s)
{
	for (unsigned n = 0; n < regs_count(); n++) {
		uint8_t buf[16];

		session_put_hex(s, buf, regs_get(now(s), n, buf));
	}
}

static void write_all(struct session *s, const char *text)
{
	bool good = true;

	for (unsigned n = 0; n < regs_count() && *text; n++) {
		uint8_t buf[16], len = (uint8_t)regs_get(now(s), n, buf);

		good = get_hex(&text, buf, len) && regs_set(now(s), n, buf) && good;
	}
	push(now(s));
	good ? ok(s) : fail(s, 1);
}

static void read_one(struct session *s, const char *text)
{
	uint8_t buf[16];
	uint64_t n;
	unsigned len = get_number(&text, &n, 0) && n < regs_count()
			       ? regs_get(now(s), (unsigned)n, buf)
			       : 0;

	if (len)
		session_put_hex(s, buf, len);
	else
		fail(s, 1);
}

static void write_one(struct session *s, const char *text)
{
	uint8_t buf[16];
	uint64_t n;
	bool good = get_number(&text, &n, '=') && n < regs_count() &&
		    get_hex(&text, buf, regs_get(now(s), (unsigned)n, buf)) &&
		    regs_set(now(s), (unsigned)n, buf);

	if (good)
		push(now(s));
	good ? ok(s) : fail(s, 1);
}

/* -- Memory ----------------------------------------------------------------------------------- */

/* Where addr is, and how many bytes from there on lie in the same page. */
static bool locate(const struct session *s, uint64_t addr, gpa_t *gpa, size_t *len)
{
	struct vcpu *c = now(s);
	uint64_t size;
	unsigned perm;

	*len = PAGE_SIZE - (addr & (PAGE_SIZE - 1));
	*gpa = addr;
	if (s->physical)
		return true;
	return (!c->long_mode || is_canonical(addr)) &&
	       paging_walk(c, addr, PF_PEEK | PF_AC, gpa, &size, &perm) == EXC_NONE;
}

static void read_memory(struct session *s, const char *text)
{
	uint8_t buf[PAGE_SIZE];
	uint64_t addr, left;
	size_t len;
	gpa_t gpa;

	if (!get_number(&text, &addr, ',') || !get_number(&text, &left, 0)) {
		fail(s, 1);
		return;
	}
	left = MIN(left, MAX_MEMORY);
	for (; left && locate(s, addr, &gpa, &len); addr += len, left -= len) {
		len = MIN(len, left);
		if (!physmap_read(&s->m->pm, gpa, buf, len))
			break;
		breaks_hide(s, gpa, buf, len);
		session_put_hex(s, buf, len);
	}
	/* The first bytes are better than none. */
	if (!s->n_out)
		fail(s, 14);
}

static bool write_memory(struct session *s, uint64_t addr, const uint8_t *buf, size_t left)
{
	size_t len;
	gpa_t gpa;

	for (; left; addr += len, buf += len, left -= len) {
		if (!locate(s, addr, &gpa, &len))
			return false;
		len = MIN(len, left);
		if (!physmap_write(&s->m->pm, gpa, buf, len))
			return false;
		breaks_written(s, gpa, len);
	}
	return true;
}

static void write_hex(struct session *s, const char *text)
{
	uint8_t buf[MAX_MEMORY];
	uint64_t addr, len;

	if (get_number(&text, &addr, ',') && get_number(&text, &len, ':') && len <= sizeof(buf) &&
	    get_hex(&text, buf, len) && write_memory(s, addr, buf, len))
		ok(s);
	else
		fail(s, 14);
}

/* X packets bring bytes as they are, but for an escape. */
static void write_binary(struct session *s, const char *text)
{
	const char *end = s->in + s->n_in;
	uint8_t buf[GDB_PACKET];
	uint64_t addr, len;
	size_t n = 0;

	if (!get_number(&text, &addr, ',') || !get_number(&text, &len, ':')) {
		fail(s, 1);
		return;
	}
	while (text < end && n < sizeof(buf)) {
		bool escaped = *text == '}' && text + 1 < end;

		text += escaped;
		buf[n++] = (uint8_t)(*text++ ^ (escaped ? 0x20 : 0));
	}
	n == len &&write_memory(s, addr, buf, n) ? ok(s) : fail(s, 14);
}

/* -- Going on --------------------------------------------------------------------------------- */

/* One instruction of c, whatever engine holds it; interrupts wait. */
static void step(struct vcpu *c)
{
	const struct engine *home = c->engine;

	c->debug.stop = DEBUG_NONE;
	if (c->mp_state != MP_RUNNING || engine_take(c, &engine_interp, NULL) < 0)
		return;
	if (!interp_one(c))
		c->mp_state = MP_SHUTDOWN;
	engine_take(c, home, NULL);
}

void session_say_stop(struct session *s, bool interrupted)
{
	const struct vcpu *c;

	for (unsigned i = 0; i < s->m->set.n; i++)
		if (s->m->set.v[i]->debug.stop)
			s->thread = i;
	c = now(s);
	session_put(s, "T%02xthread:%x;", interrupted && !c->debug.stop ? 2 : 5, s->thread + 1);
	if (c->debug.stop == DEBUG_WATCH)
		session_put(s, "watch:%llx;", (unsigned long long)c->debug.addr);
	else if (c->debug.stop == DEBUG_SOFT && s->swbreak)
		session_put(s, "swbreak:;");
	else if (c->debug.stop == DEBUG_HARD && s->hwbreak)
		session_put(s, "hwbreak:;");
}

void session_resume(struct session *s)
{
	for (unsigned i = 0; i < s->m->set.n; i++)
		s->m->set.v[i]->debug.stop = DEBUG_NONE;
}

void session_leave(struct session *s)
{
	breaks_clear_all(s);
	session_resume(s);
	if (s->home)
		move_all(&s->m->set, s->home, NULL);
	s->home = NULL;
}

static bool get_thread(const struct session *s, const char *text, unsigned *thread)
{
	uint64_t n;

	/* Any, or all of them. */
	if (strcmp(text, "0") == 0 || strcmp(text, "-1") == 0)
		return true;
	if (!get_number(&text, &n, 0) || n < 1 || n > s->m->set.n)
		return false;
	*thread = (unsigned)n - 1;
	return true;
}

static void single_step(struct session *s)
{
	step(now(s));
	session_say_stop(s, false);
}

/* vCont;ACTION[:THREAD]... A step is of its thread alone: the others stand meanwhile. */
static void vcont(struct session *s, const char *text)
{
	char copy[256], *rest = copy, *action;

	snprintf(copy, sizeof(copy), "%s", text);
	while ((action = strsep(&rest, ";"))) {
		char *thread = strchr(action, ':');

		if (action[0] != 's' && action[0] != 'S')
			continue;
		if (thread && !get_thread(s, thread + 1, &s->thread)) {
			fail(s, 1);
			return;
		}
		single_step(s);
		return;
	}
	s->next = GDB_GO;
}

static void change_break(struct session *s, const char *text, bool set)
{
	uint64_t kind, addr, len;

	if (!get_number(&text, &kind, ',') || !get_number(&text, &addr, ',') ||
	    !get_number(&text, &len, *text && strchr(text, ';') ? ';' : 0) || kind > 4)
		fail(s, 1);
	else if ((set ? breaks_set : breaks_clear)(s, (unsigned)kind, addr, (unsigned)len))
		ok(s);
	else
		fail(s, 14);
}

/* -- Questions -------------------------------------------------------------------------------- */

static void supported(struct session *s, const char *features)
{
	s->swbreak = strstr(features, "swbreak+");
	s->hwbreak = strstr(features, "hwbreak+");
	session_put(s,
		    "PacketSize=%x;QStartNoAckMode+;qXfer:features:read+;vContSupported+;"
		    "swbreak+;hwbreak+",
		    GDB_PACKET);
}

static void describe(struct session *s, const char *text)
{
	const char *xml = regs_description();
	uint64_t off, len;

	if (!get_number(&text, &off, ',') || !get_number(&text, &len, 0) || off > strlen(xml)) {
		fail(s, 1);
		return;
	}
	xml += off;
	len = MIN(len, GDB_PACKET - 16);
	session_put(s, "%c%.*s", strlen(xml) > len ? 'm' : 'l', (int)len, xml);
}

static void list_threads(struct session *s)
{
	for (unsigned i = 0; i < s->m->set.n; i++)
		session_put(s, "%c%x", i ? ',' : 'm', i + 1);
}

static void describe_thread(struct session *s, const char *text)
{
	static const char *const states[] = { "running", "halted", "waits for SIPI", "shut down" };
	unsigned n = s->thread;
	const struct vcpu *c;
	char line[100];
	int len;

	if (!get_thread(s, text, &n)) {
		fail(s, 1);
		return;
	}
	c = s->m->set.v[n];
	len = snprintf(line, sizeof(line), "CPU %u, %s, ring %u", n, states[c->mp_state], c->cpl);
	session_put_hex(s, line, (size_t)len);
}

/* -- monitor ---------------------------------------------------------------------------------- */

static void say(struct session *s, const char *text)
{
	session_put_hex(s, text, strlen(text));
}

static void say_registers(struct session *s)
{
	const struct vcpu *c = now(s);
	char text[2000];
	int n = snprintf(text, sizeof(text),
			 "CPU %u: rip %016llx rflags %08llx cpl %u\n"
			 "cr0 %08llx cr2 %016llx cr3 %016llx cr4 %08llx efer %llx\n"
			 "gdtr %016llx:%04x idtr %016llx:%04x\n",
			 s->thread, (unsigned long long)c->rip, (unsigned long long)vcpu_rflags(c),
			 c->cpl, (unsigned long long)c->cr0, (unsigned long long)c->cr2,
			 (unsigned long long)c->cr3, (unsigned long long)c->cr4,
			 (unsigned long long)c->msr.efer, (unsigned long long)c->gdtr.base,
			 c->gdtr.limit, (unsigned long long)c->idtr.base, c->idtr.limit);

	for (unsigned i = SEG_ES; i <= SEG_TR && n < (int)sizeof(text) - 100; i++)
		n += snprintf(text + n, sizeof(text) - (size_t)n,
			      "seg %u: %04x base %016llx limit %08x attr %04x\n", i, c->seg[i].sel,
			      (unsigned long long)c->seg[i].base, c->seg[i].limit, c->seg[i].attr);
	say(s, text);
}

static void change_engine(struct session *s, const char *name)
{
	const struct engine *e = engine_find(name);
	struct err err;

	if (e && move_all(&s->m->set, e, &err) < 0) {
		say(s, err.msg);
		say(s, "\n");
		return;
	}
	s->home = NULL;
	say(s, e ? "done\n" : "there is no such engine\n");
}

static void monitor(struct session *s, const char *hex)
{
	char text[200];
	const char *word;
	size_t len = MIN(strlen(hex) / 2, sizeof(text) - 1);

	if (!get_hex(&hex, (uint8_t *)text, len)) {
		fail(s, 1);
		return;
	}
	text[len] = 0;
	if (strcmp(text, "registers") == 0) {
		say_registers(s);
	} else if ((word = after(text, "engine "))) {
		change_engine(s, word);
	} else if (strcmp(text, "physical on") == 0 || strcmp(text, "physical off") == 0) {
		s->physical = text[10] == 'n';
		say(s, s->physical ? "addresses are guest-physical now\n"
				   : "addresses are virtual now\n");
	} else if (strcmp(text, "reset") == 0) {
		s->next = GDB_RESET;
		say(s, "the board is reset\n");
	} else {
		say(s, "monitor registers       control registers and segments of the thread\n"
		       "monitor engine NAME     let another engine execute the guest\n"
		       "monitor physical on|off whether memory is addressed physically\n"
		       "monitor reset           press the reset button\n");
	}
}

/* -- All of them ------------------------------------------------------------------------------ */

static void query(struct session *s, const char *p)
{
	const char *rest;
	unsigned thread;

	if ((rest = after(p, "qSupported")))
		supported(s, rest);
	else if ((rest = after(p, "qXfer:features:read:target.xml:")))
		describe(s, rest);
	else if (strcmp(p, "qAttached") == 0)
		session_put(s, "1");
	else if (strcmp(p, "qC") == 0)
		session_put(s, "QC%x", s->thread + 1);
	else if (strcmp(p, "qfThreadInfo") == 0)
		list_threads(s);
	else if (strcmp(p, "qsThreadInfo") == 0)
		session_put(s, "l");
	else if ((rest = after(p, "qThreadExtraInfo,")))
		describe_thread(s, rest);
	else if ((rest = after(p, "qRcmd,")))
		monitor(s, rest);
	else if ((rest = after(p, "Qqemu.PhyMemMode:"))) {
		s->physical = *rest == '1';
		ok(s);
	} else if (strcmp(p, "QStartNoAckMode") == 0) {
		s->no_ack = true;
		ok(s);
	} else if ((rest = after(p, "T"))) {
		get_thread(s, rest, &thread) ? ok(s) : fail(s, 1);
	}
}

void session_execute(struct session *s)
{
	const char *p = s->in, *rest;

	s->in[s->n_in] = 0;
	s->n_out = 0;
	s->next = GDB_STAY;
	for (unsigned i = 0; i < s->m->set.n; i++) {
		const struct engine *e = s->m->set.v[i]->engine;

		e->pull(s->m->set.v[i]);
	}
	switch (*p) {
	case '?': session_say_stop(s, true); break;
	case 'g': read_all(s); break;
	case 'G': write_all(s, p + 1); break;
	case 'p': read_one(s, p + 1); break;
	case 'P': write_one(s, p + 1); break;
	case 'm': read_memory(s, p + 1); break;
	case 'M': write_hex(s, p + 1); break;
	case 'X': write_binary(s, p + 1); break;
	case 'Z': change_break(s, p + 1, true); break;
	case 'z': change_break(s, p + 1, false); break;
	case 'c': s->next = GDB_GO; break;
	case 's': single_step(s); break;
	case 'D':
		s->next = GDB_DETACH;
		ok(s);
		break;
	case 'k': s->next = GDB_KILL; break;
	case 'H':
		/* Hc is of old: vCont says which threads go on. */
		p[1] == 'c' || (p[1] == 'g' && get_thread(s, p + 2, &s->thread)) ? ok(s)
										 : fail(s, 1);
		break;
	case 'v':
		if (strcmp(p, "vCont?") == 0)
			session_put(s, "vCont;c;C;s;S");
		else if ((rest = after(p, "vCont;")))
			vcont(s, rest);
		else if (after(p, "vKill"))
			s->next = GDB_KILL;
		break;
	default: query(s, p); break;
	}
}
