// Keys and values in 4 bits: of each position the codes of a head, then scale and minimum of each of its
// groups.
//
// A group of n elements has n / 2 bytes: byte b has element b in its low half and element b + n / 2 in its
// high half.

static float half_value(tandem_half half) {
  float value;
  float_from_half(&half, &value, 1);
  return value;
}

// The least half that is no less than a finite value of zero or more.
static tandem_half half_no_less(float value) {
  tandem_half half;
  half_from_float(&value, &half, 1);
  return half_value(half) < value ? (tandem_half)(half + 1) : half;
}

// The largest half that is no more than a finite value.
static tandem_half half_no_more(float value) {
  tandem_half half;
  half_from_float(&value, &half, 1);
  if (half_value(half) <= value) return half;
  // One step down: away from zero for what is negative, and below zero from zero.
  return half == 0 ? 0x8001 : half & 0x8000 ? (tandem_half)(half + 1) : (tandem_half)(half - 1);
}

static void quantize_position(const float *source, void *position, size_t head_dim) {
  uint8_t *codes = position;
  tandem_half *scales = (tandem_half *)(codes + head_dim / 2);
  for (size_t first = 0; first < head_dim; first += TANDEM_GROUP_INPUTS) {
    const size_t count = smaller(TANDEM_GROUP_INPUTS, head_dim - first), half = count / 2;
    float least = source[first], most = source[first];
    for (size_t i = 1; i < count; i++) {
      least = source[first + i] < least ? source[first + i] : least;
      most = source[first + i] > most ? source[first + i] : most;
    }
    const tandem_half minimum = half_no_more(least);
    least = half_value(minimum);
    const tandem_half scale = half_no_less((most - least) / 15);
    const float step = half_value(scale);
    for (size_t b = 0; b < half && step > 0; b++) {
      const float low = __builtin_rintf((source[first + b] - least) / step);
      const float high = __builtin_rintf((source[first + half + b] - least) / step);
      codes[b] = (uint8_t)((low < 15 ? (uint32_t)low : 15) | (high < 15 ? (uint32_t)high : 15) << 4);
    }
    if (step == 0) memset(codes, 0, half);
    codes += half;
    *scales++ = scale;
    *scales++ = minimum;
  }
}

// Positions that follow each other, as fp16 [positions, head_dim].
static void dequantize_positions(const uint8_t *from, size_t positions, size_t head_dim, tandem_half *to) {
  for (size_t p = 0; p < positions; p++) {
    const tandem_half *scales = (const tandem_half *)(from + head_dim / 2);
    for (size_t first = 0; first < head_dim; first += TANDEM_GROUP_INPUTS) {
      const size_t half = smaller(TANDEM_GROUP_INPUTS, head_dim - first) / 2;
      float step_and_least[2], values[TANDEM_GROUP_INPUTS];
      float_from_half(scales, step_and_least, 2);
      for (size_t b = 0; b < half; b++) {
        values[b] = step_and_least[1] + step_and_least[0] * (float)(from[b] & 15);
        values[half + b] = step_and_least[1] + step_and_least[0] * (float)(from[b] >> 4);
      }
      half_from_float(values, to + first, 2 * half);
      from += half;
      scales += 2;
    }
    from = (const uint8_t *)scales;
    to += head_dim;
  }
}
