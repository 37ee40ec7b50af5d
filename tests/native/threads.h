// Threads for the tests of drivers.
#pragma once

#include <algorithm>
#include <cstdint>
#include <thread>
#include <vector>

#include "runtime/parallel.h"

namespace {

int thread_count = 3;
// Uneven ranges, each in a thread of its own.
const tvmops::runtime::ParallelFor kThreads = {
    [](int64_t count, tvmops::runtime::RangeBody body, void* context) {
      std::vector<std::thread> all;
      for (int64_t begin = 0, i = 0; begin < count; i++) {
        const int64_t end = std::min(count, begin + count / thread_count + 1 + i % 2);
        all.emplace_back(body, context, begin, end);
        begin = end;
      }
      for (auto& t : all) t.join();
    },
    [] { return thread_count; },
};

}  // namespace
