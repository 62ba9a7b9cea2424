#ifndef TANDEM_SYSTEM_SHIMS_H
#define TANDEM_SYSTEM_SHIMS_H

// The few system calls that Swift cannot import as they are.

#include <stdint.h>

/// Bytes that libraries take by value: the driver's name for memory of another process, and NCCL's for a
/// group.
typedef struct {
  uint8_t bytes[64];
} tandem_bytes_64;
typedef struct {
  uint8_t bytes[128];
} tandem_bytes_128;

/// Tells the processor that this is a spin loop: frees the sibling hyper-thread and saves power.
static inline void tandem_spin_hint(void) {
#if defined(__x86_64__)
  __builtin_ia32_pause();
#elif defined(__aarch64__)
  __asm__ volatile("yield");
#endif
}

/// Binds the calling thread to one processor. Returns 0, or an errno value.
int tandem_pin_current_thread(int32_t processor);

/// Writes the processors that this process may run on into `processors`, at most `capacity` of them.
/// Returns how many there are, or 0 where the system does not tell.
int32_t tandem_allowed_processors(int32_t *processors, int32_t capacity);

/// Lets the process's first thread, and those that it starts, run on all processors that the system grants.
/// Returns 0, or an errno value.
int tandem_unbind_process(void);

/// Binds the process's first thread to some processors. Returns 0, or an errno value.
int tandem_bind_process(const int32_t *processors, int32_t count);

/// The calling thread's number in the system.
int32_t tandem_thread_number(void);

/// The processor time that a thread of this process has used, in nanoseconds; -1 where there is no such
/// thread.
int64_t tandem_thread_nanoseconds(int32_t thread);

/// Whether a thread of this process sleeps or has ended. One that could run, that is stopped, or that waits
/// for a disk does neither.
int tandem_is_thread_asleep(int32_t thread);

/// Sleeps while `*word == expected`, until woken. May return early: the caller looks again.
void tandem_futex_wait(const uint32_t *word, uint32_t expected);

/// Wakes every thread that sleeps on `word`.
void tandem_futex_wake_all(const uint32_t *word);

#endif
