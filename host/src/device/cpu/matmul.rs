//! `matmul`: tiles of matrix products, so that memory stays bounded and a stop is checked after each; it never starts threads.
//!
//! `matrixmultiply` computes products of f32 and f64, and those of f16 and bf16 after a tile of each operand was widened.

use super::element::{Float, Number, Wide, with_integer};
use super::memory::{Fresh, elements, filled};
use super::strided::Odometer;
use super::vectorised::vectorised;
use crate::device::stop::Pace;
use crate::device::{Account, Broadcast, DType, Tensor};
use crate::error::Result;
use half::{bf16, f16};
use std::sync::Arc;

/// Rows, length and columns of a tile: a few milliseconds of one core.
const TILE: [usize; 3] = [256, 256, 1_024];
/// Multiplications that count as one operation of [`Pace`].
const PER_OPERATION: usize = 64;
/// Up to this number of rows, packing the other matrix is not worth it.
const FEW_ROWS: usize = 4;

/// One product: [rows, length] by [length, columns].
#[derive(Clone, Copy)]
struct Sizes {
    rows: usize,
    length: usize,
    columns: usize,
}

/// Multiplies the matrices of two tensors.
pub(super) fn run(
    batch: &Broadcast<2>,
    sizes: [u64; 3],
    [a, b]: [&Tensor; 2],
    result: &mut Fresh,
    account: &Arc<Account>,
    pace: &mut Pace<'_>,
) -> Result<()> {
    let [rows, length, columns] = sizes.map(|size| size as usize);
    if length == 0 {
        return Ok(());
    }
    let sizes = Sizes { rows, length, columns };
    match a.dtype() {
        DType::F32 => each(batch, sizes, (elements(a)?, elements(b)?), result.elements_mut()?, |a, b, c| {
            wide::<f32>(sizes, a, b, c, pace)
        }),
        DType::F64 => each(batch, sizes, (elements(a)?, elements(b)?), result.elements_mut()?, |a, b, c| {
            wide::<f64>(sizes, a, b, c, pace)
        }),
        DType::F16 => {
            let mut tiles = Tiles::new(sizes, account, pace)?;
            each(batch, sizes, (elements(a)?, elements(b)?), result.elements_mut()?, |a, b, c| {
                tiles.multiply::<f16>(sizes, a, b, c, pace)
            })
        }
        DType::BF16 => {
            let mut tiles = Tiles::new(sizes, account, pace)?;
            each(batch, sizes, (elements(a)?, elements(b)?), result.elements_mut()?, |a, b, c| {
                tiles.multiply::<bf16>(sizes, a, b, c, pace)
            })
        }
        integer => with_integer!(integer, T => {
            each::<T>(batch, sizes, (elements(a)?, elements(b)?), result.elements_mut()?, |a, b, c| {
                whole::<T>(sizes, a, b, c, pace)
            })
        }),
    }
}

/// Calls `multiply` with the elements of each product, in zeroed memory.
fn each<T>(
    batch: &Broadcast<2>,
    Sizes { rows, length, columns }: Sizes,
    (a, b): (&[T], &[T]),
    result: &mut [T],
    mut multiply: impl FnMut(&[T], &[T], &mut [T]) -> Result<()>,
) -> Result<()> {
    let dims = batch.dims.iter().map(|dim| *dim as usize).collect();
    let strides = batch.strides.iter().map(|strides| strides.map(|stride| stride as isize)).collect();
    let mut matrices = Odometer::new(dims, strides, [0, 0]);
    for product in result.chunks_exact_mut(rows * columns) {
        let [a_at, b_at] = matrices.at.map(|at| at as usize);
        let a = &a[a_at * rows * length..(a_at + 1) * rows * length];
        let b = &b[b_at * length * columns..(b_at + 1) * length * columns];
        multiply(a, b, product)?;
        matrices.step();
    }
    Ok(())
}

/// Where a tile starts and how large it is.
struct Tile {
    at: [usize; 3],
    sizes: Sizes,
}

