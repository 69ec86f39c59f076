/* Stands before every file of a coverage build: counters are written at exit(3) only, and the daemons leave by _exit(2). */
#ifndef RPMEMFS_TESTS_COVERAGE_H
#define RPMEMFS_TESTS_COVERAGE_H

#include <unistd.h>

void __gcov_dump(void);

__attribute__((noreturn)) static inline void coverage_exit(int status)
{
	__gcov_dump();
	_exit(status);
}
#define _exit coverage_exit

#endif
