// A small pool of threads for the kernels.
#pragma once
#include <cstddef>
#include <cstdint>
#include <memory>
#include <type_traits>

// Calls body(context, task) for every task in [0, tasks), on at most `threads` threads, the caller's included.
// Safe from several threads at once (whoever finds the pool in use works alone) and after a fork. What a body throws
// reaches the caller. Of calls in a row, cut into tasks alike, each thread gets the same tasks unless it is held up.
// Workers look out for the next call for some microseconds before they sleep.
void parallel_for(int64_t tasks, int threads, void (*body)(void*, int64_t), void* context);

template <class Body>
void parallel_for(int64_t tasks, int threads, Body&& body) {
  parallel_for(
      tasks, threads,
      [](void* context, int64_t task) { (*static_cast<std::remove_reference_t<Body>*>(context))(task); },
      const_cast<void*>(static_cast<const void*>(std::addressof(body))));
}

// At least `bytes` bytes of this thread's own, 64-byte aligned, content undefined, valid until its next call here.
void* thread_scratch(size_t bytes);
