//! The host of a test: grants, models, the log, and a device. It never shares anything with another test.

use std::cell::{Cell, RefCell};
use std::collections::BTreeMap;
use std::rc::Rc;
use std::sync::{Mutex, PoisonError};

use hearth::device as host;
use hearth_guest::context::LogLevel;
use hearth_guest::export::Initialised;
use hearth_guest::testing::{self, Answer, Host, NamedObjects, Object, Operator, Preprocessed};
use hearth_guest::{DType, Error, Kept, Outcome, Outputs, Request, Response, Result, Signature, SliceRange, Tensor};

use crate::TestModel;
use crate::device::{Cpus, from_host};

/// The grants of a handler in a test, and its log.
pub struct TestHost(Rc<State>);

/// A line that a handler logged.
#[derive(Clone, Debug, PartialEq)]
pub struct LogLine {
    /// How much it matters.
    pub level: LogLevel,
    /// The text.
    pub message: String,
    /// The fields, in the handler's order.
    pub fields: Vec<(String, String)>,
}

/// A handler's answer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Reply {
    /// The status.
    pub status: u16,
    /// The header lines.
    pub headers: Vec<(String, Vec<u8>)>,
    /// The body.
    pub body: Vec<u8>,
}

struct State {
    cpus: Cpus,
    models: BTreeMap<String, TestModel>,
    config: BTreeMap<String, String>,
    secrets: BTreeMap<String, Option<String>>,
    log: RefCell<Vec<LogLine>>,
    preparing: Cell<bool>,
}

impl Default for TestHost {
    fn default() -> TestHost {
        TestHost::new()
    }
}

impl TestHost {
    /// A host that grants nothing yet.
    pub fn new() -> TestHost {
        TestHost(Rc::new(State {
            cpus: Cpus::new(),
            models: BTreeMap::new(),
            config: BTreeMap::new(),
            secrets: BTreeMap::new(),
            log: RefCell::default(),
            preparing: Cell::new(false),
        }))
    }

    fn with(mut self, change: impl FnOnce(&mut State)) -> TestHost {
        let state = Rc::get_mut(&mut self.0).expect("a host is built before anything runs on it");
        change(state);
        self
    }

    /// Adds a model, which the handler may open by its name, with or without a version or alias.
    #[must_use]
    pub fn model(self, model: TestModel) -> TestHost {
        self.with(|state| {
            state.models.insert(model.name.clone(), model);
        })
    }

    /// Sets a key of the configuration.
    #[must_use]
    pub fn config(self, key: &str, value: &str) -> TestHost {
        self.with(|state| {
            state.config.insert(key.to_owned(), value.to_owned());
        })
    }

    /// Grants a secret with a value.
    #[must_use]
    pub fn secret(self, name: &str, value: &str) -> TestHost {
        self.with(|state| {
            state.secrets.insert(name.to_owned(), Some(value.to_owned()));
        })
    }

    /// Grants a secret that has no value yet.
    #[must_use]
    pub fn secret_without_value(self, name: &str) -> TestHost {
        self.with(|state| {
            state.secrets.insert(name.to_owned(), None);
        })
    }

    /// Runs code on this host: the calls that it makes on this thread, and no others, are answered by it. For functions of a
    /// handler; the handler itself is run by [`TestHost::call`].
    pub fn run<R>(&self, code: impl FnOnce() -> R) -> R {
        let _entered = testing::enter(self.0.clone());
        code()
    }

    /// Runs the function marked `#[init]`, under the rules of `init`: no secrets, tensors, operators or model runs. Each test
    /// that needs its values calls this once, because a `Prepared` value belongs to the test's thread.
    pub fn init<I: Initialised>(&self, init: impl FnOnce() -> I) -> Result<()> {
        self.0.preparing.set(true);
        let result = self.run(|| init().into_result());
        self.0.preparing.set(false);
        result
    }

    /// Answers one request with a handler. An error is the handler's own; a panic is passed on.
    pub fn call<A: Answer>(&self, handler: impl FnOnce(Request) -> A, request: Request) -> Result<Reply> {
        self.run(|| handler(request).into_answer()).map(Reply::from)
    }

