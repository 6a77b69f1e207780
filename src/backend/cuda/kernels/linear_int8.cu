// Products in integers: activations rounded to signed bytes, weights as the codes that they are, as bytes too. A panel
// of the weight is unpacked into the L2 cache once for all tokens.
//
// Floors: rounding, 3 bytes of device memory for an element of the activations; the product, one of 4096 multiplications
// and additions by the tensor cores for each 32 by 16 by 8 elements, and beside it four instructions for each element of
// the output and group.
#include "bytes.h"

QUANTIZE(int8, Integers)
UNPACK(int8, int8, Int8Weight, 1.0f, )
UNPACK(int8, int4, Int4Weight, 1.0f, 0xfbfaf9f8u, 0xfffefdfcu, 0x03020100u, 0x07060504u)
UNPACK(int8, int4_offset, Int4OffsetWeight, 1.0f, 0x03020100u, 0x07060504u, 0x0b0a0908u, 0x0f0e0d0cu)
// Twice the values.
UNPACK(int8, fp4, Fp4Weight, 0.5f, 0x03020100u, 0x0c080604u, 0xfdfeff00u, 0xf4f8fafcu)
MULTIPLY(int8, Integers)
