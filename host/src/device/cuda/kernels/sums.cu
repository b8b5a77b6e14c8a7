// Reductions over any axes and cumulative sums. Floats are added up in f64, integers wrap.

typedef ELEMENT E;
typedef Traits<E>::Wide Wide;
typedef Traits<E>::Sum Sum;

struct Reduced {
    u64 input, output;
    // Results, elements of the input for each, and how many runs these are cut into.
    u64 results, count, segments, run;
    // As in lanes.cu.
    u32 parts, along;
    // Axes of the result and axes that are reduced, each with the strides of the input.
    u32 kept_axes, reduced_axes;
    u64 kept[AXES], kept_strides[AXES];
    u64 reduced[AXES], reduced_strides[AXES];
};

struct Scanned {
    u64 input, output;
    u64 outer, length, inner;
    u32 exclusive, reverse;
};

#if !IS_BOOLEAN
INLINE Sum sum_of(E x) {
#if IS_FLOAT
    return (f64)widen(x);
#else
    return (u64)x;
#endif
}
INLINE E of_sum(Sum sum) {
#if IS_FLOAT
    return narrow<E>((Wide)sum);
#else
    return (E)sum;
#endif
}
struct SumFold {
    typedef Sum Part;
    static INLINE Part start() { return 0; }
    static INLINE Part put(Part part, E x) { return part + sum_of(x); }
    static INLINE Part join(Part a, Part b) { return a + b; }
    static INLINE E finish(Part part, u64) { return of_sum(part); }
};
#endif
#if IS_FLOAT
struct MeanFold : SumFold {
    static INLINE E finish(f64 part, u64 count) { return of_sum(part / (f64)count); }
};
struct LengthFold : SumFold {
    static INLINE f64 put(f64 part, E x) { const f64 w = (f64)widen(x); return part + w * w; }
    static INLINE E finish(f64 part, u64) { return of_sum(sqrt(part)); }
};
#endif
// NaN if either is.
struct LargestFold {
    typedef E Part;
    static INLINE E start() { return Traits<E>::least(); }
    static INLINE E join(E a, E b) { return plain(a) != plain(a) || plain(a) >= plain(b) ? a : b; }
    static INLINE E put(E part, E x) { return join(part, x); }
    static INLINE E finish(E part, u64) { return part; }
};
struct SmallestFold {
    typedef E Part;
    static INLINE E start() { return Traits<E>::greatest(); }
    static INLINE E join(E a, E b) { return plain(a) != plain(a) || plain(a) <= plain(b) ? a : b; }
    static INLINE E put(E part, E x) { return join(part, x); }
    static INLINE E finish(E part, u64) { return part; }
};

INLINE u64 offset_of(u64 index, u32 axes, const u64 *dims, const u64 *strides) {
    u64 offset = 0;
    for (u32 axis = axes; axis-- > 1;) {
        const u64 rest = quotient(index, dims[axis]);
        offset += (index - rest * dims[axis]) * strides[axis];
        index = rest;
    }
    return axes > 0 ? offset + index * strides[0] : offset;
}

