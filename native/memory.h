// Memory of the engine: 64-byte aligned, a multiple of 64 bytes.
#pragma once
#include <cstddef>
#include <cstdlib>
#include <new>

#if defined(__SANITIZE_ADDRESS__)
#include <sys/mman.h>
#endif

inline size_t memory_size(size_t bytes) { return bytes ? (bytes + 63) / 64 * 64 : 64; }

#if defined(__SANITIZE_ADDRESS__)
constexpr bool kGuarded = true;
// AddressSanitizer does not see what masks, gathers and tiles access. A page that nobody may touch begins at the end.
constexpr size_t kPage = 4096;
inline size_t pages_size(size_t bytes) { return (memory_size(bytes) + kPage - 1) / kPage * kPage; }

inline void* allocate_memory(size_t bytes) {
  const size_t size = pages_size(bytes);
  void* pages = mmap(nullptr, size + kPage, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
  if (pages == MAP_FAILED || mprotect(static_cast<char*>(pages) + size, kPage, PROT_NONE) != 0) throw std::bad_alloc();
  return static_cast<char*>(pages) + size - memory_size(bytes);
}

inline void free_memory(void* memory, size_t bytes) {
  if (memory) munmap(static_cast<char*>(memory) + memory_size(bytes) - pages_size(bytes), pages_size(bytes) + kPage);
}
#else
constexpr bool kGuarded = false;

inline void* allocate_memory(size_t bytes) {
  void* memory = std::aligned_alloc(64, memory_size(bytes));
  if (!memory) throw std::bad_alloc();
  return memory;
}

inline void free_memory(void* memory, size_t) { std::free(memory); }
#endif
