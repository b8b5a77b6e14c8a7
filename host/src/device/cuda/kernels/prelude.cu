// What every kernel needs: element types, their conversions and their order. A source is this file and one other, compiled
// for one element type (ELEMENT, and what it is: IS_FLOAT, IS_SIGNED, IS_INTEGER, IS_BOOLEAN). NVRTC compiles it for GPUs;
// in tests a C++ compiler does, after a header that gives CUDA's built-ins. No header of CUDA's is needed.

typedef unsigned char u8;
typedef signed char s8;
typedef unsigned short u16;
typedef short s16;
typedef unsigned int u32;
typedef int s32;
typedef unsigned long long u64;
typedef long long s64;
typedef float f32;
typedef double f64;
struct boolean { u8 bits; };
struct f16 { u16 bits; };
struct bf16 { u16 bits; };
struct alignas(16) u128 { u64 low, high; };

// Threads of every block.
#define THREADS 256
// Axes of a parameter; more are refused before a launch.
#define AXES 32

#ifndef ON_CPU
#define INLINE __device__ __forceinline__
#define NOINLINE static __device__ __noinline__
#define SHARED __shared__
// KERNEL has no barrier, COOPERATIVE may have some, which all threads of a block reach.
#define KERNEL(name, Parameters) extern "C" __global__ void __launch_bounds__(THREADS) name(const __grid_constant__ Parameters p)
#define COOPERATIVE(name, Parameters) KERNEL(name, Parameters)
#endif

// The thread's number in the whole launch, whose blocks lie along x.
INLINE u64 global_index() { return (u64)blockIdx.x * THREADS + threadIdx.x; }

// a / b, which takes a fraction of the time where both have 32 bits.
INLINE u64 quotient(u64 a, u64 b) { return ((a | b) >> 32) == 0 ? (u64)((u32)a / (u32)b) : a / b; }

INLINE f32 f32_of(u32 bits) { return __uint_as_float(bits); }
INLINE u32 bits_of(f32 x) { return __float_as_uint(x); }
INLINE u64 bits_of(f64 x) { return (u64)__double_as_longlong(x); }
INLINE f32 infinity_of(f32) { return f32_of(0x7f800000u); }
INLINE f64 infinity_of(f64) { return __longlong_as_double(0x7ff0000000000000ll); }

// Conversions of 16-bit floats. The C++ of the second branch is also what the CPU device does.
#if defined(__CUDA_ARCH__) && !defined(ON_CPU)
INLINE f32 widen(f16 x) {
    f32 wide;
    asm("cvt.f32.f16 %0, %1;" : "=f"(wide) : "h"(x.bits));
    return wide;
}
INLINE f16 narrow_f16(f32 x) {
    f16 narrow;
    asm("cvt.rn.f16.f32 %0, %1;" : "=h"(narrow.bits) : "f"(x));
    return narrow;
}
INLINE bf16 narrow_bf16(f32 x) {
    bf16 narrow;
    asm("cvt.rn.bf16.f32 %0, %1;" : "=h"(narrow.bits) : "f"(x));
    return narrow;
}
#else
INLINE f32 widen(f16 x) {
    u32 magnitude = (u32)(x.bits & 0x7fff) << 13, sign = (u32)(x.bits & 0x8000) << 16;
    f32 scaled = f32_of(magnitude) * f32_of(0x77800000u);
    u32 value = magnitude >= (0x7c00u << 13) ? magnitude | 0x7f800000u : bits_of(scaled);
    return f32_of(value | sign);
}
INLINE f16 narrow_f16(f32 x) {
    u32 bits = bits_of(x), sign = (bits >> 16) & 0x8000u, magnitude = bits & 0x7fffffffu;
    u32 rounded = magnitude + 0xfffu + ((magnitude >> 13) & 1u);
    u32 normal = (rounded - (112u << 23)) >> 13;
    u32 finite = magnitude < 0x38800000u ? bits_of(f32_of(magnitude) + 0.5f) - 0x3f000000u : (normal < 0x7c00u ? normal : 0x7c00u);
    finite = magnitude >= 0x47800000u ? 0x7c00u : finite;
    u32 result = magnitude > 0x7f800000u ? 0x7e00u : finite;
    return f16{(u16)(result | sign)};
}
INLINE bf16 narrow_bf16(f32 x) {
    u32 bits = bits_of(x);
    u32 rounded = (bits + 0x7fffu + ((bits >> 16) & 1u)) >> 16;
    return bf16{(u16)((bits & 0x7fffffffu) > 0x7f800000u ? (bits >> 16) | 0x40u : rounded)};
}
#endif
INLINE f32 widen(bf16 x) { return f32_of((u32)x.bits << 16); }
INLINE f32 widen(f32 x) { return x; }
INLINE f64 widen(f64 x) { return x; }
INLINE f32 widen(u8 x) { return (f32)x; }

