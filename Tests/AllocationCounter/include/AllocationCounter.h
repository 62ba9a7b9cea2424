#ifndef TANDEM_ALLOCATION_COUNTER_H
#define TANDEM_ALLOCATION_COUNTER_H

#include <stdint.h>

/// How many allocations the calling thread has made so far. The program that links this has its `malloc`
/// replaced by one that counts and calls the C library's.
int64_t tandem_allocations_of_this_thread(void);

#endif
