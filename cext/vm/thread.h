// SPDX-License-Identifier: Apache-2.0
/* A thread for a step that changes what a thread is: its namespaces, its user ids. It ends with the
 * step, and takes the change with it. */
#ifndef HS_THREAD_H
#define HS_THREAD_H

/* Run the function in a thread of its own, with all signals blocked; they stay with the caller.
 * pidfd: where the thread writes the descriptor of a process that it starts and waits for, or NULL;
 * that process is killed if it is not there within so many seconds. Returns 0 or a negative errno:
 * ETIMEDOUT if it had to be killed. */
int hs_in_thread(void *(*function)(void *), void *arg, int seconds, const int *pidfd);

#endif
