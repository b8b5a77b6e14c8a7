// Sort, top-k and non-maximum suppression. An item is an element's place in the order above its index in the lane, so that
// no two are equal; tiles of a lane are sorted in shared memory and merged.

typedef ELEMENT E;
typedef Traits<E>::Wide Wide;

// Items of a tile at most.
#define TILE 1024

#if defined(ELEMENT_U64) || defined(ELEMENT_S64) || defined(ELEMENT_F64)
struct alignas(16) Item { u64 place, index; };
INLINE Item item_of(u64 place, u64 index) { return Item{place, index}; }
INLINE Item no_item() { return Item{~0ull, ~0ull}; }
INLINE bool is_before(Item a, Item b) { return a.place < b.place || (a.place == b.place && a.index < b.index); }
INLINE u64 index_of(Item a) { return a.index; }
#else
typedef u64 Item;
INLINE Item item_of(u64 place, u64 index) { return (place & 0xffffffffull) << 32 | index; }
INLINE Item no_item() { return ~0ull; }
INLINE bool is_before(Item a, Item b) { return a < b; }
INLINE u64 index_of(Item a) { return a & 0xffffffffull; }
#endif

struct Ordered {
    // Elements, and where there are some the items that take their place.
    u64 input, items;
    // What a tile leaves: items, or values and indices where `last` is set.
    u64 output, values, indices;
    u64 lanes, inner;
    // Elements of a whole lane, of a lane of the items, and of a lane of what is left.
    u64 source_length, length, output_length;
    // A power of two, and how many of it are kept.
    u64 tile, keep;
    u64 run;
    u32 descending, last;
};

struct Scored {
    u64 scores, output, count;
    f64 least;
};

struct Suppressed {
    u64 items, boxes, kept, indices, kept_count;
    u64 count, most, maximum;
    f64 overlap;
};

INLINE Item load_item(const Ordered &p, u64 lane, u64 i) {
    if (p.items) return ((const Item *)p.items)[lane * p.length + i];
    const u64 row = lane / p.inner;
    const u64 place = rank(((const E *)p.input)[(row * p.source_length + i) * p.inner + (lane - row * p.inner)]);
    return item_of(p.descending ? ~place : place, i);
}

INLINE void write_item(const Ordered &p, u64 lane, u64 to, u64 k, Item item) {
    const u64 row = lane / p.inner, column = lane - row * p.inner, index = index_of(item);
    const u64 at = (row * k + to) * p.inner + column;
    ((E *)p.values)[at] = ((const E *)p.input)[(row * p.source_length + index) * p.inner + column];
    ((s64 *)p.indices)[at] = (s64)index;
}

// A block for each tile of each lane.
COOPERATIVE(order_tiles, Ordered) {
    SHARED Item tile[TILE];
    const u64 tiles = (p.length + p.tile - 1) / p.tile;
    const u64 lane = blockIdx.x / tiles, first = blockIdx.x % tiles * p.tile;
    const u32 size = (u32)p.tile, own = threadIdx.x;
    const u64 present = p.length - first < p.tile ? p.length - first : p.tile;
    for (u32 i = own; i < size; i += THREADS) tile[i] = i < present ? load_item(p, lane, first + i) : no_item();
    for (u32 width = 2; width <= size; width *= 2) {
        for (u32 step = width / 2; step > 0; step /= 2) {
            __syncthreads();
            for (u32 pair = own; pair < size / 2; pair += THREADS) {
                const u32 a = pair / step * step * 2 + pair % step, b = a + step;
                const bool up = (a & width) == 0;
                const Item x = tile[a], y = tile[b];
                if (is_before(y, x) == up) {
                    tile[a] = y;
                    tile[b] = x;
                }
            }
        }
    }
    __syncthreads();
    const u64 left = present < p.keep ? present : p.keep;
    for (u64 i = own; i < left; i += THREADS) {
        if (p.last) write_item(p, lane, i, p.keep, tile[i]);
        else ((Item *)p.output)[lane * p.output_length + blockIdx.x % tiles * p.keep + i] = tile[i];
    }
}

