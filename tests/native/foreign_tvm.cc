// Stands for an imported tvm: exports the names that a kernel refers to, with effects that would be noticed.
#include <cstdint>

extern "C" {

#define EXPORTED __attribute__((visibility("default")))

EXPORTED int foreign_errors = 0;
EXPORTED void* __TVMBackendParallelLaunch = nullptr;
EXPORTED void* __TVMBackendAllocWorkspace = nullptr;
EXPORTED void* __TVMBackendFreeWorkspace = nullptr;
EXPORTED void TVMFFIErrorSetRaisedFromCStrParts(const char*, const char**, int32_t) { ++foreign_errors; }

// Its own use of them. If this library were not the one that answers, something in the program would be exported.
EXPORTED void foreign_raise() { TVMFFIErrorSetRaisedFromCStrParts("RuntimeError", nullptr, 0); }
EXPORTED void* foreign_launch() { return __TVMBackendParallelLaunch; }

}  // extern "C"
