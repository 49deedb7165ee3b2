#include "machine/boot/unpack.h"

#include "base/own.h"

#include <lz4.h>
#include <lzma.h>

#define LZ4_LEGACY_MAGIC 0x184c2102u
#define LZ4_LEGACY_BLOCK (8 * MiB) /* of unpacked bytes, but for the last */

/* Frames of [u32 packed length][block], behind one magic number. LZ4 frame format, "Legacy frame".
 */
static bool unpack_lz4(const uint8_t *data, uint64_t len, uint8_t *out, uint64_t out_len)
{
	uint64_t at = 4, done = 0;

	while (done < out_len) {
		uint64_t room = MIN(out_len - done, LZ4_LEGACY_BLOCK);
		uint32_t packed;
		int n;

		if (!range_fits(at, 4, len))
			return false;
		packed = load32(data + at);
		at += 4;
		/* The magic number may stand between frames. */
		if (packed == LZ4_LEGACY_MAGIC)
			continue;
		if (packed > LZ4_COMPRESSBOUND(LZ4_LEGACY_BLOCK) || !range_fits(at, packed, len))
			return false;
		n = LZ4_decompress_safe((const char *)data + at, (char *)out + done, (int)packed,
					(int)room);
		if (n <= 0)
			return false;
		at += packed;
		done += (uint64_t)n;
	}
	return true;
}

static bool unpack_xz(const uint8_t *data, uint64_t len, uint8_t *out, uint64_t out_len)
{
	uint64_t memory = 256 * MiB;
	size_t in_pos = 0, out_pos = 0;

	return lzma_stream_buffer_decode(&memory, 0, NULL, data, &in_pos, len, out, &out_pos,
					 out_len) == LZMA_OK &&
	       out_pos == out_len;
}

bool unpack(const uint8_t *data, uint64_t len, uint8_t **out, uint64_t out_len)
{
	static const uint8_t xz[6] = { 0xfd, '7', 'z', 'X', 'Z', 0 };
	bool ok = false;

	if (len < 8)
		return false;

	AUTO_FREE uint8_t *buf = malloc(out_len);

	if (!buf)
		return false;
	if (load32(data) == LZ4_LEGACY_MAGIC)
		ok = unpack_lz4(data, len, buf, out_len);
	else if (!memcmp(data, xz, sizeof(xz)))
		ok = unpack_xz(data, len, buf, out_len);
	if (ok)
		*out = move_ptr(&buf);
	return ok;
}
