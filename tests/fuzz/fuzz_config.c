/* rpmemd's configuration: a file, and behind a byte 0xff the words of a command line, a line each. */
#include "fuzz.h"

#include <sys/mman.h>
#include <unistd.h>
#include "rpmemd/config.h"

#define WORDS_MAX 16

static int file = -1;
static char path[32];

int LLVMFuzzerInitialize(int *argc, char ***argv)
{
	(void)argc;
	(void)argv;
	file = memfd_create("config", MFD_CLOEXEC);
	FUZZ_CHECK(file >= 0);
	snprintf(path, sizeof(path), "/proc/self/fd/%d", file);
	return 0;
}

static int words_cut(char *text, char *words[WORDS_MAX + 1])
{
	char *rest = NULL;
	int count = 1;

	words[0] = (char *)"rpmemd";
	for (char *at = strtok_r(text, "\n", &rest); at && count < WORDS_MAX; at = strtok_r(NULL, "\n", &rest))
		words[count++] = at;
	words[count] = NULL;
	return count;
}

static void config_holds(const struct config *cfg)
{
	FUZZ_CHECK(cfg->poolset_dir[0] == '/');
	FUZZ_CHECK(memchr(cfg->poolset_dir, 0, sizeof(cfg->poolset_dir)));
	FUZZ_CHECK(memchr(cfg->log_file, 0, sizeof(cfg->log_file)));
	FUZZ_CHECK(memchr(cfg->bind_address, 0, sizeof(cfg->bind_address)));
	FUZZ_CHECK(cfg->idle_ms >= CONFIG_IDLE_MS_MIN && cfg->nthreads <= INT_MAX);
	FUZZ_CHECK(cfg->log_level <= LOG_LEVEL_DEBUG);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	const uint8_t *cut = size ? memchr(data, 0xff, size) : NULL;
	size_t text_len = cut ? (size_t)(cut - data) : size;
	char *words[WORDS_MAX + 1], *line = fuzz_copy(cut ? cut + 1 : NULL, cut ? size - text_len - 1 : 0, size + 1);
	struct config cfg;
	int count = words_cut(line, words);

	FUZZ_CHECK(!ftruncate(file, 0) && pwrite(file, data, text_len, 0) == (ssize_t)text_len);
	if (!config_parse_args(count, words, &cfg)) {
		cfg.file = path;
		if (!config_load(&cfg, path, count % 2 ? "/home/somebody" : NULL))
			config_holds(&cfg);
	}
	free(line);
	return 0;
}
