//! `tensors`: makes, describes and reads tensors; it never computes on them, which `operators` does.

use super::bindings::hearth::inference::tensors;
use super::{Ctx, Fault};
use crate::device::{DType, Op, Shape, SliceRange, Tensor, charge_strings};
use crate::error::Error;
use std::ops::Range;
use wasmtime::component::Resource;

pub(super) fn dtype_of_guest(dtype: tensors::Dtype) -> DType {
    match dtype {
        tensors::Dtype::Boolean => DType::Boolean,
        tensors::Dtype::U8 => DType::U8,
        tensors::Dtype::S8 => DType::S8,
        tensors::Dtype::U16 => DType::U16,
        tensors::Dtype::S16 => DType::S16,
        tensors::Dtype::U32 => DType::U32,
        tensors::Dtype::S32 => DType::S32,
        tensors::Dtype::U64 => DType::U64,
        tensors::Dtype::S64 => DType::S64,
        tensors::Dtype::F16 => DType::F16,
        tensors::Dtype::Bf16 => DType::BF16,
        tensors::Dtype::F32 => DType::F32,
        tensors::Dtype::F64 => DType::F64,
        tensors::Dtype::Text => DType::Text,
    }
}

pub(super) fn dtype_to_guest(dtype: DType) -> tensors::Dtype {
    match dtype {
        DType::Boolean => tensors::Dtype::Boolean,
        DType::U8 => tensors::Dtype::U8,
        DType::S8 => tensors::Dtype::S8,
        DType::U16 => tensors::Dtype::U16,
        DType::S16 => tensors::Dtype::S16,
        DType::U32 => tensors::Dtype::U32,
        DType::S32 => tensors::Dtype::S32,
        DType::U64 => tensors::Dtype::U64,
        DType::S64 => tensors::Dtype::S64,
        DType::F16 => tensors::Dtype::F16,
        DType::BF16 => tensors::Dtype::Bf16,
        DType::F32 => tensors::Dtype::F32,
        DType::F64 => tensors::Dtype::F64,
        DType::Text => tensors::Dtype::Text,
    }
}

impl Ctx {
    fn read_tensor(&mut self, tensor: &Tensor, range: Range<u64>) -> Result<Vec<u8>, Fault> {
        let bytes = tensor.device().read(tensor, range)?;
        self.usage.downloaded_bytes += bytes.len() as u64;
        Ok(bytes)
    }
}

impl tensors::Host for Ctx {}

impl tensors::HostTensor for Ctx {
    fn create(&mut self, dtype: tensors::Dtype, shape: Vec<u64>, data: Vec<u8>) -> Result<Resource<Tensor>, Fault> {
        self.refused_in_init("tensors")?;
        let shape = Shape::new(&shape, self.call.limits.tensor_rank)?;
        let tensor = self.services.device.create(&self.account, dtype_of_guest(dtype), shape, &data)?;
        self.usage.uploaded_bytes += data.len() as u64;
        Ok(self.table.push(tensor)?)
    }

    fn create_text(&mut self, shape: Vec<u64>, values: Vec<String>) -> Result<Resource<Tensor>, Fault> {
        self.refused_in_init("tensors")?;
        let shape = Shape::new(&shape, self.call.limits.tensor_rank)?;
        let bytes: u64 = values.iter().map(|value| value.len() as u64).sum();
        let tensor = Tensor::text(&self.services.device, &self.account, shape, values)?;
        self.usage.uploaded_bytes += bytes;
        Ok(self.table.push(tensor)?)
    }

    fn read_text(&mut self, tensor: Resource<Tensor>) -> Result<Vec<String>, Fault> {
        let tensor = self.table.get(&tensor)?;
        let (values, bytes, most) = (tensor.strings()?, tensor.byte_length(), self.call.limits.hostcall_bytes);
        if bytes > most {
            return Err(Error::too_large(format!(
                "the strings have {bytes} bytes; one call gives at most {most} (hostcall_bytes)"
            ))
            .into());
        }
        let _copies = charge_strings(&self.account, bytes, values.len() as u64)?;
        let values = values.to_vec();
        self.usage.downloaded_bytes += bytes;
        Ok(values)
    }

    fn shape(&mut self, tensor: Resource<Tensor>) -> wasmtime::Result<Vec<u64>> {
        Ok(self.table.get(&tensor)?.shape().dims().to_vec())
    }

    fn dtype(&mut self, tensor: Resource<Tensor>) -> wasmtime::Result<tensors::Dtype> {
        Ok(dtype_to_guest(self.table.get(&tensor)?.dtype()))
    }

    fn device(&mut self, tensor: Resource<Tensor>) -> wasmtime::Result<String> {
        Ok(self.table.get(&tensor)?.device().name().to_owned())
    }

    fn byte_length(&mut self, tensor: Resource<Tensor>) -> wasmtime::Result<u64> {
        Ok(self.table.get(&tensor)?.byte_length())
    }

    async fn read(&mut self, tensor: Resource<Tensor>) -> Result<Vec<u8>, Fault> {
        let tensor = self.table.get(&tensor)?.clone();
        if tensor.dtype() == DType::Text {
            return Err(Error::unsupported("a tensor of text has no bytes; read-text reads it").into());
        }
        let all = 0..tensor.byte_length();
        self.read_tensor(&tensor, all)
    }

    async fn read_range(&mut self, tensor: Resource<Tensor>, offset: u64, length: u64) -> Result<Vec<u8>, Fault> {
        let tensor = self.table.get(&tensor)?.clone();
        let bytes = tensor.byte_length();
        let end = offset.checked_add(length).filter(|end| *end <= bytes);
        let end = end.ok_or_else(|| {
            Error::invalid_argument(format!(
                "{length} bytes from byte {offset} are not within a tensor of {bytes} bytes"
            ))
        })?;
        self.read_tensor(&tensor, offset..end)
    }

    fn reshape(&mut self, tensor: Resource<Tensor>, shape: Vec<i64>) -> Result<Resource<Tensor>, Fault> {
        let view = self.table.get(&tensor)?.reshape(&shape, &self.call.limits)?;
        Ok(self.table.push(view)?)
    }

    async fn slice(
        &mut self,
        tensor: Resource<Tensor>,
        ranges: Vec<tensors::SliceRange>,
    ) -> Result<Resource<Tensor>, Fault> {
        let ranges = ranges.into_iter().map(|range| SliceRange {
            axis: range.axis,
            start: range.start,
            end: range.end,
            step: range.step,
        });
        let input = self.table.get(&tensor)?.clone();
        self.operate(Op::Slice { ranges: ranges.collect() }, vec![input]).await
    }

    fn drop(&mut self, tensor: Resource<Tensor>) -> wasmtime::Result<()> {
        self.table.delete(tensor)?;
        Ok(())
    }
}
