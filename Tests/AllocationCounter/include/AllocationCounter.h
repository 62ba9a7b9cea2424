#ifndef TANDEM_ALLOCATION_COUNTER_H
#define TANDEM_ALLOCATION_COUNTER_H

#include <stdint.h>

/// Starts counting the allocations of all threads of this process, or stops and returns how many there were.
/// The program that links this has its `malloc` replaced by one that counts and calls the C library's.
void tandem_start_counting_allocations(void);
int64_t tandem_stop_counting_allocations(void);

/// How many allocations the calling thread has made so far.
int64_t tandem_allocations_of_this_thread(void);

#endif
