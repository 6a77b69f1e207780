// Products in floats of eight bits: activations rounded to them, four-bit codes as the same floats, which are exact. As
// linear_int8.cu otherwise, for devices that have such products.
#include "bytes.h"

#if HAS_FP8
QUANTIZE(fp8, SmallFloats)
// -8 to 7, 0 to 15, and the values of four-bit floats.
UNPACK(fp8, int4, Int4Weight, 1.0f, 0xcaccced0u, 0xb8c0c4c8u, 0x44403800u, 0x4e4c4a48u)
UNPACK(fp8, int4_offset, Int4OffsetWeight, 1.0f, 0x44403800u, 0x4e4c4a48u, 0x53525150u, 0x57565554u)
UNPACK(fp8, fp4, Fp4Weight, 1.0f, 0x3c383000u, 0x4c484440u, 0xbcb8b080u, 0xccc8c4c0u)
MULTIPLY(fp8, SmallFloats)
#endif