/// The tiles of a product; those that add up to one part of the result follow each other.
fn tiles(Sizes { rows, length, columns }: Sizes) -> impl Iterator<Item = Tile> {
    let steps = |whole: usize, tile: usize| (0..whole).step_by(tile).map(move |at| (at, tile.min(whole - at)));
    steps(columns, TILE[2]).flat_map(move |column| {
        steps(rows, TILE[0]).flat_map(move |row| {
            steps(length, TILE[1]).map(move |step| Tile {
                at: [row.0, step.0, column.0],
                sizes: Sizes { rows: row.1, length: step.1, columns: column.1 },
            })
        })
    })
}

impl Sizes {
    fn spend(self, pace: &mut Pace<'_>) -> Result<()> {
        pace.spend(self.rows * self.length * self.columns / PER_OPERATION + self.length * self.columns / 4 + 64)
    }
}

fn wide<W: Product>(whole: Sizes, a: &[W], b: &[W], c: &mut [W], pace: &mut Pace<'_>) -> Result<()> {
    for Tile { at: [row, step, column], sizes } in tiles(whole) {
        sizes.spend(pace)?;
        let a = Matrix { elements: &a[row * whole.length + step..], stride: whole.length };
        let b = Matrix { elements: &b[step * whole.columns + column..], stride: whole.columns };
        add_product(sizes, a, b, &mut c[row * whole.columns + column..], whole.columns);
    }
    Ok(())
}

/// Widened tiles of half-width operands and of their result, and the charge for them.
struct Tiles {
    a: Vec<f32>,
    b: Vec<f32>,
    c: Vec<f32>,
    _charge: crate::device::Charge,
}

impl Tiles {
    fn new(Sizes { rows, length, columns }: Sizes, account: &Arc<Account>, pace: &mut Pace<'_>) -> Result<Tiles> {
        let [rows, length, columns] = [rows.min(TILE[0]), length.min(TILE[1]), columns.min(TILE[2])];
        let elements = rows * length + length * columns + rows * columns;
        let charge = account.charge((elements * size_of::<f32>()) as u64)?;
        let mut zeros = |count| filled(0.0, count, pace);
        Ok(Tiles { a: zeros(rows * length)?, b: zeros(length * columns)?, c: zeros(rows * columns)?, _charge: charge })
    }

    fn multiply<T: Float<Wide = f32>>(
        &mut self,
        whole: Sizes,
        a: &[T],
        b: &[T],
        c: &mut [T],
        pace: &mut Pace<'_>,
    ) -> Result<()> {
        for Tile { at: [row, step, column], sizes } in tiles(whole) {
            sizes.spend(pace)?;
            widen(
                &a[row * whole.length + step..],
                whole.length,
                &mut self.a[..sizes.rows * sizes.length],
                sizes.length,
            );
            let b = &b[step * whole.columns + column..];
            widen(b, whole.columns, &mut self.b[..sizes.length * sizes.columns], sizes.columns);
            let part = &mut self.c[..sizes.rows * sizes.columns];
            if step == 0 {
                part.fill(0.0);
            }
            let a = Matrix { elements: &self.a, stride: sizes.length };
            let b = Matrix { elements: &self.b, stride: sizes.columns };
            add_product(sizes, a, b, part, sizes.columns);
            if step + sizes.length == whole.length {
                narrow(part, sizes.columns, &mut c[row * whole.columns + column..], whole.columns);
            }
        }
        Ok(())
    }
}

fn whole<T: Number>(sizes: Sizes, a: &[T], b: &[T], c: &mut [T], pace: &mut Pace<'_>) -> Result<()> {
    for (a, c) in a.chunks_exact(sizes.length).zip(c.chunks_exact_mut(sizes.columns)) {
        for (a, b) in a.iter().zip(b.chunks_exact(sizes.columns)) {
            for (b, c) in b.chunks(Pace::CHUNK).zip(c.chunks_mut(Pace::CHUNK)) {
                pace.spend(b.len() + 4)?;
                add_scaled(*a, b, c);
            }
        }
    }
    Ok(())
}

/// Rows of elements, each `stride` elements after the previous one.
#[derive(Clone, Copy)]
struct Matrix<'a, T> {
    elements: &'a [T],
    stride: usize,
}

