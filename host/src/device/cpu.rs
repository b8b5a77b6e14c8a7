//! Host memory and operators on one core; it never starts threads, because invocations run beside each other.

mod arithmetic;
mod cast;
mod element;
mod float;
mod lanes;
mod memory;
mod normalize;
mod pad;
mod resize;
mod strided;
mod top_k;
mod vectorised;

use self::element::{with_element, with_float};
use self::memory::{Fresh, elements};
use super::stop::Pace;
use super::{Account, DType, Device, HostMemory, Ledger, Plan, Shape, Stop, Tensor, Work};
use crate::config::Limits;
use crate::error::{Error, Kind, Result};
use std::ops::Range;
use std::sync::{Arc, Weak};

/// The host as a device, `cpu`. Operators compute at once, on the calling thread.
pub struct Cpu {
    me: Weak<Cpu>,
    ledger: Arc<Ledger>,
    limits: Limits,
}

impl Cpu {
    /// The device `cpu` with the memory that the ledger allows.
    pub fn new(ledger: Arc<Ledger>, limits: Limits) -> Arc<Cpu> {
        Arc::new_cyclic(|me| Cpu { me: Weak::clone(me), ledger, limits })
    }

    fn device(&self) -> Result<Arc<dyn Device>> {
        let gone = || Error::new(Kind::Internal, "the CPU device is shutting down");
        self.me.upgrade().map(|me| me as Arc<dyn Device>).ok_or_else(gone)
    }
}

impl Device for Cpu {
    fn name(&self) -> &str {
        "cpu"
    }

    fn ledger(&self) -> &Arc<Ledger> {
        &self.ledger
    }

    fn limits(&self) -> &Limits {
        &self.limits
    }

    fn create(&self, account: &Arc<Account>, dtype: DType, shape: Shape, bytes: &[u8]) -> Result<Tensor> {
        check(dtype, &shape, bytes)?;
        let mut fresh = Fresh::new(account, bytes.len() as u64)?;
        fresh.bytes_mut().copy_from_slice(bytes);
        fresh.into_tensor(self.device()?, dtype, shape)
    }

    fn adopt(&self, account: &Arc<Account>, dtype: DType, shape: Shape, memory: Box<dyn HostMemory>) -> Result<Tensor> {
        let bytes = memory.bytes();
        check(dtype, &shape, bytes)?;
        let size = dtype.size_bytes().unwrap_or(1) as usize;
        if !bytes.is_empty() && !bytes.as_ptr().addr().is_multiple_of(size) {
            return self.create(account, dtype, shape, bytes);
        }
        let charge = account.charge(bytes.len() as u64)?;
        memory::adopted(self.device()?, memory, charge, dtype, shape)
    }

    fn read(&self, tensor: &Tensor, range: Range<u64>) -> Result<Vec<u8>> {
        let offset = tensor.byte_offset();
        let range = tensor.buffer_range(range)?;
        let bytes = tensor.host_bytes().unwrap_or_default();
        let found = bytes.get((range.start - offset) as usize..(range.end - offset) as usize);
        found.map(<[u8]>::to_vec).ok_or_else(|| Error::new(Kind::Internal, "the tensor does not lie on the CPU device"))
    }

    fn execute(&self, account: &Arc<Account>, plan: &Plan, inputs: &[&Tensor], stop: &Stop) -> Result<Vec<Tensor>> {
        let device = self.device()?;
        let bytes = |(dtype, shape): &(DType, Shape)| shape.bytes(*dtype).unwrap_or(0);
        let mut results: Vec<Fresh> =
            plan.outputs.iter().map(|output| Fresh::new(account, bytes(output))).collect::<Result<_>>()?;
        if plan.outputs.iter().any(|(_, shape)| shape.elements() > 0) {
            compute(account, plan, inputs, &mut results, stop)?;
        }
        let outputs = plan.outputs.iter().zip(results);
        outputs.map(|((dtype, shape), fresh)| fresh.into_tensor(Arc::clone(&device), *dtype, shape.clone())).collect()
    }
}