// An f32 from which narrowing rounds as if from x itself: where it is inexact, its last bit is 1.
INLINE f32 odd_f32(f64 x) {
    f32 nearest = (f32)x;
    u32 bits = bits_of(nearest);
    bool exact = (f64)nearest == x || x != x || (bits & 1u);
    f64 size = fabs((f64)nearest);
    return exact ? nearest : f32_of(size > fabs(x) ? bits - 1u : bits + 1u);
}
// The same for 64-bit integers and f64.
INLINE f64 odd_f64(bool negative, u64 magnitude) {
    u64 lost = (magnitude & 0x7ff) != 0 ? 0x800 : 0;
    u64 kept = (magnitude >> 53) == 0 ? magnitude : (magnitude & ~0x7ffull) | lost;
    return negative ? -(f64)kept : (f64)kept;
}

// What a type is computed in, and what holds its order.
template <typename T> struct Traits;
#define INTEGER_TRAITS(T, Unsigned, Least, Greatest) \
    template <> struct Traits<T> { \
        typedef f32 Wide; typedef Unsigned Bits; typedef u64 Sum; \
        static constexpr bool is_float = false; \
        static INLINE T least() { return (T)(Least); } \
        static INLINE T greatest() { return (T)(Greatest); } \
    };
INTEGER_TRAITS(u8, u32, 0, 255)
INTEGER_TRAITS(s8, u32, -128, 127)
INTEGER_TRAITS(u16, u32, 0, 65535)
INTEGER_TRAITS(s16, u32, -32768, 32767)
INTEGER_TRAITS(u32, u32, 0, 4294967295u)
INTEGER_TRAITS(s32, u32, -2147483647 - 1, 2147483647)
INTEGER_TRAITS(u64, u64, 0, 18446744073709551615ull)
INTEGER_TRAITS(s64, u64, -9223372036854775807ll - 1, 9223372036854775807ll)
#define FLOAT_TRAITS(T, WideType, BitsType, Least, Greatest) \
    template <> struct Traits<T> { \
        typedef WideType Wide; typedef BitsType Bits; typedef f64 Sum; \
        static constexpr bool is_float = true; \
        static INLINE T least() { return Least; } \
        static INLINE T greatest() { return Greatest; } \
    };
FLOAT_TRAITS(f16, f32, u16, (f16{0xfc00}), (f16{0x7c00}))
FLOAT_TRAITS(bf16, f32, u16, (bf16{0xff80}), (bf16{0x7f80}))
FLOAT_TRAITS(f32, f32, u32, -infinity_of(0.0f), infinity_of(0.0f))
FLOAT_TRAITS(f64, f64, u64, -infinity_of(0.0), infinity_of(0.0))
template <> struct Traits<boolean> {
    typedef f32 Wide; typedef u8 Bits; typedef u64 Sum;
    static constexpr bool is_float = false;
    static INLINE boolean least() { return boolean{0}; }
    static INLINE boolean greatest() { return boolean{1}; }
};

// The nearest element, ties to even.
template <typename T> INLINE T narrow(typename Traits<T>::Wide x);
template <> INLINE f16 narrow<f16>(f32 x) { return narrow_f16(x); }
template <> INLINE bf16 narrow<bf16>(f32 x) { return narrow_bf16(x); }
template <> INLINE f32 narrow<f32>(f32 x) { return x; }
template <> INLINE f64 narrow<f64>(f64 x) { return x; }
// Saturated; beyond 2^23 an f32 has no fraction, so the sum is rounded half to even.
template <> INLINE u8 narrow<u8>(f32 x) {
    f32 low = x > 0.0f ? x : 0.0f;
    f32 clamped = low < 255.0f ? low : 255.0f;
    return (u8)bits_of(clamped + 8388608.0f);
}

