#include "encoder.hpp"

#include <algorithm>
#include <stdexcept>

#include "dispatch.hpp"
#include "team.hpp"

namespace prunella {
namespace {

constexpr int kChunk = 8;  // panels worked on at a time; a longer sentence has as many as it needs

void check(const Linear& linear, int rows, int cols) {
  if (linear.weight->rows() != rows || linear.weight->cols() != cols)
    throw std::invalid_argument("matrices whose sizes do not fit each other");
  if (!linear.bias.empty() && linear.bias.size() != static_cast<size_t>(rows))
    throw std::invalid_argument("a bias that does not fit its matrix");
}

void check(const Norm& norm, int features) {
  const size_t size = features;
  if (norm.weight.size() != size || norm.bias.size() != size)
    throw std::invalid_argument("a layer norm that does not fit its input");
}

int padded(int length) { return (length + kLanes - 1) / kLanes * kLanes; }

}  // namespace

Encoder::Encoder(std::vector<Layer> layers) : layers_(std::move(layers)), widest_(0) {
  if (layers_.empty()) throw std::invalid_argument("an encoder needs a layer");
  features_ = layers_[0].query.weight->cols();
  for (const Layer& layer : layers_) {
    const int inner = layer.query.weight->rows(), wide = layer.up.weight->rows();
    if (layer.heads < 1 || inner % layer.heads)
      throw std::invalid_argument("features that the heads do not share evenly");
    check(layer.query, inner, features_);
    check(layer.key, inner, features_);
    check(layer.value, inner, features_);
    check(layer.output, features_, inner);
    check(layer.up, wide, features_);
    check(layer.down, features_, wide);
    check(layer.after_attention, features_);
    check(layer.after_feedforward, features_);
    widest_ = std::max({widest_, 4 * inner, wide});
  }
}

void Encoder::run(const float* x, float* out, const int* lengths, int sentences,
                  int threads) const {
  std::vector<Sentence> some;
  size_t row = 0;
  int start = 0;
  const auto panels = [&] { return (start + kPanel - 1) / kPanel; };
  for (int s = 0; s < sentences; s++) {
    if (lengths[s] < 1) throw std::invalid_argument("a sentence without tokens");
    if (!some.empty() && start + padded(lengths[s]) > kChunk * kPanel) {
      run(x, out, some, panels(), threads);
      some.clear();
      start = 0;
    }
    some.push_back({row, start, lengths[s]});
    row += lengths[s];
    start += padded(lengths[s]);
  }
  if (!some.empty()) run(x, out, some, panels(), threads);
}

void Encoder::run(const float* x, float* out, const std::vector<Sentence>& sentences, int panels,
                  int threads) const {
  const Kernels& kernels = current();
  // What is worked on at a time in attention: a head, and up to a panel of queries.
  struct Piece {
    const Sentence* sentence;
    int first, last;
  };
  std::vector<Piece> pieces;
  int longest = 0;
  for (const Sentence& s : sentences) {
    longest = std::max(longest, s.length);
    for (int q = 0; q < s.length; q += kPanel)
      pieces.push_back({&s, q, std::min(q + kPanel, padded(s.length))});
  }
  const int tokens = sentences.back().start + padded(sentences.back().length);
  const int groups = tokens / kLanes;
  size_t scratch = 0;
  for (const Layer& layer : layers_)
    scratch = std::max(scratch, attention_scratch(layer.query.weight->rows() / layer.heads, longest));
  scratch = aligned(scratch);

  const size_t narrow = static_cast<size_t>(features_) * kPanel;
  const size_t wide = static_cast<size_t>(widest_) * kPanel;
  float* const hidden = workspace(panels * (2 * narrow + wide) + threads * scratch);
  float* const middle = hidden + panels * narrow;  // after attention
  float* const inner = middle + panels * narrow;   // queries, keys, values and what they give; or wide
  float* const scratches = inner + panels * wide;

  Team::run(threads, [&](int thread, int of, Team& team) {
    const auto share = [&](int count) {
      return std::pair(static_cast<int>(static_cast<int64_t>(count) * thread / of),
                       static_cast<int>(static_cast<int64_t>(count) * (thread + 1) / of));
    };
    const auto linear = [&](const Linear& l, const float* in, size_t in_stride, float* to,
                            size_t to_stride, const float* added, Activation activation) {
      const auto [first, last] = l.weight->share(thread, of);
      for (int p = 0; p < panels; p++)
        kernels.product(l.weight->view(), in + p * in_stride, to + p * to_stride,
                        std::min(kPanel, tokens - p * kPanel), first, last,
                        l.bias.empty() ? nullptr : l.bias.data(),
                        added ? added + p * to_stride : nullptr, activation);
    };
    const auto normalize = [&](float* in, const Norm& norm) {
      const auto [first, last] = share(groups);
      for (int g = first; g < last; g++)
        kernels.normalize(in + g * kLanes / kPanel * narrow + g * kLanes % kPanel, features_,
                          norm.weight.data(), norm.bias.data(), norm.epsilon);
    };

    // Lanes between sentences are computed along, so they have to hold numbers.
    {
      const auto [first, last] = share(features_);
      for (int p = 0; p < panels; p++)
        std::fill(hidden + p * narrow + static_cast<size_t>(first) * kPanel,
                  hidden + p * narrow + static_cast<size_t>(last) * kPanel, 0.0f);
      for (const Sentence& s : sentences)
        for (int done = 0; done < s.length;) {
          const int at = s.start + done, lane = at % kPanel;
          const int some = std::min(kPanel - lane, s.length - done);
          kernels.to_panel(x + (s.row + done) * features_, features_, some, first, last,
                           hidden + at / kPanel * narrow + lane);
          done += some;
        }
    }
    team.wait(of);

    for (const Layer& layer : layers_) {
      const int rows = layer.query.weight->rows(), size = rows / layer.heads;
      const size_t part = static_cast<size_t>(rows) * kPanel;
      float *const q = inner, *const k = q + part, *const v = k + part, *const mixed = v + part;
      linear(layer.query, hidden, narrow, q, wide, nullptr, Activation::none);
      linear(layer.key, hidden, narrow, k, wide, nullptr, Activation::none);
      linear(layer.value, hidden, narrow, v, wide, nullptr, Activation::none);
      team.wait(of);

      const auto [first, last] = share(static_cast<int>(pieces.size()) * layer.heads);
      for (int i = first; i < last; i++) {
        const Piece& piece = pieces[i / layer.heads];
        const size_t at = piece.sentence->start / kPanel * wide +
                          static_cast<size_t>(i % layer.heads) * size * kPanel;
        kernels.attend({q + at, k + at, v + at, mixed + at, wide, size,
                        piece.sentence->start % kPanel, piece.sentence->length, piece.first,
                        piece.last},
                       scratches + thread * scratch);
      }
      team.wait(of);

      linear(layer.output, mixed, wide, middle, narrow, hidden, Activation::none);
      team.wait(of);
      normalize(middle, layer.after_attention);
      team.wait(of);
      linear(layer.up, middle, narrow, inner, wide, nullptr, layer.activation);
      team.wait(of);
      linear(layer.down, inner, wide, hidden, narrow, middle, Activation::none);
      team.wait(of);
      normalize(hidden, layer.after_feedforward);
      team.wait(of);
    }

    const auto [first, last] = share(features_);
    for (const Sentence& s : sentences)
      for (int done = 0; done < s.length;) {
        const int at = s.start + done, lane = at % kPanel;
        const int some = std::min(kPanel - lane, s.length - done);
        kernels.from_panel(hidden + at / kPanel * narrow + lane, some, first, last,
                           out + (s.row + done) * features_, features_);
        done += some;
      }
  });
}

}  // namespace prunella
