//! Finds the initialisers of a graph that are stored in the file of weights next to it, by reading the graph's ONNX file
//! (onnx.proto3, fields by number); it never reads a weight.

use super::{Element, dtype_of, element_of};
use crate::model::engine::WEIGHTS;
use crate::model::protobuf::{Message, Value};
use std::ffi::CString;
use std::fs::File;
use std::io::{self, BufReader};
use std::ops::Range;
use std::path::Path;

/// `TensorProto.DataLocation.EXTERNAL`.
const EXTERNAL: u64 = 1;

/// An initialiser in the file of weights.
pub(super) struct External {
    pub(super) name: CString,
    pub(super) element: Element,
    pub(super) dims: Vec<i64>,
    /// Where its elements are in the file.
    pub(super) range: Range<u64>,
}

/// The fields of a `TensorProto` that are needed.
#[derive(Default)]
struct Read {
    name: String,
    element: u64,
    dims: Vec<u64>,
    is_external: bool,
    location: String,
    offset: Option<u64>,
    length: Option<u64>,
}

/// What is read from a graph's file.
pub(super) struct Told {
    /// The initialisers of the outermost graph whose elements are stored in [`WEIGHTS`], in their order there.
    pub(super) externals: Vec<External>,
    /// Whether there is a convolution in that graph.
    pub(super) convolves: bool,
}

/// Reads a graph's file.
///
/// Errors: those of the disk; a file that is not ONNX.
pub(super) fn read(graph: &Path) -> io::Result<Told> {
    let file = File::open(graph)?;
    let length = file.metadata()?.len();
    let mut reader = BufReader::new(file);
    let mut model = Message::whole(&mut reader, length);
    let mut told = Told { externals: Vec::new(), convolves: false };
    while let Some((field, value)) = model.next()? {
        let (7, Value::Message(length)) = (field, &value) else {
            model.skip(value)?;
            continue;
        };
        let mut graph = model.within(*length)?;
        while let Some((field, value)) = graph.next()? {
            match (field, value) {
                (1, Value::Message(length)) => told.convolves |= is_convolution(&mut graph.within(length)?)?,
                (5, Value::Message(length)) => told.externals.extend(Read::of(&mut graph.within(length)?)?.external()),
                (_, value) => graph.skip(value)?,
            }
        }
    }
    told.externals.sort_by_key(|external| external.range.start);
    Ok(told)
}

/// Whether a node is one of the operators Conv, ConvTranspose, FusedConv and so on.
fn is_convolution(node: &mut Message<'_>) -> io::Result<bool> {
    let mut is = false;
    while let Some((field, value)) = node.next()? {
        match (field, value) {
            (4, Value::Message(length)) => is = node.text(length)?.contains("Conv"),
            (_, value) => node.skip(value)?,
        }
    }
    Ok(is)
}

impl Read {
    fn of(message: &mut Message<'_>) -> io::Result<Read> {
        let mut read = Read::default();
        while let Some((field, value)) = message.next()? {
            match (field, value) {
                (1, Value::Number(dim)) => read.dims.push(dim),
                (1, Value::Message(length)) => read.dims.extend(message.numbers(length)?),
                (2, Value::Number(element)) => read.element = element,
                (8, Value::Message(length)) => read.name = message.text(length)?,
                (13, Value::Message(length)) => read.entry(message.within(length)?.entry()?),
                (14, Value::Number(location)) => read.is_external = location == EXTERNAL,
                (_, value) => message.skip(value)?,
            }
        }
        Ok(read)
    }

    fn entry(&mut self, (key, text): (String, String)) {
        match key.as_str() {
            "location" => self.location = text,
            "offset" => self.offset = text.parse().ok(),
            "length" => self.length = text.parse().ok(),
            _ => {}
        }
    }

