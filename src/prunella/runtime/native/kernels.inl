// The kernels, once for all variants. A variant defines LANES (floats of a vector register), TILE
// (vectors of queries in attention's tiles), VECTORS (vectors of tokens in a product's registers)
// and VARIANT, and is compiled for its own instruction set. To keep code for one instruction set
// out of another's, nothing of the standard library's templates is used here.

#include "kernels.hpp"

#include <string.h>

namespace prunella {
namespace {

typedef float Vec __attribute__((vector_size(4 * LANES)));
typedef int32_t Int __attribute__((vector_size(4 * LANES)));
typedef float Unaligned __attribute__((vector_size(4 * LANES), aligned(4), may_alias));
typedef float Four __attribute__((vector_size(16)));
typedef float UnalignedFour __attribute__((vector_size(16), aligned(4), may_alias));

inline Vec load(const float* p) { return *reinterpret_cast<const Unaligned*>(p); }
inline void store(float* p, Vec v) { *reinterpret_cast<Unaligned*>(p) = v; }
inline Vec all(float x) { return x - Vec{}; }
inline Vec choose(Int mask, Vec yes, Vec no) { return mask ? yes : no; }
// What is not a number stays so in the first argument.
inline Vec max(Vec a, Vec b) { return choose(b > a, b, a); }
inline Vec min(Vec a, Vec b) { return choose(b < a, b, a); }
inline int least(int a, int b) { return a < b ? a : b; }

// eˣ for x in [-87, 88], clamped beyond: x = n ln 2 + r, and the Taylor series of eʳ, |r| <= 0.35,
// whose first term left out is below 1e-8.
inline Vec exp(Vec x) {
  x = min(max(x, all(-87.0f)), all(88.0f));
  const Vec shifted = x * 1.44269504f + 12582912.0f;  // 1.5 · 2²³ rounds to the nearest integer
  const Vec n = shifted - 12582912.0f;
  const Vec r = (x - n * 0.693359375f) + n * 2.12194440e-4f;
  Vec p = all(1.0f / 5040);
  p = p * r + 1.0f / 720;
  p = p * r + 1.0f / 120;
  p = p * r + 1.0f / 24;
  p = p * r + 1.0f / 6;
  p = p * r + 0.5f;
  p = p * r + 1.0f;
  p = p * r + 1.0f;
  const Int power = (__builtin_convertvector(n, Int) + 127) << 23;
  return p * (Vec)power;  // a cast of vectors keeps the bits
}

// erf x as x P(x²) / Q(x²), fitted for the relative error on |x| <= 3.9 (2e-8); beyond it is ±1.
inline Vec erf(Vec unbounded) {
  const Vec x = min(max(unbounded, all(-3.9f)), all(3.9f));
  const Vec z = x * x;
  Vec p = all(2.06643381e-06f);
  p = p * z + 2.85055197e-04f;
  p = p * z + 3.73822777e-03f;
  p = p * z + 5.26677147e-02f;
  p = p * z + 1.89664647e-01f;
  p = p * z + 1.12837911e+00f;
  Vec q = all(3.82692451e-05f);
  q = q * z + 1.15733920e-03f;
  q = q * z + 1.49140470e-02f;
  q = q * z + 1.13817982e-01f;
  q = q * z + 5.01418710e-01f;
  q = q * z + 1.0f;
  const Vec inside = x * p / q;
  return choose(unbounded > 3.9f, all(1.0f), choose(unbounded < -3.9f, all(-1.0f), inside));
}

inline Vec activate(Vec x, Activation activation) {
  switch (activation) {
    case Activation::gelu:
      return 0.5f * x * (1.0f + erf(x * 0.70710678f));
    case Activation::gelu_tanh: {
      // 0.5 (1 + tanh u) = 1 / (1 + e⁻²ᵘ)
      const Vec u = 0.79788456f * (x + 0.044715f * x * x * x);
      return x / (1.0f + exp(-2.0f * u));
    }
    case Activation::relu:
      return max(x, Vec{});
    case Activation::none:
      break;
  }
  return x;
}

// One block of features of one row after another, N vectors of tokens in registers. With few
// vectors the sums are spread over S sets, for a chain of additions to be hidden.
template <int N, int S>
void product(const View& w, const float* x, float* y, int first, int last, const float* bias,
             const float* residual, Activation activation) {
  const int end = least(last * kGroup, w.rows);
  for (int b = 0; b < w.blocks; b++) {
    const float* in = x + static_cast<size_t>(b) * w.block * kPanel;
    const uint32_t start = w.starts[static_cast<size_t>(b) * (w.groups + 1) + first];
    const float* value = w.values + start;
    const uint8_t* column = w.columns + start;
    const uint16_t* counts = w.counts + static_cast<size_t>(b) * w.rows;
    const bool opens = b == 0, closes = b == w.blocks - 1;
    for (int row = first * kGroup; row < end; row++) {
      const int count = counts[row];
      if (count == 0 && !opens && !closes) continue;
      float* out = y + static_cast<size_t>(row) * kPanel;
      Vec sum[S][N];
      for (int s = 1; s < S; s++)
        for (int i = 0; i < N; i++) sum[s][i] = Vec{};
      if (opens) {
        const float add = bias ? bias[row] : 0.0f;
        for (int i = 0; i < N; i++) sum[0][i] = all(add);
        if (residual)
          for (int i = 0; i < N; i++)
            sum[0][i] += load(residual + static_cast<size_t>(row) * kPanel + i * LANES);
      } else {
        for (int i = 0; i < N; i++) sum[0][i] = load(out + i * LANES);
      }
      int k = 0;
      if (S > 1) {
        for (; k + S <= count; k += S)
          for (int s = 0; s < S; s++) {
            const float* feature = in + static_cast<size_t>(column[k + s]) * kPanel;
            for (int i = 0; i < N; i++) sum[s][i] += load(feature + i * LANES) * value[k + s];
          }
      }
#pragma GCC unroll 4
      for (; k < count; k++) {
        const float* feature = in + static_cast<size_t>(column[k]) * kPanel;
        for (int i = 0; i < N; i++) sum[0][i] += load(feature + i * LANES) * value[k];
      }
      for (int s = 1; s < S; s++)
        for (int i = 0; i < N; i++) sum[0][i] += sum[s][i];
      if (closes && activation != Activation::none)
        for (int i = 0; i < N; i++) sum[0][i] = activate(sum[0][i], activation);
      for (int i = 0; i < N; i++) store(out + i * LANES, sum[0][i]);
      value += count;
      column += count;
    }
  }
}

void product(const View& w, const float* x, float* y, int tokens, int first, int last,
             const float* bias, const float* residual, Activation activation) {
  constexpr int step = VECTORS * LANES;
  for (int t = 0; t < tokens; t += step) {
    const float* added = residual ? residual + t : nullptr;
    const int left = tokens - t;
    if (left >= step)
      product<VECTORS, 1>(w, x + t, y + t, first, last, bias, added, activation);
    else if (step > 48 && left == 48)
      product<48 / LANES, 1>(w, x + t, y + t, first, last, bias, added, activation);
    else if (step > 32 && left == 32)
      product<32 / LANES, LANES >= 16 ? 2 : 1>(w, x + t, y + t, first, last, bias, added, activation);
    else
      product<16 / LANES, LANES >= 8 ? 4 : 1>(w, x + t, y + t, first, last, bias, added, activation);
  }
}

void dot(const View& w, const float* x, float* y, int first, int last, const float* bias) {
  const int end = least(last * kGroup, w.rows);
  for (int row = first * kGroup; row < end; row++) y[row] = bias ? bias[row] : 0.0f;
  for (int b = 0; b < w.blocks; b++) {
    const float* in = x + static_cast<size_t>(b) * w.block;
    const uint32_t start = w.starts[static_cast<size_t>(b) * (w.groups + 1) + first];
    const float* value = w.values + start;
    const uint8_t* column = w.columns + start;
    const uint16_t* counts = w.counts + static_cast<size_t>(b) * w.rows;
    for (int row = first * kGroup; row < end; row++) {
      const int count = counts[row];
      float sum[4] = {};
      int k = 0;
      for (; k + 4 <= count; k += 4)
        for (int i = 0; i < 4; i++) sum[i] += value[k + i] * in[column[k + i]];
      for (; k < count; k++) sum[0] += value[k] * in[column[k]];
      y[row] += (sum[0] + sum[1]) + (sum[2] + sum[3]);
      value += count;
      column += count;
    }
  }
}

void dense_dot(const float* weight, int cols, const float* x, float* y, int first, int last,
               const float* bias) {
  for (int row = first; row < last; row++) {
    const float* w = weight + static_cast<size_t>(row) * cols;
    Vec sums[4] = {};
    int c = 0;
    for (; c + 4 * LANES <= cols; c += 4 * LANES)
      for (int i = 0; i < 4; i++) sums[i] += load(w + c + i * LANES) * load(x + c + i * LANES);
    const Vec sum = (sums[0] + sums[1]) + (sums[2] + sums[3]);
    float total = bias ? bias[row] : 0.0f;
    for (int i = 0; i < LANES; i++) total += sum[i];
    for (; c < cols; c++) total += w[c] * x[c];
    y[row] = total;
  }
}

// sums[i][n] = Σ_k a[i · row + k · step] · b[k][n], with b's rows kPanel floats apart.
template <int M, int N>
inline void outer(const float* a, size_t row, size_t step, const float* b, int depth,
                  Vec (&sums)[M][N]) {
  for (int i = 0; i < M; i++)
    for (int n = 0; n < N; n++) sums[i][n] = Vec{};
  for (int k = 0; k < depth; k++) {
    Vec right[N];
    for (int n = 0; n < N; n++) right[n] = load(b + static_cast<size_t>(k) * kPanel + n * LANES);
    for (int i = 0; i < M; i++)
      for (int n = 0; n < N; n++) sums[i][n] += right[n] * a[i * row + k * step];
  }
}

// Tokens [first, first + count) of a head's features, from panels to rows `width` floats apart.
void gather(const float* from, size_t stride, int offset, int first, int count, int features,
            float* to, size_t width) {
  for (int done = 0; done < count;) {
    const int token = offset + first + done;
    const int lane = token % kPanel;
    const int some = least(count - done, kPanel - lane);
    const float* panel = from + token / kPanel * stride + lane;
    for (int d = 0; d < features; d++)
      memcpy(to + d * width + done, panel + static_cast<size_t>(d) * kPanel, some * sizeof(float));
    done += some;
  }
}

// Scores of M keys for N vectors of queries, and the largest so far.
template <int M, int N>
inline void score(const float* keys, size_t width, const float* queries, int features,
                  float* scores, Vec (&top)[N]) {
  Vec sums[M][N];
  outer<M, N>(keys, 1, width, queries, features, sums);
  for (int i = 0; i < M; i++)
    for (int n = 0; n < N; n++) {
      store(scores + i * kPanel + n * LANES, sums[i][n]);
      top[n] = max(top[n], sums[i][n]);
    }
}

// M features of the values, weighted. Token `first` is the first of N vectors, which may lie in
// two panels; a vector lies in one, as queries begin at multiples of kLanes.
template <int M, int N>
inline void mix(const Attention& a, const float* values, size_t width, const float* weights,
                const Vec (&scale)[N], int feature, int first) {
  Vec sums[M][N];
  outer<M, N>(values + feature * width, width, 1, weights, a.length, sums);
  for (int i = 0; i < M; i++)
    for (int n = 0; n < N; n++) {
      const int token = first + n * LANES;
      store(a.out + token / kPanel * a.stride + (feature + i) * kPanel + token % kPanel,
            sums[i][n] * scale[n]);
    }
}

template <int N>
void attend(const Attention& a, const float* keys, const float* values, const float* queries,
            float* scores, size_t width, int lane) {
  constexpr int M = 4;
  Vec top[N], scale[N] = {};
  for (int n = 0; n < N; n++) top[n] = all(-3.4e38f);
  int key = 0;
  for (; key + M <= a.length; key += M)
    score<M, N>(keys + key, width, queries + lane, a.features, scores + key * kPanel, top);
  for (; key < a.length; key++)
    score<1, N>(keys + key, width, queries + lane, a.features, scores + key * kPanel, top);
  for (key = 0; key < a.length; key++)
    for (int n = 0; n < N; n++) {
      float* at = scores + key * kPanel + n * LANES;
      const Vec weight = exp(load(at) - top[n]);
      store(at, weight);
      scale[n] += weight;
    }
  for (int n = 0; n < N; n++) scale[n] = 1.0f / scale[n];
  const int first = a.offset + a.first + lane;
  int d = 0;
  for (; d + M <= a.features; d += M) mix<M, N>(a, values, width, scores, scale, d, first);
  for (; d < a.features; d++) mix<1, N>(a, values, width, scores, scale, d, first);
}

void attend(const Attention& a, float* scratch) {
  const size_t width = (a.length + kLanes - 1) / kLanes * kLanes;
  float* keys = scratch;
  float* values = keys + a.features * width;
  float* queries = values + a.features * width;
  float* scores = queries + static_cast<size_t>(a.features) * kPanel;
  gather(a.k, a.stride, a.offset, 0, a.length, a.features, keys, width);
  gather(a.v, a.stride, a.offset, 0, a.length, a.features, values, width);
  gather(a.q, a.stride, a.offset, a.first, a.last - a.first, a.features, queries, kPanel);
  const float scale = 1.0f / __builtin_sqrtf(static_cast<float>(a.features));
  for (int i = 0; i < a.features * kPanel; i++) queries[i] *= scale;

  const int count = a.last - a.first;
  int lane = 0;
  for (; lane + TILE * LANES <= count; lane += TILE * LANES)
    attend<TILE>(a, keys, values, queries, scores, width, lane);
  for (; lane < count; lane += LANES)
    attend<1>(a, keys, values, queries, scores, width, lane);
}

void normalize(float* x, int features, const float* weight, const float* bias, float epsilon) {
  for (int lane = 0; lane < kLanes; lane += LANES) {
    Vec sum[4] = {}, squares[4] = {};
    for (int f = 0; f < features; f++) sum[f % 4] += load(x + static_cast<size_t>(f) * kPanel + lane);
    const Vec mean = (sum[0] + sum[1] + sum[2] + sum[3]) / static_cast<float>(features);
    for (int f = 0; f < features; f++) {
      const Vec off = load(x + static_cast<size_t>(f) * kPanel + lane) - mean;
      squares[f % 4] += off * off;
    }
    const Vec variance =
        (squares[0] + squares[1] + squares[2] + squares[3]) / static_cast<float>(features);
    Vec scale;
    for (int i = 0; i < LANES; i++) scale[i] = 1.0f / __builtin_sqrtf(variance[i] + epsilon);
    for (int f = 0; f < features; f++) {
      float* at = x + static_cast<size_t>(f) * kPanel + lane;
      store(at, (load(at) - mean) * scale * weight[f] + bias[f]);
    }
  }
}

inline void transpose(Four& a, Four& b, Four& c, Four& d) {
  const Four ab = __builtin_shufflevector(a, b, 0, 4, 1, 5);
  const Four ab2 = __builtin_shufflevector(a, b, 2, 6, 3, 7);
  const Four cd = __builtin_shufflevector(c, d, 0, 4, 1, 5);
  const Four cd2 = __builtin_shufflevector(c, d, 2, 6, 3, 7);
  a = __builtin_shufflevector(ab, cd, 0, 1, 4, 5);
  b = __builtin_shufflevector(ab, cd, 2, 3, 6, 7);
  c = __builtin_shufflevector(ab2, cd2, 0, 1, 4, 5);
  d = __builtin_shufflevector(ab2, cd2, 2, 3, 6, 7);
}

inline void transpose_into(const float* from, size_t from_stride, float* to, size_t to_stride) {
  Four rows[4];
  for (int i = 0; i < 4; i++)
    rows[i] = *reinterpret_cast<const UnalignedFour*>(from + i * from_stride);
  transpose(rows[0], rows[1], rows[2], rows[3]);
  for (int i = 0; i < 4; i++) *reinterpret_cast<UnalignedFour*>(to + i * to_stride) = rows[i];
}

void to_panel(const float* x, size_t stride, int tokens, int first, int last, float* panel) {
  // Sixteen features at a time: a line of each token's row, and lines of the panel that stay near.
  for (int block = first; block < last; block += 16) {
    const int end = least(block + 16, last);
    for (int t = 0; t < tokens; t += 4) {
      int f = block;
      if (t + 4 <= tokens)
        for (; f + 4 <= end; f += 4)
          transpose_into(x + t * stride + f, stride, panel + static_cast<size_t>(f) * kPanel + t, kPanel);
      for (; f < end; f++)
        for (int i = t; i < least(t + 4, tokens); i++)
          panel[static_cast<size_t>(f) * kPanel + i] = x[i * stride + f];
    }
  }
}

void from_panel(const float* panel, int tokens, int first, int last, float* x, size_t stride) {
  for (int block = first; block < last; block += 16) {
    const int end = least(block + 16, last);
    for (int t = 0; t < tokens; t += 4) {
      int f = block;
      if (t + 4 <= tokens)
        for (; f + 4 <= end; f += 4)
          transpose_into(panel + static_cast<size_t>(f) * kPanel + t, kPanel, x + t * stride + f, stride);
      for (; f < end; f++)
        for (int i = t; i < least(t + 4, tokens); i++)
          x[i * stride + f] = panel[static_cast<size_t>(f) * kPanel + i];
    }
  }
}

}  // namespace

extern const Kernels VARIANT;
const Kernels VARIANT = {NAME, product, dot, dense_dot, attend, normalize, to_panel, from_panel};

}  // namespace prunella
