// Of CUDA's driver what a launcher needs to encode a tensor map.
#pragma once

#include <cstdint>

typedef int CUresult;
typedef uint32_t cuuint32_t;
typedef uint64_t cuuint64_t;
typedef int CUtensorMapDataType, CUtensorMapInterleave, CUtensorMapSwizzle, CUtensorMapL2promotion,
    CUtensorMapFloatOOBfill;
enum { CU_TENSOR_MAP_DATA_TYPE_FLOAT16 = 6 };

struct alignas(64) CUtensorMap {
  char bytes[128];
};
