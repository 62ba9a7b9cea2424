#define _GNU_SOURCE
#include "SystemShims.h"

#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <linux/futex.h>
#include <pthread.h>
#include <sched.h>
#include <stddef.h>
#include <stdio.h>
#include <string.h>
#include <sys/syscall.h>
#include <time.h>
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

int tandem_unbind_process(void) {
  cpu_set_t set;
  // The system leaves out those that are not granted.
  memset(&set, 0xff, sizeof(set));
  return sched_setaffinity(getpid(), sizeof(set), &set) == 0 ? 0 : errno;
}

int tandem_bind_process(const int32_t *processors, int32_t count) {
  cpu_set_t set;
  CPU_ZERO(&set);
  for (int32_t i = 0; i < count; i++) {
    if (processors[i] < 0 || processors[i] >= CPU_SETSIZE) return EINVAL;
    CPU_SET(processors[i], &set);
  }
  return sched_setaffinity(getpid(), sizeof(set), &set) == 0 ? 0 : errno;
}

void tandem_futex_wait(const uint32_t *word, uint32_t expected) {
  syscall(SYS_futex, word, FUTEX_WAIT_PRIVATE, expected, NULL, NULL, 0);
}

void tandem_futex_wake_all(const uint32_t *word) {
  syscall(SYS_futex, word, FUTEX_WAKE_PRIVATE, INT_MAX, NULL, NULL, 0);
}

int32_t tandem_thread_number(void) { return (int32_t)syscall(SYS_gettid); }

int64_t tandem_thread_nanoseconds(int32_t thread) {
  // The number of a thread's clock, as pthread_getcpuclockid makes it: that one must not be asked of a thread
  // that has ended.
  clockid_t clock = (clockid_t)(~(uint32_t)thread << 3 | 6);
  struct timespec time;
  if (clock_gettime(clock, &time) != 0) return -1;
  return time.tv_sec * INT64_C(1000000000) + time.tv_nsec;
}

int tandem_is_thread_asleep(int32_t thread) {
  char path[64], line[512];
  snprintf(path, sizeof(path), "/proc/self/task/%d/stat", thread);
  int file = open(path, O_RDONLY | O_CLOEXEC);
  if (file < 0) return errno == ENOENT;
  ssize_t count = read(file, line, sizeof(line) - 1);
  close(file);
  if (count <= 0) return 1;
  line[count] = 0;
  // The state stands behind the name, which is in brackets and may hold others.
  const char *name_end = strrchr(line, ')');
  return name_end && name_end[1] == ' ' && strchr("SZX", name_end[2]) != NULL;
}