// `from_parts`: the input is what another launch left, one part for each result and segment.
template <typename F, bool from_parts> INLINE void reduce(const Reduced &p, typename F::Part *shared) {
    typedef typename F::Part Part;
    const u32 together = THREADS / p.parts, across = p.along ? 1 : together;
    const u32 part = p.along ? threadIdx.x % p.parts : threadIdx.x / together;
    const u64 lane = (u64)blockIdx.x * together + (p.along ? threadIdx.x / p.parts : threadIdx.x % together);
    const u64 segment = lane / p.results, result = lane - segment * p.results;
    const bool inside = segment < p.segments;
    Part own = F::start();
    if (inside) {
        if (from_parts) {
            for (u64 i = part; i < p.count; i += p.parts) {
                own = F::join(own, ((const Part *)p.input)[i * p.results + result]);
            }
        } else {
            const E *input = (const E *)p.input + offset_of(result, p.kept_axes, p.kept, p.kept_strides);
            const u64 first = segment * p.run, end = first + p.run < p.count ? first + p.run : p.count;
            u64 i = first + part;
            // Several are read before the first is used.
            if (p.reduced_axes == 1) {
                const u64 step = p.reduced_strides[0], parts = p.parts;
                for (; i + 3 * parts < end; i += 4 * parts) {
                    const E a = input[i * step], b = input[(i + parts) * step];
                    const E c = input[(i + 2 * parts) * step], d = input[(i + 3 * parts) * step];
                    own = F::put(F::put(F::put(F::put(own, a), b), c), d);
                }
            }
            for (; i < end; i += p.parts) {
                own = F::put(own, input[offset_of(i, p.reduced_axes, p.reduced, p.reduced_strides)]);
            }
        }
    }
    shared[threadIdx.x] = own;
    for (u32 step = p.parts / 2; step > 0; step /= 2) {
        __syncthreads();
        if (part < step) shared[threadIdx.x] = F::join(shared[threadIdx.x], shared[threadIdx.x + step * across]);
    }
    __syncthreads();
    if (inside && part == 0) {
        if (p.segments > 1) ((Part *)p.output)[lane] = shared[threadIdx.x];
        else ((E *)p.output)[result] = F::finish(shared[threadIdx.x], from_parts ? p.run : p.count);
    }
}

#define REDUCTION(name, Fold) \
    COOPERATIVE(reduce_##name, Reduced) { \
        SHARED Fold::Part shared[THREADS]; \
        reduce<Fold, false>(p, shared); \
    } \
    COOPERATIVE(join_##name, Reduced) { \
        SHARED Fold::Part shared[THREADS]; \
        reduce<Fold, true>(p, shared); \
    }

REDUCTION(maximum, LargestFold)
REDUCTION(minimum, SmallestFold)
#if !IS_BOOLEAN
REDUCTION(sum, SumFold)
#endif
#if IS_FLOAT
REDUCTION(mean, MeanFold)
REDUCTION(l2, LengthFold)
#endif

#if !IS_BOOLEAN
// A thread for each lane.
KERNEL(scan_lanes, Scanned) {
    const u64 lane = global_index();
    if (lane >= p.outer * p.inner) return;
    const u64 row = lane / p.inner, base = row * p.length * p.inner + (lane - row * p.inner);
    const E *input = (const E *)p.input + base;
    E *output = (E *)p.output + base;
    Sum sum = 0;
    for (u64 i = 0; i < p.length; i++) {
        const u64 at = (p.reverse ? p.length - 1 - i : i) * p.inner;
        const Sum next = sum + sum_of(input[at]);
        output[at] = of_sum(p.exclusive ? sum : next);
        sum = next;
    }
}

// A block for each lane.
COOPERATIVE(scan_rows, Scanned) {
    SHARED Sum shared[2][THREADS];
    SHARED Sum carried;
    const u64 row = blockIdx.x / p.inner, base = row * p.length * p.inner + (blockIdx.x - row * p.inner);
    const E *input = (const E *)p.input + base;
    E *output = (E *)p.output + base;
    const u32 own = threadIdx.x;
    if (own == 0) carried = 0;
    for (u64 first = 0; first < p.length; first += THREADS) {
        const u64 i = first + own;
        const u64 at = (p.reverse ? p.length - 1 - i : i) * p.inner;
        u32 now = 0;
        shared[0][own] = i < p.length ? sum_of(input[at]) : 0;
        __syncthreads();
        for (u32 step = 1; step < THREADS; step *= 2) {
            shared[1 - now][own] = own >= step ? shared[now][own - step] + shared[now][own] : shared[now][own];
            now = 1 - now;
            __syncthreads();
        }
        const Sum before = carried, inclusive = shared[now][own];
        const Sum exclusive = own > 0 ? shared[now][own - 1] : 0;
        if (i < p.length) output[at] = of_sum(before + (p.exclusive ? exclusive : inclusive));
        __syncthreads();
        if (own == THREADS - 1) carried = before + inclusive;
        __syncthreads();
    }
}
#endif
