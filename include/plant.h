/* Bugs planted on purpose: rules of the file system that a test run drops one at a time, so that the explorer shows that
 * it would find the loss of each. Fences are dropped at the persist layer (persist.h) by their points.
 *
 * Only a build with -DPM_OBSERVE has them; in any other PLANTED() is the constant false. */
#ifndef RPMEMFS_PLANT_H
#define RPMEMFS_PLANT_H

#include <stdbool.h>

enum plant {
	PLANT_NONE,
	PLANT_CSUM,    /* a record is taken for whole whatever its checksum says                                     */
	PLANT_REUSE,   /* a freed block is given out again as soon as its commit is closed                           */
	PLANT_REPLAY,  /* replay applies lines of blocks that the same or a later record freed                       */
	PLANT_PUSH,    /* the block of an abandoned push is given out again at once                                  */
	PLANT_FREEZE,  /* a block that a closed commit links is still written to                                     */
	PLANT_RENAME,  /* rename links no stream                                                                     */
	PLANT_CHMOD,   /* chmod links no stream                                                                      */
	PLANT_DIR,     /* a change of a directory's leaf is not in the commit                                        */
	PLANT_EPOCH,   /* restore raises no fence                                                                    */
	PLANT_MEMBER,  /* acknowledged without a replica before its loss is durable                                  */
	PLANT_RULE,    /* the number of replicas an acknowledgement needs is taken for 0                             */
	PLANT_WAIT,    /* acknowledged when the local copy has it                                                    */
	PLANT_LIMIT,   /* a copy that is away holds back no checkpoint                                               */
	PLANT_CHAIN,   /* a replica is attached whatever its history                                                 */
	PLANT_FENCED,  /* a copy takes commits of epochs below its fence                                             */
	PLANT_PROOF,   /* restore does not ask who may have acknowledged alone                                       */
	PLANT_MARK,    /* the mark of a copy that is being overwritten is not looked at                              */
	PLANT_HEAL,    /* restore takes blocks as they come                                                          */
	PLANT_PULL,    /* so does the local copy when it is behind                                                   */
	PLANT_SENT,    /* and a replica, from a primary that does not look either                                    */
	PLANT_READ,    /* content is shown, and changed, whatever its checksum                                       */
	PLANT_SLOT,    /* the newest superblock is written over                                                      */
	PLANT_SUMMARY, /* replay leaves the groups' summaries                                                        */
	PLANT_CHANGED, /* replay does not tell when a block changed last                                             */
	PLANT_ORPHAN,  /* a file that is still open is reclaimed                                                     */
	PLANT_COUNT
};

#ifdef PM_OBSERVE
extern enum plant plant_now;
#define PLANTED(plant) (plant_now == (plant))
#else
#define PLANTED(plant) false
#endif

#endif
