//! Launches of `matmul`: a library's product where one supports the element type, else a kernel.

use super::super::driver::Multiplication;
use super::super::parameters::{AXES, Product, axes};
use super::super::units::{Family, Unit};
use super::{Task, lost};
use crate::device::Broadcast;
use crate::error::Result;

/// Rows and columns of a block's tile; SIDE of matmul.cu.
const SIDE: u64 = 64;

impl Task<'_> {
    pub(super) fn matmul(&self, Broadcast { dims, strides }: &Broadcast<2>, sizes: [u64; 3]) -> Result<()> {
        let (a, b, output) = (self.input(0)?, self.input(1)?, self.output(0)?);
        let [rows, length, columns] = sizes;
        if dims.len() > AXES {
            return Err(lost());
        }
        let matrices: u64 = dims.iter().product();
        // cuBLAS does not treat a product of one term as a sum: it keeps -0 where the sum from 0 is 0.
        if dims.len() <= 1 && length > 1 {
            let [a_stride, b_stride] = strides.first().copied().unwrap_or_default();
            let product = Multiplication {
                element: a.dtype.as_str(),
                addresses: [a.address, b.address, output],
                sizes,
                matrices,
                strides: [a_stride * rows * length, b_stride * length * columns, rows * columns],
            };
            self.stop.check()?;
            // SAFETY: the plan's sizes are those of the tensors, which are kept until the work is queued and go back to the
            // allocator at the earliest.
            #[allow(unsafe_code)]
            let done = unsafe { self.core.driver.multiply(&product) };
            if self.core.told(done)? {
                return Ok(());
            }
        }
        let parameters = Product {
            a: a.address,
            b: b.address,
            output,
            rows,
            length,
            columns,
            axes: dims.len() as u32,
            unused: 0,
            dims: axes(dims.iter().copied()),
            a_strides: axes(strides.iter().map(|[a, _]| *a)),
            b_strides: axes(strides.iter().map(|[_, b]| *b)),
        };
        let tiles = rows.div_ceil(SIDE) * columns.div_ceil(SIDE);
        self.launch(Unit::of(Family::Matmul, a.dtype), "matmul", matrices * tiles, &parameters)
    }
}
