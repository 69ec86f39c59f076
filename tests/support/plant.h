/* Lies planted into the pool of a core: content is changed and the block table made to agree, so that only the meaning is
 * wrong. For pools that nothing else changes meanwhile, with all records applied. */
#ifndef RPMEMFS_TESTS_PLANT_H
#define RPMEMFS_TESTS_PLANT_H

#include "csum.h"
#include "fs/tree.h"
#include "tests/support/core_rig.h"

static inline uint8_t *plant_at(struct core_rig *rig, uint64_t blk)
{
	return rig->pm.base + media_off(blk);
}

static inline struct media_entry_omf *plant_entry(struct core_rig *rig, uint64_t blk)
{
	return (struct media_entry_omf *)(rig->pm.base + media_entry_off(copy_geom(rig->copy), blk));
}

static inline struct copy_entry plant_entry_get(struct core_rig *rig, uint64_t blk)
{
	struct copy_entry e;

	cr_assert_eq(copy_entry_get(rig->copy, blk, &e), 0);
	return e;
}

/* Makes the table agree with the block's content. */
static inline void plant_seal(struct core_rig *rig, uint64_t blk)
{
	struct copy_entry e = plant_entry_get(rig, blk);

	e.csum = csum_crc32c(0, plant_at(rig, blk), MEDIA_BLOCK_BYTES);
	copy_entry_encode(blk, &e, plant_entry(rig, blk));
}

static inline struct fs_state_omf *plant_state(struct core_rig *rig)
{
	return (struct fs_state_omf *)plant_at(rig, le64_get(copy_sb(rig->copy)->root_blk));
}

static inline uint64_t plant_child(struct core_rig *rig, uint64_t node, unsigned idx)
{
	return le64_get(((struct fs_node_omf *)plant_at(rig, node))->ptr[idx]);
}

/* Inode block; the table has at most one level of nodes. */
static inline uint64_t plant_inode_blk(struct core_rig *rig, uint64_t ino)
{
	const struct fs_state_omf *state = plant_state(rig);

	cr_assert_leq(le32_get(state->itab_height), 1);
	return state->itab_height.le ? plant_child(rig, le64_get(state->itab_root), ino / FS_INODES_PER_BLOCK)
				     : le64_get(state->itab_root);
}

static inline struct fs_inode_omf *plant_inode(struct core_rig *rig, uint64_t ino)
{
	return (struct fs_inode_omf *)plant_at(rig, plant_inode_blk(rig, ino)) + ino % FS_INODES_PER_BLOCK;
}

/* An orphan, the only one, is in use and no orphan any more: a file that no name leads to. */
static inline void plant_lost(struct core_rig *rig, uint64_t ino)
{
	struct fs_inode_omf *inode = plant_inode(rig, ino);

	inode->flags = le32_put(0);
	inode->nlink = le32_put(1);
	plant_state(rig)->orphan_head = le64_put(0);
	plant_seal(rig, plant_inode_blk(rig, ino));
	plant_seal(rig, le64_get(copy_sb(rig->copy)->root_blk));
}

/* A free block that is in use by the table and the counts: nobody owns it. */
static inline void plant_leak(struct core_rig *rig, uint64_t blk)
{
	struct copy_entry e = plant_entry_get(rig, blk);
	uint64_t seq, group = media_group_of(copy_geom(rig->copy), blk);
	uint32_t used;

	cr_assert_eq(e.type, MEDIA_FREE);
	e = (struct copy_entry){ .seq = copy_tail(rig->copy).seq, .type = MEDIA_DATA };
	e.csum = csum_crc32c(0, plant_at(rig, blk), MEDIA_BLOCK_BYTES);
	copy_entry_encode(blk, &e, plant_entry(rig, blk));
	cr_assert_eq(copy_summary_get(rig->copy, group, &seq, &used), 0);
	cr_assert_eq(copy_mend_summary(rig->copy, group, used + 1), 0);
	cr_assert_eq(copy_mend_used(rig->copy, copy_used_blks(rig->copy) + 1), 0);
}

#endif
