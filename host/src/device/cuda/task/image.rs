//! Launches of `resize`, with the taps that every device uses.

use super::super::core::blocks_of;
use super::super::parameters::{Resized, Taps};
use super::super::units::{Family, Unit};
use super::Task;
use crate::device::resample::{self, Axis};
use crate::device::stop::Pace;
use crate::device::{DType, Interpolation, Resize};
use crate::error::Result;

impl Task<'_> {
    pub(super) fn resize(&mut self, source: [u64; 2], channels: u64, resize: &Resize) -> Result<()> {
        let (input, output, count) = (self.input(0)?, self.output(0)?, self.count());
        let wide = input.dtype == DType::F64;
        // The kernel has specialised code for these numbers of channels per pixel.
        let (name, together) = match (resize.interpolation, channels) {
            (Interpolation::Nearest(_), _) => ("pick", 1),
            (_, 3 | 4) => ("resize", channels),
            _ => ("resize", 1),
        };
        let parameters = Resized {
            count,
            input: input.address,
            output,
            source_height: source[0],
            source_width: source[1],
            height: resize.height.into(),
            width: resize.width.into(),
            channels,
            together,
            rows: self.taps(Axis::rows(resize, source[0]), wide)?,
            columns: self.taps(Axis::columns(resize, source[1]), wide)?,
        };
        self.launch(Unit::of(Family::Image, input.dtype), name, blocks_of(count / together), &parameters)
    }

    /// The taps of an axis on the device, weights as f64 or f32.
    fn taps(&mut self, axis: Axis, wide: bool) -> Result<Taps> {
        // Twice while they are made: here and in host memory.
        let _host = self.account.charge(axis.bytes())?;
        let address = self.scratch(axis.bytes())?;
        let resample::Taps { width, starts, counts, weights } = axis.taps(&mut Pace::new(self.stop))?;
        let weight_bytes = if wide { 8 } else { 4 };
        let mut table = Vec::with_capacity(weights.len() * weight_bytes + starts.len() * 8);
        // The weights first, because they need the widest alignment.
        match wide {
            true => table.extend_from_slice(bytemuck::cast_slice(&weights)),
            false => weights.iter().for_each(|weight| table.extend_from_slice(&(*weight as f32).to_ne_bytes())),
        }
        let starts_at = table.len() as u64;
        table.extend_from_slice(bytemuck::cast_slice(&starts));
        let counts_at = table.len() as u64;
        table.extend_from_slice(bytemuck::cast_slice(&counts));
        self.upload_scratch(&table)?;
        Ok(Taps { starts: address + starts_at, counts: address + counts_at, weights: address, width: width as u64 })
    }
}
