// Loading kernel packs from files.
#ifndef TVMOPS_RUNTIME_PACK_H_
#define TVMOPS_RUNTIME_PACK_H_

#include <string>

#include "runtime/registry.h"

namespace tvmops::runtime {

// Loads the shared library at `path` and adds its kernels. Returns false if it was loaded before (which is harmless; a
// path, once loaded, stands for what it held then). Throws Error, in one sentence that names the path and the cause,
// for anything that is not a whole pack of the right version and architecture; the registry then is as it was.
bool load_pack(const std::string& path, Registry& registry);

// Loads every pack of a colon-separated list, the value of TVMOPS_PACK_PATH; empty elements are skipped. Returns how
// many were new. Throws Error at the first one that can't be loaded; those before it stay.
int load_pack_path(const std::string& value, Registry& registry);

// The same for the environment variable TVMOPS_PACK_PATH; 0 if it is not set.
int load_pack_path(Registry& registry);

}  // namespace tvmops::runtime

#endif  // TVMOPS_RUNTIME_PACK_H_
