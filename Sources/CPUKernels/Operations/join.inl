// x[r, c] += bias[c] + sum over p of partials[p * partial_stride + r * row_stride + c], in the order of p, so
// that the result does not depend on how columns are divided over threads.

static void join(const tandem_join *a) {
  for (size_t r = 0; r < a->rows; r++) {
    float *x = a->x + r * a->x_stride;
    const float *partials = a->partials + r * a->row_stride;
    size_t c = 0;
    for (; c + VEC_WIDTH <= a->width; c += VEC_WIDTH) {
      vec sum = a->bias ? vec_load(a->bias + c) : vec_zero();
      for (size_t p = 0; p < a->partial_count; p++) {
        sum = vec_add(sum, vec_load(partials + p * a->partial_stride + c));
      }
      vec_store(x + c, vec_add(vec_load(x + c), sum));
    }
    for (; c < a->width; c++) {
      float sum = a->bias ? a->bias[c] : 0;
      for (size_t p = 0; p < a->partial_count; p++) sum += partials[p * a->partial_stride + c];
      x[c] += sum;
    }
  }
}
