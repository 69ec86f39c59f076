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
	PLANT_COUNT
};

#ifdef PM_OBSERVE
extern enum plant plant_now;
#define PLANTED(plant) (plant_now == (plant))
#else
#define PLANTED(plant) false
#endif

#endif
