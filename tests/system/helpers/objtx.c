/* Transactions on a libpmemobj pool, for the system tests of librpmem: a program as its users write it, which knows
 * nothing of replicas. What it stores can be told from damage, and what it says on stdout is committed.
 *
 *   objtx create SET                      makes the pool
 *   objtx run SET COUNT [THREADS]         COUNT transactions by each thread, fewer after SIGTERM; each is then told
 *                                         as a line "THREAD NUMBER"
 *   objtx check SET [LIVE]                everything in the pool is whole; "THREAD COUNT" for each thread that was there.
 *                                         LIVE: file for where that lies, a line "OFFSET LENGTH" in bytes for each object
 *
 * A transaction puts a node of its own size in front of its thread's list, writes an older node anew and, every eighth
 * time, exchanges the node behind the first one for a new one of the same number. Every word of a node follows from its
 * thread, number and version, so that half a transaction shows. Exit status 1 and the cause on stderr when something fails. */
#include <libpmemobj.h>
#include <pthread.h>
#include <signal.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#define LAYOUT "objtx"
#define THREADS_MAX 16u
#define WORDS_MAX 256u
#define EXCHANGE_EVERY 8u

struct node {
	PMEMoid next; /* the one made before it */
	uint64_t number, version, word_count;
	uint64_t words[];
};

struct chain {
	uint64_t count; /* nodes, numbered 1..count; the newest is the head */
	PMEMoid head;
};

struct root {
	struct chain chains[THREADS_MAX];
};

static struct root *root;
static PMEMobjpool *pool;
static uint64_t wanted;
static volatile sig_atomic_t stopped;

static int fail(const char *what)
{
	fprintf(stderr, "objtx: %s: %s\n", what, pmemobj_errormsg());
	return 1;
}

static struct node *node_at(PMEMoid oid)
{
	return pmemobj_direct(oid);
}

static uint64_t word_of(unsigned thread, uint64_t number, uint64_t version, uint64_t idx)
{
	return (((uint64_t)thread << 56) ^ (number << 32) ^ (version << 16) ^ idx) * 0x9e3779b97f4a7c15ull;
}

static uint64_t size_of(unsigned thread, uint64_t number)
{
	return 1 + (word_of(thread, number, 0, 0) >> 40) % WORDS_MAX;
}

static void node_fill(struct node *node, unsigned thread)
{
	for (uint64_t i = 0; i < node->word_count; i++)
		node->words[i] = word_of(thread, node->number, node->version, i);
}

/* ---------------------------------------------------------------- one transaction */
/* Any of these that fails has aborted the transaction. */
static PMEMoid node_new(unsigned thread, uint64_t number, uint64_t version, PMEMoid next)
{
	uint64_t word_count = size_of(thread, number);
	PMEMoid oid = pmemobj_tx_alloc(sizeof(struct node) + word_count * sizeof(uint64_t), 1);
	struct node *node = node_at(oid);

	if (!node)
		return OID_NULL;
	*node = (struct node){ .next = next, .number = number, .version = version, .word_count = word_count };
	node_fill(node, thread);
	return oid;
}

static int node_rewrite(struct node *node, unsigned thread)
{
	if (pmemobj_tx_add_range_direct(node, sizeof(*node) + node->word_count * sizeof(uint64_t)))
		return -1;
	node->version++;
	node_fill(node, thread);
	return 0;
}

static int second_exchange(struct node *head, unsigned thread)
{
	struct node *old = node_at(head->next);
	PMEMoid fresh = node_new(thread, old->number, old->version + 1, old->next);

	if (OID_IS_NULL(fresh) || pmemobj_tx_free(head->next) || pmemobj_tx_add_range_direct(&head->next, sizeof(head->next)))
		return -1;
	head->next = fresh;
	return 0;
}

static int chain_extend(struct chain *chain, unsigned thread)
{
	struct node *head = node_at(chain->head);
	uint64_t number = chain->count + 1;
	PMEMoid oid;

	if (pmemobj_tx_add_range_direct(chain, sizeof(*chain)))
		return -1;
	if (head && node_rewrite(head, thread))
		return -1;
	if (head && number > 2 && number % EXCHANGE_EVERY == 0 && second_exchange(head, thread))
		return -1;
	oid = node_new(thread, number, 0, chain->head);
	if (OID_IS_NULL(oid))
		return -1;
	chain->head = oid;
	chain->count = number;
	return 0;
}

static int transaction(unsigned thread)
{
	struct chain *chain = &root->chains[thread];

	if (pmemobj_tx_begin(pool, NULL, TX_PARAM_NONE))
		return pmemobj_tx_end(), fail("begin");
	if (chain_extend(chain, thread)) {
		pmemobj_tx_end();
		return fail("transaction");
	}
	pmemobj_tx_commit();
	if (pmemobj_tx_end())
		return fail("commit");
	return dprintf(STDOUT_FILENO, "%u %lu\n", thread, chain->count) < 0 ? fail("stdout") : 0;
}

