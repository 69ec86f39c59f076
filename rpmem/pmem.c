/* The only file that calls libpmem: stores, cache-line write-back and the fence behind them, with the instructions this
 * CPU has (libpmem chooses them when it is loaded). Holds no state.
 *
 * pmem_is_pmem(3) is not asked: it knows only mappings libpmem made itself, and otherwise believes the environment
 * variable PMEM_IS_PMEM_FORCE, which would claim more than the medium does. */
#include "pmem.h"

#include <limits.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/sysmacros.h>
#include <libpmem.h>

void pmdev_copy(void *dst, const void *src, size_t len)
{
	pmem_memcpy(dst, src, len, PMEM_F_MEM_NODRAIN);
}

void pmdev_zero(void *dst, size_t len)
{
	pmem_memset(dst, 0, len, PMEM_F_MEM_NODRAIN);
}

void pmdev_flush(const void *addr, size_t len)
{
	pmem_flush(addr, len);
}

void pmdev_drain(void)
{
	pmem_drain();
}

/* As the kernel documents it (Documentation/ABI/testing/sysfs-bus-dax): the device's subsystem link ends in "dax". */
bool pmdev_is_devdax(int fd)
{
	char link[64], target[PATH_MAX];
	const char *last;
	struct stat st;

	if (fstat(fd, &st) || !S_ISCHR(st.st_mode))
		return false;
	snprintf(link, sizeof(link), "/sys/dev/char/%u:%u/subsystem", major(st.st_rdev), minor(st.st_rdev));
	if (!realpath(link, target))
		return false;
	last = strrchr(target, '/');
	return last && !strcmp(last + 1, "dax");
}
