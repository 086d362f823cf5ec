// Lets other threads of Python run while a binding computes.
#pragma once
#include <nanobind/nanobind.h>

#include <chrono>
#include <thread>

// A daemon thread may compute when the program ends. Before Python 3.14 the interpreter unwinds it when it comes back
// for the lock, and C++ answers with an abort of the whole process: it waits for the end here instead. Only the thread
// that shuts the interpreter down still calls then. (A thread that already queued for the lock is beyond help.)
class Unlocked {
 public:
  Unlocked() : ending_(finalizing()), state_(PyEval_SaveThread()) {}
  ~Unlocked() {
    while (!ending_ && finalizing()) std::this_thread::sleep_for(std::chrono::seconds(1));
    PyEval_RestoreThread(state_);
  }
  Unlocked(const Unlocked&) = delete;
  Unlocked& operator=(const Unlocked&) = delete;

 private:
  const bool ending_;
  PyThreadState* const state_;

  static bool finalizing() {
#if PY_VERSION_HEX >= 0x030d0000
    return Py_IsFinalizing();
#else
    return _Py_IsFinalizing();
#endif
  }
};
