#include "matrix.hpp"

#include <algorithm>
#include <cstdlib>
#include <new>
#include <stdexcept>

#include "dispatch.hpp"
#include "team.hpp"

namespace prunella {
namespace {

constexpr int kChunk = 16;  // panels worked on at a time: what is held stays small
constexpr size_t kWorthATeam = 1 << 15;  // multiplications; below, waking threads costs more

// Features of a block. The inputs of one should stay in the first-level cache (64 tokens · 4 bytes
// each), the fewer weights there are, the more features make up for fetching the sums.
int block_for(int cols, double density) {
  const int wanted = density < 0.04 ? 256 : density < 0.15 ? 192 : density < 0.35 ? 128 : 96;
  const int blocks = (cols + wanted - 1) / wanted;
  return (cols + blocks - 1) / blocks;
}

// Calls visit(row, column) for every set bit, in order.
template <typename Visit>
void each(const uint8_t* bits, size_t rows, size_t cols, Visit visit) {
  const size_t count = rows * cols;
  size_t row = 0, from = 0;  // `from`: the row's first bit
  for (size_t byte = 0; byte < (count + 7) / 8; byte++)
    for (unsigned left = bits[byte]; left; left &= left - 1) {
      const size_t at = byte * 8 + __builtin_ctz(left);
      if (at >= count) throw std::invalid_argument("a mask with bits beyond its end");
      while (at >= from + cols) from += cols, row++;
      visit(row, at - from);
    }
}

}  // namespace

Matrix::Matrix(int rows, int cols, const uint8_t* bits, const float* values, size_t count,
               bool transposed)
    : rows_(rows), cols_(cols) {
  if (rows < 1 || cols < 1) throw std::invalid_argument("a matrix needs a row and a column");
  if (count > UINT32_MAX) throw std::invalid_argument("more than 2^32 non-zero weights");
  block_ = block_for(cols, static_cast<double>(count) / (static_cast<double>(rows) * cols));
  blocks_ = (cols + block_ - 1) / block_;
  groups_ = (rows + kGroup - 1) / kGroup;

  const size_t outer = transposed ? cols : rows, inner = transposed ? rows : cols;
  std::vector<uint32_t> next(static_cast<size_t>(blocks_) * rows);
  size_t seen = 0;
  each(bits, outer, inner, [&](size_t o, size_t i) {
    const size_t row = transposed ? i : o, col = transposed ? o : i;
    next[col / block_ * rows + row]++;
    seen++;
  });
  if (seen != count) throw std::invalid_argument("a mask that does not fit its values");
  begin(next);

  uint32_t at = 0;
  for (auto& n : next) at += std::exchange(n, at);
  values_.resize(count);
  columns_.resize(count);
  each(bits, outer, inner, [&](size_t o, size_t i) {
    const size_t row = transposed ? i : o, col = transposed ? o : i;
    const uint32_t place = next[col / block_ * rows + row]++;
    values_[place] = *values++;
    columns_[place] = static_cast<uint8_t>(col % block_);
  });
}

// Everything that follows from how many weights each row has in each block.
void Matrix::begin(const std::vector<uint32_t>& counts) {
  counts_.assign(counts.begin(), counts.end());
  starts_.resize(static_cast<size_t>(blocks_) * (groups_ + 1));
  work_.assign(groups_ + 1, 0);
  uint32_t at = 0;
  for (int b = 0; b < blocks_; b++) {
    uint32_t* starts = &starts_[static_cast<size_t>(b) * (groups_ + 1)];
    for (int row = 0; row < rows_; row++) {
      if (row % kGroup == 0) starts[row / kGroup] = at;
      const uint32_t count = counts[static_cast<size_t>(b) * rows_ + row];
      at += count;
      work_[row / kGroup + 1] += count + 2;  // 2: fetching and storing the sums
    }
    starts[groups_] = at;
  }
  for (int g = 0; g < groups_; g++) work_[g + 1] += work_[g];
}

size_t Matrix::bytes() const {
  return values_.size() * sizeof(float) + columns_.size() + counts_.size() * sizeof(uint16_t) +
         starts_.size() * sizeof(uint32_t) + work_.size() * sizeof(uint64_t);
}

View Matrix::view() const {
  return {rows_,          cols_,           block_,         blocks_,       groups_,
          values_.data(), columns_.data(), counts_.data(), starts_.data()};
}

std::pair<int, int> Matrix::share(int thread, int threads) const {
  const auto border = [&](int t) {
    const uint64_t upto = work_.back() * t / threads;
    return static_cast<int>(std::lower_bound(work_.begin(), work_.end(), upto) - work_.begin());
  };
  return {border(thread), thread + 1 == threads ? groups_ : border(thread + 1)};
}

void Matrix::dense(float* out) const {
  std::fill(out, out + static_cast<size_t>(rows_) * cols_, 0.0f);
  size_t at = 0;
  for (int b = 0; b < blocks_; b++)
    for (int row = 0; row < rows_; row++) {
      float* const in_block = out + static_cast<size_t>(row) * cols_ + b * block_;
      for (int k = counts_[static_cast<size_t>(b) * rows_ + row]; k > 0; k--, at++)
        in_block[columns_[at]] = values_[at];
    }
}

void Matrix::linear(const float* x, float* out, int tokens, const float* bias,
                    int threads) const {
  const Kernels& kernels = current();
  const View matrix = view();
  if (nonzero() * tokens < kWorthATeam) threads = 1;
  if (tokens == 1) {
    Team::run(threads, [&](int thread, int of, Team&) {
      const auto [first, last] = share(thread, of);
      kernels.dot(matrix, x, out, first, last, bias);
    });
    return;
  }
  const int panels = std::min((tokens + kPanel - 1) / kPanel, kChunk);
  const size_t in = static_cast<size_t>(cols_) * kPanel, sums = static_cast<size_t>(rows_) * kPanel;
  float* const inputs = workspace(panels * in + sums);
  float* const y = inputs + panels * in;  // every thread has its own rows of it
  Team::run(threads, [&](int thread, int of, Team& team) {
    const auto [first, last] = share(thread, of);
    const int from = cols_ * static_cast<int64_t>(thread) / of;
    const int to = cols_ * static_cast<int64_t>(thread + 1) / of;
    for (int start = 0; start < tokens; start += kChunk * kPanel) {
      const int end = std::min(tokens, start + kChunk * kPanel);
      for (int t = start, p = 0; t < end; t += kPanel, p++) {
        const int some = std::min(kPanel, end - t);
        kernels.to_panel(x + static_cast<size_t>(t) * cols_, cols_, some, from, to, inputs + p * in);
      }
      team.wait(of);
      for (int t = start, p = 0; t < end; t += kPanel, p++) {
        const int some = std::min(kPanel, end - t);
        const int padded = (some + kLanes - 1) / kLanes * kLanes;
        kernels.product(matrix, inputs + p * in, y, padded, first, last, bias, nullptr,
                        Activation::none);
        kernels.from_panel(y, some, first * kGroup, std::min(last * kGroup, rows_),
                           out + static_cast<size_t>(t) * rows_, rows_);
      }
      if (end < tokens) team.wait(of);
    }
  });
}

void dense_linear(const float* weight, int rows, int cols, const float* x, float* y,
                  const float* bias, int threads) {
  const Kernels& kernels = current();
  if (static_cast<size_t>(rows) * cols < kWorthATeam) threads = 1;
  Team::run(threads, [&](int thread, int of, Team&) {
    kernels.dense_dot(weight, cols, x, y, static_cast<int64_t>(rows) * thread / of,
                      static_cast<int64_t>(rows) * (thread + 1) / of, bias);
  });
}

float* workspace(size_t count) {
  struct Free {
    void operator()(float* p) const { std::free(p); }
  };
  thread_local std::unique_ptr<float, Free> held;
  thread_local size_t size = 0;
  if (count > size) {
    size = 0;
    const size_t bytes = (count * sizeof(float) + 63) / 64 * 64;
    held.reset(static_cast<float*>(std::aligned_alloc(64, bytes)));
    if (!held) throw std::bad_alloc();
    // Lanes without a token are computed along: they should hold numbers.
    std::fill(held.get(), held.get() + count, 0.0f);
    size = count;
  }
  return held.get();
}

}  // namespace prunella
