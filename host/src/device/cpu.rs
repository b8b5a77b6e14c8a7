//! Host memory and operators on one core; it never starts threads, because invocations run in parallel already.

mod arithmetic;
mod boxes;
mod cast;
mod element;
mod float;
mod functions;
mod indexing;
mod lanes;
mod matmul;
mod memory;
mod normalize;
mod pad;
mod reduce;
mod resize;
mod scan;
mod select;
mod sort;
mod strided;
mod top_k;
mod unary;
mod vectorised;

#[cfg(feature = "server")]
pub(super) use self::cast::bits_of;
use self::element::{with_element, with_float, with_number};
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
        if tensor.dtype() == DType::Text {
            return Err(Error::unsupported("a tensor of text has no bytes; read its strings"));
        }
        let offset = tensor.byte_offset();
        let range = tensor.buffer_range(range)?;
        let bytes = tensor.host_bytes().unwrap_or_default();
        let found = bytes.get((range.start - offset) as usize..(range.end - offset) as usize);
        found.map(<[u8]>::to_vec).ok_or_else(|| Error::new(Kind::Internal, "the tensor is not on the CPU device"))
    }

    fn execute(&self, account: &Arc<Account>, plan: &Plan, inputs: &[&Tensor], stop: &Stop) -> Result<Vec<Tensor>> {
        let device = self.device()?;
        let bytes = |(dtype, shape): &(DType, Shape)| shape.bytes(*dtype).unwrap_or(0);
        let mut results: Vec<Fresh> =
            plan.outputs.iter().map(|output| Fresh::new(account, bytes(output))).collect::<Result<_>>()?;
        // Indices are checked even if the result is empty.
        let checks = matches!(plan.work, Work::Gather { .. } | Work::OneHot { .. });
        if checks || plan.outputs.iter().any(|(_, shape)| shape.elements() > 0) {
            compute(account, plan, inputs, &mut results, stop)?;
        }
        let outputs = plan.outputs.iter().zip(results);
        outputs.map(|((dtype, shape), fresh)| fresh.into_tensor(Arc::clone(&device), *dtype, shape.clone())).collect()
    }
}

/// Checks that bytes are valid elements of a tensor.
pub(super) fn check(dtype: DType, shape: &Shape, bytes: &[u8]) -> Result<()> {
    let Some(length) = shape.bytes(dtype) else {
        return Err(Error::invalid_argument("dtype: a tensor of text is made from strings (create-text)"));
    };
    if bytes.len() as u64 != length {
        return Err(Error::invalid_argument(format!("data: {} bytes, but {dtype}{shape} takes {length}", bytes.len())));
    }
    if dtype == DType::Boolean && bytes.iter().fold(0, |all, byte| all | byte) > 1 {
        let index = bytes.iter().position(|byte| *byte > 1).unwrap_or(0);
        return Err(Error::invalid_argument(format!("data: byte {index} is {}; a boolean is 0 or 1", bytes[index])));
    }
    Ok(())
}

