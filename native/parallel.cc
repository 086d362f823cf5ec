// The thread pool. Workers take tasks from one counter; nobody waits for a worker that has not woken up yet.
#include "parallel.h"

#include <pthread.h>

#include <atomic>
#include <condition_variable>
#include <cstdlib>
#include <exception>
#include <mutex>
#include <new>
#include <system_error>
#include <thread>

#if defined(__x86_64__)
#include <immintrin.h>
#endif

namespace {

struct Job {
  int64_t tasks;
  void (*body)(void*, int64_t);
  void* context;
  int open;        // workers that may still join; guarded by the pool's mutex
  int active = 0;  // workers inside; guarded by the pool's mutex
  std::atomic<int64_t> next{0};
  std::mutex failure_mutex{};
  std::exception_ptr failure{};

  void work() {
    try {
      for (int64_t task; (task = next.fetch_add(1, std::memory_order_relaxed)) < tasks;) body(context, task);
    } catch (...) {
      next.store(tasks, std::memory_order_relaxed);
      std::lock_guard<std::mutex> lock(failure_mutex);
      failure = std::current_exception();
    }
  }
};

void pause_cpu() {
#if defined(__x86_64__)
  _mm_pause();
#endif
}

class Pool {
 public:
  std::atomic_flag in_use = ATOMIC_FLAG_INIT;

  void run(Job& job) {
    grow(job.open);
    {
      std::lock_guard<std::mutex> lock(mutex_);
      job_ = &job;
      generation_.fetch_add(1, std::memory_order_release);
    }
    wake_.notify_all();
    job.work();
    std::unique_lock<std::mutex> lock(mutex_);
    job_ = nullptr;
    done_.wait(lock, [&] { return job.active == 0; });
  }

 private:
  // A network is a row of short calls: a worker looks for the next one for some microseconds before it sleeps.
  static constexpr int kSpins = 200;

  std::mutex mutex_;
  std::condition_variable wake_, done_;
  std::atomic<uint64_t> generation_{0};
  Job* job_ = nullptr;
  int workers_ = 0;

  void grow(int workers) {
    try {
      for (; workers_ < workers; ++workers_) std::thread([this] { serve(); }).detach();
    } catch (const std::system_error&) {
      // The system gives no more threads: fewer do the same work.
    }
  }

  void serve() {
    uint64_t seen = 0;
    for (;;) {
      for (int i = 0; i < kSpins && generation_.load(std::memory_order_acquire) == seen; ++i) pause_cpu();
      std::unique_lock<std::mutex> lock(mutex_);
      wake_.wait(lock, [&] { return generation_.load(std::memory_order_relaxed) != seen; });
      seen = generation_.load(std::memory_order_relaxed);
      Job* job = job_;
      if (!job || job->open == 0) continue;
      --job->open;
      ++job->active;
      lock.unlock();
      job->work();
      lock.lock();
      if (--job->active == 0) done_.notify_one();
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
  ~Scratch() { std::free(memory); }
};

}  // namespace

void parallel_for(int64_t tasks, int threads, void (*body)(void*, int64_t), void* context) {
  const int64_t helpers = (threads < tasks ? threads : tasks) - 1;
  Pool* shared = helpers > 0 ? &the_pool() : nullptr;
  if (!shared || shared->in_use.test_and_set(std::memory_order_acquire)) {
    for (int64_t task = 0; task < tasks; ++task) body(context, task);
    return;
  }
  Job job{tasks, body, context, static_cast<int>(helpers)};
  shared->run(job);
  shared->in_use.clear(std::memory_order_release);
  if (job.failure) std::rethrow_exception(job.failure);
}

void* thread_scratch(size_t bytes) {
  static thread_local Scratch own;
  if (bytes > own.size) {
    std::free(own.memory);
    own.size = 0;
    own.memory = std::aligned_alloc(64, (bytes + 63) / 64 * 64);
    if (!own.memory) throw std::bad_alloc();
    own.size = bytes;
  }
  return own.memory;
}
