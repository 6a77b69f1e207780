// Products in integers: activations rounded to signed bytes, weights as the codes that they are, as bytes too. A panel
// of the weight is unpacked into the L2 cache once for all tokens.
//
// Floors: rounding, 3 bytes of device memory for an element of the activations; the product, an instruction of the
// tensor cores for each 16 by 8 of the output and 32 deep, and beside it three instructions for each element of the
// output and group.
#include "bytes.h"

QUANTIZE(int8, Integers)
#define UNPACK_INT8(codec, Codec) UNPACK(int8, codec, Codec, Codec::integers(), Codec::INTEGER_UNIT)
CODE_CODECS(UNPACK_INT8)
MULTIPLY(int8, Integers, bf16, RoundedOutput)
