/* Persistency methods: the whole table of wish, provider and domain. */
#include <criterion/criterion.h>
#include "rpmemd/method.h"
#include "wire.h"

enum { G = WIRE_METHOD_GPSPM, A = WIRE_METHOD_APM, C = WIRE_METHOD_COMMIT };

/* Columns: tcp memory, tcp pmem, tcp file, verbs memory, verbs pmem, verbs file. */
static const struct {
	bool apm, force;
	enum config_method method;
	uint32_t want[6];
} rows[] = {
	{ false, false, CONFIG_METHOD_UNSET, { G, G, G, G, G, G } },
	{ true, false, CONFIG_METHOD_UNSET, { G, G, G, A, A, G } },
	{ true, false, CONFIG_METHOD_GENERAL, { G, G, G, G, G, G } },
	{ false, false, CONFIG_METHOD_APM, { G, G, G, A, A, G } },
	{ false, true, CONFIG_METHOD_APM, { A, A, A, A, A, A } },
	{ false, false, CONFIG_METHOD_COMMIT, { C, C, G, G, G, G } },
	{ false, true, CONFIG_METHOD_COMMIT, { C, C, C, C, C, C } },
	{ false, false, CONFIG_METHOD_AUTO, { C, C, G, A, G, G } },
	{ true, false, CONFIG_METHOD_AUTO, { C, C, G, A, A, G } },
	{ true, true, CONFIG_METHOD_AUTO, { C, C, G, A, A, G } }, /* nothing wished for, nothing to force */
	{ false, true, CONFIG_METHOD_GENERAL, { G, G, G, G, G, G } },
};

static const enum pm_domain domains[] = { PM_MEMORY, PM_PMEM, PM_FILE };

Test(method, table)
{
	for (unsigned r = 0; r < sizeof(rows) / sizeof(rows[0]); r++) {
		struct config config = { .persist_apm = rows[r].apm, .persist_force = rows[r].force,
			.persist_method = rows[r].method };

		for (unsigned c = 0; c < 6; c++) {
			struct method_case at = { .provider = c < 3 ? "tcp" : "verbs", .domain = domains[c % 3],
				.one_sided = true };

			cr_expect_eq(method_choose(&config, &at), rows[r].want[c], "row %u, column %u", r, c);
			at.one_sided = false;
			cr_expect_eq(method_choose(&config, &at), G, "row %u, column %u, not registered", r, c);
		}
	}
}

Test(method, titles_are_those_that_scripts_look_for)
{
	struct config config = { 0 };

	cr_expect_str_eq(method_title(G), "General Purpose Server Persistency Method");
	cr_expect_str_eq(method_title(A), "Appliance Persistency Method");
	cr_expect_str_eq(method_wish_title(&config), method_title(G));
	config.persist_apm = true;
	cr_expect_str_eq(method_wish_title(&config), method_title(A));
	cr_expect_str_eq(method_flush_name(G, PM_PMEM), "pmem_persist");
	cr_expect_str_eq(method_flush_name(G, PM_FILE), "pmem_msync");
	cr_expect_str_eq(method_flush_name(G, PM_MEMORY), "none");
	cr_expect_str_eq(method_flush_name(A, PM_PMEM), "none");
}
