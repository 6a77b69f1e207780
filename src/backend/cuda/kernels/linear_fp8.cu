// Products in floats of eight bits: activations rounded to them, four-bit codes as the same floats, which are exact. As
// linear_int8.cu otherwise, for devices that have such products. Those of 9.0 and 10.0 have them in other instructions
// than `mma`, of which the assembler makes products of f16 there: no faster than bf16's.
#include "bytes.h"

#if HAS_FP8
QUANTIZE(fp8, SmallFloats)
#define UNPACK_FP8(codec, Codec) UNPACK(fp8, codec, Codec, Codec::small_floats(), 1.0f)
FOUR_BIT_CODECS(UNPACK_FP8)
MULTIPLY(fp8, SmallFloats, bf16, RoundedOutput)
#endif
