// Functions of one element, arithmetic and comparisons of two that broadcast.

typedef ELEMENT E;
typedef Traits<E>::Wide Wide;
typedef Traits<E>::Bits Bits;
// Elements of 16 bytes.
static constexpr int EACH = 16 / sizeof(E);

struct One {
    u64 count, input, output;
    // Bounds of clamp, as the bits of an element.
    u64 low, high;
    // Whether both addresses are multiples of 16.
    u32 aligned, unused;
};

struct Two {
    u64 count, a, b, output;
    // 0: both move along; 1: b stands; 2: a stands; 3: by strides.
    u32 mode, aligned, axes, unused;
    u64 dims[AXES], a_strides[AXES], b_strides[AXES];
};

#if IS_INTEGER
INLINE E wrapped(Bits x) { return (E)x; }
#endif

// CUDA's own functions are within 2 units of the last place (erf 2, tanh 2, exp 2, log 1, pow 4).
INLINE f32 exp_of(f32 x) { return expf(x); }
INLINE f64 exp_of(f64 x) { return exp(x); }
INLINE f32 log_of(f32 x) { return logf(x); }
INLINE f64 log_of(f64 x) { return log(x); }
INLINE f32 sqrt_of(f32 x) { return sqrtf(x); }
INLINE f64 sqrt_of(f64 x) { return sqrt(x); }
INLINE f32 floor_of(f32 x) { return floorf(x); }
INLINE f64 floor_of(f64 x) { return floor(x); }
INLINE f32 ceil_of(f32 x) { return ceilf(x); }
INLINE f64 ceil_of(f64 x) { return ceil(x); }
INLINE f32 round_of(f32 x) { return rintf(x); }
INLINE f64 round_of(f64 x) { return rint(x); }
INLINE f32 tanh_of(f32 x) { return tanhf(x); }
INLINE f64 tanh_of(f64 x) { return tanh(x); }
INLINE f32 erf_of(f32 x) { return erff(x); }
INLINE f64 erf_of(f64 x) { return erf(x); }
INLINE f32 power_of(f32 x, f32 y) { return powf(x, y); }
INLINE f64 power_of(f64 x, f64 y) { return pow(x, y); }

template <typename F> INLINE void each(const One &p, F function) {
    const u64 first = global_index() * EACH;
    if (first >= p.count) return;
    const E *input = (const E *)p.input;
    E *output = (E *)p.output;
    const bool whole = first + EACH <= p.count;
    Pack<E, EACH> pack = {};
    if (whole && p.aligned) {
        pack = *(const Pack<E, EACH> *)(input + first);
    } else {
#pragma unroll
        for (int i = 0; i < EACH; i++)
            if (first + i < p.count) pack.at[i] = input[first + i];
    }
#pragma unroll
    for (int i = 0; i < EACH; i++) pack.at[i] = function(pack.at[i]);
    if (whole) {
        *(Pack<E, EACH> *)(output + first) = pack;
        return;
    }
#pragma unroll
    for (int i = 0; i < EACH; i++)
        if (first + i < p.count) output[first + i] = pack.at[i];
}

#define UNARY(name, ...) \
    KERNEL(name, One) { \
        each(p, [](E x) -> E { __VA_ARGS__; }); \
    }
#define WIDE_UNARY(name, expression) \
    UNARY(name, { Wide w = widen(x); return narrow<E>(expression); })

#if IS_BOOLEAN
UNARY(logical_not, return boolean{(u8)(x.bits ^ 1)})
#endif
#if IS_FLOAT
#if defined(ELEMENT_F16) || defined(ELEMENT_BF16)
UNARY(absolute, { x.bits &= 0x7fff; return x; })
UNARY(negate, { x.bits ^= 0x8000; return x; })
#else
UNARY(absolute, return fabs(x))
UNARY(negate, return -x)
#endif
WIDE_UNARY(sign, w > 0 ? (Wide)1 : w < 0 ? (Wide)-1 : w)
WIDE_UNARY(relu, w < 0 ? (Wide)0 : w)
WIDE_UNARY(exponential, exp_of(w))
WIDE_UNARY(logarithm, log_of(w))
WIDE_UNARY(square_root, sqrt_of(w))
WIDE_UNARY(reciprocal, (Wide)1 / w)
WIDE_UNARY(round_down, floor_of(w))
WIDE_UNARY(round_up, ceil_of(w))
WIDE_UNARY(round_even, round_of(w))
// exp(-x) is infinite where the result is not nothing yet.
WIDE_UNARY(sigmoid, (w < (Wide)0 ? exp_of(w) : (Wide)1) / ((Wide)1 + exp_of(w < (Wide)0 ? w : -w)))
WIDE_UNARY(hyperbolic_tangent, tanh_of(w))
WIDE_UNARY(gelu, w * (Wide)0.5 * ((Wide)1 + erf_of(w * (Wide)0.70710678118654752440)))
WIDE_UNARY(error_function, erf_of(w))
#endif
#if IS_INTEGER
#if IS_SIGNED
UNARY(absolute, return x < 0 ? wrapped((Bits)0 - (Bits)x) : x)
UNARY(negate, return wrapped((Bits)0 - (Bits)x))
UNARY(sign, return (E)((x > 0) - (x < 0)))
UNARY(relu, return x < 0 ? (E)0 : x)
#else
UNARY(absolute, return x)
UNARY(sign, return (E)(x != 0))
#endif
#endif