    /// None for an initialiser that onnxruntime has to read by itself.
    fn external(self) -> Option<External> {
        if !self.is_external || self.location != WEIGHTS {
            return None;
        }
        let dtype = i32::try_from(self.element).ok().and_then(dtype_of)?;
        let bytes = self.dims.iter().try_fold(dtype.size_bytes()?, |bytes, dim| bytes.checked_mul(*dim))?;
        let start = self.offset.unwrap_or(0);
        let is_whole = bytes > 0 && self.length.is_none_or(|length| length == bytes);
        let dims = self.dims.iter().map(|dim| i64::try_from(*dim)).collect::<Result<_, _>>().ok()?;
        let (name, element) = (CString::new(self.name).ok()?, element_of(dtype)?);
        is_whole.then_some(External { name, element, dims, range: start..start.checked_add(bytes)? })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::RawConfig;
    use crate::model::engine::{GRAPH, Preparing};
    use crate::model::onnxruntime::glue::{Borrowed, RawSession, add_initializer};
    use crate::model::onnxruntime::{Library, OnnxRuntime};
    use crate::model::tests::{package, wanted};
    use ort::session::RunOptions;
    use ort::session::builder::{GraphOptimizationLevel, SessionBuilder};
    use std::sync::Arc;

    #[test]
    fn a_session_takes_its_weights_from_tensors_made_of_what_is_found() {
        let (Some(path), Some(models)) = (wanted("HEARTH_ORT_LIB"), wanted("HEARTH_TEST_MODELS")) else { return };
        let folder = tempfile::tempdir().unwrap();
        let data = Some(folder.path().join("data"));
        let config = RawConfig { data, ort_lib: Some(path), ..RawConfig::default() }.resolve().unwrap();
        let (model, form) = (models.join("ocr-classify"), folder.path().join("form"));
        std::fs::create_dir(&form).unwrap();
        // Without packed copies, which are stored in the file, too.
        let mut engine = OnnxRuntime::new(&config, None);
        engine.config.limits.packed_model_bytes = 0;
        engine.prepare(&model, package(&model).weights_bytes(), &form).unwrap();
        let weights = std::fs::read(form.join(WEIGHTS)).unwrap();
        let Told { externals: found, convolves } = read(&form.join(GRAPH)).unwrap();
        assert!(convolves);
        assert!(found.windows(2).all(|pair| pair[0].range.end <= pair[1].range.start));
        let bytes: u64 = found.iter().map(|external| external.range.end - external.range.start).sum();
        assert!(bytes * 10 > weights.len() as u64 * 9, "{bytes} of {}", weights.len());

        let library = Library::get(&config).unwrap();
        let tensors: Vec<_> = (found.iter())
            .map(|one| {
                let bytes = &weights[one.range.start as usize..one.range.end as usize];
                Borrowed::new(bytes, &one.dims, one.element).unwrap()
            })
            .collect();
        let outputs = |is_lent: bool| {
            let builder = SessionBuilder::new(&library.environment).unwrap();
            let mut builder = builder.with_optimization_level(GraphOptimizationLevel::Disable).unwrap();
            for (external, tensor) in found.iter().zip(&tensors).filter(|_| is_lent) {
                // SAFETY: the tensors outlive the session.
                #[allow(unsafe_code)]
                unsafe { add_initializer(&mut builder, &external.name, tensor) }.unwrap();
            }
            let session = Arc::new(RawSession::load(&library.environment, &builder, &form.join(GRAPH)).unwrap());
            let pixels: Vec<u8> = (0..3 * 48 * 192).flat_map(|at| (at as f32 / 3e4).to_le_bytes()).collect();
            let image = Borrowed::new(&pixels, &[1, 3, 48, 192], Element::ONNX_TENSOR_ELEMENT_DATA_TYPE_FLOAT).unwrap();
            let names = ["x", "save_infer_model/scale_0.tmp_1"].map(|name| [CString::new(name).unwrap()]);
            let outputs = session.run(&RunOptions::new().unwrap(), &names[0], &[image], &names[1]).unwrap();
            outputs[0].bytes().to_vec()
        };
        let expected = outputs(false);
        // If it read them from the file, it would get zeros now.
        std::fs::write(form.join(WEIGHTS), vec![0; weights.len()]).unwrap();
        assert!(outputs(true) == expected && outputs(false) != expected);
    }
}
