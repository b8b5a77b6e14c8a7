// Operators along one axis, the middle of [outer, length, inner]: softmax and its logarithm, l2-normalize, the masked mean,
// argmax and argmin. A lane's elements are shared by `parts` threads, which put their results together in shared memory.

typedef ELEMENT E;
typedef Traits<E>::Wide Wide;
static constexpr int EACH = 16 / sizeof(E);

struct Lanes {
    u64 input, output;
    u64 lanes, length, inner;
    // A power of two, and whether the parts of a lane are neighbours among the threads (else the lanes are).
    u32 parts, along;
    // Whether lanes are contiguous and every one begins at a multiple of 16 bytes.
    u32 packed;
    // Argmax or else argmin.
    u32 largest;
    // The mask of the masked mean, and the least divisor of l2-normalize.
    u64 mask;
    f64 epsilon;
    u32 mask_type, unused;
};

// Where a thread is: which part of which lane.
struct Place {
    u64 lane, base;
    u32 part, across;
    bool inside;
    INLINE Place(const Lanes &p) {
        const u32 together = THREADS / p.parts;
        part = p.along ? threadIdx.x % p.parts : threadIdx.x / together;
        lane = (u64)blockIdx.x * together + (p.along ? threadIdx.x / p.parts : threadIdx.x % together);
        inside = lane < p.lanes;
        const u64 row = lane / p.inner;
        base = row * p.length * p.inner + (lane - row * p.inner);
        // From one part of a lane to the next among the threads.
        across = p.along ? 1 : together;
    }
};

// Joins what the parts of each lane found; every thread of the block calls it, and gets its lane's result.
template <typename V, typename F> INLINE V joined(const Lanes &p, const Place &at, V own, V *shared, F join) {
    shared[threadIdx.x] = own;
    for (u32 step = p.parts / 2; step > 0; step /= 2) {
        __syncthreads();
        if (at.part < step) {
            shared[threadIdx.x] = join(shared[threadIdx.x], shared[threadIdx.x + step * at.across]);
        }
    }
    __syncthreads();
    const V result = shared[threadIdx.x - at.part * at.across];
    __syncthreads();
    return result;
}

// Calls `visit` with each element of the thread's part of a lane.
template <typename F> INLINE void visit(const Lanes &p, const Place &at, F visit) {
    if (!at.inside) return;
    const E *input = (const E *)p.input + at.base;
    if (p.packed) {
        for (u64 i = (u64)at.part * EACH; i < p.length; i += (u64)p.parts * EACH) {
            const Pack<E, EACH> pack = *(const Pack<E, EACH> *)(input + i);
#pragma unroll
            for (int j = 0; j < EACH; j++) visit(pack.at[j]);
        }
        return;
    }
    u64 i = at.part;
    const u64 parts = p.parts, inner = p.inner;
    // Several are read before the first is used.
    for (; i + 3 * parts < p.length; i += 4 * parts) {
        const E a = input[i * inner], b = input[(i + parts) * inner];
        const E c = input[(i + 2 * parts) * inner], d = input[(i + 3 * parts) * inner];
        visit(a);
        visit(b);
        visit(c);
        visit(d);
    }
    for (; i < p.length; i += parts) visit(input[i * inner]);
}

// Writes a function of each element of the thread's part of a lane.
template <typename F> INLINE void map(const Lanes &p, const Place &at, F function) {
    if (!at.inside) return;
    const E *input = (const E *)p.input + at.base;
    E *output = (E *)p.output + at.base;
    if (p.packed) {
        for (u64 i = (u64)at.part * EACH; i < p.length; i += (u64)p.parts * EACH) {
            Pack<E, EACH> pack = *(const Pack<E, EACH> *)(input + i);
#pragma unroll
            for (int j = 0; j < EACH; j++) pack.at[j] = function(pack.at[j]);
            *(Pack<E, EACH> *)(output + i) = pack;
        }
        return;
    }
    for (u64 i = at.part; i < p.length; i += p.parts) output[i * p.inner] = function(input[i * p.inner]);
}

#if IS_FLOAT
INLINE f32 exp_of(f32 x) { return expf(x); }
INLINE f64 exp_of(f64 x) { return exp(x); }
INLINE f32 log_of(f32 x) { return logf(x); }
INLINE f64 log_of(f64 x) { return log(x); }

// The largest so far, and the sum of e to the power of what each is below it.
struct Powers { Wide most, total; };

INLINE Wide scaled(Wide total, Wide own, Wide most) {
    // Both -infinity: nothing larger was seen yet, and what comes makes it nothing.
    return own == most && own < 0 ? total : total * exp_of(own - most);
}

