// AVX-512 (F, BW, DQ, VL).
#define LANES 16
#define VECTORS 4
#define TILE 4
#define VARIANT kAvx512
#define NAME "avx512"
#include "kernels.inl"
