"""The C functions that every kernel begins with: they convert stored formats to numbers and back.

`precision` documents the formats and is the reference for these functions.
"""

PRELUDE = """\
#include <float.h>
#include <math.h>
#include <stdint.h>
#include <string.h>
#ifdef _OPENMP
#include <omp.h>
#include <time.h>
#endif

enum { CHUNK = 4096, BLOCK = 256, STRETCH = 16, SPINS = 2000 };

/* Where the threads of a call wait for each other: at first they spin, for some 0.1 ms, then they
   sleep. OpenMP's barrier spins for milliseconds by default, and where other processes run, the
   thread that is waited for does not get the processor meanwhile. */
typedef struct {
    int arrived, round;
} Meeting;

static __thread Meeting *meeting;

static inline void wait_for(int64_t team) {
#ifdef _OPENMP
    if (team == 1) return;
    const int round = __atomic_load_n(&meeting->round, __ATOMIC_ACQUIRE);
    if (__atomic_add_fetch(&meeting->arrived, 1, __ATOMIC_ACQ_REL) == team) {
        __atomic_store_n(&meeting->arrived, 0, __ATOMIC_RELAXED);
        __atomic_store_n(&meeting->round, round + 1, __ATOMIC_RELEASE);
        return;
    }
    const struct timespec nap = {0, 20000};
    for (int tries = 0; __atomic_load_n(&meeting->round, __ATOMIC_ACQUIRE) == round; ++tries) {
        if (tries >= SPINS) nanosleep(&nap, NULL);
#ifdef __x86_64__
        else __builtin_ia32_pause();
#endif
    }
#else
    (void)team;
#endif
}

/* The tensors of a call. They are processed in chunks, which no two threads share: `ends` counts
   the chunks up to and including each tensor, `begin` and `end` are the chunks to process. A tensor
   may be a shard: runs of elements with gaps between them in the whole one. */
typedef struct {
    int64_t count, begin, end;
    const int64_t *ends, *sizes, *numbers, *firsts, *wholes, *runs, *gaps;
    void *const *tensors;
    double *scratch;  /* the sums of each tensor, then of each chunk */
    int64_t pass;     /* the pass to make, from 1, if the caller completes the sums between them */
} Call;

/* The tensor that this chunk is of. */
static inline int64_t find_tensor(const Call *call, int64_t chunk) {
    int64_t least = 0, most = call->count - 1;
    while (least < most) {
        const int64_t middle = (least + most) / 2;
        if (call->ends[middle] <= chunk) least = middle + 1; else most = middle;
    }
    return least;
}

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

static inline uint16_t to_bfloat16_stochastic(float x, uint32_t random_bits) {
    uint32_t bits;
    memcpy(&bits, &x, 4);
    return (uint16_t)((x != x ? bits | 0x400000 : bits + random_bits) >> 16);
}

static inline float join_master(uint16_t p, int16_t low) {
    /* code that sets p to 0 leaves its low half, which must not be subtracted from 0 */
    const int32_t rest = (p & 0x7fff) || low > 0 ? low : 0;
    uint32_t bits = ((uint32_t)p << 16) + (uint32_t)rest;
    float value;
    memcpy(&value, &bits, 4);
    return value;
}

static inline uint16_t high_half(float x) {
    uint32_t bits;
    memcpy(&bits, &x, 4);
    return x != x ? 0x7fc0 : (uint16_t)((bits + 0x8000) >> 16);
}

static inline int16_t low_half(float x) {
    uint32_t bits;
    memcpy(&bits, &x, 4);
    return x != x ? 0 : (int16_t)(bits - ((bits + 0x8000) & 0xffff0000));
}

/* The value of a code, as a fraction of the largest of its block; 255 (or 127) is 1. */
static inline float from_code(int code, int most) {
    const uint32_t bits = code ? 0x3f800000 + ((uint32_t)(code - most) << 20) : 0;
    float value;
    memcpy(&value, &bits, 4);
    return value;
}

static inline float from_int8(int8_t code, float scale) {
    return (code < 0 ? -from_code(-code, 127) : from_code(code, 127)) * scale;
}

static inline float from_uint8(uint8_t code, float scale) {
    return from_code(code, 255) * scale;
}

static inline uint32_t hash_bits(uint32_t x) {
    x ^= x >> 16;
    x *= 0x7feb352d;
    x ^= x >> 15;
    x *= 0x846ca68b;
    return x ^ (x >> 16);
}

/* The largest |x| of a block, NaN if it has one: NaN has the largest bits. An infinity becomes the
   largest float: codes of 0 times an infinite scale would be NaN. */
static inline float largest(const float *x, int count) {
    uint32_t top = 0;
    for (int j = 0; j < count; ++j) {
        uint32_t bits;
        memcpy(&bits, x + j, 4);
        bits &= 0x7fffffff;
        top = bits > top ? bits : top;
    }
    top = top == 0x7f800000 ? 0x7f7fffff : top;
    float value;
    memcpy(&value, &top, 4);
    return value;
}

static inline float inverse(float top) {
    return top >= FLT_MIN && top <= FLT_MAX ? 1.0f / top : 0.0f;
}

/* The code of |x| by stochastic rounding; NaN counts as the largest. Non-negative numbers have the
   order of their bits, and bits are compared here: for floats compilers emit branches instead of
   vector instructions. */
static inline int to_code(float x, float inverse, uint32_t random_bits, int most) {
    const float y = fabsf(x) * inverse;
    uint32_t bits;
    memcpy(&bits, &y, 4);
    bits = bits < 0x3f800000 ? bits : 0x3f800000;
    const int code = (int)((bits + (random_bits << 4) + 8) >> 20) - (0x3f800000 >> 20) + most;
    return code > 0 ? code : 0;
}

/* The random words of a block: 16 bits for each of two states. */
__attribute__((noinline)) static void fill_random_words(uint32_t *restrict words, int count,
                                                        uint32_t key) {
    for (int i = 0; i < count; ++i) words[i] = hash_bits(key + (uint32_t)i * 0x9e3779b1u);
}

/* The codes of a block. These are separate functions: if they were inlined, compilers would split
   their loops by whether `inverse` is 0. */
__attribute__((noinline)) static void to_int8(const float *restrict x, int8_t *restrict codes,
                                              int count, float inverse,
                                              const uint32_t *restrict words, int shift) {
    for (int i = 0; i < count; ++i) {
        const int code = to_code(x[i], inverse, words[i] >> shift & 0xffff, 127);
        codes[i] = (int8_t)(x[i] < 0 ? -code : code);
    }
}

__attribute__((noinline)) static void to_uint8(const float *restrict x, uint8_t *restrict codes,
                                               int count, float inverse,
                                               const uint32_t *restrict words, int shift) {
    for (int i = 0; i < count; ++i) {
        const int code = to_code(x[i], inverse, words[i] >> shift & 0xffff, 255);
        const int least = x[i] > 0;
        codes[i] = (uint8_t)(code > least ? code : least);
    }
}
"""