// In one walk: a new largest scales what was added up before it.
INLINE Powers powers_of(const Lanes &p, const Place &at, Powers *shared) {
    const Wide least = -infinity_of((Wide)0);
    Powers own = {least, 0};
    visit(p, at, [&own](E x) {
        const Wide w = widen(x);
        if (w > own.most) {
            own.total = scaled(own.total, own.most, w) + exp_of(w - w);
            own.most = w;
        } else {
            own.total += w == own.most && w < 0 ? (Wide)1 : exp_of(w - own.most);
        }
    });
    return joined(p, at, own, shared, [](Powers a, Powers b) -> Powers {
        const Wide most = b.most > a.most ? b.most : a.most;
        return Powers{most, scaled(a.total, a.most, most) + scaled(b.total, b.most, most)};
    });
}

COOPERATIVE(softmax, Lanes) {
    SHARED Powers shared[THREADS];
    const Place at(p);
    const Powers all = powers_of(p, at, shared);
    map(p, at, [all](E x) -> E { return narrow<E>(exp_of(widen(x) - all.most) / all.total); });
}

COOPERATIVE(log_softmax, Lanes) {
    SHARED Powers shared[THREADS];
    const Place at(p);
    const Powers all = powers_of(p, at, shared);
    const Wide log = log_of(all.total);
    map(p, at, [all, log](E x) -> E { return narrow<E>(widen(x) - all.most - log); });
}

// In f64, so that the squares of large and small numbers stay numbers.
COOPERATIVE(l2_normalize, Lanes) {
    SHARED f64 shared[THREADS];
    const Place at(p);
    f64 own = 0;
    visit(p, at, [&own](E x) { const f64 w = (f64)widen(x); own += w * w; });
    const f64 length = sqrt(joined(p, at, own, shared, [](f64 a, f64 b) -> f64 { return a + b; }));
    const f64 divisor = length < p.epsilon ? p.epsilon : length;
    map(p, at, [divisor](E x) -> E { return narrow<E>((Wide)((f64)widen(x) / divisor)); });
}

struct Weighted { f64 total, weight; };

// Tokens are the length, features the inner axis; tokens of weight 0 are passed over.
COOPERATIVE(masked_mean_pool, Lanes) {
    SHARED Weighted shared[THREADS];
    const Place at(p);
    Weighted own = {0, 0};
    if (at.inside) {
        const u64 row = at.lane / p.inner;
        for (u64 token = at.part; token < p.length; token += p.parts) {
            const f64 weight = load_f64(p.mask, row * p.length + token, p.mask_type);
            own.weight += weight;
            if (weight != 0) own.total += (f64)widen(((const E *)p.input)[at.base + token * p.inner]) * weight;
        }
    }
    const Weighted all = joined(p, at, own, shared, [](Weighted a, Weighted b) -> Weighted {
        return Weighted{a.total + b.total, a.weight + b.weight};
    });
    if (at.inside && at.part == 0) {
        const f64 weight = all.weight < 1e-9 ? 1e-9 : all.weight;
        ((E *)p.output)[at.lane] = narrow<E>((Wide)(all.total / weight));
    }
}
#endif

struct Best { u64 key, index; };

// The first of the largest or smallest; of the NaNs where there are some.
COOPERATIVE(extreme, Lanes) {
    SHARED Best shared[THREADS];
    const Place at(p);
    Best own = {0, ~0ull};
    if (at.inside) {
        const E *input = (const E *)p.input + at.base;
        const u64 parts = p.parts, inner = p.inner;
        const bool largest = p.largest != 0;
        const auto see = [&own, largest](E x, u64 i) {
            const u64 key = largest ? rank(x) : reversed_rank(x);
            if (own.index == ~0ull || key > own.key) own = Best{key, i};
        };
        u64 i = at.part;
        // Several are read before the first is used.
        for (; i + 3 * parts < p.length; i += 4 * parts) {
            const E a = input[i * inner], b = input[(i + parts) * inner];
            const E c = input[(i + 2 * parts) * inner], d = input[(i + 3 * parts) * inner];
            see(a, i);
            see(b, i + parts);
            see(c, i + 2 * parts);
            see(d, i + 3 * parts);
        }
        for (; i < p.length; i += parts) see(input[i * inner], i);
    }
    const Best best = joined(p, at, own, shared, [](Best a, Best b) -> Best {
        return b.key > a.key || (b.key == a.key && b.index < a.index) ? b : a;
    });
    if (at.inside && at.part == 0) ((s64 *)p.output)[at.lane] = (s64)best.index;
}