    /// Answers one request with the two halves of a pipeline, and runs the model in between.
    pub fn pipeline<P: Preprocessed, A: Answer>(
        &self,
        preprocess: impl FnOnce(Request) -> P,
        postprocess: impl FnOnce(Outputs, Kept) -> A,
        request: Request,
    ) -> Result<Reply> {
        self.run(|| {
            let call = match preprocess(request).into_outcome()? {
                Outcome::Respond(response) => return Ok(Reply::from(response)),
                Outcome::Run(call) => call,
            };
            let (name, inputs, kept) = testing::call_parts(call);
            let outputs = self.0.find(&name)?.run(inputs)?;
            postprocess(testing::outputs(outputs), kept).into_answer().map(Reply::from)
        })
    }

    /// The lines logged so far.
    pub fn log(&self) -> Vec<LogLine> {
        self.0.log.borrow().clone()
    }
}

impl From<Response> for Reply {
    fn from(response: Response) -> Reply {
        let (status, headers, body) = response.into_parts();
        Reply { status, headers, body }
    }
}

impl Reply {
    /// The value of the first header of a name, in any case, where it is UTF-8.
    pub fn header(&self, name: &str) -> Option<&str> {
        let found = self.headers.iter().find(|(key, _)| key.eq_ignore_ascii_case(name));
        found.and_then(|(_, value)| std::str::from_utf8(value).ok())
    }

    /// The body as text. Panics where it is not UTF-8.
    pub fn text(&self) -> &str {
        std::str::from_utf8(&self.body).expect("the body is not UTF-8 text")
    }

    /// The body as JSON. Panics where it is not JSON of this type.
    #[cfg(feature = "json")]
    pub fn json<'a, T: serde::Deserialize<'a>>(&'a self) -> T {
        serde_json::from_slice(&self.body)
            .unwrap_or_else(|error| panic!("the body is not the JSON that was expected: {error}: {:?}", self.text()))
    }
}

/// A model that a handler opened.
struct Opened(String);

/// A run that a handler submitted; it is over at once. Empty after its outputs were taken.
struct Submitted(Mutex<Option<Result<NamedObjects>>>);

/// The device's tensor behind an object of this host.
pub(crate) fn device_tensor(object: &Object) -> &host::Tensor {
    object.downcast_ref().expect("a tensor of another host; use each tensor on the host that made it")
}

fn object(tensor: host::Tensor) -> Object {
    Box::new(tensor)
}

impl State {
    /// Refuses calls that `init` may not make.
    fn allowed(&self, what: &str) -> Result<()> {
        match self.preparing.get() {
            false => Ok(()),
            true => {
                Err(Error::permission_denied(format!("{what}: not in init, whose memory every instance starts from")))
            }
        }
    }

    fn find(&self, name: &str) -> Result<&TestModel> {
        let base = name.split_once('@').map_or(name, |(base, _)| base);
        self.models.get(name).or_else(|| self.models.get(base)).ok_or_else(|| {
            let names: Vec<&str> = self.models.keys().map(String::as_str).collect();
            Error::not_found(format!("the test host has no model `{name}`; it has {names:?} (TestHost::model)"))
        })
    }

    fn opened(&self, model: &Object) -> &TestModel {
        let name = &model.downcast_ref::<Opened>().expect("a model of another host").0;
        &self.models[name]
    }
}

impl Host for State {
    fn create(&self, dtype: DType, shape: &[u64], bytes: &[u8]) -> Result<Object> {
        self.allowed("making a tensor")?;
        self.cpus.create(dtype, shape, bytes).map(object)
    }

    fn create_text(&self, shape: &[u64], values: &[&str]) -> Result<Object> {
        self.allowed("making a tensor")?;
        self.cpus.create_text(shape, values).map(object)
    }

    fn shape(&self, tensor: &Object) -> Vec<u64> {
        device_tensor(tensor).shape().dims().to_vec()
    }

    fn dtype(&self, tensor: &Object) -> DType {
        from_host(device_tensor(tensor).dtype())
    }

    fn device(&self, tensor: &Object) -> String {
        device_tensor(tensor).device().name().to_owned()
    }

    fn byte_length(&self, tensor: &Object) -> u64 {
        device_tensor(tensor).byte_length()
    }

    fn read(&self, tensor: &Object) -> Result<Vec<u8>> {
        let tensor = device_tensor(tensor);
        if tensor.dtype() == host::DType::Text {
            return Err(Error::unsupported("a tensor of text has no bytes; read-text reads it"));
        }
        tensor.read(0..tensor.byte_length()).map_err(crate::to_guest)
    }

