/* Signals to a child that count from the return on: what is being stopped or killed may still answer for a while. */
#ifndef TESTS_SUPPORT_CHILD_SIGNAL_H
#define TESTS_SUPPORT_CHILD_SIGNAL_H

#include <criterion/criterion.h>
#include <errno.h>
#include <signal.h>
#include <sys/wait.h>

/* SIGSTOP: returns when every thread has stopped; SIGKILL: when the process is dead. Its status is left for whoever waits
 * for it, and may have been taken already. */
static inline void child_signal(pid_t pid, int sig)
{
	siginfo_t info;
	int ret;

	cr_assert_eq(kill(pid, sig), 0);
	if (sig != SIGSTOP && sig != SIGKILL)
		return;
	do
		ret = waitid(P_PID, (id_t)pid, &info, (sig == SIGSTOP ? WSTOPPED : WEXITED) | WNOWAIT);
	while (ret && errno == EINTR);
	cr_assert(!ret || errno == ECHILD);
}

#endif
