// The engine as a Python module. Tensors come as addresses of contiguous float32 memory, which
// prunella.runtime.engine has checked; the global lock is released while anything is computed.
#include <nanobind/nanobind.h>
#include <nanobind/stl/shared_ptr.h>
#include <nanobind/stl/string.h>
#include <nanobind/stl/vector.h>

#include <cmath>

#include "dispatch.hpp"
#include "encoder.hpp"
#include "matrix.hpp"

namespace nb = nanobind;
using namespace prunella;

namespace {

template <typename T>
T* at(uintptr_t address) {
  return reinterpret_cast<T*>(address);
}

using Free = nb::call_guard<nb::gil_scoped_release>;

}  // namespace

NB_MODULE(_native, m) {
  m.def("variants", &variants);
  m.def("variant", [] { return std::string(current().name); });
  m.def("choose", &choose);

  m.def(
      "dense_linear",
      [](uintptr_t weight, int rows, int cols, uintptr_t x, uintptr_t out, uintptr_t bias,
         int threads) {
        dense_linear(at<float>(weight), rows, cols, at<float>(x), at<float>(out), at<float>(bias),
                     threads);
      },
      Free());

  nb::class_<Matrix>(m, "Matrix")
      .def(
          "__init__",
          [](Matrix* self, int rows, int cols, uintptr_t bits, uintptr_t values, size_t count,
             bool transposed) {
            new (self) Matrix(rows, cols, at<uint8_t>(bits), at<float>(values), count, transposed);
          },
          Free())
      .def_prop_ro("rows", &Matrix::rows)
      .def_prop_ro("cols", &Matrix::cols)
      .def_prop_ro("nonzero", &Matrix::nonzero)
      .def_prop_ro("bytes", &Matrix::bytes)
      .def("dense", [](const Matrix& self, uintptr_t out) { self.dense(at<float>(out)); }, Free())
      .def(
          "product",
          [](const Matrix& self, uintptr_t x, uintptr_t out, int panels, int threads) {
            self.product(at<float>(x), at<float>(out), panels, threads);
          },
          Free())
      .def(
          "linear",
          [](const Matrix& self, uintptr_t x, uintptr_t out, int tokens, uintptr_t bias,
             int threads) {
            self.linear(at<float>(x), at<float>(out), tokens, at<float>(bias), threads);
          },
          Free());

  nb::class_<Linear>(m, "Linear").def(nb::init<std::shared_ptr<const Matrix>, std::vector<float>>());
  nb::class_<Norm>(m, "Norm").def(nb::init<std::vector<float>, std::vector<float>, float>());
  nb::enum_<Activation>(m, "Activation")
      .value("gelu", Activation::gelu)
      .value("gelu_tanh", Activation::gelu_tanh)
      .value("relu", Activation::relu);
  nb::class_<Layer>(m, "Layer").def(
      nb::init<Linear, Linear, Linear, Linear, Linear, Linear, Norm, Norm, int, Activation>());
  nb::class_<Encoder>(m, "Encoder")
      .def(nb::init<std::vector<Layer>>())
      .def_prop_ro("features", &Encoder::features)
      .def(
          "run",
          [](const Encoder& self, uintptr_t x, uintptr_t out, const std::vector<int>& lengths,
             int threads) {
            self.run(at<float>(x), at<float>(out), lengths.data(),
                     static_cast<int>(lengths.size()), threads);
          },
          Free());
}