static void *thread_main(void *arg)
{
	unsigned thread = (unsigned)(uintptr_t)arg;

	for (uint64_t i = 0; i < wanted && !stopped; i++)
		if (transaction(thread))
			return root;
	return NULL;
}

/* ---------------------------------------------------------------- the commands */
static int pool_open(const char *set)
{
	PMEMoid oid;

	pool = pmemobj_open(set, LAYOUT);
	if (!pool)
		return fail("open");
	oid = pmemobj_root(pool, sizeof(*root));
	if (OID_IS_NULL(oid))
		return fail("root");
	root = pmemobj_direct(oid);
	return 0;
}

static int create(const char *set)
{
	pool = pmemobj_create(set, LAYOUT, 0, 0600);
	if (!pool)
		return fail("create");
	if (OID_IS_NULL(pmemobj_root(pool, sizeof(*root))))
		return fail("root");
	return 0;
}

static void stop(int signal)
{
	(void)signal;
	stopped = 1;
}

static int run(unsigned thread_count)
{
	const struct sigaction on_term = { .sa_handler = stop, .sa_flags = SA_RESTART };
	pthread_t threads[THREADS_MAX];
	int failed = 0;

	sigaction(SIGTERM, &on_term, NULL);
	for (unsigned i = 0; i < thread_count; i++)
		if (pthread_create(&threads[i], NULL, thread_main, (void *)(uintptr_t)i)) {
			fputs("objtx: no thread\n", stderr);
			exit(1);
		}
	for (unsigned i = 0; i < thread_count; i++) {
		void *result;

		pthread_join(threads[i], &result);
		failed |= result != NULL;
	}
	return failed;
}

static int node_whole(const struct node *node, unsigned thread, uint64_t number)
{
	if (!node || node->number != number || node->word_count != size_of(thread, number))
		return 0;
	for (uint64_t i = 0; i < node->word_count; i++)
		if (node->words[i] != word_of(thread, number, node->version, i))
			return 0;
	return 1;
}

/* Goes through a thread's list; says in live, if there is one, where its nodes lie. */
static int chain_check(unsigned thread, FILE *live)
{
	PMEMoid oid = root->chains[thread].head;

	for (uint64_t number = root->chains[thread].count; number > 0; number--) {
		struct node *node = node_at(oid);

		if (!node_whole(node, thread, number)) {
			fprintf(stderr, "objtx: thread %u: node %lu is damaged\n", thread, number);
			return 1;
		}
		if (live)
			fprintf(live, "%lu %zu\n", oid.off, sizeof(*node) + node->word_count * sizeof(uint64_t));
		oid = node->next;
	}
	if (!OID_IS_NULL(oid)) {
		fprintf(stderr, "objtx: thread %u: more nodes than were counted\n", thread);
		return 1;
	}
	return 0;
}

static int all_check(FILE *live)
{
	if (live)
		fprintf(live, "%lu %zu\n", pmemobj_oid(root).off, sizeof(*root));
	for (unsigned thread = 0; thread < THREADS_MAX; thread++) {
		if (chain_check(thread, live))
			return 1;
		if (root->chains[thread].count)
			printf("%u %lu\n", thread, root->chains[thread].count);
	}
	return 0;
}

static int check(const char *live_path)
{
	FILE *live = live_path ? fopen(live_path, "w") : NULL;
	int status;

	if (live_path && !live) {
		perror(live_path);
		return 1;
	}
	status = all_check(live);
	if (live && fclose(live)) {
		perror(live_path);
		return 1;
	}
	return status;
}

int main(int argc, char **argv)
{
	const char *command = argc >= 3 ? argv[1] : "";
	unsigned long threads = argc > 4 ? strtoul(argv[4], NULL, 10) : 1;
	int status;

	if (!strcmp(command, "create") && argc == 3) {
		status = create(argv[2]);
	} else if (!strcmp(command, "run") && argc >= 4 && threads >= 1 && threads <= THREADS_MAX) {
		wanted = strtoul(argv[3], NULL, 10);
		status = pool_open(argv[2]) ? 1 : run((unsigned)threads);
	} else if (!strcmp(command, "check") && argc <= 4) {
		status = pool_open(argv[2]) ? 1 : check(argv[3]);
	} else {
		fputs("usage: objtx create SET | check SET [LIVE] | run SET COUNT [THREADS]\n", stderr);
		return 2;
	}
	if (pool)
		pmemobj_close(pool);
	return status;
}
