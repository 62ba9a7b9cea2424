// The limits that the other operations are measured against.

// The sum of all 64-bit words, the last one padded with zeros. Four pages are read at a time, as the products
// read four outputs: each is a stream of its own to the hardware's prefetcher. One stream with prefetch
// instructions read 14 to 17 GB/s on one core where this reads 19 to 24.
static uint64_t read_all(const void *bytes, size_t byte_count) {
  const size_t page = 4096, pages = 4;
  const char *p = bytes;
  words sums[8] = {words_zero(), words_zero(), words_zero(), words_zero(),
                   words_zero(), words_zero(), words_zero(), words_zero()};
  for (; byte_count >= pages * page; byte_count -= pages * page, p += pages * page) {
    for (size_t at = 0; at < page; at += 2 * sizeof(words)) {
      UNROLL for (size_t i = 0; i < 8; i++) {
        sums[i] = words_add(sums[i], words_load(p + i / 2 * page + at + i % 2 * sizeof(words)));
      }
    }
  }
  for (; byte_count >= sizeof(words); byte_count -= sizeof(words), p += sizeof(words)) {
    sums[0] = words_add(sums[0], words_load(p));
  }
  uint64_t sum = 0;
  UNROLL for (size_t i = 0; i < 8; i++) sum += words_sum(sums[i]);
  while (byte_count) {
    uint64_t word = 0;
    size_t count = smaller(8, byte_count);
    memcpy(&word, p, count);
    sum += word;
    p += count;
    byte_count -= count;
  }
  return sum;
}

// The same sum in the order of the addresses.
static uint64_t read_in_order(const void *bytes, size_t byte_count) {
  const char *p = bytes;
  words sums[8] = {words_zero(), words_zero(), words_zero(), words_zero(),
                   words_zero(), words_zero(), words_zero(), words_zero()};
  for (; byte_count >= 8 * sizeof(words); byte_count -= 8 * sizeof(words), p += 8 * sizeof(words)) {
    UNROLL for (size_t i = 0; i < 8; i++) sums[i] = words_add(sums[i], words_load(p + i * sizeof(words)));
  }
  uint64_t sum = 0;
  UNROLL for (size_t i = 0; i < 8; i++) sum += words_sum(sums[i]);
  return sum + read_all(p, byte_count);
}

static double multiply_add_peak(size_t iterations, float *sink) {
  // Twelve independent sums: two units times a latency of four cycles, with some to spare.
  vec sums[12];
  UNROLL for (size_t i = 0; i < 12; i++) sums[i] = vec_set1((float)i);
  const vec a = vec_set1(*sink * 0 + 0.999f), b = vec_set1(*sink * 0 + 0.001f);
  for (size_t n = 0; n < iterations; n++) {
    UNROLL for (size_t i = 0; i < 12; i++) sums[i] = vec_fma(sums[i], a, b);
  }
  UNROLL for (size_t i = 1; i < 12; i++) sums[0] = vec_add(sums[0], sums[i]);
  *sink += vec_sum(sums[0]);
  return 2.0 * 12 * VEC_WIDTH * (double)iterations;
}
