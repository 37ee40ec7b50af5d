#include "check.h"
#include "runtime/error.h"
#include "runtime/limits.h"

using namespace tvmops::runtime;

TEST(the_peak_is_positive) {
  const double one = fma_peak_gflops(0.02);
  const double two = fma_peak_gflops(0.02, 2);
  std::printf("FMA peak: %.1f GFLOP/s with 1 thread, %.1f with 2\n", one, two);
  CHECK(one > 0 && two > 0);
}

TEST(no_time_is_enough_for_one_round) { CHECK(fma_peak_gflops(0) > 0 && fma_peak_gflops(-1, 3) > 0); }

TEST(no_threads_are_refused) {
  CHECK_THROWS(Error, fma_peak_gflops(0.01, 0), "FMA peak of 0 threads");
  CHECK_THROWS(Error, fma_peak_gflops(0.01, -4), "FMA peak of -4 threads");
}
