// exp(x) = 2^n * e^r, n = round(x / ln 2), |r| <= ln(2) / 2, e^r by its Taylor polynomial of degree 7: within
// 2e-7 relative. Arguments below -87 give e^-87, about 1e-38.
INLINE vec vec_exp(vec x) {
  x = vec_max(x, vec_set1(-87.0f));
  // Adding 1.5 * 2^23 leaves the rounded integer in the low bits of the float.
  const vec magic = vec_set1(12582912.0f);
  vec shifted = vec_add(vec_mul(x, vec_set1(1.44269504088896341f)), magic);
  vec n = vec_sub(shifted, magic);
  // ln 2 in two parts: n times the first is exact, as its low bits are zero.
  vec r = vec_fma(n, vec_set1(-0.693359375f), x);
  r = vec_fma(n, vec_set1(2.12194440e-4f), r);
  vec p = vec_set1(1.0f / 5040);
  p = vec_fma(p, r, vec_set1(1.0f / 720));
  p = vec_fma(p, r, vec_set1(1.0f / 120));
  p = vec_fma(p, r, vec_set1(1.0f / 24));
  p = vec_fma(p, r, vec_set1(1.0f / 6));
  p = vec_fma(p, r, vec_set1(0.5f));
  p = vec_fma(p, r, vec_set1(1.0f));
  p = vec_fma(p, r, vec_set1(1.0f));
  return vec_scale(p, shifted);
}

// gelu(x) = max(x, 0) - |x| erfc(|x| / sqrt 2) / 2, which cancels nowhere. erfc by Abramowitz and
// Stegun 7.1.26, within 1.5e-7 absolute.
INLINE vec vec_gelu(vec x) {
  vec magnitude = vec_abs(x);
  vec z = vec_mul(magnitude, vec_set1(0.70710678118654752f));
  vec t = vec_div(vec_set1(1.0f), vec_fma(z, vec_set1(0.3275911f), vec_set1(1.0f)));
  vec p = vec_set1(1.061405429f);
  p = vec_fma(p, t, vec_set1(-1.453152027f));
  p = vec_fma(p, t, vec_set1(1.421413741f));
  p = vec_fma(p, t, vec_set1(-0.284496736f));
  p = vec_fma(p, t, vec_set1(0.254829592f));
  vec erfc = vec_mul(vec_mul(p, t), vec_exp(vec_mul(vec_mul(z, z), vec_set1(-1.0f))));
  vec half_magnitude = vec_mul(magnitude, vec_set1(0.5f));
  return vec_sub(vec_max(x, vec_zero()), vec_mul(half_magnitude, erfc));
}

INLINE vec vec_activated(vec v, tandem_activation activation) {
  switch (activation) {
    case TANDEM_RELU:
      return vec_max(v, vec_zero());
    case TANDEM_GELU:
      return vec_gelu(v);
    default:
      return v;
  }
}

// y[i] = activation(y[i] + bias[i]). A pass of its own after the sums: y is small and in cache, and so each
// product needs no epilogue for every tile shape.
static void add_bias_and_activate(float *y, const float *bias, size_t count, tandem_activation activation) {
  if (!bias && activation == TANDEM_IDENTITY) return;
  size_t i = 0;
  for (; i + VEC_WIDTH <= count; i += VEC_WIDTH) {
    vec v = vec_load(y + i);
    if (bias) v = vec_add(v, vec_load(bias + i));
    vec_store(y + i, vec_activated(v, activation));
  }
  if (i < count) {
    vec v = vec_load_part(y + i, count - i);
    if (bias) v = vec_add(v, vec_load_part(bias + i, count - i));
    vec_store_part(y + i, vec_activated(v, activation), count - i);
  }
}