#if !IS_BOOLEAN
INLINE E element_of(u64 bits) {
#if defined(ELEMENT_F16) || defined(ELEMENT_BF16)
    return E{(u16)bits};
#elif defined(ELEMENT_F32)
    return f32_of((u32)bits);
#elif defined(ELEMENT_F64)
    return __longlong_as_double((s64)bits);
#else
    return (E)bits;
#endif
}

KERNEL(clamp, One) {
    const E low = element_of(p.low), high = element_of(p.high);
    each(p, [low, high](E x) -> E {
        E raised = plain(x) < plain(low) ? low : x;
        return plain(raised) > plain(high) ? high : raised;
    });
}
#endif

// Where element `index` of the result comes from in both operands.
NOINLINE void offsets_of(const Two &p, u64 index, u64 &at_a, u64 &at_b) {
    at_a = 0;
    at_b = 0;
    if (p.count <= 0xffffffffull) {
        u32 rest = (u32)index;
        for (u32 axis = p.axes; axis-- > 0;) {
            const u32 dim = (u32)p.dims[axis], step = rest % dim;
            rest /= dim;
            at_a += step * p.a_strides[axis];
            at_b += step * p.b_strides[axis];
        }
        return;
    }
    u64 rest = index;
    for (u32 axis = p.axes; axis-- > 0;) {
        const u64 dim = p.dims[axis], step = rest % dim;
        rest /= dim;
        at_a += step * p.a_strides[axis];
        at_b += step * p.b_strides[axis];
    }
}

// Loads an operand's elements; `stands`: one element for all.
INLINE void load(Pack<E, EACH> &to, const E *from, u64 first, u64 count, bool stands, bool packed) {
    if (packed && !stands) {
        to = *(const Pack<E, EACH> *)(from + first);
        return;
    }
#pragma unroll
    for (int i = 0; i < EACH; i++)
        if (first + i < count) to.at[i] = from[stands ? 0 : first + i];
}

// Writes function(a, b) of each pair; a result of R.
template <typename R, typename F> INLINE void pairs(const Two &p, F function) {
    const u64 first = global_index() * EACH;
    if (first >= p.count) return;
    const E *a = (const E *)p.a, *b = (const E *)p.b;
    R *output = (R *)p.output;
    const bool whole = first + EACH <= p.count;
    Pack<E, EACH> x = {}, y = {};
    Pack<R, EACH> z;
    if (p.mode == 3) {
#pragma unroll
        for (int i = 0; i < EACH; i++) {
            if (first + i < p.count) {
                u64 at_a, at_b;
                offsets_of(p, first + i, at_a, at_b);
                x.at[i] = a[at_a];
                y.at[i] = b[at_b];
            }
        }
    } else {
        load(x, a, first, p.count, p.mode == 2, whole && p.aligned);
        load(y, b, first, p.count, p.mode == 1, whole && p.aligned);
    }
#pragma unroll
    for (int i = 0; i < EACH; i++) z.at[i] = function(x.at[i], y.at[i]);
    if (whole) {
        *(Pack<R, EACH> *)(output + first) = z;
        return;
    }
#pragma unroll
    for (int i = 0; i < EACH; i++)
        if (first + i < p.count) output[first + i] = z.at[i];
}

#define BINARY(name, ...) \
    KERNEL(name, Two) { \
        pairs<E>(p, [](E a, E b) -> E { __VA_ARGS__; }); \
    }
#define COMPARISON(name, operator) \
    KERNEL(name, Two) { \
        pairs<boolean>(p, [](E a, E b) -> boolean { return boolean{(u8)(plain(a) operator plain(b))}; }); \
    }

COMPARISON(equal, ==)
COMPARISON(not_equal, !=)
COMPARISON(less, <)
COMPARISON(less_or_equal, <=)
COMPARISON(greater, >)
COMPARISON(greater_or_equal, >=)

#if IS_BOOLEAN
BINARY(minimum, return boolean{(u8)(a.bits & b.bits)})
BINARY(maximum, return boolean{(u8)(a.bits | b.bits)})
#endif
#if IS_FLOAT
#define WIDE_BINARY(name, expression) \
    BINARY(name, { Wide x = widen(a), y = widen(b); return narrow<E>(expression); })
WIDE_BINARY(add, x + y)
WIDE_BINARY(subtract, x - y)
WIDE_BINARY(multiply, x * y)
WIDE_BINARY(divide, x / y)
WIDE_BINARY(power, power_of(x, y))
// The first where it is NaN, else the second where that is.
BINARY(minimum, { Wide x = widen(a), y = widen(b); return x != x || (x <= y && y == y) ? a : b; })
BINARY(maximum, { Wide x = widen(a), y = widen(b); return x != x || (x >= y && y == y) ? a : b; })
#endif
#if IS_INTEGER
BINARY(add, return wrapped((Bits)a + (Bits)b))
BINARY(subtract, return wrapped((Bits)a - (Bits)b))
BINARY(multiply, return wrapped((Bits)a * (Bits)b))
BINARY(minimum, return b < a ? b : a)
BINARY(maximum, return b > a ? b : a)
#if IS_SIGNED
BINARY(divide, return b == 0 ? (E)0 : b == (E)-1 ? wrapped((Bits)0 - (Bits)a) : (E)(a / b))
BINARY(modulo, {
    if (b == 0 || b == (E)-1) return (E)0;
    E rest = (E)(a % b);
    return rest != 0 && (rest < 0) != (b < 0) ? (E)(rest + b) : rest;
})
#else
BINARY(divide, return b == 0 ? (E)0 : (E)(a / b))
BINARY(modulo, return b == 0 ? (E)0 : (E)(a % b))
#endif
#endif
