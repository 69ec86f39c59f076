/* The library as programs meet it: its symbols with their version nodes, and loading it by name. */
#include "tests/support/rpmem_rig.h"

#include <dlfcn.h>

#define LIMIT 60

static struct rpmem_rig rig;

static const char *const v1[] = { "rpmem_check_version", "rpmem_close", "rpmem_create", "rpmem_deep_persist",
				  "rpmem_drain", "rpmem_errormsg", "rpmem_flush", "rpmem_open", "rpmem_persist", "rpmem_read",
				  "rpmem_remove", "rpmem_set_attr" };
static const char *const ext[] = { "rpmem_drain_poll", "rpmem_drain_start", "rpmem_drain_wait", "rpmem_flushv",
				   "rpmem_group_drain", "rpmem_group_persist", "rpmem_info", "rpmem_lane_fd" };

/* All lines of a command's output; $BUILD in it is the build directory. */
static void output(const char *command, char *text, size_t size)
{
	FILE *pipe;
	size_t n;

	setenv("BUILD", rig.build, 1);
	pipe = popen(command, "r");
	cr_assert(pipe);
	n = fread(text, 1, size - 1, pipe);
	text[n] = '\0';
	cr_assert_eq(pclose(pipe), 0, "%s", command);
	cr_assert_neq(n, 0, "%s", command);
}

Test(librpmem_so, exactly_these_symbols)
{
	char text[8192], want[4096] = "";

	rig_init(&rig, "");
	for (size_t i = 0; i < sizeof(v1) / sizeof(v1[0]); i++)
		sprintf(want + strlen(want), "%s@@LIBRPMEM_1.0\n", v1[i]);
	output("nm -D --defined-only $BUILD/librpmem.so.1.0.0 | awk '$2 == \"T\" {print $3}' |"
	       "grep '@@LIBRPMEM_1.0$' | LC_ALL=C sort",
	       text, sizeof(text));
	cr_expect_str_eq(text, want);
	*want = '\0';
	for (size_t i = 0; i < sizeof(ext) / sizeof(ext[0]); i++)
		sprintf(want + strlen(want), "%s@@LIBRPMEM_EXT_1.0\n", ext[i]);
	output("nm -D --defined-only $BUILD/librpmem.so.1.0.0 | awk '$2 != \"A\" {print $3}' |"
	       "grep -v '@@LIBRPMEM_1.0$' | LC_ALL=C sort",
	       text, sizeof(text));
	cr_expect_str_eq(text, want, "everything else is local");
	output("readelf -d $BUILD/librpmem.so.1.0.0 | sed -n 's/.*(SONAME).*\\[\\(.*\\)\\]/\\1/p'", text, sizeof(text));
	cr_expect_str_eq(text, "librpmem.so.1\n");
	output("readelf -d $BUILD/librpmem.so.1.0.0 | grep -c NODELETE", text, sizeof(text));
	rig_fini(&rig);
}

Test(librpmem_so, static_library_has_the_same_names)
{
	char text[8192], want[4096] = "";

	rig_init(&rig, "");
	output("nm -g --defined-only $BUILD/librpmem.a | awk 'NF == 3 {print $3}' | LC_ALL=C sort", text, sizeof(text));
	for (size_t i = 0, j = 0; i < sizeof(v1) / sizeof(v1[0]) || j < sizeof(ext) / sizeof(ext[0]);) {
		bool first = j == sizeof(ext) / sizeof(ext[0]) || (i < sizeof(v1) / sizeof(v1[0]) && strcmp(v1[i], ext[j]) < 0);

		sprintf(want + strlen(want), "%s\n", first ? v1[i++] : ext[j++]);
	}
	cr_expect_str_eq(text, want);
	rig_fini(&rig);
}

#ifndef __SANITIZE_ADDRESS__ /* which cannot be loaded behind a program */
/* As libpmemobj does: by name, symbol by symbol, and closed again; twice. */
static void load_and_use(void)
{
	RPMEMpool *(*create)(const char *, const char *, void *, size_t, unsigned *, const struct rpmem_pool_attr *);
	int (*persist)(RPMEMpool *, size_t, size_t, unsigned, unsigned), (*close_)(RPMEMpool *);
	int (*remove_)(const char *, const char *, int);
	const char *(*message)(void);
	char path[PATH_MAX];
	RPMEMpool *pool;
	void *handle;

	snprintf(path, sizeof(path), "%.3000s/librpmem.so.1", rig.build);
	handle = dlopen(path, RTLD_NOW);
	cr_assert(handle, "%s", dlerror());
	for (size_t i = 0; i < sizeof(v1) / sizeof(v1[0]); i++)
		cr_expect(dlvsym(handle, v1[i], "LIBRPMEM_1.0"), "%s", v1[i]);
	create = (__typeof__(create))dlsym(handle, "rpmem_create");
	persist = (__typeof__(persist))dlsym(handle, "rpmem_persist");
	close_ = (__typeof__(close_))dlsym(handle, "rpmem_close");
	remove_ = (__typeof__(remove_))dlsym(handle, "rpmem_remove");
	message = (__typeof__(message))dlsym(handle, "rpmem_errormsg");
	pool = create("@local", "r.set", rig.region, RIG_BYTES, &rig.lanes, &rig.attr);
	cr_assert(pool, "%s", message());
	rig_fill(&rig, 4096, 100, 1);
	cr_expect_eq(persist(pool, 4096, 100, 0, 0), 0, "%s", message());
	cr_expect(rig_same(&rig, 4096, 100));
	cr_expect_eq(close_(pool), 0, "%s", message());
	cr_expect_eq(remove_("@local", "r.set", 0), 0, "%s", message());
	cr_expect_eq(dlclose(handle), 0);
}

Test(librpmem_so, loaded_closed_and_loaded_again, .timeout = LIMIT)
{
	rig_init(&rig, "");
	load_and_use();
	load_and_use();
	rig_fini(&rig);
}
#endif
