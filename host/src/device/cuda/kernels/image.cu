// Resize: each sample of the result from its taps, rows first and tap by tap, in the order of the CPU device.

typedef ELEMENT E;
typedef Traits<E>::Wide Wide;

struct Taps {
    // u32 starts and counts of each target position, and `width` weights of the type that is computed in.
    u64 starts, counts, weights, width;
};

struct Resized {
    u64 count, input, output;
    u64 source_height, source_width, height, width, channels, together;
    Taps rows, columns;
};

// Products are rounded before they are added, as on the CPU.
INLINE f32 product(f32 a, f32 b) { return __fmul_rn(a, b); }
INLINE f64 product(f64 a, f64 b) { return __dmul_rn(a, b); }

// Where an element of the result is.
struct Place {
    u64 image, y, x, channel;
};

INLINE Place place_of(const Resized &p, u64 index) {
    const u64 pixel = quotient(index, p.channels), row = quotient(pixel, p.width), image = quotient(row, p.height);
    return {image, row - image * p.height, pixel - row * p.width, index - pixel * p.channels};
}

// `C` neighbouring channels from one on, which share the taps.
template <int C> INLINE void resize_at(const Resized &p, const Place &place, u64 index) {
    const u64 y = place.y, x = place.x;
    const u32 top = ((const u32 *)p.rows.starts)[y], down = ((const u32 *)p.rows.counts)[y];
    const u32 left = ((const u32 *)p.columns.starts)[x], across = ((const u32 *)p.columns.counts)[x];
    const Wide *row_weights = (const Wide *)p.rows.weights + y * p.rows.width;
    const Wide *column_weights = (const Wide *)p.columns.weights + x * p.columns.width;
    const u64 row = p.source_width * p.channels;
    const E *input = (const E *)p.input + (place.image * p.source_height + top) * row + left * p.channels + place.channel;
    Wide sum[C];
#pragma unroll
    for (int c = 0; c < C; c++) sum[c] = 0;
    for (u32 j = 0; j < across; j++) {
        const E *column = input + j * p.channels;
        Wide blended[C];
#pragma unroll
        for (int c = 0; c < C; c++) blended[c] = product(widen(column[c]), row_weights[0]);
        for (u32 i = 1; i < down; i++) {
            const Wide weight = row_weights[i];
#pragma unroll
            for (int c = 0; c < C; c++) blended[c] = blended[c] + product(widen(column[i * row + c]), weight);
        }
        const Wide weight = column_weights[j];
#pragma unroll
        for (int c = 0; c < C; c++) {
            const Wide part = product(blended[c], weight);
            sum[c] = j == 0 ? part : sum[c] + part;
        }
    }
#pragma unroll
    for (int c = 0; c < C; c++) ((E *)p.output)[index + c] = narrow<E>(sum[c]);
}

// `together` channels are one thread's: all of a pixel, or one.
KERNEL(resize, Resized) {
    const u64 index = global_index() * p.together;
    if (index >= p.count) return;
    const Place place = place_of(p, index);
    switch (p.together) {
        case 3: resize_at<3>(p, place, index); break;
        case 4: resize_at<4>(p, place, index); break;
        default: resize_at<1>(p, place, index);
    }
}

// The sample at the first tap of both axes.
KERNEL(pick, Resized) {
    const u64 index = global_index();
    if (index >= p.count) return;
    const Place place = place_of(p, index);
    const u64 top = ((const u32 *)p.rows.starts)[place.y], left = ((const u32 *)p.columns.starts)[place.x];
    const u64 at = ((place.image * p.source_height + top) * p.source_width + left) * p.channels + place.channel;
    ((E *)p.output)[index] = ((const E *)p.input)[at];
}
