// Lets other threads of Python run while a binding computes.
#pragma once
#include <nanobind/nanobind.h>

#include <chrono>
#include <thread>

// A daemon thread may compute when the program ends. Before Python 3.14 the interpreter ends such a thread when it comes
// back for the lock, and glibc does so by unwinding its stack, which C++ answers with an abort of the whole process.
// That unwinding stops here instead, and the thread waits for the end of the program.
class Unlocked {
 public:
  Unlocked() : state_(PyEval_SaveThread()) {}
  ~Unlocked() {
    try {
      PyEval_RestoreThread(state_);
    } catch (...) {
      while (true) std::this_thread::sleep_for(std::chrono::seconds(1));
    }
  }
  Unlocked(const Unlocked&) = delete;
  Unlocked& operator=(const Unlocked&) = delete;

 private:
  PyThreadState* const state_;
};
