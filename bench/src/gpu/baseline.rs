//! Measures what a GPU does without hearth, for comparison: plain copies of pinned memory and within the device. It calls CUDA's
//! driver directly, and never uses hearth's device.

use anyhow::{Context, Result};
use cudarc::driver::{CudaContext, DriverError};
use std::time::Instant;

/// Bytes a second of plain copies, the best of some tries.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Baseline {
    /// From pinned memory to the device.
    pub(super) upload: f64,
    /// From the device to pinned memory.
    pub(super) download: f64,
    /// Within the device; each byte is read and written, and counted once.
    pub(super) within: f64,
}

const TRIES: usize = 6;

/// Measures copies of `bytes` bytes on GPU number `ordinal`, whose driver must be installed. It allocates twice as many bytes on
/// the device, without a charge, and frees them.
pub(super) fn measure(ordinal: u32, bytes: u64) -> Result<Baseline> {
    let length = usize::try_from(bytes)?;
    let copies = || -> Result<Baseline, DriverError> {
        let context = CudaContext::new(ordinal as usize)?;
        let stream = context.new_stream()?;
        let (mut a, mut b) = (stream.alloc_zeros::<u8>(length)?, stream.alloc_zeros::<u8>(length)?);
        // SAFETY: any bytes are valid numbers of type u8, and a download writes all of them before an upload reads them. Without
        // flags the memory is cached by the CPU like other memory, as hearth's own pinned memory is.
        #[allow(unsafe_code)]
        let mut pinned = unsafe { context.alloc_pinned_with_flags::<u8>(length, 0) }?;
        let best = |queue: &mut dyn FnMut() -> Result<(), DriverError>| -> Result<f64, DriverError> {
            let mut best = f64::INFINITY;
            for _ in 0..TRIES {
                stream.synchronize()?;
                let started = Instant::now();
                queue()?;
                stream.synchronize()?;
                best = best.min(started.elapsed().as_secs_f64());
            }
            Ok(bytes as f64 / best)
        };
        let download = best(&mut || stream.memcpy_dtoh(&a, &mut pinned))?;
        let upload = best(&mut || stream.memcpy_htod(&pinned, &mut a))?;
        let within = best(&mut || stream.memcpy_dtod(&a, &mut b))?;
        Ok(Baseline { upload, download, within })
    };
    copies().context("measuring plain copies with CUDA's driver")
}
