/* OpenSSL's libcrypto on buffers in memory. */
#include "bench.h"

#include <string.h>
#include <openssl/bn.h>
#include <openssl/evp.h>
#include <openssl/rsa.h>

#define SIZE (1u << 20)

static uint8_t plain[SIZE], coded[SIZE + 64], back[SIZE + 64];

static void fill(void)
{
	uint64_t x = 21;

	for (unsigned i = 0; i < SIZE; i++)
		plain[i] = (uint8_t)bench_random(&x);
}

static uint64_t sum_of(const uint8_t *p, size_t n)
{
	uint64_t sum = 0;

	for (size_t i = 0; i < n; i++)
		sum = bench_mix(sum, p[i]);
	return sum;
}

static void must(int ok)
{
	if (ok <= 0)
		bench_die("libcrypto");
}

/* Seal plain and open it again, so many times. Returns a sum of the last text and tag. */
static uint64_t aead(const EVP_CIPHER *cipher, unsigned rounds)
{
	EVP_CIPHER_CTX *c = EVP_CIPHER_CTX_new();
	uint8_t key[32] = "0123456789abcdefghijklmnopqrstu", iv[12] = "nonce", tag[16];
	int n = 0, more = 0;
	uint64_t sum;

	for (unsigned i = 0; i < rounds; i++) {
		iv[0] = (uint8_t)i;
		must(EVP_EncryptInit_ex(c, cipher, NULL, key, iv));
		must(EVP_EncryptUpdate(c, coded, &n, plain, SIZE));
		must(EVP_EncryptFinal_ex(c, coded + n, &more));
		must(EVP_CIPHER_CTX_ctrl(c, EVP_CTRL_AEAD_GET_TAG, sizeof(tag), tag));
		must(EVP_DecryptInit_ex(c, cipher, NULL, key, iv));
		must(EVP_DecryptUpdate(c, back, &n, coded, SIZE));
		must(EVP_CIPHER_CTX_ctrl(c, EVP_CTRL_AEAD_SET_TAG, sizeof(tag), tag));
		must(EVP_DecryptFinal_ex(c, back + n, &more));
	}
	EVP_CIPHER_CTX_free(c);
	sum = sum_of(coded, SIZE) ^ sum_of(tag, sizeof(tag));
	return memcmp(back, plain, SIZE) ? 0 : sum;
}

static uint64_t aes_gcm(void)
{
	return aead(EVP_aes_128_gcm(), 150);
}

static uint64_t chacha(void)
{
	return aead(EVP_chacha20_poly1305(), 80);
}

static uint64_t aes_cbc(void)
{
	EVP_CIPHER_CTX *c = EVP_CIPHER_CTX_new();
	uint8_t key[32] = "0123456789abcdefghijklmnopqrstu", iv[16] = "vector";
	int n = 0;

	must(EVP_EncryptInit_ex(c, EVP_aes_256_cbc(), NULL, key, iv));
	for (unsigned i = 0; i < 60; i++)
		must(EVP_EncryptUpdate(c, coded, &n, plain, SIZE));
	EVP_CIPHER_CTX_free(c);
	return sum_of(coded, SIZE);
}

static uint64_t digest(const EVP_MD *md, unsigned rounds)
{
	EVP_MD_CTX *c = EVP_MD_CTX_new();
	uint8_t out[EVP_MAX_MD_SIZE];
	unsigned n = 0;

	must(EVP_DigestInit_ex(c, md, NULL));
	for (unsigned i = 0; i < rounds; i++)
		must(EVP_DigestUpdate(c, plain, SIZE));
	must(EVP_DigestFinal_ex(c, out, &n));
	EVP_MD_CTX_free(c);
	return sum_of(out, n);
}

static uint64_t sha256(void)
{
	return digest(EVP_sha256(), 80);
}

static uint64_t sha512(void)
{
	return digest(EVP_sha512(), 40);
}

/* Modular exponentiation of 2048 bits with Montgomery's form, what RSA without CRT is. The modulus
 * is odd and fixed, not a product of primes: the work is the same.
 */