// Conversions as `cast` of wit/operators.wit has them.
template <typename B, typename W> INLINE B saturate(W x) {
    if (x != x) return (B)0;
    if (x <= (W)Traits<B>::least()) return Traits<B>::least();
    if (x >= (W)Traits<B>::greatest()) return Traits<B>::greatest();
    return (B)x;
}
INLINE f32 odd(u8 x) { return (f32)x; }
INLINE f32 odd(s8 x) { return (f32)x; }
INLINE f32 odd(u16 x) { return (f32)x; }
INLINE f32 odd(s16 x) { return (f32)x; }
INLINE f32 odd(u32 x) { return odd_f32((f64)x); }
INLINE f32 odd(s32 x) { return odd_f32((f64)x); }
INLINE f32 odd(u64 x) { return odd_f32(odd_f64(false, x)); }
INLINE f32 odd(s64 x) { return odd_f32(odd_f64(x < 0, x < 0 ? 0 - (u64)x : (u64)x)); }
INLINE f32 odd(f16 x) { return widen(x); }
INLINE f32 odd(bf16 x) { return widen(x); }
INLINE f32 odd(f32 x) { return x; }
INLINE f32 odd(f64 x) { return odd_f32(x); }
INLINE f32 odd(boolean x) { return (f32)x.bits; }
// What arithmetic conversions start from.
template <typename A> INLINE A plain(A x) { return x; }
INLINE f32 plain(f16 x) { return widen(x); }
INLINE f32 plain(bf16 x) { return widen(x); }
INLINE u8 plain(boolean x) { return x.bits; }

template <typename B, bool from_float, bool to_integer> struct Convert {
    template <typename W> static INLINE B of(W x) { return (B)x; }
};
template <typename B> struct Convert<B, true, true> {
    template <typename W> static INLINE B of(W x) { return saturate<B, W>(x); }
};
template <typename A, typename B> struct Cast {
    static INLINE B of(A x) { return Convert<B, Traits<A>::is_float, !Traits<B>::is_float>::of(plain(x)); }
};
template <typename A> struct Cast<A, f16> {
    static INLINE f16 of(A x) { return narrow_f16(odd(x)); }
};
template <typename A> struct Cast<A, bf16> {
    static INLINE bf16 of(A x) { return narrow_bf16(odd(x)); }
};
template <typename A> struct Cast<A, boolean> {
    static INLINE boolean of(A x) { return boolean{(u8)(plain(x) != 0)}; }
};
template <typename A> INLINE f32 to_f32(A x) { return Cast<A, f32>::of(x); }
template <typename A> INLINE f64 to_f64(A x) { return Cast<A, f64>::of(x); }

// An unsigned number in the order of the elements: NaN above all, the two zeros equal.
INLINE u64 rank(boolean x) { return x.bits; }
INLINE u64 rank(u8 x) { return x; }
INLINE u64 rank(u16 x) { return x; }
INLINE u64 rank(u32 x) { return x; }
INLINE u64 rank(u64 x) { return x; }
INLINE u64 rank(s8 x) { return (u64)((s32)x + 128); }
INLINE u64 rank(s16 x) { return (u64)((s32)x + 32768); }
INLINE u64 rank(s32 x) { return (u32)x ^ 0x80000000u; }
INLINE u64 rank(s64 x) { return (u64)x ^ 0x8000000000000000ull; }
template <int WIDTH> INLINE u64 float_rank(u64 bits, u64 infinity) {
    const u64 sign = 1ull << (WIDTH - 1), magnitude = bits & (sign - 1);
    if (magnitude > infinity) return 2 * sign - 1;
    return (bits & sign) ? sign - magnitude : sign + magnitude;
}
INLINE u64 rank(f16 x) { return float_rank<16>(x.bits, 0x7c00); }
INLINE u64 rank(bf16 x) { return float_rank<16>(x.bits, 0x7f80); }
INLINE u64 rank(f32 x) { return float_rank<32>(bits_of(x), 0x7f800000u); }
INLINE u64 rank(f64 x) { return float_rank<64>(bits_of(x), 0x7ff0000000000000ull); }
// The same with smaller elements above larger ones; NaN stays above all.
template <typename T> INLINE u64 reversed_rank(T x) {
    u64 place = rank(x);
    bool is_nan = Traits<T>::is_float && plain(x) != plain(x);
    return is_nan ? place : (Traits<T>::is_float ? (0ull - place) & (~0ull >> (64 - 8 * sizeof(T))) : ~place);
}