// Pairs of sorted runs become one: an item's place is its place in its own run and the number of items of the other before it.
KERNEL(merge_runs, Ordered) {
    const u64 index = global_index();
    if (index >= p.lanes * p.length) return;
    const u64 lane = index / p.length, i = index - lane * p.length;
    const Item *items = (const Item *)p.items + lane * p.length;
    const Item own = items[i];
    const u64 start = i / (2 * p.run) * 2 * p.run;
    u64 middle = start + p.run < p.length ? start + p.run : p.length;
    const u64 end = start + 2 * p.run < p.length ? start + 2 * p.run : p.length;
    u64 low = i < middle ? middle : start, high = i < middle ? end : middle;
    const u64 first = low;
    while (low < high) {
        const u64 half = low + (high - low) / 2;
        if (is_before(items[half], own)) low = half + 1;
        else high = half;
    }
    const u64 place = (i < middle ? i - start : i - middle) + (low - first);
    ((Item *)p.output)[lane * p.length + start + place] = own;
}

// The first `keep` items of each lane become values and indices.
KERNEL(write_items, Ordered) {
    const u64 index = global_index();
    if (index >= p.lanes * p.keep) return;
    const u64 lane = index / p.keep, i = index - lane * p.keep;
    write_item(p, lane, i, p.keep, ((const Item *)p.items)[lane * p.length + i]);
}

#if IS_FLOAT
// Higher scores come first; those that are not above the least come as no items.
KERNEL(score_items, Scored) {
    const u64 index = global_index();
    if (index >= p.count) return;
    const E score = ((const E *)p.scores)[index];
    const bool counts = widen(score) > (Wide)p.least;
    ((Item *)p.output)[index] = counts ? item_of(~rank(score), index) : no_item();
}

// One block: boxes by falling score, each compared by all threads with those kept before it.
COOPERATIVE(suppress, Suppressed) {
    const E *boxes = (const E *)p.boxes;
    Wide *kept = (Wide *)p.kept;
    const Wide overlap = (Wide)p.overlap;
    u64 count = 0;
    for (u64 i = 0; i < p.count && count < p.most; i++) {
        const Item item = ((const Item *)p.items)[i];
        const Item none = no_item();
        if (!is_before(item, none)) break;
        const u64 index = index_of(item);
        const Wide a = widen(boxes[index * 4]), b = widen(boxes[index * 4 + 1]);
        const Wide c = widen(boxes[index * 4 + 2]), d = widen(boxes[index * 4 + 3]);
        const Wide left = c < a ? c : a, right = c < a ? a : c, top = d < b ? d : b, bottom = d < b ? b : d;
        const Wide area = (right - left) * (bottom - top);
        bool found = false;
        for (u64 j = threadIdx.x; j < count; j += THREADS) {
            const Wide *other = kept + j * 5;
            const Wide width = (right < other[2] ? right : other[2]) - (left > other[0] ? left : other[0]);
            const Wide height = (bottom < other[3] ? bottom : other[3]) - (top > other[1] ? top : other[1]);
            const Wide both = (0 > width ? (Wide)0 : width) * (0 > height ? (Wide)0 : height);
            found |= both / (other[4] + area - both) > overlap;
        }
        if (__syncthreads_or(found)) continue;
        if (threadIdx.x == 0) {
            Wide *own = kept + count * 5;
            own[0] = left, own[1] = top, own[2] = right, own[3] = bottom, own[4] = area;
            ((s64 *)p.indices)[count] = (s64)index;
        }
        count++;
        __syncthreads();
    }
    for (u64 i = count + threadIdx.x; i < p.maximum; i += THREADS) ((s64 *)p.indices)[i] = -1;
    if (threadIdx.x == 0) *(s64 *)p.kept_count = (s64)count;
}
#endif