static uint64_t rsa_power(void)
{
	BN_CTX *ctx = BN_CTX_new();
	BIGNUM *m, *e, *b, *r = BN_new();
	uint8_t out[256];

	plain[0] |= 0x80;
	plain[255] |= 1;
	m = BN_bin2bn(plain, 256, NULL);
	e = BN_bin2bn(plain + 256, 256, NULL);
	b = BN_bin2bn(plain + 513, 255, NULL);
	for (unsigned i = 0; i < 25; i++) {
		must(BN_mod_exp_mont_consttime(r, b, e, m, ctx, NULL));
		BN_copy(b, r);
	}
	must(BN_bn2binpad(r, out, sizeof(out)));
	BN_free(m);
	BN_free(e);
	BN_free(b);
	BN_free(r);
	BN_CTX_free(ctx);
	return sum_of(out, sizeof(out));
}

/* RSA as programs use it: sign and verify with a key made before. */
static EVP_PKEY *rsa_key;

static void make_key(void)
{
	fill();
	rsa_key = EVP_RSA_gen(2048);
	must(rsa_key != NULL);
}

static uint64_t rsa_sign(void)
{
	uint8_t sig[256];
	uint64_t good = 0;

	for (unsigned i = 0; i < 100; i++) {
		EVP_MD_CTX *c = EVP_MD_CTX_new();
		size_t n = sizeof(sig);

		must(EVP_DigestSignInit(c, NULL, EVP_sha256(), NULL, rsa_key));
		must(EVP_DigestSign(c, sig, &n, plain + i, 1024));
		EVP_MD_CTX_free(c);
		c = EVP_MD_CTX_new();
		must(EVP_DigestVerifyInit(c, NULL, EVP_sha256(), NULL, rsa_key));
		good += EVP_DigestVerify(c, sig, n, plain + i, 1024) == 1;
		EVP_MD_CTX_free(c);
	}
	return good;
}

/* Both ends of a key agreement on Curve25519. */
static uint64_t x25519(void)
{
	uint64_t same = 0;

	for (unsigned i = 0; i < 300; i++) {
		EVP_PKEY *k[2];
		uint8_t secret[2][32];

		for (unsigned x = 0; x < 2; x++)
			k[x] = EVP_PKEY_new_raw_private_key(EVP_PKEY_X25519, NULL,
							    plain + 32 * (i * 2 + x), 32);
		for (unsigned x = 0; x < 2; x++) {
			EVP_PKEY_CTX *c = EVP_PKEY_CTX_new(k[x], NULL);
			size_t n = 32;

			must(EVP_PKEY_derive_init(c));
			must(EVP_PKEY_derive_set_peer(c, k[!x]));
			must(EVP_PKEY_derive(c, secret[x], &n));
			EVP_PKEY_CTX_free(c);
		}
		same += !memcmp(secret[0], secret[1], 32);
		EVP_PKEY_free(k[0]);
		EVP_PKEY_free(k[1]);
	}
	return same;
}

static const struct bench table[] = {
	{ "crypto.aes-gcm", aes_gcm, 0x203dab83e0e36497, fill, NULL },
	{ "crypto.aes-cbc", aes_cbc, 0x44319f75ce6f1288, fill, NULL },
	{ "crypto.chacha", chacha, 0x8f25bd2b024afb49, fill, NULL },
	{ "crypto.sha256", sha256, 0x31fb696161923be8, fill, NULL },
	{ "crypto.sha512", sha512, 0x89c523935b2f1bc6, fill, NULL },
	{ "crypto.modexp", rsa_power, 0xfabbc453c783bba8, fill, NULL },
	{ "crypto.rsa", rsa_sign, 100, make_key, NULL },
	{ "crypto.x25519", x25519, 300, fill, NULL },
	{ NULL, NULL, 0, NULL, NULL },
};

int main(int argc, char **argv)
{
	return bench_main(table, argc, argv);
}
