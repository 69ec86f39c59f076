/* One leaf of a directory: a header line with two bitmaps and 63 slots of a line each, in which entries of 1 to 5 slots
 * lie in no order.
 *
 * Inserting stores the entry's lines and the header line, removing the header line only, so that a commit carries two
 * lines per name. Entries are moved together only when there is room enough but not in a row (a leaf full of holes: the
 * whole leaf changes once, then long again not). A leaf of a tree with nodes is never empty; that of a directory
 * without nodes may be, though dir.c frees it. */
#include "dir_impl.h"

#include <assert.h>
#include <dirent.h>

#define SLOT_MASK ((1ull << FS_DIR_SLOTS) - 1)
#define ENTRY_SLOTS_MAX ((FS_DIRENT_HEAD_BYTES + FS_NAME_BYTES_MAX + MEDIA_LINE_BYTES - 1) / MEDIA_LINE_BYTES)

static unsigned name_slots(unsigned name_len)
{
	return (FS_DIRENT_HEAD_BYTES + name_len + MEDIA_LINE_BYTES - 1) / MEDIA_LINE_BYTES;
}

static uint64_t slots_mask(unsigned first, unsigned count)
{
	return ((1ull << count) - 1) << first;
}

const struct fs_dirent_omf *dir_leaf_entry(const struct fs_dir_leaf_omf *leaf, unsigned slot)
{
	return (const struct fs_dirent_omf *)leaf->slots[slot];
}

static unsigned entry_slots(const struct fs_dirent_omf *entry)
{
	return name_slots(entry->name_len);
}

unsigned dir_leaf_next(const struct fs_dir_leaf_omf *leaf, unsigned slot)
{
	uint64_t rest = slot < FS_DIR_SLOTS ? le64_get(leaf->start) >> slot : 0;

	return rest ? slot + __builtin_ctzll(rest) : FS_DIR_SLOTS;
}

unsigned dir_leaf_find(const struct fs_dir_leaf_omf *leaf, uint64_t key)
{
	unsigned slot = dir_leaf_next(leaf, 0);

	while (slot < FS_DIR_SLOTS && le64_get(dir_leaf_entry(leaf, slot)->key) != key)
		slot = dir_leaf_next(leaf, slot + 1);
	return slot;
}

/* ---------------------------------------------------------------- checks */

#define TYPES_KNOWN                                                                                                    \
	(1u << DT_REG | 1u << DT_DIR | 1u << DT_LNK | 1u << DT_CHR | 1u << DT_BLK | 1u << DT_FIFO | 1u << DT_SOCK)

static const char *entry_check(const struct fs_dirent_omf *entry, struct dir_range range)
{
	uint64_t key = le64_get(entry->key), ino = le64_get(entry->ino);

	if (key < FS_KEY_MIN || key < range.lo || key >= range.hi)
		return "key outside the leaf's range";
	if (ino < FS_ROOT_INO || ino >= FS_INO_MAX)
		return "entry's inode number out of range";
	if (entry->type >= 32 || !(TYPES_KNOWN >> entry->type & 1))
		return "entry's type unknown";
	return entry->name_len ? NULL : "entry without a name";
}

static const char *head_check(const struct fs_dir_leaf_omf *leaf, uint64_t dir_ino)
{
	uint64_t used = le64_get(leaf->used);
	unsigned i;

	if (le32_get(leaf->magic) != FS_DIR_LEAF_MAGIC)
		return "wrong magic";
	if (le64_get(leaf->ino) != dir_ino)
		return "leaf of another directory";
	if ((used & ~SLOT_MASK) || (le64_get(leaf->start) & ~used) || leaf->reserved.le)
		return "bitmaps out of range";
	for (i = 0; i < sizeof(leaf->zero); i++)
		if (leaf->zero[i])
			return "reserved bytes in use";
	return NULL;
}

const char *dir_leaf_check(const struct fs_dir_leaf_omf *leaf, uint64_t dir_ino, struct dir_range range)
{
	uint64_t start = le64_get(leaf->start), covered = 0;
	const char *why = head_check(leaf, dir_ino);
	unsigned slot;

	for (slot = dir_leaf_next(leaf, 0); !why && slot < FS_DIR_SLOTS; slot = dir_leaf_next(leaf, slot + 1)) {
		const struct fs_dirent_omf *entry = dir_leaf_entry(leaf, slot);
		unsigned count = entry_slots(entry);

		why = entry_check(entry, range);
		if (why)
			break;
		if (slot + count > FS_DIR_SLOTS || (start & slots_mask(slot, count)) != 1ull << slot)
			return "entries overlap";
		covered |= slots_mask(slot, count);
	}
	if (!why && covered != le64_get(leaf->used))
		return "slots in use that no entry covers";
	return why;
}

int dir_leaf_get(
	struct fs *fs, uint64_t blk, uint64_t dir_ino, struct dir_range range, const struct fs_dir_leaf_omf **leaf)
{
	const void *content;
	const char *why;
	int err;

