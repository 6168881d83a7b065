// The layers of a BERT encoder in one go, activations in panels from the first to the last.
#pragma once

#include <memory>
#include <vector>

#include "matrix.hpp"

namespace prunella {

struct Linear {
  std::shared_ptr<const Matrix> weight;
  std::vector<float> bias;  // [rows], or empty
};

struct Norm {
  std::vector<float> weight, bias;  // [features]
  float epsilon;
};

// Attention over all tokens of a sentence, then two linear layers with an activation in between;
// each half is added to its input and normalized.
struct Layer {
  Linear query, key, value, output, up, down;
  Norm after_attention, after_feedforward;
  int heads;
  Activation activation;
};

class Encoder {
 public:
  explicit Encoder(std::vector<Layer> layers);

  int features() const { return features_; }

  // x and out [tokens][features] hold the tokens of sentences one after another, without padding.
  void run(const float* x, float* out, const int* lengths, int sentences, int threads) const;

 private:
  struct Sentence {
    size_t row;  // of its first token in x
    int start;   // its first token in the panels
    int length;
  };
  void run(const float* x, float* out, const std::vector<Sentence>&, int panels, int threads) const;

  std::vector<Layer> layers_;
  int features_, widest_;
};

}  // namespace prunella
