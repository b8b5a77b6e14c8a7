//! What the hardware does without hearth: copies of pinned memory and within the device, to compare with; it never uses
//! tensors.

use super::core::Core;
use super::driver::{Event, Outcome, Stream};
use std::time::Instant;

/// Bytes a second of plain copies, the best of some tries.
#[derive(Clone, Copy, Debug, Default)]
pub struct Baseline {
    /// From pinned memory to the device.
    pub upload: f64,
    /// From the device to pinned memory.
    pub download: f64,
    /// Within the device; each byte is read and written, and counted once.
    pub within: f64,
}

const TRIES: usize = 6;

/// Measures copies of so many bytes.
pub(super) fn measure(core: &Core, bytes: u64) -> Outcome<Baseline> {
    let driver = &core.driver;
    let (a, b) = (core.allocator.take(bytes)?, core.allocator.take(bytes)?);
    let pinned = driver.allocate_pinned(bytes as usize)?;
    let best = |stream: Stream, queue: &dyn Fn() -> Outcome<()>| -> Outcome<f64> {
        let mut best = f64::INFINITY;
        for _ in 0..TRIES {
            Event::record(driver, stream)?.synchronize()?;
            let started = Instant::now();
            queue()?;
            Event::record(driver, stream)?.synchronize()?;
            best = best.min(started.elapsed().as_secs_f64());
        }
        Ok(bytes as f64 / best)
    };
    a.hold_copies()?;
    let length = bytes as usize;
    // SAFETY: both sides are of this length, nobody else uses them, and the copy is waited for.
    #[allow(unsafe_code)]
    let upload = || unsafe { driver.copy_in(a.address(), pinned.address, length) };
    // SAFETY: as above.
    #[allow(unsafe_code)]
    let download = || unsafe { driver.copy_out(a.address(), pinned.address, length) };
    // SAFETY: as above.
    #[allow(unsafe_code)]
    let within = || unsafe { driver.copy_within(a.address(), b.address(), bytes) };
    let measured = (|| {
        Ok(Baseline {
            upload: best(Stream::In, &upload)?,
            download: best(Stream::Out, &download)?,
            within: best(Stream::Compute, &within)?,
        })
    })();
    // SAFETY: where a copy failed, the device is lost and touches nothing any more; the others were waited for.
    #[allow(unsafe_code)]
    unsafe {
        driver.free_pinned(pinned)?;
    }
    measured
}