fn compute(account: &Arc<Account>, plan: &Plan, inputs: &[&Tensor], results: &mut [Fresh], stop: &Stop) -> Result<()> {
    let lost = || Error::new(Kind::Internal, "an operator was run with other tensors than it was planned for");
    let (first, second) = (inputs.first(), inputs.get(1));
    let (Some(input), Some((result, more)), Some((_, shape))) =
        (first, results.split_first_mut(), plan.outputs.first())
    else {
        return Err(lost());
    };
    let dtype = input.dtype();
    let mut pace = Pace::new(stop);
    let pace = &mut pace;
    match &plan.work {
        Work::View { .. } | Work::Views { .. } => Err(lost()),
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
            normalize::run::<T>(sizes, scale, offset, elements(input)?, result.elements_mut()?, account, pace)
        }),
        Work::Cast => cast::run(dtype, plan.outputs[0].0, input, result, pace),
        Work::Copy(copy) => strided::run(copy, dtype, input, result, pace),
        Work::Pad { source, before, mode } => pad::run(source, before, *mode, shape.dims(), input, result, pace),
        Work::Join { outer, lengths } => strided::join(*outer, lengths, dtype, inputs, result, pace),
        Work::Softmax { outer, length, inner } => with_float!(dtype, T => {
            lanes::softmax::<T>([*outer, *length, *inner], elements(input)?, result.elements_mut()?, pace)
        }),
        Work::LogSoftmax { outer, length, inner } => with_float!(dtype, T => {
            lanes::log_softmax::<T>([*outer, *length, *inner], elements(input)?, result.elements_mut()?, pace)
        }),
        Work::Extreme { largest, outer, length, inner } => with_element!(dtype, T => {
            let (sizes, input, result) = ([*outer, *length, *inner], elements(input)?, result.elements_mut()?);
            match largest {
                true => lanes::extreme::<T, true>(sizes, input, result, pace),
                false => lanes::extreme::<T, false>(sizes, input, result, pace),
            }
        }),
        Work::TopK { outer, length, inner, k, largest } => {
            let indices = more.first_mut().ok_or_else(lost)?.elements_mut()?;
            let search = top_k::Search { sizes: [*outer, *length, *inner], k: *k, largest: *largest };
            with_element!(dtype, T => {
                search.run::<T>(elements(input)?, result.elements_mut()?, indices, account, pace)
            })
        }
        Work::Sort { outer, length, inner, descending } => {
            let indices = more.first_mut().ok_or_else(lost)?.elements_mut()?;
            let sort = sort::Sort { sizes: [*outer, *length, *inner], descending: *descending };
            with_element!(dtype, T => {
                sort.run::<T>(elements(input)?, result.elements_mut()?, indices, account, pace)
            })
        }
        Work::CumulativeSum { outer, length, inner, exclusive, reverse } => {
            let scan = scan::Scan { sizes: [*outer, *length, *inner], exclusive: *exclusive, reverse: *reverse };
            with_number!(dtype, T => scan.run::<T>(elements(input)?, result.elements_mut()?, pace))
        }
        Work::Reduce { reduction, dims, strides, count } => {
            let loops = reduce::Loops { dims, strides, count: *count };
            reduce::run(*reduction, &loops, input, result, account, pace)
        }
        Work::Gather { outer, length, inner } => {
            let sizes = [*outer, *length, *inner];
            indexing::gather(sizes, input, second.ok_or_else(lost)?, result, account, pace)
        }
        Work::Split { outer, lengths } => {
            indexing::split(*outer, lengths, input, std::iter::once(result).chain(more), pace)
        }
        Work::OneHot { outer, depth, inner } => {
            indexing::one_hot([*outer, *depth, *inner], plan.outputs[0].0, input, result, account, pace)
        }
        Work::Matmul { batch, rows, length, columns } => {
            let inputs = [*input, *second.ok_or_else(lost)?];
            matmul::run(batch, [*rows, *length, *columns], inputs, result, account, pace)
        }
        Work::NonMaximumSuppression { count: _, suppression } => {
            let (scores, kept) = (second.ok_or_else(lost)?, more.first_mut().ok_or_else(lost)?);
            let count = with_float!(dtype, T => {
                let (boxes, scores) = (elements(input)?, elements(scores)?);
                boxes::run::<T>(*suppression, boxes, scores, result.elements_mut()?, account, pace)
            })?;
            kept.elements_mut::<i64>()?.fill(count);
            Ok(())
        }
        Work::Unary(unary) => unary::run(*unary, input, result, pace),
        Work::Clamp { low, high } => unary::clamp(*low, *high, input, result, pace),
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
        Work::Arithmetic { arithmetic, broadcast } => {
            arithmetic::run(*arithmetic, broadcast, [*input, *second.ok_or_else(lost)?], result, pace)
        }
        Work::Compare { comparison, broadcast } => {
            arithmetic::compare(*comparison, broadcast, [*input, *second.ok_or_else(lost)?], result, pace)
        }
        Work::Select(broadcast) => match inputs {
            [condition, a, b] => select::run(broadcast, [condition, a, b], result, pace),
            _ => Err(lost()),
        },
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::device::{Arithmetic, Op, Owner, SliceRange};

    fn account(device: &Arc<Cpu>, bytes: u64, count: u64) -> Arc<Account> {
        device.ledger().account(Owner::Invocation { tenant: "default".into() }, bytes, count)
    }

    fn shape(dims: &[u64]) -> Shape {
        Shape::new(dims, 8).unwrap()
    }

    #[test]
    fn bytes_that_are_no_tensor_are_refused() {
        let device = Cpu::new(Ledger::new(1 << 20), Limits::default());
        let account = account(&device, 1 << 20, 10);
        for (dtype, dims, bytes, part) in [
            (DType::F32, &[2, 2][..], &[0; 15][..], "15 bytes, but f32[2, 2] takes 16"),
            (DType::U8, &[], &[], "0 bytes, but u8[] takes 1"),
            (DType::Boolean, &[3], &[1, 0, 2], "byte 2 is 2"),
            (DType::Text, &[0], &[], "text"),
        ] {
            let created = device.create(&account, dtype, shape(dims), bytes).unwrap_err();
            let adopted = device.adopt(&account, dtype, shape(dims), Box::new(bytes.to_vec())).unwrap_err();
            for error in [created, adopted] {
                assert_eq!(error.kind(), Kind::InvalidArgument);
                assert!(error.message().contains(part), "{error}");
            }
        }
        assert_eq!((account.used_bytes(), account.tensor_count()), (0, 0));
        let empty = device.create(&account, DType::F64, shape(&[3, 0]), &[]).unwrap();
        assert_eq!((empty.byte_length(), empty.read(0..0).unwrap()), (0, vec![]));
    }

    #[test]
    fn views_share_their_bytes_and_count_as_tensors() {
        let device = Cpu::new(Ledger::new(1 << 20), Limits::default());
        let account = account(&device, 24, 3);
        let bytes: Vec<u8> = (0..24).collect();
        let whole = device.create(&account, DType::U16, shape(&[4, 3]), &bytes).unwrap();
        let rows = |start, end| vec![SliceRange { axis: 0, start, end, step: 1 }];
        let part = whole.slice(rows(1, 3), device.limits(), &Stop::default()).unwrap();
        let line = part.reshape(&[-1], device.limits()).unwrap();
        drop((whole, part));
        assert_eq!((account.used_bytes(), account.tensor_count()), (24, 1));
        assert_eq!(line.read(0..12).unwrap(), bytes[6..18]);
        assert_eq!(line.read(2..3).unwrap(), bytes[8..9]);
        assert_eq!(line.host_bytes().unwrap(), &bytes[6..18]);
        assert_eq!(line.read(2..13).unwrap_err().kind(), Kind::InvalidArgument);
        #[expect(clippy::reversed_empty_ranges, reason = "a guest may ask for it")]
        let reversed = line.read(3..2);
        assert_eq!(reversed.unwrap_err().kind(), Kind::InvalidArgument);
        let copies = (line.reshape(&[2, 3], device.limits()).unwrap(), line.reshape(&[3, 2], device.limits()).unwrap());
        assert_eq!(line.reshape(&[6], device.limits()).unwrap_err().kind(), Kind::LimitExceeded);
        drop((copies, line));
        assert_eq!((account.used_bytes(), account.tensor_count(), device.ledger().used_bytes()), (0, 0, 0));
    }

    #[test]
    fn results_are_charged_before_they_are_made() {
        let device = Cpu::new(Ledger::new(100), Limits::default());
        let account = account(&device, 90, 10);
        let run = |op: &Op, inputs: &[&Tensor]| device.run(&account, op, inputs, device.limits(), &Stop::default());
        let tensor = device.create(&account, DType::U8, shape(&[40]), &[1; 40]).unwrap();
        let wide = run(&Op::Cast { dtype: DType::F64 }, &[&tensor]).unwrap_err();
        assert_eq!(wide.kind(), Kind::LimitExceeded);
        let sum = run(&Op::Arithmetic(Arithmetic::Add), &[&tensor, &tensor]).unwrap();
        assert_eq!((account.used_bytes(), sum[0].read(0..2).unwrap()), (80, vec![2, 2]));
        let other = device.ledger().account(Owner::Workspace, 90, 10);
        let full = device.create(&other, DType::U8, shape(&[21]), &[0; 21]).unwrap_err();
        assert_eq!(full.kind(), Kind::Overloaded);
        // The search of top-k needs temporary memory.
        let search = run(&Op::TopK { k: 1, axis: 0, largest: true }, &[&tensor]).unwrap_err();
        assert_eq!(search.kind(), Kind::LimitExceeded);
        assert_eq!(account.used_bytes(), 80);
    }

    #[test]
    fn adopted_memory_is_used_in_place_where_it_is_aligned() {
        struct Offset(Vec<u64>, usize);
        impl HostMemory for Offset {
            fn bytes(&self) -> &[u8] {
                &bytemuck::cast_slice(&self.0)[self.1..self.1 + 8]
            }
        }
        let device = Cpu::new(Ledger::new(100), Limits::default());
        let account = account(&device, 90, 10);
        for (offset, in_place) in [(0, true), (8, true), (4, false)] {
            let memory = Box::new(Offset(vec![1, 2, 3], offset));
            let (address, bytes) = (memory.bytes().as_ptr().addr(), memory.bytes().to_vec());
            let tensor = device.adopt(&account, DType::U64, shape(&[1]), memory).unwrap();
            let found = tensor.host_bytes().unwrap();
            assert_eq!((found, found.as_ptr().addr() == address), (&bytes[..], in_place));
            assert_eq!(account.used_bytes(), 8);
        }
    }

    #[test]
    fn a_stopped_operator_ends_and_leaves_nothing() {
        let device = Cpu::new(Ledger::new(1 << 30), Limits::default());
        let account = account(&device, 1 << 30, 10);
        let length = 1 << 22;
        let tensor = device.create(&account, DType::U8, shape(&[length]), &vec![1; length as usize]).unwrap();
        let stop = Stop::default();
        let planned = Op::Cast { dtype: DType::U16 }.plan(&[(DType::U8, tensor.shape())], device.limits()).unwrap();
        stop.cancel();
        let error = device.execute(&account, &planned, &[&tensor], &stop).unwrap_err();
        assert_eq!((error.kind(), account.used_bytes()), (Kind::Cancelled, length));
    }

    #[test]
    fn tensors_of_another_device_are_refused() {
        let ledger = Ledger::new(100);
        let [here, there] = [0, 1].map(|_| Cpu::new(Arc::clone(&ledger), Limits::default()));
        let account = account(&there, 90, 10);
        let tensor = there.create(&account, DType::U8, Shape::scalar(), &[1]).unwrap();
        let error =
            here.run(&account, &Op::Softmax { axis: 0 }, &[&tensor], here.limits(), &Stop::default()).unwrap_err();
        assert_eq!(error.kind(), Kind::Unsupported);
    }
}
