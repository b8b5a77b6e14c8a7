// Resize: each sample of the result from its taps, rows first and tap by tap, in the order of the CPU device.

typedef ELEMENT E;
typedef Traits<E>::Wide Wide;

struct Taps {
    // u32 starts and counts of each target position, and `width` weights of the type that is computed in.
    u64 starts, counts, weights, width;
};

struct Resized {
    u64 count, input, output;
    u64 source_height, source_width, height, width, channels;
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
    const u64 pixel = index / p.channels, row = pixel / p.width;
    return {row / p.height, row % p.height, pixel % p.width, index % p.channels};
}

KERNEL(resize, Resized) {
    const u64 index = global_index();
    if (index >= p.count) return;
    const Place place = place_of(p, index);
    const u64 image = place.image, y = place.y, x = place.x, channel = place.channel;
    const u32 top = ((const u32 *)p.rows.starts)[y], down = ((const u32 *)p.rows.counts)[y];
    const u32 left = ((const u32 *)p.columns.starts)[x], across = ((const u32 *)p.columns.counts)[x];
    const Wide *row_weights = (const Wide *)p.rows.weights + y * p.rows.width;
    const Wide *column_weights = (const Wide *)p.columns.weights + x * p.columns.width;
    const u64 row = p.source_width * p.channels;
    const E *input = (const E *)p.input + (image * p.source_height + top) * row + left * p.channels + channel;
    Wide sum = 0;
    for (u32 j = 0; j < across; j++) {
        const E *column = input + j * p.channels;
        Wide blended = product(widen(column[0]), row_weights[0]);
        for (u32 i = 1; i < down; i++) blended = blended + product(widen(column[i * row]), row_weights[i]);
        const Wide part = product(blended, column_weights[j]);
        sum = j == 0 ? part : sum + part;
    }
    ((E *)p.output)[index] = narrow<E>(sum);
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
