#include "base/err.h"
#include "check.h"

#include <errno.h>
#include <string.h>

TEST(set_says_what_and_why)
{
	struct err err;

	CHECK_EQ(err_set(&err, ENOENT, "open %s", "disk"), -ENOENT);
	CHECK_STR(err.msg, "open disk: No such file or directory");
}

TEST(wrap_puts_the_place_before_the_reason)
{
	struct err err;

	err_say(&err, EINVAL, "not a kernel");
	CHECK_EQ(err_wrap(&err, "boot"), -EINVAL);
	CHECK_STR(err.msg, "boot: not a kernel");
}

TEST(null_is_allowed_everywhere)
{
	CHECK_EQ(err_set(NULL, EPERM, "x"), -EPERM);
	CHECK_EQ(err_wrap(NULL, "x"), -EIO);
}

TEST(long_reasons_are_cut_not_overrun)
{
	struct err err;
	char text[2 * ERR_LEN];

	memset(text, 'a', sizeof(text) - 1);
	text[sizeof(text) - 1] = 0;
	err_set(&err, EPERM, "%s", text);
	err_wrap(&err, "%s", text);
	CHECK_EQ(strlen(err.msg), ERR_LEN - 1);
}

TESTS(T(set_says_what_and_why), T(wrap_puts_the_place_before_the_reason),
      T(null_is_allowed_everywhere), T(long_reasons_are_cut_not_overrun))
