"""The C that every kernel starts with: how what is stored becomes numbers and back.

`precision` says what the formats mean, and is the reference for these functions.
"""

PRELUDE = """\
#include <float.h>
#include <math.h>
#include <stdint.h>
#include <string.h>
#ifdef _OPENMP
#include <omp.h>
#endif

enum { CHUNK = 4096, BLOCK = 256 };

/* The tensors of a call. They are walked in chunks, which no two threads share: `ends` counts the
   chunks up to and with each tensor, `begin` and `end` are the chunks to do. */
typedef struct {
    int64_t count, begin, end;
    const int64_t *ends, *sizes, *numbers;
    void *const *tensors;
    double *scratch;  /* sums of each tensor, then of each chunk */
} Call;

static inline float from_bfloat16(uint16_t x) {
    uint32_t bits = (uint32_t)x << 16;
    float value;
    memcpy(&value, &bits, 4);
    return value;
}

static inline uint16_t to_bfloat16(float x) {
    uint32_t bits;
    memcpy(&bits, &x, 4);
    uint32_t rounded = bits + 0x7fff + ((bits >> 16) & 1);
    return (uint16_t)((x != x ? bits | 0x400000 : rounded) >> 16);
}

static inline uint16_t to_bfloat16_by_chance(float x, uint32_t chance) {
    uint32_t bits;
    memcpy(&bits, &x, 4);
    return (uint16_t)((x != x ? bits | 0x400000 : bits + chance) >> 16);
}

static inline float joined(uint16_t p, int16_t low) {
    uint32_t bits = ((uint32_t)p << 16) + (uint32_t)(int32_t)low;
    float value;
    memcpy(&value, &bits, 4);
    return value;
}

static inline uint16_t upper(float x) {
    uint32_t bits;
    memcpy(&bits, &x, 4);
    return x != x ? 0x7fc0 : (uint16_t)((bits + 0x8000) >> 16);
}

static inline int16_t lower(float x) {
    uint32_t bits;
    memcpy(&bits, &x, 4);
    return x != x ? 0 : (int16_t)(bits - ((bits + 0x8000) & 0xffff0000));
}

static inline float from_int8(int8_t code, float scale) {
    const float y = (float)code / 127.0f;
    return y * fabsf(y) * scale;
}

static inline float from_uint8(uint8_t code, float scale) {
    float y = (float)code / 255.0f;
    y *= y;
    return y * y * scale;
}

/* y is |x| as a share of the largest of its block */
static inline int8_t to_int8(float x, float y, uint32_t chance) {
    y *= 127.0f * 127.0f;
    float code = (float)(int)sqrtf(y);
    code += y - code * code > ((float)chance + 0.5f) / 65536.0f * (2 * code + 1) ? 1.0f : 0.0f;
    code = code > 127.0f ? 127.0f : code;
    return (int8_t)(int)(x < 0 ? -code : code);
}

static inline uint8_t to_uint8(float y, uint32_t chance) {
    y *= 255.0f * 255.0f * 255.0f * 255.0f;
    float code = (float)(int)sqrtf(sqrtf(y));
    const float low = code * code * code * code, next = code + 1;
    const float high = next * next * next * next;
    code += y - low > ((float)chance + 0.5f) / 65536.0f * (high - low) ? 1.0f : 0.0f;
    code = code > 255.0f ? 255.0f : code;
    return (uint8_t)(int)(y > 0 && code < 1 ? 1.0f : code);
}

static inline uint32_t mixed(uint32_t x) {
    x ^= x >> 16;
    x *= 0x7feb352d;
    x ^= x >> 15;
    x *= 0x846ca68b;
    return x ^ (x >> 16);
}

/* The largest |x| of a block, NaN if there is one: NaN has the largest bits. */
static inline float largest(const float *x, int count) {
    uint32_t top = 0;
    for (int j = 0; j < count; ++j) {
        uint32_t bits;
        memcpy(&bits, x + j, 4);
        bits &= 0x7fffffff;
        top = bits > top ? bits : top;
    }
    float value;
    memcpy(&value, &top, 4);
    return value;
}
"""
