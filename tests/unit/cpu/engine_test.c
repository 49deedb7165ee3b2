#include "cpu/engine.h"

#include "check.h"

TEST(each_engine_is_found_by_its_name)
{
	CHECK(engines[0]);
	for (unsigned n = 0; engines[n]; n++)
		CHECK(engine_find(engines[n]->name) == engines[n]);
	CHECK(engine_find("interp") == &engine_interp);
}

TEST(a_name_that_no_engine_has_finds_none)
{
	CHECK(!engine_find("steam"));
	CHECK(!engine_find(""));
	CHECK(!engine_find("auto"));
}

TESTS(T(each_engine_is_found_by_its_name), T(a_name_that_no_engine_has_finds_none))
