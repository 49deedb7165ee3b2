#include "machine/smbios.h"

#include "check.h"
#include "cpu/x86/features.h"
#include "machine/memmap.h"

static uint8_t buf[SMBIOS_END - SMBIOS_BASE + 64];
static size_t used;
static const char *const *texts;

static uint8_t sum(const void *p, size_t len)
{
	const uint8_t *byte = p;
	uint8_t s = 0;

	while (len--)
		s += *byte++;
	return s;
}

static void build(unsigned n_cpus, uint64_t low, uint64_t high)
{
	struct cpu_model m;

	assert_int_equal(cpu_model_parse(&m, "x86-64-v2", n_cpus, 2500000, NULL), 0);
	memset(buf, 0xa5, sizeof(buf));
	used = smbios_build(buf, SMBIOS_END - SMBIOS_BASE, &m, low, high, texts);
	CHECK(used > 0);
}

/* As a guest does: an anchor on a multiple of 16 bytes. */
static const uint8_t *entry(const char *anchor)
{
	for (size_t at = 0; at < used; at += 16)
		if (memcmp(buf + at, anchor, strlen(anchor)) == 0)
			return buf + at;
	fail();
	return NULL;
}

static const uint8_t *after(const uint8_t *s)
{
	s += s[1];
	while (s[0] || s[1])
		s++;
	return s + 2;
}

static const uint8_t *first(void)
{
	return buf + (load64(entry("_SM3_") + 16) - SMBIOS_BASE);
}

/* The nth structure of the type, from 0; NULL if there are not so many. */
static const uint8_t *structure(unsigned type, unsigned n)
{
	for (const uint8_t *s = first();; s = after(s)) {
		CHECK(s < buf + used);
		if (s[0] == type && n-- == 0)
			return s;
		if (s[0] == 127)
			return NULL;
	}
}

static const char *string(const uint8_t *s, unsigned n)
{
	const char *text = (const char *)s + s[1];

	while (--n)
		text += strlen(text) + 1;
	return text;
}

TEST(both_entry_points_lead_to_all_structures)
{
	unsigned n = 1, largest = 0;
	const uint8_t *old, *new, *s;

	build(2, 512 * MiB, 0);
	old = entry("_SM_");
	new = entry("_SM3_");
	CHECK_EQ(old[5], 0x1f);
	CHECK_EQ(sum(old, 0x1f), 0);
	CHECK_MEM(old + 16, "_DMI_", 5);
	CHECK_EQ(sum(old + 16, 15), 0);
	CHECK_EQ(new[6], 0x18);
	CHECK_EQ(sum(new, 0x18), 0);
	CHECK_EQ(load32(old + 24), load64(new + 16));
	for (s = first(); s[0] != 127; s = after(s), n++)
		largest = MAX(largest, (unsigned)(after(s) - s));
	s = after(s);
	CHECK(s == buf + used);
	CHECK_EQ(load16(old + 22), s - first());
	CHECK_EQ(load32(new + 12), s - first());
	CHECK_EQ(load16(old + 28), n);
	CHECK_EQ(load16(old + 8), largest);
}

TEST(no_two_structures_have_one_handle)
{
	build(64, 3 * GiB, 5 * GiB);
	for (const uint8_t *s = first(); s[0] != 127; s = after(s))
		for (const uint8_t *t = after(s);; t = after(t)) {
			CHECK(load16(s + 2) != load16(t + 2));
			if (t[0] == 127)
				break;
		}
}

TEST(what_every_board_must_have_is_there)
{
	static const uint8_t types[] = { 0, 1, 3, 4, 16, 17, 19, 32 };

	build(1, 64 * MiB, 0);
	for (unsigned i = 0; i < sizeof(types); i++)
		CHECK(structure(types[i], 0));
	CHECK_STR(string(structure(0, 0), structure(0, 0)[8]), "01/01/2026");
	CHECK_STR(string(structure(1, 0), structure(1, 0)[4]), "Cleave");
	CHECK_STR(string(structure(1, 0), structure(1, 0)[5]), "PC");
}