// Elements that are loaded and stored as one.
template <typename T, int N> struct alignas(sizeof(T) * N) Pack { T at[N]; };

// An element of a type that is known only when the kernel runs; the codes are those of dtype_code in parameters.rs.
INLINE f64 load_f64(u64 address, u64 index, u32 code) {
    switch (code) {
        case 0: return (f64)((const u8 *)address)[index];
        case 1: return (f64)((const u8 *)address)[index];
        case 2: return (f64)((const s8 *)address)[index];
        case 3: return (f64)((const u16 *)address)[index];
        case 4: return (f64)((const s16 *)address)[index];
        case 5: return (f64)((const u32 *)address)[index];
        case 6: return (f64)((const s32 *)address)[index];
        case 7: return (f64)((const u64 *)address)[index];
        case 8: return (f64)((const s64 *)address)[index];
        case 9: return (f64)widen(((const f16 *)address)[index]);
        case 10: return (f64)widen(((const bf16 *)address)[index]);
        case 11: return (f64)((const f32 *)address)[index];
        default: return ((const f64 *)address)[index];
    }
}

// A place on an axis that an index means, counted from the end where it is negative; `length` where it means none.
INLINE u64 load_place(u64 address, u64 index, u32 code, u64 length) {
    s64 value;
    switch (code) {
        case 1: value = ((const u8 *)address)[index]; break;
        case 2: value = ((const s8 *)address)[index]; break;
        case 3: value = ((const u16 *)address)[index]; break;
        case 4: value = ((const s16 *)address)[index]; break;
        case 5: value = ((const u32 *)address)[index]; break;
        case 6: value = ((const s32 *)address)[index]; break;
        case 7: {
            u64 place = ((const u64 *)address)[index];
            return place < length ? place : length;
        }
        default: value = ((const s64 *)address)[index]; break;
    }
    if (value < 0) value += (s64)length;
    return value >= 0 && (u64)value < length ? (u64)value : length;
}

// Where an element of the result of a copy with strides comes from, and how far along the last axis it is.
template <typename P> INLINE s64 source_of(const P &p, u64 index, u64 &inner) {
    s64 at = (s64)p.start;
    inner = 0;
    for (u32 axis = p.axes; axis-- > 0;) {
        const u64 dim = p.dims[axis], rest = quotient(index, dim), step = index - rest * dim;
        at += (s64)step * p.strides[axis];
        if (axis + 1 == p.axes) inner = step;
        index = rest;
    }
    return at;
}

// A copy with strides of what `element` makes of each place of the input: it is told the place, and whether the last axis begins anew
// there for this thread. Every thread writes 16 bytes.
template <typename B, typename P, typename Element> INLINE void write_moved(const P &p, Element element) {
    constexpr u64 EACH = 16 / sizeof(B);
    const u64 first = global_index() * EACH;
    if (first >= p.count) return;
    const u64 end = first + EACH < p.count ? first + EACH : p.count;
    const u64 length = p.axes > 0 ? p.dims[p.axes - 1] : 1;
    const s64 stride = p.axes > 0 ? p.strides[p.axes - 1] : 0;
    u64 inner;
    s64 at = source_of(p, first, inner);
    bool anew = true;
    Pack<B, EACH> pack;
#pragma unroll
    for (u64 j = 0; j < EACH; j++) {
        if (first + j < end) {
            if (inner == length) {
                at = source_of(p, first + j, inner);
                anew = true;
            }
            pack.at[j] = element(at, anew);
            anew = false;
            inner++;
            at += stride;
        }
    }
    B *output = (B *)p.output + first;
    if (end == first + EACH) {
        *(Pack<B, EACH> *)output = pack;
        return;
    }
#pragma unroll
    for (u64 j = 0; j < EACH; j++) {
        if (first + j < end) output[j] = pack.at[j];
    }
}
