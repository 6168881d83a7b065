// Every kernel of every variant that this machine runs, against loops in double precision.
// For processors that are only emulated here: tests/test_native.py compiles it and runs it.
#include <cmath>
#include <cstdio>
#include <random>
#include <vector>

#include "dispatch.hpp"
#include "encoder.hpp"
#include "matrix.hpp"

using namespace prunella;

static std::mt19937 noise(1);
static int wrong = 0;

static float number() { return std::normal_distribution<float>()(noise); }

static std::vector<float> numbers(size_t count) {
  std::vector<float> all(count);
  for (float& x : all) x = number();
  return all;
}

static void expect(const char* what, double got, double wanted, double size) {
  if (std::abs(got - wanted) <= 1e-5 * size + 1e-30) return;
  if (++wrong < 10)
    std::printf("%s %s: %.9g, not %.9g\n", current().name, what, got, wanted);
}

static Matrix random(int rows, int cols, double density, std::vector<float>& weights) {
  std::vector<uint8_t> bits((static_cast<size_t>(rows) * cols + 7) / 8);
  std::vector<float> values;
  weights.assign(static_cast<size_t>(rows) * cols, 0.0f);
  for (size_t i = 0; i < weights.size(); i++)
    if (std::uniform_real_distribution<>()(noise) < density) {
      values.push_back(weights[i] = number());
      bits[i / 8] |= 1 << i % 8;
    }
  return Matrix(rows, cols, bits.data(), values.data(), values.size(), false);
}

static void products() {
  for (auto [rows, cols] : {std::pair{1, 1}, {17, 33}, {70, 257}, {33, 600}})
    for (double density : {0.0, 0.1, 1.0}) {
      std::vector<float> w;
      const Matrix matrix = random(rows, cols, density, w);
      const auto bias = numbers(rows);
      for (int tokens : {1, 2, 16, 33, 48, 64, 130}) {
        const auto x = numbers(static_cast<size_t>(tokens) * cols);
        std::vector<float> out(static_cast<size_t>(tokens) * rows);
        matrix.linear(x.data(), out.data(), tokens, bias.data(), 2);
        for (int t = 0; t < tokens; t++)
          for (int r = 0; r < rows; r++) {
            double sum = bias[r], size = std::abs(sum);
            for (int c = 0; c < cols; c++) {
              const double term = static_cast<double>(w[r * cols + c]) * x[t * cols + c];
              sum += term, size += std::abs(term);
            }
            expect("product", out[t * rows + r], sum, size);
          }
      }
    }
}

static void activations() {
  std::vector<float> w;
  const Matrix one = random(1, 1, 1.0, w);
  std::vector<float> x(kPanel), y(kPanel);
  for (int step = -1000; step < 1000; step += kPanel) {
    for (int i = 0; i < kPanel; i++) x[i] = (step + i) * 0.01f / w[0];
    for (auto kind : {Activation::gelu, Activation::gelu_tanh, Activation::relu}) {
      current().product(one.view(), x.data(), y.data(), kPanel, 0, 1, nullptr, nullptr, kind);
      for (int i = 0; i < kPanel; i++) {
        const double v = x[i] * w[0];
        const double wanted =
            kind == Activation::relu   ? std::max(v, 0.0)
            : kind == Activation::gelu ? 0.5 * v * (1 + std::erf(v / std::sqrt(2.0)))
                                       : 0.5 * v * (1 + std::tanh(std::sqrt(2 / M_PI) *
                                                                  (v + 0.044715 * v * v * v)));
        expect("activation", y[i], wanted, std::max(std::abs(wanted), 0.1));
      }
    }
  }
}

static void extremes() {
  std::vector<float> w;
  const Matrix one = random(1, 1, 1.0, w);
  std::vector<float> x(kPanel, NAN), y(kPanel);
  for (auto kind : {Activation::gelu, Activation::gelu_tanh, Activation::relu}) {
    current().product(one.view(), x.data(), y.data(), kPanel, 0, 1, nullptr, nullptr, kind);
    expect("activation of what is not a number", std::isnan(y[0]), 1, 0);
  }
  x.assign(kPanel, -1e4f / w[0]);
  current().product(one.view(), x.data(), y.data(), kPanel, 0, 1, nullptr, nullptr,
                    Activation::gelu);
  expect("gelu far below", y[0], 0, 0);
}

static void attention() {
  const int heads = 2, size = 9, features = heads * size;
  for (int length : {1, 5, 16, 17, 64, 70, 150})
    for (int offset : {0, 16, 48}) {
      const int panels = (offset + length + 2 * kPanel) / kPanel;
      const size_t stride = static_cast<size_t>(features) * kPanel;
      const auto q = numbers(panels * stride), k = numbers(panels * stride);
      const auto v = numbers(panels * stride);
      std::vector<float> out(panels * stride), scratch(attention_scratch(size, length));
      const auto at = [&](const std::vector<float>& x, int token, int feature) -> double {
        return x[(offset + token) / kPanel * stride + feature * kPanel + (offset + token) % kPanel];
      };
      for (int h = 0; h < heads; h++) {
        const size_t head = static_cast<size_t>(h) * size * kPanel;
        for (int first = 0; first < length; first += kPanel) {
          const int last = std::min(first + kPanel, (length + kLanes - 1) / kLanes * kLanes);
          current().attend({&q[head], &k[head], &v[head], &out[head], stride, size, offset, length,
                            first, last},
                           scratch.data());
        }
        for (int query = 0; query < length; query++) {
          std::vector<double> weight(length);
          double total = 0;
          for (int key = 0; key < length; key++) {
            double dot = 0;
            for (int f = 0; f < size; f++)
              dot += at(q, query, h * size + f) * at(k, key, h * size + f);
            total += weight[key] = std::exp(dot / std::sqrt(static_cast<double>(size)));
          }
          for (int f = 0; f < size; f++) {
            double wanted = 0;
            for (int key = 0; key < length; key++)
              wanted += weight[key] / total * at(v, key, h * size + f);
            expect("attention", at(out, query, h * size + f), wanted, 3.0);
          }
        }
      }
    }
}

static void norms() {
  const int features = 37;
  const auto x = numbers(static_cast<size_t>(features) * kPanel);
  const auto weight = numbers(features), bias = numbers(features);
  auto y = x;
  current().normalize(y.data() + kLanes, features, weight.data(), bias.data(), 1e-5f);
  for (int lane = 0; lane < kPanel; lane++) {
    double mean = 0, variance = 0;
    for (int f = 0; f < features; f++) mean += x[f * kPanel + lane] / features;
    for (int f = 0; f < features; f++)
      variance += std::pow(x[f * kPanel + lane] - mean, 2) / features;
    for (int f = 0; f < features; f++) {
      const double off = (x[f * kPanel + lane] - mean) / std::sqrt(variance + 1e-5);
      const bool ours = lane >= kLanes && lane < 2 * kLanes;
      expect("norm", y[f * kPanel + lane], ours ? off * weight[f] + bias[f] : x[f * kPanel + lane],
             10.0);
    }
  }
}

int main() {
  for (const auto& name : variants()) {
    choose(name);
    const int before = wrong;
    products(), activations(), extremes(), attention(), norms();
    std::printf("%s: %d wrong\n", name.c_str(), wrong - before);
  }
  return wrong != 0;
}
