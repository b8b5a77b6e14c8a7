// Products of matrices where no library has them: tiles of both in shared memory, 4 by 4 results a thread.

typedef ELEMENT E;

struct Product {
    u64 a, b, output;
    u64 rows, length, columns;
    // How the axes before the matrices are read, in matrices.
    u32 axes, unused;
    u64 dims[AXES], a_strides[AXES], b_strides[AXES];
};

#define SIDE 64
#define DEPTH 16

#if IS_FLOAT
typedef Traits<E>::Wide Sum;
INLINE Sum loaded(E x) { return widen(x); }
INLINE E stored(Sum x) { return narrow<E>(x); }
INLINE f32 add_product(f32 a, f32 b, f32 sum) { return fmaf(a, b, sum); }
INLINE f64 add_product(f64 a, f64 b, f64 sum) { return fma(a, b, sum); }
#else
typedef Traits<E>::Bits Sum;
INLINE Sum loaded(E x) { return (Sum)x; }
INLINE E stored(Sum x) { return (E)x; }
INLINE Sum add_product(Sum a, Sum b, Sum sum) { return sum + a * b; }
#endif

COOPERATIVE(matmul, Product) {
    SHARED Sum left[DEPTH][SIDE + 1];
    SHARED Sum right[DEPTH][SIDE + 1];
    const u64 across = (p.columns + SIDE - 1) / SIDE, down = (p.rows + SIDE - 1) / SIDE;
    const u64 place = blockIdx.x % (across * down);
    const u64 matrix = blockIdx.x / (across * down);
    u64 rest = matrix, a_at = 0, b_at = 0;
    for (u32 axis = p.axes; axis-- > 0;) {
        const u64 step = rest % p.dims[axis];
        rest /= p.dims[axis];
        a_at += step * p.a_strides[axis];
        b_at += step * p.b_strides[axis];
    }
    const E *a = (const E *)p.a + a_at * p.rows * p.length;
    const E *b = (const E *)p.b + b_at * p.length * p.columns;
    E *output = (E *)p.output + matrix * p.rows * p.columns;
    const u64 row = place / across * SIDE, column = place % across * SIDE;
    const u32 x = threadIdx.x % 16, y = threadIdx.x / 16;
    Sum sums[4][4] = {};
    for (u64 step = 0; step < p.length; step += DEPTH) {
        for (u32 i = threadIdx.x; i < SIDE * DEPTH; i += THREADS) {
            const u32 depth = i % DEPTH, side = i / DEPTH;
            const bool inside = row + side < p.rows && step + depth < p.length;
            left[depth][side] = inside ? loaded(a[(row + side) * p.length + step + depth]) : (Sum)0;
        }
        for (u32 i = threadIdx.x; i < SIDE * DEPTH; i += THREADS) {
            const u32 side = i % SIDE, depth = i / SIDE;
            const bool inside = column + side < p.columns && step + depth < p.length;
            right[depth][side] = inside ? loaded(b[(step + depth) * p.columns + column + side]) : (Sum)0;
        }
        __syncthreads();
#pragma unroll
        for (u32 depth = 0; depth < DEPTH; depth++) {
            Sum from_left[4], from_right[4];
#pragma unroll
            for (u32 i = 0; i < 4; i++) from_left[i] = left[depth][y + 16 * i];
#pragma unroll
            for (u32 i = 0; i < 4; i++) from_right[i] = right[depth][x + 16 * i];
#pragma unroll
            for (u32 i = 0; i < 4; i++) {
#pragma unroll
                for (u32 j = 0; j < 4; j++) sums[i][j] = add_product(from_left[i], from_right[j], sums[i][j]);
            }
        }
        __syncthreads();
    }
    for (u32 i = 0; i < 4; i++) {
        for (u32 j = 0; j < 4; j++) {
            const u64 to_row = row + y + 16 * i, to_column = column + x + 16 * j;
            if (to_row < p.rows && to_column < p.columns) output[to_row * p.columns + to_column] = stored(sums[i][j]);
        }
    }
}
