/* Poolset files. What is accepted keeps the bounds, names its replicas apart, and written down again is the same set. */
#include "fuzz.h"

#include "poolset.h"
#include "rpmem/target.h"

static void replica_holds(const struct poolset *set, const struct poolset_replica *replica)
{
	struct target target;

	FUZZ_CHECK(*replica->name && memchr(replica->name, 0, sizeof(replica->name)));
	FUZZ_CHECK(replica->part_count <= POOLSET_PARTS_MAX);
	FUZZ_CHECK(!replica->target == !replica->set_name);
	FUZZ_CHECK(!replica->target == (replica->part_count > 0));
	if (replica->target) {
		FUZZ_CHECK(poolset_find(set, replica->name) == replica);
		target_parse(replica->target, &target); /* who connects judges it */
	}
	for (unsigned i = 0; i < replica->part_count; i++)
		FUZZ_CHECK(replica->parts[i].path[0] == '/');
	poolset_replica_bytes(set, replica);
}

static void replica_write(FILE *to, const struct poolset_replica *replica)
{
	for (unsigned i = 0; i < replica->part_count; i++) {
		if (replica->parts[i].size)
			fprintf(to, "%llu %s\n", (unsigned long long)replica->parts[i].size, replica->parts[i].path);
		else
			fprintf(to, "AUTO %s\n", replica->parts[i].path);
	}
}

static char *set_write(const struct poolset *set, size_t *len)
{
	char *text = NULL;
	FILE *to = open_memstream(&text, len);

	FUZZ_CHECK(to);
	fputs("PMEMPOOLSET\n", to);
	if (set->options)
		fprintf(to, "OPTION %s\n", set->options == POOLSET_SINGLEHDR ? "SINGLEHDR" : "NOHDRS");
	for (unsigned r = 0; r < set->replica_count; r++) {
		const struct poolset_replica *replica = &set->replicas[r];

		if (replica->target)
			fprintf(to, "REPLICA %s %s\n", replica->target, replica->set_name);
		else if (r)
			fputs("REPLICA\n", to);
		replica_write(to, replica);
	}
	fclose(to);
	return text;
}

static void replicas_equal(const struct poolset_replica *a, const struct poolset_replica *b)
{
	FUZZ_CHECK(!strcmp(a->name, b->name) && a->part_count == b->part_count && !a->target == !b->target);
	if (a->target)
		FUZZ_CHECK(!strcmp(a->target, b->target) && !strcmp(a->set_name, b->set_name));
	for (unsigned i = 0; i < a->part_count; i++)
		FUZZ_CHECK(!strcmp(a->parts[i].path, b->parts[i].path) && a->parts[i].size == b->parts[i].size);
}

static void set_holds(const struct poolset *set)
{
	struct poolset *again = NULL;
	size_t len = 0;
	char *text;

	FUZZ_CHECK(set->replica_count >= 1 && set->replica_count <= POOLSET_REPLICAS_MAX);
	for (unsigned r = 0; r < set->replica_count; r++)
		replica_holds(set, &set->replicas[r]);
	text = set_write(set, &len);
	FUZZ_CHECK(!poolset_parse("again", text, len, &again));
	FUZZ_CHECK(again->options == set->options && again->replica_count == set->replica_count);
	for (unsigned r = 0; r < set->replica_count; r++)
		replicas_equal(&set->replicas[r], &again->replicas[r]);
	poolset_free(again);
	free(text);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	char *text = fuzz_copy(data, size, size);
	struct poolset *set = NULL;

	if (!poolset_parse("input", text, size, &set))
		set_holds(set);
	poolset_free(set);
	free(text);
	return 0;
}
