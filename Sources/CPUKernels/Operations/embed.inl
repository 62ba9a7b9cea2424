// y[i] = token[i] + position[i], added in fp32.
static void embed(const tandem_half *token, const tandem_half *position, float *y, size_t count) {
  size_t i = 0;
  for (; i + VEC_WIDTH <= count; i += VEC_WIDTH) {
    vec_store(y + i, vec_add(vec_load_half(token + i), vec_load_half(position + i)));
  }
  if (i < count) {
    vec sum = vec_add(vec_load_half_part(token + i, count - i), vec_load_half_part(position + i, count - i));
    vec_store_part(y + i, sum, count - i);
  }
}
