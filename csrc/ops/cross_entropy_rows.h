// What cross entropy does once a row, around the kernels that do what is done once an element.
#ifndef TVMOPS_OPS_CROSS_ENTROPY_ROWS_H_
#define TVMOPS_OPS_CROSS_ENTROPY_ROWS_H_

#include <ATen/ATen.h>

#include <cstdint>

namespace tvmops::ops {

// Classes of rows; [outer, n, inner] logits have outer * inner rows, element j of which is `at(row, j)`.
struct ClassRows {
  const int64_t* classes;  // [outer, inner]
  const void* weight;      // [n], of the logits' dtype; null: 1
  int64_t ignored;         // the class that counts for nothing
  int64_t outer, n, inner;
  int64_t stride;  // of rows, where inner is 1
  double smoothing;

  int64_t rows() const { return outer * inner; }
  int64_t at(int64_t row, int64_t j) const {
    return inner == 1 ? row * stride + j : (row / inner * n + j) * inner + row % inner;
  }
};

// Whether every class is one.
bool in_range(const ClassRows& r);

// Sums of losses and of the weights of their classes.
struct LossSum {
  double loss = 0, weight = 0;
};

// The loss of every row, from `stats` [3, rows]: the maximum, the logarithm of the sum of exponentials, and the sum of
// differences from the maximum. Written to `losses` [rows] of the logits' dtype unless that is null. The sums are in an
// order that does not depend on threads.
LossSum losses(const ClassRows& r, at::ScalarType dtype, const void* logits, const float* stats, void* losses);

// Each row's factor of the gradient, weight * g, 0 where the class is ignored; g is one for all, or one for each row.
void row_factors(const ClassRows& r, at::ScalarType dtype, const void* g, bool each, double scale, float* factors);

// Overwrites the gradient at each row's class: factor * (e**((x - maximum) - log_sum) - smoothed one).
void gradients_at_classes(const ClassRows& r, at::ScalarType dtype, const void* logits, const float* stats,
                          const float* factors, void* gradient, int64_t stride);

}  // namespace tvmops::ops

#endif  // TVMOPS_OPS_CROSS_ENTROPY_ROWS_H_
