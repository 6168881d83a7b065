// NEON with its 32 registers.
#define LANES 4
#define VECTORS 16
#define TILE 4
#define VARIANT kNeon
#define NAME "neon"
#include "kernels.inl"