/// Whether bytes are a tensor's elements.
fn check(dtype: DType, shape: &Shape, bytes: &[u8]) -> Result<()> {
    let Some(length) = shape.bytes(dtype) else {
        return Err(Error::invalid_argument("dtype: tensors of text cannot be made; pass strings another way"));
    };
    if bytes.len() as u64 != length {
        return Err(Error::invalid_argument(format!(
            "data: {} bytes, but {dtype}{shape} takes {length}",
            bytes.len()
        )));
    }
    if dtype == DType::Boolean && bytes.iter().fold(0, |all, byte| all | byte) > 1 {
        let index = bytes.iter().position(|byte| *byte > 1).unwrap_or(0);
        return Err(Error::invalid_argument(format!("data: byte {index} is {}; a boolean is 0 or 1", bytes[index])));
    }
    Ok(())
}

fn compute(
    account: &Arc<Account>,
    plan: &Plan,
    inputs: &[&Tensor],
    results: &mut [Fresh],
    stop: &Stop,
) -> Result<()> {
    let lost = || Error::new(Kind::Internal, "an operator was run with other tensors than it was planned for");
    let (first, second) = (inputs.first(), inputs.get(1));
    let (Some(input), Some((result, more)), Some((_, shape))) = (first, results.split_first_mut(), plan.outputs.first())
    else {
        return Err(lost());
    };
    let dtype = input.dtype();
    let mut pace = Pace::new(stop);
    let pace = &mut pace;
    match &plan.work {
        Work::View { .. } => Err(lost()),
        Work::Resize { images, source_height, source_width, channels, resize } => {
            let picture = resize::Picture::new(*images, [*source_height, *source_width], *channels, *resize);
            match dtype {
                DType::U8 => resize::run::<u8>(&picture, elements(input)?, result.elements_mut()?, account, pace),
                _ => with_float!(dtype, T => {
                    resize::run::<T>(&picture, elements(input)?, result.elements_mut()?, account, pace)
                }),
            }
        }
        Work::Normalize { outer, inner, scale, offset } => with_element!(dtype, T => {
            let sizes = [*outer as usize, *inner as usize];
            normalize::run::<T>(sizes, scale, offset, elements(input)?, result.elements_mut()?, pace)
        }),
        Work::Cast => cast::run(dtype, plan.outputs[0].0, input, result, pace),
        Work::Copy(copy) => strided::run(copy, dtype, input, result, pace),
        Work::Pad { source, before, mode } => pad::run(source, before, *mode, shape.dims(), input, result, pace),
        Work::Join { outer, lengths } => strided::join(*outer, lengths, dtype, inputs, result, pace),
        Work::Softmax { outer, length, inner } => with_float!(dtype, T => {
            lanes::softmax::<T>([*outer, *length, *inner], elements(input)?, result.elements_mut()?, pace)
        }),
        Work::Argmax { outer, length, inner } => with_element!(dtype, T => {
            lanes::argmax::<T>([*outer, *length, *inner], elements(input)?, result.elements_mut()?, pace)
        }),
        Work::TopK { outer, length, inner, k, largest } => {
            let indices = more.first_mut().ok_or_else(lost)?.elements_mut()?;
            let search = top_k::Search { sizes: [*outer, *length, *inner], k: *k, largest: *largest };
            with_element!(dtype, T => {
                search.run::<T>(elements(input)?, result.elements_mut()?, indices, account, pace)
            })
        }
        Work::MaskedMeanPool { batch, tokens, features } => {
            let mask = second.ok_or_else(lost)?;
            let _scratch = account.charge(batch.saturating_mul(*tokens).saturating_mul(8))?;
            let weights = with_element!(mask.dtype(), T => lanes::weights::<T>(elements(mask)?, pace))?;
            with_float!(dtype, T => {
                let sizes = [*batch, *tokens, *features];
                lanes::masked_mean_pool::<T>(sizes, &weights, elements(input)?, result.elements_mut()?, pace)
            })
        }
        Work::L2Normalize { outer, length, inner, epsilon } => with_float!(dtype, T => {
            let sizes = [*outer, *length, *inner];
            lanes::l2_normalize::<T>(sizes, f64::from(*epsilon), elements(input)?, result.elements_mut()?, pace)
        }),
        Work::Arithmetic { arithmetic, dims, a_strides, b_strides } => {
            let loops = arithmetic::Loops::new(dims, a_strides, b_strides);
            arithmetic::run(*arithmetic, &loops, [*input, *second.ok_or_else(lost)?], result, pace)
        }
    }
}
