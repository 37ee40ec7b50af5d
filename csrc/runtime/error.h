#ifndef TVMOPS_RUNTIME_ERROR_H_
#define TVMOPS_RUNTIME_ERROR_H_

#include <stdexcept>

namespace tvmops::runtime {

// What the runtime throws. The message is one sentence that names the offending value.
class Error : public std::runtime_error {
 public:
  using std::runtime_error::runtime_error;
};

}  // namespace tvmops::runtime

#endif  // TVMOPS_RUNTIME_ERROR_H_