/// c += a * b
fn add_product<W: Product>(sizes: Sizes, a: Matrix<'_, W>, b: Matrix<'_, W>, c: &mut [W], c_stride: usize) {
    let Sizes { rows, length, columns } = sizes;
    if columns == 1 && b.stride == 1 {
        let b = &b.elements[..length];
        for (a, c) in a.elements.chunks(a.stride).zip(c.iter_mut().step_by(c_stride)).take(rows) {
            *c += dot(&a[..length], b);
        }
    } else if rows <= FEW_ROWS {
        for (a, c) in a.elements.chunks(a.stride).zip(c.chunks_mut(c_stride)).take(rows) {
            add_rows(&a[..length], b.elements, b.stride, &mut c[..columns]);
        }
    } else {
        W::add_product(sizes, a, b, c, c_stride);
    }
}

/// A type with a fast product of its own.
trait Product: Wide + Number {
    /// c += a * b
    fn add_product(sizes: Sizes, a: Matrix<'_, Self>, b: Matrix<'_, Self>, c: &mut [Self], c_stride: usize);
}

macro_rules! product {
    ($($type:ident $function:path;)*) => {$(
        impl Product for $type {
            fn add_product(
                Sizes { rows, length, columns }: Sizes,
                a: Matrix<'_, $type>,
                b: Matrix<'_, $type>,
                c: &mut [$type],
                c_stride: usize,
            ) {
                let reaches = |rows: usize, columns: usize, stride: usize| (rows - 1) * stride + columns;
                assert!(rows > 0 && length > 0 && columns > 0 && columns <= c_stride, "a tile is not empty");
                assert!(a.elements.len() >= reaches(rows, length, a.stride), "a tile is within its matrix");
                assert!(b.elements.len() >= reaches(length, columns, b.stride), "a tile is within its matrix");
                assert!(c.len() >= reaches(rows, columns, c_stride), "a tile is within its matrix");
                let strides = [a.stride, b.stride, c_stride].map(|stride| stride as isize);
                let (a, b, c) = (a.elements.as_ptr(), b.elements.as_ptr(), c.as_mut_ptr());
                // SAFETY: the function reads rows by length elements from `a` and length by columns from `b`, and reads and
                // writes rows by columns in `c`, each row a stride after the previous one and its elements adjacent: by the
                // assertions all of them are within the slices. Rows of `c` do not overlap, as `c_stride` is at least `columns`,
                // and `c` is borrowed exclusively.
                #[allow(unsafe_code)]
                unsafe {
                    $function(rows, length, columns, 1.0, a, strides[0], 1, b, strides[1], 1, 1.0, c, strides[2], 1);
                }
            }
        }
    )*};
}

product! {
    f32 matrixmultiply::sgemm;
    f64 matrixmultiply::dgemm;
}

