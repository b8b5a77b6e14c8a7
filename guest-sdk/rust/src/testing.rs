//! Replaces the host in tests, on the development machine; a component never contains this module.
//!
//! Tests use the crate `hearth-guest-testing`, whose `TestHost` implements [`Host`] with the real operators of the CPU device.
//! This module is needed only to write another host.

use std::any::Any;
use std::cell::RefCell;
use std::marker::PhantomData;
use std::rc::Rc;

use crate::context::LogLevel;
use crate::contract::models::NamedTensor;
use crate::{Call, DType, Outcome, Result, Signature, SliceRange, Tensor};

pub use crate::bindings::hearth::inference::operators::ResizeOptions;
pub use crate::contract::operators::Operator;
pub use crate::export::{Answer, Preprocessed};
pub use crate::{Kept, Outputs};

/// The object behind a handle. Only the host that made it knows its type; dropping it drops the handle.
pub type Object = Box<dyn Any + Send + Sync>;

/// Objects of tensors with the names of a model's outputs.
pub type NamedObjects = Vec<(String, Object)>;

/// The contract of `wit/`, as one trait. Methods that take an [`Object`] get one that this host made.
pub trait Host {
    /// `tensor.create`
    fn create(&self, dtype: DType, shape: &[u64], bytes: &[u8]) -> Result<Object>;
    /// `tensor.create-text`
    fn create_text(&self, shape: &[u64], values: &[&str]) -> Result<Object>;
    /// `tensor.shape`
    fn shape(&self, tensor: &Object) -> Vec<u64>;
    /// `tensor.dtype`
    fn dtype(&self, tensor: &Object) -> DType;
    /// `tensor.device`
    fn device(&self, tensor: &Object) -> String;
    /// `tensor.byte-length`
    fn byte_length(&self, tensor: &Object) -> u64;
    /// `tensor.read`
    fn read(&self, tensor: &Object) -> Result<Vec<u8>>;
    /// `tensor.read-text`
    fn read_text(&self, tensor: &Object) -> Result<Vec<String>>;
    /// `tensor.read-range`
    fn read_range(&self, tensor: &Object, offset: u64, length: u64) -> Result<Vec<u8>>;
    /// `tensor.reshape`
    fn reshape(&self, tensor: &Object, shape: &[i64]) -> Result<Object>;
    /// `tensor.slice`
    fn slice(&self, tensor: &Object, ranges: &[SliceRange]) -> Result<Object>;
    /// `operators.decode-image`
    fn decode_image(&self, data: &[u8]) -> Result<Object>;
    /// Every other function of `operators`; the results are in the order in which the contract names them.
    fn operate(&self, operator: Operator<'_>, inputs: &[&Object]) -> Result<Vec<Object>>;
    /// `model.open`
    fn open(&self, name: &str) -> Result<Object>;
    /// `model.signature`
    fn signature(&self, model: &Object) -> Signature;
    /// `model.asset`
    fn asset(&self, model: &Object, name: &str) -> Result<Vec<u8>>;
    /// `model.infer`
    fn infer(&self, model: &Object, inputs: &[(&str, &Object)]) -> Result<NamedObjects>;
    /// `model.submit`
    fn submit(&self, model: &Object, inputs: &[(&str, &Object)]) -> Result<Object>;
    /// `pending.ready`
    fn ready(&self, pending: &Object) -> bool;
    /// `pending.wait`
    fn wait(&self, pending: &Object) -> Result<NamedObjects>;
    /// `pending.cancel`
    fn cancel(&self, pending: &Object);
    /// `context.request-id`
    fn request_id(&self) -> String;
    /// `context.tenant`
    fn tenant(&self) -> String;
    /// `context.remaining-ms`
    fn remaining_ms(&self) -> u64;
    /// `context.config`
    fn config(&self, key: &str) -> Option<String>;
    /// `context.secret`
    fn secret(&self, name: &str) -> Result<Option<String>>;
    /// `context.log`
    fn log(&self, level: LogLevel, message: &str, fields: &[(&str, &str)]);
}

thread_local! {
    static CURRENT: RefCell<Option<Rc<dyn Host>>> = const { RefCell::new(None) };
}

/// Sets the host of this thread until the result is dropped, which restores the previous one.
#[must_use = "the host is gone when this is dropped"]
pub fn enter(host: Rc<dyn Host>) -> Entered {
    Entered { before: CURRENT.replace(Some(host)), _this_thread: PhantomData }
}

/// Keeps a host set for this thread as long as it lives.
pub struct Entered {
    before: Option<Rc<dyn Host>>,
    _this_thread: PhantomData<Rc<()>>,
}

impl Drop for Entered {
    fn drop(&mut self) {
        CURRENT.set(self.before.take());
    }
}

pub(crate) fn current() -> Option<Rc<dyn Host>> {
    CURRENT.with_borrow(Option::clone)
}

pub(crate) fn host() -> Rc<dyn Host> {
    current().expect(
        "this calls hearth, and there is no host on this thread; in tests, run it within `TestHost` of the crate \
         hearth-guest-testing",
    )
}

/// The tensor for a host's object.
pub fn tensor(object: Object) -> Tensor {
    Tensor(crate::contract::tensors::Tensor(object))
}

/// The object behind a tensor.
pub fn object(tensor: &Tensor) -> &Object {
    &tensor.0.0
}

/// A model's outputs as the second half of a pipeline gets them.
pub fn outputs(tensors: Vec<(String, Tensor)>) -> Outputs {
    Outputs(tensors.into_iter().map(|(name, tensor)| NamedTensor { name, tensor: tensor.0 }).collect())
}

/// The result of the first half of a pipeline, from any of its result types.
pub fn outcome(given: impl Preprocessed) -> Result<Outcome> {
    given.into_outcome()
}

/// The parts of a call: the model's name, its inputs, and what the second half gets.
pub fn call_parts(call: Call) -> (String, Vec<(String, Tensor)>, Kept) {
    (call.model, call.inputs, Kept { state: call.state, tensors: call.keep })
}