	err = block_get(fs, blk, FS_DIR_LEAF, &content);
	if (err)
		return err;
	why = dir_leaf_check(content, dir_ino, range);
	if (why)
		return tree_damaged("directory leaf", blk, why);
	*leaf = content;
	return 0;
}

int dir_entry_out(const struct fs_dirent_omf *omf, uint64_t blk, struct dir_entry *entry)
{
	unsigned len = omf->name_len;

	if (memchr(omf->name, '/', len) || memchr(omf->name, '\0', len) || (len == 1 && omf->name[0] == '.') ||
		(len == 2 && omf->name[0] == '.' && omf->name[1] == '.'))
		return tree_damaged("directory leaf", blk, "entry with a name that cannot be one");
	entry->key = le64_get(omf->key);
	entry->ino = le64_get(omf->ino);
	entry->gen = le32_get(omf->gen);
	entry->type = omf->type;
	entry->name_len = len;
	memcpy(entry->name, omf->name, len);
	entry->name[len] = '\0';
	return 0;
}

/* ---------------------------------------------------------------- changes */

int dir_leaf_new(struct fs *fs, uint64_t dir_ino, uint64_t *blk)
{
	struct fs_dir_leaf_omf head = { .magic = le32_put(FS_DIR_LEAF_MAGIC), .ino = le64_put(dir_ino) };
	struct shadow *shadow;
	int err = block_new(fs, ALLOC_META, FS_DIR_LEAF, blk, &shadow);

	if (err)
		return err;
	return block_put(fs, shadow, 0, &head, offsetof(struct fs_dir_leaf_omf, slots));
}

static int maps_put(struct fs *fs, struct shadow *shadow, uint64_t used, uint64_t start)
{
	le64_t maps[2] = { le64_put(used), le64_put(start) };

	return block_put(fs, shadow, 0, maps, sizeof(maps));
}

/* First of count free slots in a row, FS_DIR_SLOTS: none. */
static unsigned free_row(uint64_t used, unsigned count)
{
	uint64_t rows = ~used & SLOT_MASK;
	unsigned i;

	for (i = 1; i < count; i++)
		rows &= rows >> 1;
	return rows ? (unsigned)__builtin_ctzll(rows) : FS_DIR_SLOTS;
}

/* Copies one entry into free slots of an image from `at` on. */
static void image_add(struct fs_dir_leaf_omf *image, unsigned at, const struct fs_dirent_omf *entry)
{
	unsigned count = entry_slots(entry);

	memcpy(image->slots[at], entry, FS_DIRENT_HEAD_BYTES + entry->name_len);
	image->used = le64_put(le64_get(image->used) | slots_mask(at, count));
	image->start = le64_put(le64_get(image->start) | 1ull << at);
}

/* Moves all entries together at the front. Free slots become zero, so that no old name stays in them. */
static int compact(struct fs *fs, struct shadow *shadow)
{
	const struct fs_dir_leaf_omf *leaf = block_content(shadow);
	struct fs_dir_leaf_omf image;
	unsigned slot, at = 0;

	memcpy(&image, leaf, offsetof(struct fs_dir_leaf_omf, slots));
	memset(image.slots, 0, sizeof(image.slots));
	image.used = image.start = le64_put(0);
	for (slot = dir_leaf_next(leaf, 0); slot < FS_DIR_SLOTS; slot = dir_leaf_next(leaf, slot + 1)) {
		image_add(&image, at, dir_leaf_entry(leaf, slot));
		at += entry_slots(dir_leaf_entry(leaf, slot));
	}
	return block_put(fs, shadow, 0, &image, sizeof(image));
}

/* The entry's bytes as they lie in the slots, the last one padded with zeros; returns how many slots. */
static unsigned entry_encode(const struct dir_entry *entry, uint8_t bytes[ENTRY_SLOTS_MAX * MEDIA_LINE_BYTES])
{
	struct fs_dirent_omf *omf = (struct fs_dirent_omf *)bytes;
	unsigned count = name_slots(entry->name_len);

	memset(bytes, 0, (size_t)count * MEDIA_LINE_BYTES);
	omf->key = le64_put(entry->key);
	omf->ino = le64_put(entry->ino);
	omf->gen = le32_put(entry->gen);
	omf->type = entry->type;
	omf->name_len = entry->name_len;
	memcpy(omf->name, entry->name, entry->name_len);
	return count;
}

int dir_leaf_insert(struct fs *fs, uint64_t blk, const struct dir_entry *entry)
{
	uint8_t bytes[ENTRY_SLOTS_MAX * MEDIA_LINE_BYTES] __attribute__((aligned(8)));
	unsigned count = entry_encode(entry, bytes), at;
	const struct fs_dir_leaf_omf *leaf;
	struct shadow *shadow;
	int err;

	err = block_edit(fs, blk, FS_DIR_LEAF, &shadow);
	if (err)
		return err;
	leaf = block_content(shadow);
	if (FS_DIR_SLOTS - (unsigned)__builtin_popcountll(le64_get(leaf->used)) < count)
		return -EOVERFLOW;
	at = free_row(le64_get(leaf->used), count);
	if (at == FS_DIR_SLOTS) {
		err = compact(fs, shadow);
		if (err)
			return err;
		leaf = block_content(shadow);
		at = free_row(le64_get(leaf->used), count);
	}
	assert(at < FS_DIR_SLOTS);
	err = maps_put(fs, shadow, le64_get(leaf->used) | slots_mask(at, count), le64_get(leaf->start) | 1ull << at);
	if (err)
		return err;
	return block_put(fs, shadow, offsetof(struct fs_dir_leaf_omf, slots) + (size_t)at * MEDIA_LINE_BYTES, bytes,
		count * MEDIA_LINE_BYTES);
}

