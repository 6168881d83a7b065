#include "matrix.hpp"

#include <algorithm>
#include <cstdlib>
#include <cstring>
#include <new>
#include <stdexcept>

#include "dispatch.hpp"
#include "team.hpp"

namespace prunella {
namespace {

constexpr int kChunk = 8;  // panels worked on at a time: what is held stays small
constexpr size_t kWorthATeam = 1 << 15;  // multiplications; below, waking threads costs more

// Features of a block. The inputs of one should stay in the first-level cache (64 tokens · 4 bytes
// each), the fewer weights there are, the more features make up for fetching the sums.
int block_for(int cols, double density) {
  const int wanted = density < 0.04 ? 256 : density < 0.15 ? 192 : density < 0.35 ? 128 : 96;
  const int blocks = (cols + wanted - 1) / wanted;
  return (cols + blocks - 1) / blocks;
}

// Bits [first, first + count) of packed ones, count <= 64, the first lowest.
uint64_t word(const uint8_t* bits, size_t first, int count) {
  uint64_t low = 0;
  const size_t from = first / 8, shift = first % 8;
  const size_t bytes = (shift + count + 7) / 8;
  std::memcpy(&low, bits + from, std::min<size_t>(bytes, 8));
  low >>= shift;
  if (bytes > 8) low |= static_cast<uint64_t>(bits[from + 8]) << (64 - shift);
  return count == 64 ? low : low & ((uint64_t{1} << count) - 1);
}

// Calls visit(offset) for every bit that is set among [first, first + count).
template <typename Visit>
inline void each(const uint8_t* bits, size_t first, int count, Visit visit) {
  for (int done = 0; done < count; done += 64)
    for (uint64_t left = word(bits, first + done, std::min(64, count - done)); left;
         left &= left - 1)
      visit(done + __builtin_ctzll(left));
}

size_t population(const uint8_t* bits, size_t first, size_t count) {
  size_t total = 0;
  for (size_t done = 0; done < count; done += 64)
    total += __builtin_popcountll(
        word(bits, first + done, static_cast<int>(std::min<size_t>(64, count - done))));
  return total;
}

}  // namespace

Matrix::Matrix(int rows, int cols, const uint8_t* bits, const float* values, size_t count,
               bool transposed)
    : rows_(rows), cols_(cols) {
  if (rows < 1 || cols < 1) throw std::invalid_argument("a matrix needs a row and a column");
  if (count > UINT32_MAX) throw std::invalid_argument("more than 2^32 non-zero weights");
  const size_t all = static_cast<size_t>(rows) * cols;
  if (population(bits, 0, all) != count)
    throw std::invalid_argument("a mask that does not fit its values");
  block_ = block_for(cols, static_cast<double>(count) / all);
  blocks_ = (cols + block_ - 1) / block_;
  groups_ = (rows + kGroup - 1) / kGroup;

  std::vector<uint32_t> next(static_cast<size_t>(blocks_) * rows);
  const auto row_of = [&](int b) { return &next[static_cast<size_t>(b) * rows]; };
  if (transposed) {
    for (int col = 0; col < cols; col++)
      each(bits, static_cast<size_t>(col) * rows, rows,
           [&, in_row = row_of(col / block_)](int row) { in_row[row]++; });
  } else {
    for (int row = 0; row < rows; row++)
      for (int b = 0; b < blocks_; b++)
        row_of(b)[row] = population(bits, static_cast<size_t>(row) * cols + b * block_,
                                    std::min(block_, cols - b * block_));
  }
  begin(next);

  uint32_t at = 0;
  for (auto& n : next) at += std::exchange(n, at);
  values_.resize(count);
  columns_.resize(count);
  if (transposed) {
    for (int col = 0; col < cols; col++)
      each(bits, static_cast<size_t>(col) * rows, rows,
           [&, in_row = row_of(col / block_), column = col % block_](int row) {
             values_[in_row[row]] = *values++;
             columns_[in_row[row]++] = static_cast<uint8_t>(column);
           });
  } else {
    for (int row = 0; row < rows; row++)
      for (int b = 0; b < blocks_; b++) {
        const uint32_t start = row_of(b)[row];
        uint8_t* column = columns_.data() + start;
        each(bits, static_cast<size_t>(row) * cols + b * block_,
             std::min(block_, cols - b * block_),
             [&](int offset) { *column++ = static_cast<uint8_t>(offset); });
        const size_t some = column - (columns_.data() + start);
        std::copy_n(values, some, values_.data() + start);
        values += some;
      }
  }
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

void Matrix::product(const float* x, float* out, int panels, int threads) const {
  const Kernels& kernels = current();
  const View matrix = view();
  Team::run(threads, [&](int thread, int of, Team&) {
    const auto [first, last] = share(thread, of);
    for (size_t p = 0; p < static_cast<size_t>(panels); p++)
      kernels.product(matrix, x + p * cols_ * kPanel, out + p * rows_ * kPanel, kPanel, first, last,
                      nullptr, nullptr, Activation::none);
  });
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
