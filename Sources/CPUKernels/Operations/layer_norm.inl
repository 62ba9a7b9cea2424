// y[r, :] = (x[r, :] - mean) / sqrt(variance + epsilon) * weight + bias, in fp32; y may be x.
//
// Two passes, mean first: the sum of squares less the square of the mean would cancel where the mean is
// large.

static void layer_norm_row(const tandem_layer_norm *a, const float *x, float *y) {
  const size_t whole = a->width / VEC_WIDTH * VEC_WIDTH;
  vec sums = vec_zero();
  for (size_t i = 0; i < whole; i += VEC_WIDTH) sums = vec_add(sums, vec_load(x + i));
  float sum = vec_sum(sums);
  for (size_t i = whole; i < a->width; i++) sum += x[i];
  const float mean = sum / (float)a->width;

  const vec means = vec_set1(mean);
  vec squares = vec_zero();
  for (size_t i = 0; i < whole; i += VEC_WIDTH) {
    vec d = vec_sub(vec_load(x + i), means);
    squares = vec_fma(d, d, squares);
  }
  float square = vec_sum(squares);
  for (size_t i = whole; i < a->width; i++) square += (x[i] - mean) * (x[i] - mean);

  const vec scales = vec_div(vec_set1(1), vec_sqrt(vec_set1(square / (float)a->width + a->epsilon)));
  for (size_t i = 0; i < whole; i += VEC_WIDTH) {
    vec v = vec_mul(vec_sub(vec_load(x + i), means), scales);
    if (a->weight) v = vec_mul(v, vec_load(a->weight + i));
    if (a->bias) v = vec_add(v, vec_load(a->bias + i));
    vec_store(y + i, v);
  }
  if (whole < a->width) {
    const size_t rest = a->width - whole;
    vec v = vec_mul(vec_sub(vec_load_part(x + whole, rest), means), scales);
    if (a->weight) v = vec_mul(v, vec_load_part(a->weight + whole, rest));
    if (a->bias) v = vec_add(v, vec_load_part(a->bias + whole, rest));
    vec_store_part(y + whole, v, rest);
  }
}

static void layer_norm(const tandem_layer_norm *a) {
  for (size_t r = 0; r < a->rows; r++) layer_norm_row(a, a->x + r * a->x_stride, a->y + r * a->y_stride);
}