    fn read_text(&self, tensor: &Object) -> Result<Vec<String>> {
        device_tensor(tensor).strings().map(<[String]>::to_vec).map_err(crate::to_guest)
    }

    fn read_range(&self, tensor: &Object, offset: u64, length: u64) -> Result<Vec<u8>> {
        device_tensor(tensor).read(offset..offset.saturating_add(length)).map_err(crate::to_guest)
    }

    fn reshape(&self, tensor: &Object, shape: &[i64]) -> Result<Object> {
        self.cpus.reshape(device_tensor(tensor), shape).map(object)
    }

    fn slice(&self, tensor: &Object, ranges: &[SliceRange]) -> Result<Object> {
        self.cpus.slice(device_tensor(tensor), ranges).map(object)
    }

    fn decode_image(&self, data: &[u8]) -> Result<Object> {
        self.allowed("decoding an image")?;
        self.cpus.decode_image(data).map(object)
    }

    fn operate(&self, operator: Operator<'_>, inputs: &[&Object]) -> Result<Vec<Object>> {
        self.allowed("an operator")?;
        let inputs: Vec<&host::Tensor> = inputs.iter().map(|input| device_tensor(input)).collect();
        Ok(self.cpus.operate(operator, &inputs)?.into_iter().map(object).collect())
    }

    fn open(&self, name: &str) -> Result<Object> {
        Ok(Box::new(Opened(self.find(name)?.name.clone())))
    }

    fn signature(&self, model: &Object) -> Signature {
        self.opened(model).signature.clone()
    }

    fn asset(&self, model: &Object, name: &str) -> Result<Vec<u8>> {
        let model = self.opened(model);
        model.assets.get(name).cloned().ok_or_else(|| {
            let names: Vec<&str> = model.assets.keys().map(String::as_str).collect();
            Error::not_found(format!("the model `{}` has no asset `{name}`; it has {}", model.name, names.join(", ")))
        })
    }

    fn infer(&self, model: &Object, inputs: &[(&str, &Object)]) -> Result<NamedObjects> {
        self.allowed("running a model")?;
        let share = |tensor: &Object| testing::tensor(object(device_tensor(tensor).clone()));
        let inputs = inputs.iter().map(|(name, tensor)| ((*name).to_owned(), share(tensor))).collect();
        let outputs = self.opened(model).run(inputs)?;
        let bare = |tensor: &Tensor| object(device_tensor(testing::object(tensor)).clone());
        Ok(outputs.iter().map(|(name, tensor)| (name.clone(), bare(tensor))).collect())
    }

    fn submit(&self, model: &Object, inputs: &[(&str, &Object)]) -> Result<Object> {
        self.allowed("running a model")?;
        Ok(Box::new(Submitted(Mutex::new(Some(self.infer(model, inputs))))))
    }

    fn ready(&self, _pending: &Object) -> bool {
        true
    }

    fn wait(&self, pending: &Object) -> Result<NamedObjects> {
        let run = &pending.downcast_ref::<Submitted>().expect("a run of another host").0;
        let taken = run.lock().unwrap_or_else(PoisonError::into_inner).take();
        taken.unwrap_or_else(|| Err(Error::conflict("the outputs of this run were taken already")))
    }

    fn cancel(&self, _pending: &Object) {
        // A run is over as soon as it is submitted, so there is nothing to cancel.
    }

    fn request_id(&self) -> String {
        "test".to_owned()
    }

    fn tenant(&self) -> String {
        "default".to_owned()
    }

    fn remaining_ms(&self) -> u64 {
        hearth::config::Limits::default().invocation_ms
    }

    fn config(&self, key: &str) -> Option<String> {
        self.config.get(key).cloned()
    }

    fn secret(&self, name: &str) -> Result<Option<String>> {
        self.allowed("reading a secret")?;
        self.secrets.get(name).cloned().ok_or_else(|| {
            Error::permission_denied(format!("the test host grants no secret `{name}` (TestHost::secret)"))
        })
    }

    fn log(&self, level: LogLevel, message: &str, fields: &[(&str, &str)]) {
        let fields = fields.iter().map(|(key, value)| ((*key).to_owned(), (*value).to_owned())).collect();
        self.log.borrow_mut().push(LogLine { level, message: message.to_owned(), fields });
    }
}
