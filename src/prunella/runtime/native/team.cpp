#include "team.hpp"

#include <thread>
#include <vector>

#ifdef _OPENMP
#include <omp.h>
#endif
#ifndef _WIN32
#include <pthread.h>
#endif

namespace prunella {
namespace {

// A forked process has none of its parent's threads, and OpenMP does not notice: it would wait for
// them for ever.
std::atomic<bool> forked{false};

#ifndef _WIN32
const int watched = pthread_atfork(nullptr, nullptr, [] { forked = true; });
#endif

inline void pause() {
#if defined(__x86_64__) || defined(__i386__)
  __builtin_ia32_pause();
#elif defined(__aarch64__)
  asm volatile("yield");
#endif
}

}  // namespace

void Team::run(int threads, const std::function<void(int, int, Team&)>& work) {
  Team team;
  if (threads <= 1) {
    work(0, 1, team);
    return;
  }
#ifdef _OPENMP
  if (!forked) {
#pragma omp parallel num_threads(threads)
    work(omp_get_thread_num(), omp_get_num_threads(), team);
    return;
  }
#endif
  std::vector<std::thread> others;
  for (int t = 1; t < threads; t++) others.emplace_back([&, t] { work(t, threads, team); });
  work(0, threads, team);
  for (auto& other : others) other.join();
}

void Team::wait(int threads) {
  if (threads == 1) return;
  const int round = round_.load(std::memory_order_acquire);
  if (arrived_.fetch_add(1, std::memory_order_acq_rel) + 1 == threads) {
    arrived_.store(0, std::memory_order_relaxed);
    round_.store(round + 1, std::memory_order_release);
    return;
  }
  // Others may need this processor to get here: after a while, let them.
  for (int spins = 0; round_.load(std::memory_order_acquire) == round; spins++)
    if (spins < 4000)
      pause();
    else
      std::this_thread::yield();
}

}  // namespace prunella
