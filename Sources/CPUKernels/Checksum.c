#include <string.h>

#include "include/CPUKernels.h"

#if defined(__x86_64__)
#include <nmmintrin.h>
#endif

// The reversed Castagnoli polynomial.
#define POLYNOMIAL 0x82f63b78u

// tables[k][b]: what byte b, with k zero bytes behind it, adds to the remainder.
static uint32_t tables[8][256];

// Before main, so that no thread meets half a table.
__attribute__((constructor)) static void make_tables(void) {
  for (uint32_t byte = 0; byte < 256; byte++) {
    uint32_t remainder = byte;
    for (int bit = 0; bit < 8; bit++) remainder = remainder >> 1 ^ (remainder & 1 ? POLYNOMIAL : 0);
    tables[0][byte] = remainder;
  }
  for (int k = 1; k < 8; k++) {
    for (int byte = 0; byte < 256; byte++) {
      uint32_t before = tables[k - 1][byte];
      tables[k][byte] = before >> 8 ^ tables[0][before & 0xff];
    }
  }
}

uint32_t tandem_crc32c_portable(const void *bytes, size_t byte_count) {
  const uint8_t *p = bytes;
  uint32_t crc = ~0u;
  for (; byte_count >= 8; byte_count -= 8, p += 8) {
    uint32_t low, high;
    memcpy(&low, p, 4);
    memcpy(&high, p + 4, 4);
    low ^= crc;
    crc = tables[7][low & 0xff] ^ tables[6][low >> 8 & 0xff] ^ tables[5][low >> 16 & 0xff] ^
          tables[4][low >> 24] ^ tables[3][high & 0xff] ^ tables[2][high >> 8 & 0xff] ^
          tables[1][high >> 16 & 0xff] ^ tables[0][high >> 24];
  }
  for (; byte_count > 0; byte_count--, p++) crc = crc >> 8 ^ tables[0][(crc ^ *p) & 0xff];
  return ~crc;
}

#if defined(__x86_64__)
__attribute__((target("sse4.2"))) static uint32_t crc32c_sse42(const void *bytes, size_t byte_count) {
  const uint8_t *p = bytes;
  uint64_t crc = ~0u;
  for (; byte_count >= 8; byte_count -= 8, p += 8) {
    uint64_t word;
    memcpy(&word, p, 8);
    crc = _mm_crc32_u64(crc, word);
  }
  for (; byte_count > 0; byte_count--, p++) crc = _mm_crc32_u8((uint32_t)crc, *p);
  return ~(uint32_t)crc;
}
#endif

uint32_t tandem_crc32c(const void *bytes, size_t byte_count) {
#if defined(__x86_64__)
  __builtin_cpu_init();
  if (__builtin_cpu_supports("sse4.2")) return crc32c_sse42(bytes, byte_count);
#endif
  return tandem_crc32c_portable(bytes, byte_count);
}
