// A matrix of which only the non-zero weights are kept, ready to be multiplied with.
#pragma once

#include <cstddef>
#include <cstdint>
#include <memory>
#include <utility>
#include <vector>

#include "kernels.hpp"

namespace prunella {

class Matrix {
 public:
  // From bits (lowest first, row-major: which weights are kept) and the kept values in that order.
  // `transposed`: they are those of the transposed matrix, [cols][rows].
  Matrix(int rows, int cols, const uint8_t* bits, const float* values, size_t count,
         bool transposed);

  int rows() const { return rows_; }
  int cols() const { return cols_; }
  size_t nonzero() const { return values_.size(); }
  size_t bytes() const;

  // All weights, row-major.
  void dense(float* out) const;

  // out [tokens][rows] = x [tokens][cols] · Wᵀ + bias, all row-major; bias may be null.
  void linear(const float* x, float* out, int tokens, const float* bias, int threads) const;

  // The same of panels, from [panels][cols][kPanel] to [panels][rows][kPanel], without a bias.
  void product(const float* x, float* out, int panels, int threads) const;

  View view() const;

  // The groups of rows that a thread takes, so that all have about the same work.
  std::pair<int, int> share(int thread, int threads) const;

 private:
  void begin(const std::vector<uint32_t>& counts);

  int rows_, cols_, block_, blocks_, groups_;
  std::vector<float> values_;
  std::vector<uint8_t> columns_;
  std::vector<uint16_t> counts_;
  std::vector<uint32_t> starts_;
  std::vector<uint64_t> work_;  // [groups + 1], up to each group
};

// y [rows] = W x + bias for one token and a dense matrix [rows][cols]; bias may be null.
void dense_linear(const float* weight, int rows, int cols, const float* x, float* y,
                  const float* bias, int threads);

// Memory for one call of one thread, kept for the next: floats, aligned to lines of the cache.
float* workspace(size_t count);

inline size_t aligned(size_t count) { return (count + 15) / 16 * 16; }

}  // namespace prunella
