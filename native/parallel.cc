// The thread pool. Every thread begins with tasks of its own share, the same share in every call that is cut alike, so
// that it finds in its cache what it wrote in the call before; then it takes what others have left over. Nobody waits
// for a worker that has not woken up yet.
#include "parallel.h"

#include <pthread.h>

#include <algorithm>
#include <atomic>
#include <chrono>
#include <condition_variable>
#include <exception>
#include <mutex>
#include <system_error>
#include <thread>
#include <utility>

#include "memory.h"

#if defined(__x86_64__)
#include <immintrin.h>
#endif

namespace {

constexpr size_t kCacheLine = 64;

void pause_cpu() {
#if defined(__x86_64__)
  _mm_pause();
#elif defined(__aarch64__)
  __asm__ volatile("yield");
#endif
}

// A network is a row of short calls, and to wake a thread takes as long as one of them: all look for what they wait for
// for so long before they sleep, and let others have the CPU meanwhile.
constexpr std::chrono::microseconds kPatience(100);

template <class Condition>
bool spin(Condition&& condition) {
  const auto start = std::chrono::steady_clock::now();
  do {
    for (int i = 0; i < 32; ++i) {
      if (condition()) return true;
      pause_cpu();
    }
    std::this_thread::yield();
  } while (std::chrono::steady_clock::now() - start < kPatience);
  return false;
}

class Job {
 public:
  Job(int64_t tasks, int64_t threads, void (*body)(void*, int64_t), void* context)
      : body_(body), context_(context), shares_(std::min(threads, kMostShares)) {
    for (int64_t i = 0; i < shares_; ++i) {
      share_[i].next.store(tasks * i / shares_, std::memory_order_relaxed);
      share_[i].end = tasks * (i + 1) / shares_;
    }
  }

  // Beginning with the share of thread `first`; 0 is the caller.
  void work(int64_t first) {
    try {
      for (int64_t i = 0; i < shares_; ++i) {
        Share& share = share_[(first + i) % shares_];
        for (int64_t task; (task = share.next.fetch_add(1, std::memory_order_relaxed)) < share.end;)
          body_(context_, task);
      }
    } catch (...) {
      for (int64_t i = 0; i < shares_; ++i) share_[i].next.store(share_[i].end, std::memory_order_relaxed);
      std::lock_guard<std::mutex> lock(failure_mutex_);
      failure_ = std::current_exception();
    }
  }

  void rethrow() const {
    if (failure_) std::rethrow_exception(failure_);
  }

 private:
  static constexpr int64_t kMostShares = 32;

  struct alignas(kCacheLine) Share {
    std::atomic<int64_t> next;
    int64_t end;
  };

  void (*const body_)(void*, int64_t);
  void* const context_;
  const int64_t shares_;
  std::mutex failure_mutex_;
  std::exception_ptr failure_;
  Share share_[kMostShares];
};

class Pool {
 public:
  std::atomic_flag in_use = ATOMIC_FLAG_INIT;

  void run(Job& job, uint32_t helpers) {
    grow(static_cast<int>(helpers));
    job_ = &job;
    state_.store(helpers * kOpen);
    wake(helpers);
    job.work(0);
    state_.fetch_and(~(kMost * kOpen));
    const auto left = [&] { return state_.load(std::memory_order_acquire) % kOpen == 0; };
    if (left() || (patient_ && spin(left))) return;
    state_.fetch_or(kCallerSleeps);
    std::unique_lock<std::mutex> lock(mutex_);
    done_.wait(lock, [&] { return state_.load() % kOpen == kCallerSleeps; });
  }

 private:
  // In one word: how many workers are inside the job, whether the caller sleeps until they have left, and how many more
  // may join.
  static constexpr uint32_t kInside = 1, kCallerSleeps = 1u << 14, kOpen = 1u << 15, kMost = (1u << 14) - 1;

  alignas(kCacheLine) std::atomic<uint32_t> state_{0};
  Job* job_ = nullptr;  // read by those who have joined
  alignas(kCacheLine) std::mutex mutex_;
  std::condition_variable wake_, done_;
  std::atomic<uint32_t> sleepers_{0};  // changed under the mutex
  std::atomic<bool> patient_{false};   // every thread can have a CPU of its own
  int workers_ = 0;

  void grow(int workers) {
    if (workers <= workers_) return;
    try {
      for (; workers_ < workers; ++workers_) std::thread([this, first = workers_ + 1] { serve(first); }).detach();
    } catch (const std::system_error&) {
      // The system gives no more threads: fewer do the same work.
    }
    patient_ = static_cast<unsigned>(workers_) < std::thread::hardware_concurrency();
  }

  // Either this finds the worker asleep or the worker, about to sleep, finds the job.
  void wake(uint32_t helpers) {
    const uint32_t sleepers = sleepers_.load();
    if (sleepers == 0) return;
    std::lock_guard<std::mutex> lock(mutex_);
    for (uint32_t i = 0; i < std::min(sleepers, helpers); ++i) wake_.notify_one();
  }

  bool open() const { return state_.load() >= kOpen; }

  bool join() {
    uint32_t state = state_.load(std::memory_order_relaxed);
    while (state >= kOpen)
      if (state_.compare_exchange_weak(state, state - kOpen + kInside)) return true;
    return false;
  }

  void leave() {
    if ((state_.fetch_sub(kInside) - kInside) % kOpen != kCallerSleeps) return;
    std::lock_guard<std::mutex> lock(mutex_);
    done_.notify_one();
  }

  void serve(int64_t first) {
    for (;;) {
      if (!patient_ || !spin([&] { return open(); })) {
        std::unique_lock<std::mutex> lock(mutex_);
        ++sleepers_;
        wake_.wait(lock, [&] { return open(); });
        --sleepers_;
      }
      if (!join()) continue;
      job_->work(first);
      leave();
    }
  }
};

// Never destroyed: workers may outlive every other static object.
Pool* pool = nullptr;

Pool& the_pool() {
  static const bool ready = [] {
    pool = new Pool;
    // A forked child has none of the workers and perhaps a locked mutex: it starts with a pool of its own.
    pthread_atfork(nullptr, nullptr, [] { pool = new Pool; });
    return true;
  }();
  (void)ready;
  return *pool;
}

struct Scratch {
  void* memory = nullptr;
  size_t size = 0;
  ~Scratch() { free_memory(memory, size); }
};

}  // namespace

void parallel_for(int64_t tasks, int threads, void (*body)(void*, int64_t), void* context) {
  const int64_t together = std::min<int64_t>(threads, tasks);
  Pool* shared = together > 1 ? &the_pool() : nullptr;
  if (!shared || shared->in_use.test_and_set(std::memory_order_acquire)) {
    for (int64_t task = 0; task < tasks; ++task) body(context, task);
    return;
  }
  Job job(tasks, together, body, context);
  shared->run(job, static_cast<uint32_t>(together - 1));
  shared->in_use.clear(std::memory_order_release);
  job.rethrow();
}

void* thread_scratch(size_t bytes) {
  static thread_local Scratch own;
  if (bytes > own.size || (kGuarded && bytes != own.size)) {
    free_memory(std::exchange(own.memory, nullptr), own.size);
    own.memory = allocate_memory(bytes);
    own.size = bytes;
  }
  return own.memory;
}