vectorised! {
    fn dot [W] [W: Wide] (a: &[W], b: &[W]) -> W {
        const SUMS: usize = 16;
        let mut sums = [W::ZERO; SUMS];
        let ((a, a_rest), (b, b_rest)) = (a.as_chunks::<SUMS>(), b.as_chunks::<SUMS>());
        for (a, b) in a.iter().zip(b) {
            sums = std::array::from_fn(|index| sums[index] + a[index] * b[index]);
        }
        let rest = a_rest.iter().zip(b_rest).fold(W::ZERO, |sum, (a, b)| sum + *a * *b);
        sums.into_iter().fold(rest, |sum, part| sum + part)
    }

    fn add_rows [W] [W: Wide] (factors: &[W], b: &[W], stride: usize, c: &mut [W]) {
        let (fours, rest) = factors.as_chunks::<4>();
        for (index, four) in fours.iter().enumerate() {
            let row = |row: usize| &b[(index * 4 + row) * stride..][..c.len()];
            let rows = [row(0), row(1), row(2), row(3)];
            for (column, c) in c.iter_mut().enumerate() {
                let sum = (four[0] * rows[0][column] + four[1] * rows[1][column])
                    + (four[2] * rows[2][column] + four[3] * rows[3][column]);
                *c += sum;
            }
        }
        for (index, factor) in rest.iter().enumerate() {
            let row = &b[(fours.len() * 4 + index) * stride..][..c.len()];
            for (b, c) in row.iter().zip(c.iter_mut()) {
                *c += *factor * *b;
            }
        }
    }

    fn add_scaled [T] [T: Number] (factor: T, b: &[T], c: &mut [T]) {
        for (b, c) in b.iter().zip(c) {
            *c = c.add(factor.multiply(*b));
        }
    }

    fn widen [T] [T: Float<Wide = f32>] (from: &[T], from_stride: usize, to: &mut [f32], columns: usize) {
        for (from, to) in from.chunks(from_stride).zip(to.chunks_exact_mut(columns)) {
            for (from, to) in from.iter().zip(to) {
                *to = from.widen();
            }
        }
    }

    fn narrow [T] [T: Float<Wide = f32>] (from: &[f32], columns: usize, to: &mut [T], to_stride: usize) {
        for (from, to) in from.chunks_exact(columns).zip(to.chunks_mut(to_stride)) {
            for (from, to) in from.iter().zip(to) {
                *to = T::narrow(*from);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Deterministic whole numbers, whose products and sums every float type holds exactly.
    fn numbers(count: usize, seed: usize) -> Vec<f32> {
        (0..count).map(|index| ((index * 7 + seed * 13 + index / 11) % 7) as f32 - 3.0).collect()
    }

    #[test]
    fn tiles_add_up_to_the_product() {
        let stop = crate::device::Stop::default();
        let account = crate::device::Ledger::new(1 << 30).account(crate::device::Owner::Workspace, 1 << 30, 10);
        for [rows, length, columns] in
            [[1, 1, 1], [5, 3, 2], [3, 300, 7], [300, 270, 1], [4, 5, 1_100], [257, 513, 9], [9, 20, 1_030]]
        {
            let sizes = Sizes { rows, length, columns };
            let (a, b) = (numbers(rows * length, 1), numbers(length * columns, 2));
            let mut expected = vec![0f32; rows * columns];
            for (index, to) in expected.iter_mut().enumerate() {
                let (row, column) = (index / columns, index % columns);
                *to = (0..length).map(|step| a[row * length + step] * b[step * columns + column]).sum();
            }
            let pace = &mut Pace::new(&stop);
            let mut found = vec![0f32; rows * columns];
            wide(sizes, &a, &b, &mut found, pace).unwrap();
            assert_eq!(found, expected, "{rows} {length} {columns}");
            let halves = |values: &[f32]| values.iter().map(|value| f16::from_f32(*value)).collect::<Vec<_>>();
            let mut found = halves(&vec![9.0; rows * columns]);
            Tiles::new(sizes, &account, pace)
                .unwrap()
                .multiply(sizes, &halves(&a), &halves(&b), &mut found, pace)
                .unwrap();
            assert_eq!(found, halves(&expected), "{rows} {length} {columns}");
            let integers = |values: &[f32]| values.iter().map(|value| *value as i16).collect::<Vec<_>>();
            let mut found = vec![0; rows * columns];
            whole(sizes, &integers(&a), &integers(&b), &mut found, pace).unwrap();
            assert_eq!(found, integers(&expected), "{rows} {length} {columns}");
        }
    }

    #[test]
    fn a_stopped_product_ends_within_a_tile_or_two() {
        let stop = crate::device::Stop::default();
        stop.cancel();
        let sizes = Sizes { rows: 2_048, length: 2_048, columns: 2_048 };
        let (a, b) = (vec![1f32; 1 << 22], vec![1f32; 1 << 22]);
        let mut c = vec![0f32; 1 << 22];
        let error = wide(sizes, &a, &b, &mut c, &mut Pace::new(&stop)).unwrap_err();
        assert_eq!(error.kind(), crate::error::Kind::Cancelled);
        let written = c.iter().filter(|value| **value != 0.0).count();
        assert!(written <= TILE[0] * TILE[2] && c.iter().all(|value| *value <= 512.0), "{written}");
    }
}
