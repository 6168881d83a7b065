// Any processor: vectors of four, as even the oldest 64-bit processors have them.
#define LANES 4
#define VECTORS 8
#define TILE 2
#define VARIANT kPortable
#define NAME "portable"
#include "kernels.inl"
