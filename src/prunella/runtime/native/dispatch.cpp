#include "dispatch.hpp"

#include <atomic>

namespace prunella {
namespace {

std::vector<const Kernels*> runnable() {
  std::vector<const Kernels*> found;
#ifdef PRUNELLA_X86
  __builtin_cpu_init();
  if (__builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw") &&
      __builtin_cpu_supports("avx512dq") && __builtin_cpu_supports("avx512vl"))
    found.push_back(&kAvx512);
  if (__builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma")) found.push_back(&kAvx2);
#endif
#ifdef PRUNELLA_ARM
  found.push_back(&kNeon);
#endif
  found.push_back(&kPortable);
  return found;
}

std::atomic<const Kernels*>& chosen() {
  static std::atomic<const Kernels*> kernels{runnable().front()};
  return kernels;
}

}  // namespace

std::vector<std::string> variants() {
  std::vector<std::string> names;
  for (const Kernels* kernels : runnable()) names.push_back(kernels->name);
  return names;
}

const Kernels& current() { return *chosen().load(std::memory_order_relaxed); }

bool choose(const std::string& name) {
  for (const Kernels* kernels : runnable())
    if (name == kernels->name) {
      chosen() = kernels;
      return true;
    }
  return false;
}

}  // namespace prunella
