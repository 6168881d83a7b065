// Several threads on one piece of work. With OpenMP they are the threads that torch itself uses
// (both load the same libgomp), so that nobody's idle threads are in the way of the others'.
#pragma once

#include <atomic>
#include <functional>

namespace prunella {

class Team {
 public:
  // Run work(thread, threads, team) on up to `threads` threads, this one among them. Work that
  // throws ends the process: nothing is to be allocated in it.
  static void run(int threads, const std::function<void(int, int, Team&)>& work);

  // Wait until all have come here.
  void wait(int threads);

 private:
  std::atomic<int> arrived_{0};
  std::atomic<int> round_{0};
};

}  // namespace prunella