TEST(the_processor_is_the_cpu_model)
{
	const uint8_t *s;

	build(5, 64 * MiB, 0);
	s = structure(4, 0);
	CHECK(!structure(4, 1));
	CHECK_STR(string(s, s[16]), "Cleave x86-64-v2");
	CHECK_EQ(load16(s + 22), 2500);
	CHECK_EQ(s[35], 5);
	CHECK_EQ(load16(s + 42), 5);
	CHECK_EQ(load32(s + 12) & 1, 1);       /* FPU */
	CHECK_EQ(load32(s + 12) >> 25 & 3, 3); /* SSE, SSE2 */
	CHECK_EQ(load32(s + 12) >> 18 & 1, 0); /* serial number */
}

TEST(memory_is_one_device_that_is_mapped_in_at_most_two_places)
{
	build(1, 64 * MiB, 0);
	CHECK_EQ(load32(structure(16, 0) + 7), 64 * 1024);
	CHECK_EQ(load16(structure(17, 0) + 12), 64);
	CHECK_EQ(load16(structure(17, 0) + 4), load16(structure(16, 0) + 2));
	CHECK_EQ(load32(structure(19, 0) + 4), 0);
	CHECK_EQ(load32(structure(19, 0) + 8), 64 * 1024 - 1);
	CHECK(!structure(19, 1));
	build(1, 3 * GiB, 2 * GiB);
	CHECK_EQ(load16(structure(17, 0) + 12), 5 * 1024);
	CHECK_EQ(load32(structure(19, 1) + 4), 4 * MiB);
	CHECK_EQ(load32(structure(19, 1) + 8), 6 * MiB - 1);
}

TEST(sizes_that_do_not_fit_the_old_fields_are_in_the_new_ones)
{
	build(1, 5 * MiB + 4 * KiB, 0);
	CHECK_EQ(load16(structure(17, 0) + 12), 0x8000 | (5 * 1024 + 4));
	build(1, 3 * GiB, 61 * GiB);
	CHECK_EQ(load16(structure(17, 0) + 12), 0x7fff);
	CHECK_EQ(load32(structure(17, 0) + 28), 64 * 1024);
	build(1, 3 * GiB, 8189 * GiB);
	CHECK_EQ(load32(structure(16, 0) + 7), 0x80000000);
	CHECK_EQ(load64(structure(16, 0) + 15), 8192 * GiB);
	CHECK_EQ(load32(structure(19, 1) + 4), 0xffffffff);
	CHECK_EQ(load64(structure(19, 1) + 15), 4 * GiB);
	CHECK_EQ(load64(structure(19, 1) + 23), 8193 * GiB - 1);
}

TEST(texts_for_the_guest_are_oem_strings)
{
	static const char *const two[] = { "io.example:one=1", "two", NULL };
	const uint8_t *s;

	build(1, 64 * MiB, 0);
	CHECK(!structure(11, 0));
	texts = two;
	build(1, 64 * MiB, 0);
	texts = NULL;
	s = structure(11, 0);
	CHECK_EQ(s[1], 5);
	CHECK_EQ(s[4], 2);
	CHECK_STR(string(s, 1), two[0]);
	CHECK_STR(string(s, 2), two[1]);
	CHECK(!structure(11, 1));
	CHECK(structure(16, 0));
}

TEST(a_small_buffer_is_not_overrun)
{
	struct cpu_model m;

	build(64, 3 * GiB, 5 * GiB);
	assert_int_equal(cpu_model_parse(&m, "max", 64, 2500000, NULL), 0);
	for (size_t size = 0; size < used; size++) {
		memset(buf, 0xa5, sizeof(buf));
		CHECK(smbios_build(buf, size, &m, 3 * GiB, 5 * GiB, texts) <= size);
		for (size_t i = size; i < size + 64; i++)
			CHECK_EQ(buf[i], 0xa5);
	}
}

TESTS(T(both_entry_points_lead_to_all_structures), T(no_two_structures_have_one_handle),
      T(what_every_board_must_have_is_there), T(the_processor_is_the_cpu_model),
      T(memory_is_one_device_that_is_mapped_in_at_most_two_places),
      T(sizes_that_do_not_fit_the_old_fields_are_in_the_new_ones),
      T(texts_for_the_guest_are_oem_strings), T(a_small_buffer_is_not_overrun))
