// Products of fragments whose elements are bytes.
#include "block.h"

namespace emulator {

namespace {

template <typename T>
struct Fragments {
    T* d;
    const u32* a;
    const u32* b;
    const T* c;
};

float signed_byte(u32 byte) { return float(i32(byte ^ 0x80) - 128); }

// Four exponent bits of bias 7 and three of mantissa.
float e4m3(u32 byte) {
    const u32 magnitude = byte & 0x7f, sign = byte >> 7 << 31;
    if (magnitude == 0x7f) return cast<float>(0x7fffffffu);
    if (magnitude < 8) return cast<float>(cast<u32>(float(magnitude) * 0x1p-9f) | sign);
    return cast<float>(sign | ((magnitude << 20) + (120u << 23)));
}

// D[16][8] = C + A[16][32] B[32][8]; sums in the order of k. Every byte is a float.
template <typename T, float (*value)(u32), T (*add)(T, float)>
void multiply(void* const* operands) {
    const auto* own = reinterpret_cast<Fragments<T>* const*>(operands);
    float a[16][32], b[32][8];
    for (u32 lane = 0; lane < WARP; lane++) {
        const u32 g = lane / 4, t = 4 * (lane % 4);
        for (u32 byte = 0; byte < 4; byte++) {
            for (u32 i = 0; i < 4; i++) {
                a[g + 8 * (i % 2)][t + 16 * (i / 2) + byte] = value(own[lane]->a[i] >> 8 * byte & 0xff);
            }
            for (u32 i = 0; i < 2; i++) b[t + 16 * i + byte][g] = value(own[lane]->b[i] >> 8 * byte & 0xff);
        }
    }
    for (u32 lane = 0; lane < WARP; lane++) {
        for (u32 i = 0; i < 4; i++) {
            const u32 row = lane / 4 + 8 * (i / 2), column = 2 * (lane % 4) + i % 2;
            T sum = own[lane]->c[i];
            for (u32 k = 0; k < 32; k++) sum = add(sum, a[row][k] * b[k][column]);
            own[lane]->d[i] = sum;
        }
    }
}

// Modulo 2^32, as the registers are.
i32 add_integers(i32 sum, float product) { return i32(u32(sum) + u32(i32(product))); }
float add_floats(float sum, float product) { return sum + product; }

}  // namespace

void mma_s8(i32* d, const u32* a, const u32* b, const i32* c, const char* file, u32 line) {
    Fragments<i32> own = {d, a, b, c};
    running->collective(Wait::Mma, &own, multiply<i32, signed_byte, add_integers>, file, line);
}

void mma_e4m3(float* d, const u32* a, const u32* b, const float* c, const char* file, u32 line) {
    Fragments<float> own = {d, a, b, c};
    running->collective(Wait::Mma, &own, multiply<float, e4m3, add_floats>, file, line);
}

}  // namespace emulator
