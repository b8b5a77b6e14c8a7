// Conversions of one type to every other, and the factor and summand per channel that gives f32.

typedef ELEMENT E;

struct Converted {
    u64 count, input, output;
    // Whether a whole pack of either side can be moved at once.
    u32 aligned, unused;
};

struct Normalized {
    u64 count, input, output;
    // Elements behind a channel, and the channels.
    u64 inner, channels;
    // Tables of f32 where there are more channels than fit here.
    u64 scale_table, offset_table;
    u32 aligned, unused;
    f32 scale[16], offset[16];
};

struct Moved {
    u64 count, input, output, start;
    // Elements of the input behind a channel, and the channels.
    u64 inner, channels;
    // Whether the channel stays along the result's last axis.
    u32 axes, steady;
    u64 dims[AXES];
    s64 strides[AXES];
    f32 scale[16], offset[16];
};

// Elements of a thread, so that the wider side of them is 16 bytes.
template <typename B> struct Each {
    static constexpr int count = 16 / (sizeof(E) > sizeof(B) ? sizeof(E) : sizeof(B));
};

template <typename B> INLINE void convert(const Converted &p) {
    constexpr int EACH = Each<B>::count;
    const u64 first = global_index() * EACH;
    if (first >= p.count) return;
    const E *input = (const E *)p.input;
    B *output = (B *)p.output;
    if (p.aligned && first + EACH <= p.count) {
        Pack<E, EACH> from = *(const Pack<E, EACH> *)(input + first);
        Pack<B, EACH> to;
#pragma unroll
        for (int i = 0; i < EACH; i++) to.at[i] = Cast<E, B>::of(from.at[i]);
        *(Pack<B, EACH> *)(output + first) = to;
        return;
    }
    for (u64 i = first; i < first + EACH && i < p.count; i++) output[i] = Cast<E, B>::of(input[i]);
}

KERNEL(cast_to_boolean, Converted) { convert<boolean>(p); }
KERNEL(cast_to_u8, Converted) { convert<u8>(p); }
KERNEL(cast_to_s8, Converted) { convert<s8>(p); }
KERNEL(cast_to_u16, Converted) { convert<u16>(p); }
KERNEL(cast_to_s16, Converted) { convert<s16>(p); }
KERNEL(cast_to_u32, Converted) { convert<u32>(p); }
KERNEL(cast_to_s32, Converted) { convert<s32>(p); }
KERNEL(cast_to_u64, Converted) { convert<u64>(p); }
KERNEL(cast_to_s64, Converted) { convert<s64>(p); }
KERNEL(cast_to_f16, Converted) { convert<f16>(p); }
KERNEL(cast_to_bf16, Converted) { convert<bf16>(p); }
KERNEL(cast_to_f32, Converted) { convert<f32>(p); }
KERNEL(cast_to_f64, Converted) { convert<f64>(p); }

template <typename B> INLINE void normalize_to(const Normalized &p) {
    constexpr int EACH = Each<B>::count;
    const u64 first = global_index() * EACH;
    if (first >= p.count) return;
    const E *input = (const E *)p.input;
    B *output = (B *)p.output;
    const f32 *scale = p.scale_table ? (const f32 *)p.scale_table : p.scale;
    const f32 *offset = p.offset_table ? (const f32 *)p.offset_table : p.offset;
    // Where the first element is among the channels; the others follow it.
    u64 channel, place;
    if (p.count <= 0xffffffffull && p.inner <= 0xffffffffull) {
        const u32 run = (u32)first / (u32)p.inner;
        place = (u32)first - run * (u32)p.inner;
        channel = p.channels <= 0xffffffffull ? run % (u32)p.channels : run;
    } else {
        const u64 run = first / p.inner;
        place = first - run * p.inner;
        channel = run % p.channels;
    }
    const bool whole = p.aligned && first + EACH <= p.count;
    Pack<E, EACH> from;
    Pack<B, EACH> to;
    if (whole) from = *(const Pack<E, EACH> *)(input + first);
#pragma unroll
    for (int i = 0; i < EACH; i++) {
        if (!whole) {
            if (first + i >= p.count) break;
            from.at[i] = input[first + i];
        }
        to.at[i] = Cast<f32, B>::of(to_f32(from.at[i]) * scale[channel] + offset[channel]);
        if (!whole) output[first + i] = to.at[i];
        if (++place == p.inner) {
            place = 0;
            if (++channel == p.channels) channel = 0;
        }
    }
    if (whole) *(Pack<B, EACH> *)(output + first) = to;
}

KERNEL(normalize, Normalized) { normalize_to<f32>(p); }
KERNEL(normalize_to_f16, Normalized) { normalize_to<f16>(p); }
KERNEL(normalize_to_bf16, Normalized) { normalize_to<bf16>(p); }

// Normalises as it moves.
template <typename B> INLINE void normalize_moved_to(const Moved &p) {
    const E *input = (const E *)p.input;
    u64 channel = 0;
    write_moved<B>(p, [&](s64 at, bool anew) {
        if (anew || !p.steady) {
            const u64 run = quotient((u64)at, p.inner);
            channel = run - quotient(run, p.channels) * p.channels;
        }
        return Cast<f32, B>::of(to_f32(input[at]) * p.scale[channel] + p.offset[channel]);
    });
}

KERNEL(normalize_moved, Moved) { normalize_moved_to<f32>(p); }
KERNEL(normalize_moved_to_f16, Moved) { normalize_moved_to<f16>(p); }
KERNEL(normalize_moved_to_bf16, Moved) { normalize_moved_to<bf16>(p); }
