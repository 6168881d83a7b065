// What a variant of the kernels offers, and how the data it works on lies in memory.
//
// Activations lie in panels of 64 tokens, [panel][feature][64], so that one broadcast weight meets
// 64 tokens in registers. Sentences begin at multiples of 16 tokens. All numbers are float32.
#pragma once

#include <cstddef>
#include <cstdint>

namespace prunella {

constexpr int kPanel = 64;      // tokens of a panel
constexpr int kLanes = 16;      // tokens are dealt out in multiples of this
constexpr int kGroup = 16;      // rows of a matrix are dealt out in multiples of this
constexpr int kMaxBlock = 256;  // features of a block: a column within one fits a byte

// The non-zero weights of a matrix in the order in which they are walked: block of features after
// block, in each block row after row.
struct View {
  int rows, cols;
  int block, blocks;        // features of a block, and how many there are
  int groups;               // of kGroup rows
  const float* values;      // [nonzero]
  const uint8_t* columns;   // [nonzero], within the block
  const uint16_t* counts;   // [blocks][rows], non-zero weights
  const uint32_t* starts;   // [blocks][groups + 1], where a group's weights begin
};

enum class Activation { none, gelu, gelu_tanh, relu };

// One head of one sentence, and the queries to work on. q, k, v and out point to the head's first
// feature in the sentence's first panel; panels are `stride` floats apart.
struct Attention {
  const float *q, *k, *v;
  float* out;
  size_t stride;
  int features;  // of the head
  int offset;    // the sentence's first token within its first panel
  int length;    // tokens of the sentence
  int first, last;  // queries; both multiples of kLanes, at most kPanel of them
};

struct Kernels {
  const char* name;

  // y = activation(W x + bias + residual) for rows [first, last) · kGroup of a panel. tokens is a
  // multiple of kLanes; bias and residual (laid out as y, and may be y) may be null.
  void (*product)(const View&, const float* x, float* y, int tokens, int first, int last,
                  const float* bias, const float* residual, Activation);

  // y = W x + bias for one token, x [cols], y [rows].
  void (*dot)(const View&, const float* x, float* y, int first, int last, const float* bias);

  // The same of a dense matrix [rows][cols], for rows [first, last).
  void (*dense_dot)(const float* weight, int cols, const float* x, float* y, int first, int last,
                    const float* bias);

  // softmax(qᵀk / √features) v. scratch holds attention_scratch() floats.
  void (*attend)(const Attention&, float* scratch);

  // Layer norm over the features of kLanes tokens of a panel, in place.
  void (*normalize)(float* x, int features, const float* weight, const float* bias, float epsilon);

  // Rows of tokens to columns of a panel and back, for features [first, last).
  void (*to_panel)(const float* x, size_t stride, int tokens, int first, int last, float* panel);
  void (*from_panel)(const float* panel, int tokens, int first, int last, float* x, size_t stride);
};

inline size_t attention_scratch(int features, int length) {
  const size_t padded = (length + kLanes - 1) / kLanes * kLanes;
  return features * (2 * padded + kPanel) + padded * kPanel;
}

extern const Kernels kPortable;
#ifdef PRUNELLA_X86
extern const Kernels kAvx2;
extern const Kernels kAvx512;
#endif
#ifdef PRUNELLA_ARM
extern const Kernels kNeon;
#endif

}  // namespace prunella
