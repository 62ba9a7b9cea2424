#define _GNU_SOURCE
#include "SystemShims.h"

#include <errno.h>
#include <limits.h>
#include <linux/futex.h>
#include <pthread.h>
#include <sched.h>
#include <stddef.h>
#include <sys/syscall.h>
#include <unistd.h>

int tandem_pin_current_thread(int32_t processor) {
  if (processor < 0 || processor >= CPU_SETSIZE) return EINVAL;
  cpu_set_t set;
  CPU_ZERO(&set);
  CPU_SET(processor, &set);
  return pthread_setaffinity_np(pthread_self(), sizeof(set), &set);
}

int32_t tandem_allowed_processors(int32_t *processors, int32_t capacity) {
  cpu_set_t set;
  CPU_ZERO(&set);
  // The first thread's: the calling one may be pinned, or have been started by one that is.
  if (sched_getaffinity(getpid(), sizeof(set), &set) != 0) return 0;
  int32_t count = 0;
  for (int32_t processor = 0; processor < CPU_SETSIZE; processor++) {
    if (!CPU_ISSET(processor, &set)) continue;
    if (count < capacity) processors[count] = processor;
    count++;
  }
  return count;
}

void tandem_futex_wait(const uint32_t *word, uint32_t expected) {
  syscall(SYS_futex, word, FUTEX_WAIT_PRIVATE, expected, NULL, NULL, 0);
}

void tandem_futex_wake_all(const uint32_t *word) {
  syscall(SYS_futex, word, FUTEX_WAKE_PRIVATE, INT_MAX, NULL, NULL, 0);
}
