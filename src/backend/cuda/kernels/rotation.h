// What is done to a pair of elements by a rotary position embedding.
#pragma once
#include "gpu.h"

// By the angle of that cosine and sine.
DEVICE void turn(float& low, float& high, float cosine, float sine) {
    const float a = low, b = high;
    low = a * cosine - b * sine;
    high = b * cosine + a * sine;
}