int dir_leaf_remove(struct fs *fs, uint64_t blk, unsigned slot, bool *empty)
{
	const struct fs_dir_leaf_omf *leaf;
	struct shadow *shadow;
	uint64_t used;
	int err;

	err = block_edit(fs, blk, FS_DIR_LEAF, &shadow);
	if (err)
		return err;
	leaf = block_content(shadow);
	used = le64_get(leaf->used) & ~slots_mask(slot, entry_slots(dir_leaf_entry(leaf, slot)));
	*empty = used == 0;
	return maps_put(fs, shadow, used, le64_get(leaf->start) & ~(1ull << slot));
}

int dir_leaf_replace(struct fs *fs, uint64_t blk, unsigned slot, uint64_t ino, uint32_t gen, uint8_t type)
{
	struct fs_dirent_omf head;
	const struct fs_dir_leaf_omf *leaf;
	struct shadow *shadow;
	int err;

	err = block_edit(fs, blk, FS_DIR_LEAF, &shadow);
	if (err)
		return err;
	leaf = block_content(shadow);
	memcpy(&head, dir_leaf_entry(leaf, slot), FS_DIRENT_HEAD_BYTES);
	head.ino = le64_put(ino);
	head.gen = le32_put(gen);
	head.type = type;
	return block_put(fs, shadow, offsetof(struct fs_dir_leaf_omf, slots) + (size_t)slot * MEDIA_LINE_BYTES, &head,
		FS_DIRENT_HEAD_BYTES);
}

/* ---------------------------------------------------------------- split */

/* Slots of all entries, ordered by key. */
static unsigned sorted_slots(const struct fs_dir_leaf_omf *leaf, uint8_t slots[FS_DIR_SLOTS])
{
	unsigned slot, i, count = 0;

	for (slot = dir_leaf_next(leaf, 0); slot < FS_DIR_SLOTS; slot = dir_leaf_next(leaf, slot + 1)) {
		uint64_t key = le64_get(dir_leaf_entry(leaf, slot)->key);

		for (i = count++; i && le64_get(dir_leaf_entry(leaf, slots[i - 1])->key) > key; i--)
			slots[i] = slots[i - 1];
		slots[i] = slot;
	}
	return count;
}

/* How many entries stay: the used slots are shared out by halves, each side gets at least one entry. */
static unsigned split_point(const struct fs_dir_leaf_omf *leaf, const uint8_t *slots, unsigned count)
{
	unsigned half = __builtin_popcountll(le64_get(leaf->used)) / 2, keep, taken = 0;

	for (keep = 0; keep + 1 < count; keep++) {
		unsigned next = entry_slots(dir_leaf_entry(leaf, slots[keep]));

		if (keep && taken + next > half)
			break;
		taken += next;
	}
	return keep;
}

int dir_leaf_split(struct fs *fs, uint64_t blk, uint64_t dir_ino, uint64_t *right, uint64_t *key)
{
	struct fs_dir_leaf_omf image = { .magic = le32_put(FS_DIR_LEAF_MAGIC), .ino = le64_put(dir_ino) };
	unsigned i, at = 0, keep, count;
	const struct fs_dir_leaf_omf *leaf;
	struct shadow *shadow, *fresh;
	uint8_t slots[FS_DIR_SLOTS];
	uint64_t used, start;
	int err;

	err = block_edit(fs, blk, FS_DIR_LEAF, &shadow);
	if (!err)
		err = block_new(fs, ALLOC_META, FS_DIR_LEAF, right, &fresh);
	if (err)
		return err;
	leaf = block_content(shadow);
	count = sorted_slots(leaf, slots);
	assert(count > 1); /* 63 slots hold at least 12 entries when they are full */
	keep = split_point(leaf, slots, count);
	used = le64_get(leaf->used);
	start = le64_get(leaf->start);
	*key = le64_get(dir_leaf_entry(leaf, slots[keep])->key);
	if (*key == le64_get(dir_leaf_entry(leaf, slots[keep - 1])->key))
		return tree_damaged("directory leaf", blk, "one key twice");
	for (i = keep; i < count; i++) {
		const struct fs_dirent_omf *entry = dir_leaf_entry(leaf, slots[i]);

		image_add(&image, at, entry);
		at += entry_slots(entry);
		used &= ~slots_mask(slots[i], entry_slots(entry));
		start &= ~(1ull << slots[i]);
	}
	err = block_put(fs, fresh, 0, &image, sizeof(image));
	if (!err)
		err = maps_put(fs, shadow, used, start);
	return err;
}
