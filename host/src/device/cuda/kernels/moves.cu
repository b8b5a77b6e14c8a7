// Moves elements of a width (ELEMENT is u8, u16, u32, u64 or u128) without looking at what they mean.

typedef ELEMENT E;

struct Strided {
    u64 count, input, output;
    u64 start;
    u32 axes, unused;
    u64 dims[AXES];
    s64 strides[AXES];
};

struct Transposed {
    u64 input, output;
    // A plane: rows lie side by side in the input, columns in the output.
    u64 rows, columns;
    // From one column of the input to the next, from one row of the output to the next.
    s64 source_step, target_step;
    u64 planes, start;
    u32 axes, unused;
    u64 dims[AXES];
    s64 source_strides[AXES], target_strides[AXES];
};

struct Padded {
    u64 count, input, output;
    // Elements that move as one behind the last padded axis.
    u64 block;
    // The bits of what is filled in.
    u64 constant;
    // 0: constant, 1: edge, 2: reflect.
    u32 mode, axes;
    u64 source[AXES], before[AXES], target[AXES];
};

struct Rows {
    u64 count, input, output;
    // Elements of each row, and from one row to the next.
    u64 length, input_row, output_row;
};

struct Gathered {
    u64 count, input, output, indices;
    u64 places, length, inner;
    u32 index_type, unused;
};

struct OneHot {
    u64 count, indices, output;
    u64 depth, inner, one;
    u32 index_type, unused;
};

struct Selected {
    u64 count, condition, a, b, output;
    u32 axes, unused;
    u64 dims[AXES], condition_strides[AXES], a_strides[AXES], b_strides[AXES];
};

struct Checked {
    u64 count, indices, length;
    // Two words: the least index in the list that means no place, and its value.
    u64 fault;
    u32 index_type, unused;
};

KERNEL(strided_copy, Strided) {
    const E *input = (const E *)p.input;
    write_moved<E>(p, [&](s64 at, bool) { return input[at]; });
}

// Tiles of 32 by 32, so that both sides are read and written along their rows.
COOPERATIVE(transpose, Transposed) {
    SHARED E tile[32][33];
    const u64 across = (p.columns + 31) / 32, down = (p.rows + 31) / 32;
    const u64 place = blockIdx.x % (across * down);
    u64 plane = blockIdx.x / (across * down);
    s64 from = (s64)p.start, to = 0;
    for (u32 axis = p.axes; axis-- > 0;) {
        const s64 step = (s64)(plane % p.dims[axis]);
        plane /= p.dims[axis];
        from += step * p.source_strides[axis];
        to += step * p.target_strides[axis];
    }
    const u64 row = place / across * 32, column = place % across * 32;
    const u32 x = threadIdx.x % 32, y = threadIdx.x / 32;
    for (u32 step = y; step < 32; step += THREADS / 32) {
        if (row + x < p.rows && column + step < p.columns)
            tile[step][x] = ((const E *)p.input)[from + (s64)(row + x) + (s64)(column + step) * p.source_step];
    }
    __syncthreads();
    for (u32 step = y; step < 32; step += THREADS / 32) {
        if (row + step < p.rows && column + x < p.columns)
            ((E *)p.output)[to + (s64)(row + step) * p.target_step + (s64)(column + x)] = tile[x][step];
    }
}

#ifdef ELEMENT_U128
INLINE E filled(u64 bits) { return u128{bits, bits}; }
#else
INLINE E filled(u64 bits) { return (E)bits; }
#endif

KERNEL(pad, Padded) {
    const u64 index = global_index();
    if (index >= p.count) return;
    u64 rest = index / p.block, at = 0, step = 1;
    bool inside = true;
    for (u32 axis = p.axes; axis-- > 0;) {
        const u64 place = rest % p.target[axis], before = p.before[axis], length = p.source[axis];
        rest /= p.target[axis];
        u64 source;
        if (place >= before && place - before < length) source = place - before;
        else if (p.mode == 0) { inside = false; break; }
        else if (p.mode == 1) source = place < before ? 0 : length - 1;
        else source = place < before ? before - place : 2 * length - 2 - (place - before);
        at += source * step;
        step *= length;
    }
    ((E *)p.output)[index] = inside ? ((const E *)p.input)[at * p.block + index % p.block] : filled(p.constant);
}

KERNEL(copy_rows, Rows) {
    const u64 index = global_index();
    if (index >= p.count) return;
    const u64 row = index / p.length, place = index - row * p.length;
    ((E *)p.output)[row * p.output_row + place] = ((const E *)p.input)[row * p.input_row + place];
}

// An index that means no place gives zeros; check_indices has told why.
KERNEL(gather, Gathered) {
    const u64 index = global_index();
    if (index >= p.count) return;
    const u64 run = index / p.inner, place = index - run * p.inner;
    const u64 row = run / p.places;
    const u64 from = load_place(p.indices, run - row * p.places, p.index_type, p.length);
    ((E *)p.output)[index] = from < p.length ? ((const E *)p.input)[(row * p.length + from) * p.inner + place] : E{};
}

#ifndef ELEMENT_U128
KERNEL(one_hot, OneHot) {
    const u64 index = global_index();
    if (index >= p.count) return;
    const u64 run = index / p.inner, column = index - run * p.inner;
    const u64 row = run / p.depth;
    const u64 place = load_place(p.indices, row * p.inner + column, p.index_type, p.depth);
    ((E *)p.output)[index] = place == run - row * p.depth ? (E)p.one : (E)0;
}

KERNEL(choose, Selected) {
    const u64 index = global_index();
    if (index >= p.count) return;
    u64 rest = index, at[3] = {0, 0, 0};
    for (u32 axis = p.axes; axis-- > 0;) {
        const u64 step = rest % p.dims[axis];
        rest /= p.dims[axis];
        at[0] += step * p.condition_strides[axis];
        at[1] += step * p.a_strides[axis];
        at[2] += step * p.b_strides[axis];
    }
    const bool first = ((const u8 *)p.condition)[at[0]] != 0;
    ((E *)p.output)[index] = first ? ((const E *)p.a)[at[1]] : ((const E *)p.b)[at[2]];
}
#endif

#ifdef ELEMENT_U8
KERNEL(check_indices, Checked) {
    const u64 index = global_index();
    if (index >= p.count) return;
    if (load_place(p.indices, index, p.index_type, p.length) >= p.length) atomicMin((u64 *)p.fault, index);
}

// One thread, after check_indices: what the index that was found says.
KERNEL(read_fault, Checked) {
    if (global_index() != 0) return;
    u64 *fault = (u64 *)p.fault;
    const u64 index = fault[0];
    if (index == ~0ull) return;
    switch (p.index_type) {
        case 1: fault[1] = ((const u8 *)p.indices)[index]; break;
        case 2: fault[1] = (u64)(s64)((const s8 *)p.indices)[index]; break;
        case 3: fault[1] = ((const u16 *)p.indices)[index]; break;
        case 4: fault[1] = (u64)(s64)((const s16 *)p.indices)[index]; break;
        case 5: fault[1] = ((const u32 *)p.indices)[index]; break;
        case 6: fault[1] = (u64)(s64)((const s32 *)p.indices)[index]; break;
        default: fault[1] = ((const u64 *)p.indices)[index]; break;
    }
}
#endif
