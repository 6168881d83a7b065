// AVX2 and FMA.
#define LANES 8
#define VECTORS 8
#define TILE 2
#define VARIANT kAvx2
#define NAME "avx2"
#include "kernels.inl"
