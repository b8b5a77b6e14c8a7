//! Reads the samples of a model: inputs, and the outputs that the model gives for them. It never reads files outside `samples/`,
//! and never runs a model.
//!
//! Each `samples/NAME.json` is one sample:
//!
//! ```json
//! {
//!   "inputs":  { "x": { "dtype": "f32", "shape": [1, 3], "data": [0.5, 1, "nan"] } },
//!   "outputs": { "y": { "npy": "y-1.npy" } },
//!   "tolerance": { "absolute": 1e-4, "relative": 1e-3 }
//! }
//! ```
//!
//! `data` has the elements in row-major order: numbers (`"nan"`, `"inf"`, `"-inf"` where JSON has none), booleans, strings. `npy`
//! names a file below `samples/` in NumPy's format (<https://numpy.org/doc/stable/reference/generated/numpy.lib.format.html>),
//! little-endian and in C order. Outputs that are not named are not compared; at least one must be named.

use super::compare::Tolerance;
use crate::device::{DType, Shape};
use crate::error::{Error, Result};
use half::{bf16, f16};
use serde::Deserialize;
use serde_json::Value;
use std::collections::BTreeMap;
use std::io::{ErrorKind, Read};
use std::path::{Component, Path};

/// The folder of a package that holds them.
const FOLDER: &str = "samples";
/// Bytes of the header of a NumPy file.
const MOST_HEADER_BYTES: usize = 64 << 10;

/// One sample.
pub(super) struct Sample {
    /// Its file's name, without `.json`.
    pub(super) name: String,
    pub(super) inputs: BTreeMap<String, Array>,
    pub(super) outputs: BTreeMap<String, Array>,
    tolerance: Option<ToleranceFields>,
}

/// A tensor in a sample.
#[derive(Debug, PartialEq)]
pub(super) struct Array {
    pub(super) dtype: DType,
    pub(super) dims: Vec<u64>,
    /// Little-endian elements; empty for text.
    pub(super) bytes: Vec<u8>,
    /// The elements of text.
    pub(super) strings: Vec<String>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct SampleFields {
    inputs: BTreeMap<String, ArrayFields>,
    outputs: BTreeMap<String, ArrayFields>,
    tolerance: Option<ToleranceFields>,
}

#[derive(Clone, Copy, Deserialize)]
#[serde(deny_unknown_fields)]
struct ToleranceFields {
    absolute: Option<f64>,
    relative: Option<f64>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct ArrayFields {
    dtype: Option<String>,
    shape: Option<Vec<u64>>,
    data: Option<Vec<Value>>,
    npy: Option<String>,
}

impl Sample {
    /// The samples of the package in a folder, by name. No file is read beyond `most_bytes`.
    ///
    /// Errors: `invalid-argument` naming the sample and what is wrong with it.
    pub(super) fn all(folder: &Path, most_bytes: u64) -> Result<Vec<Sample>> {
        let folder = folder.join(FOLDER);
        let entries = match std::fs::read_dir(&folder) {
            Ok(entries) => entries,
            Err(error) if error.kind() == ErrorKind::NotFound => return Ok(Vec::new()),
            Err(error) => return Err(Error::storage("reading samples", error)),
        };
        let names = entries.flatten().filter_map(|entry| entry.file_name().into_string().ok());
        let mut names: Vec<String> = names.filter_map(|name| Some(name.strip_suffix(".json")?.to_owned())).collect();
        names.sort();
        let read = |name: String| {
            let sample = Sample::read(&folder, &name, most_bytes);
            sample.map_err(|error| error.context(format_args!("{FOLDER}/{}.json", shortened(&name))))
        };
        names.into_iter().map(read).collect()
    }

    fn read(folder: &Path, name: &str, most_bytes: u64) -> Result<Sample> {
        let text = bytes_of(folder, &format!("{name}.json"), most_bytes)?;
        let SampleFields { inputs, outputs, tolerance } = serde_json::from_slice(&text)
            .map_err(|error| Error::invalid_argument(format!("it is no sample (see docs/engines.md): {error}")))?;
        if outputs.is_empty() {
            return Err(Error::invalid_argument("it names no output, so that nothing could be compared"));
        }
        let arrays = |fields: BTreeMap<String, ArrayFields>| -> Result<BTreeMap<String, Array>> {
            let arrays = fields.into_iter().map(|(name, fields)| {
                let array = fields.read(folder, most_bytes);
                let array = array.map_err(|error| error.context(format_args!("'{}'", shortened(&name))))?;
                Ok((name, array))
            });
            arrays.collect()
        };
        Ok(Sample { name: shortened(name), inputs: arrays(inputs)?, outputs: arrays(outputs)?, tolerance })
    }

    /// How far an output may differ from the sample's.
    pub(super) fn tolerance(&self, dtype: DType) -> Tolerance {
        let Tolerance { absolute, relative } = Tolerance::of(dtype);
        let own = self.tolerance.unwrap_or(ToleranceFields { absolute: None, relative: None });
        Tolerance { absolute: own.absolute.unwrap_or(absolute), relative: own.relative.unwrap_or(relative) }
    }
}

fn shortened(name: &str) -> String {
    name.chars().take(64).collect()
}

/// The bytes of a file of the samples.
fn bytes_of(folder: &Path, name: &str, most_bytes: u64) -> Result<Vec<u8>> {
    let plain = Path::new(name).components().all(|part| matches!(part, Component::Normal(_)));
    if !plain || name.is_empty() {
        return Err(Error::invalid_argument(format!("'{}' is no name of a file below {FOLDER}/", shortened(name))));
    }
    let file = std::fs::File::open(folder.join(name)).map_err(|error| {
        Error::invalid_argument(format!("{FOLDER}/{} cannot be read: {}", shortened(name), error.kind()))
            .with_source(error)
    })?;
    let mut bytes = Vec::new();
    let read = file.take(most_bytes.saturating_add(1)).read_to_end(&mut bytes);
    read.map_err(|error| Error::storage("reading samples", error))?;
    if bytes.len() as u64 > most_bytes {
        let message = format!("{FOLDER}/{} has more than {most_bytes} bytes (limit sample_bytes)", shortened(name));
        return Err(Error::too_large(message));
    }
    Ok(bytes)
}

impl ArrayFields {
    fn read(self, folder: &Path, most_bytes: u64) -> Result<Array> {
        let wrong = |what: &str| Error::invalid_argument(what.to_owned());
        match self {
            ArrayFields { dtype: None, shape: None, data: None, npy: Some(name) } => {
                npy(&bytes_of(folder, &name, most_bytes)?)
                    .map_err(|error| error.context(format_args!("{FOLDER}/{}", shortened(&name))))
            }
            ArrayFields { dtype: Some(dtype), shape: Some(shape), data: Some(data), npy: None } => {
                let dtype = DType::from_word(&dtype).ok_or_else(|| {
                    let words: Vec<_> = DType::ALL.iter().map(|dtype| dtype.as_str()).collect();
                    wrong(&format!("no dtype is called '{}'; there are {}", shortened(&dtype), words.join(", ")))
                })?;
                written(dtype, shape, &data)
            }
            _ => Err(wrong("it takes dtype, shape and data, or npy alone")),
        }
    }
}

/// A tensor of elements that JSON lists.
fn written(dtype: DType, dims: Vec<u64>, data: &[Value]) -> Result<Array> {
    let elements = elements(&dims)?;
    if elements != data.len() as u64 {
        let message = format!("data has {} elements, but shape {dims:?} takes {elements}", data.len());
        return Err(Error::invalid_argument(message));
    }
    let (mut bytes, mut strings) = (Vec::new(), Vec::new());
    for (index, value) in data.iter().enumerate() {
        let written = match dtype {
            DType::Text => value.as_str().map(|text| strings.push(text.to_owned())),
            _ => append(&mut bytes, dtype, value),
        };
        written.ok_or_else(|| Error::invalid_argument(format!("element {index} of data is no {dtype}")))?;
    }
    Ok(Array { dtype, dims, bytes, strings })
}

fn append(bytes: &mut Vec<u8>, dtype: DType, value: &Value) -> Option<()> {
    let float = || match value.as_str() {
        None => value.as_f64(),
        Some("nan") => Some(f64::NAN),
        Some("inf") => Some(f64::INFINITY),
        Some("-inf") => Some(f64::NEG_INFINITY),
        Some(_) => None,
    };
    let whole = || value.as_i64().map(i128::from).or_else(|| value.as_u64().map(i128::from));
    match dtype {
        DType::Boolean => {
            bytes.push(value.as_bool().map(u8::from).or_else(|| u8::try_from(whole()?).ok().filter(|byte| *byte < 2))?)
        }
        DType::U8 => bytes.extend(u8::try_from(whole()?).ok()?.to_le_bytes()),
        DType::S8 => bytes.extend(i8::try_from(whole()?).ok()?.to_le_bytes()),
        DType::U16 => bytes.extend(u16::try_from(whole()?).ok()?.to_le_bytes()),
        DType::S16 => bytes.extend(i16::try_from(whole()?).ok()?.to_le_bytes()),
        DType::U32 => bytes.extend(u32::try_from(whole()?).ok()?.to_le_bytes()),
        DType::S32 => bytes.extend(i32::try_from(whole()?).ok()?.to_le_bytes()),
        DType::U64 => bytes.extend(u64::try_from(whole()?).ok()?.to_le_bytes()),
        DType::S64 => bytes.extend(i64::try_from(whole()?).ok()?.to_le_bytes()),
        DType::F16 => bytes.extend(f16::from_f64(float()?).to_le_bytes()),
        DType::BF16 => bytes.extend(bf16::from_f64(float()?).to_le_bytes()),
        DType::F32 => bytes.extend((float()? as f32).to_le_bytes()),
        DType::F64 => bytes.extend(float()?.to_le_bytes()),
        DType::Text => return None,
    }
    Some(())
}

fn elements(dims: &[u64]) -> Result<u64> {
    Shape::new(dims, u64::MAX).map(|shape| shape.elements())
}

/// A tensor in NumPy's file format, versions 1 to 3.
fn npy(file: &[u8]) -> Result<Array> {
    let wrong = |what: &str| Error::invalid_argument(format!("it is no NumPy file that hearth reads: {what}"));
    let rest = file.strip_prefix(b"\x93NUMPY").ok_or_else(|| wrong("it does not begin as one"))?;
    let (length, rest) = match rest {
        [1, _, a, b, rest @ ..] => (usize::from(u16::from_le_bytes([*a, *b])), rest),
        [2 | 3, _, a, b, c, d, rest @ ..] => (u32::from_le_bytes([*a, *b, *c, *d]) as usize, rest),
        _ => return Err(wrong("its version is unknown")),
    };
    let (header, data) = rest
        .split_at_checked(length)
        .filter(|_| length <= MOST_HEADER_BYTES)
        .ok_or_else(|| wrong("its header is cut off"))?;
    let header = std::str::from_utf8(header).map_err(|_| wrong("its header is no text"))?;
    // The header is a Python dictionary that NumPy writes in one way: {'descr': '<f4', 'fortran_order': False, 'shape': (1, 3), }
    let after = |key: &str| {
        let (_, rest) = header.split_once(&format!("'{key}':"))?;
        Some(rest.trim_start())
    };
    let descr = after("descr").and_then(|rest| rest.strip_prefix('\'')?.split('\'').next());
    let dtype = match descr.ok_or_else(|| wrong("it does not say what its elements are"))? {
        "|b1" => DType::Boolean,
        "|u1" => DType::U8,
        "|i1" => DType::S8,
        "<u2" => DType::U16,
        "<i2" => DType::S16,
        "<u4" => DType::U32,
        "<i4" => DType::S32,
        "<u8" => DType::U64,
        "<i8" => DType::S64,
        "<f2" => DType::F16,
        "<f4" => DType::F32,
        "<f8" => DType::F64,
        other => return Err(wrong(&format!("its elements are '{}'", shortened(other)))),
    };
    if !after("fortran_order").is_some_and(|rest| rest.starts_with("False")) {
        return Err(wrong("it is not in C order; write numpy.ascontiguousarray(…)"));
    }
    let shape = after("shape").and_then(|rest| rest.strip_prefix('(')?.split(')').next());
    let dims = shape.ok_or_else(|| wrong("it has no shape"))?.split(',').map(str::trim).filter(|dim| !dim.is_empty());
    let dims: Vec<u64> = dims.map(str::parse).collect::<Result<_, _>>().map_err(|_| wrong("its shape is no shape"))?;
    let expected = elements(&dims)?.saturating_mul(dtype.size_bytes().unwrap_or(1));
    if expected != data.len() as u64 {
        return Err(wrong(&format!("it has {} bytes of elements and not {expected}", data.len())));
    }
    Ok(Array { dtype, dims, bytes: data.to_vec(), strings: Vec::new() })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn samples(files: &[(&str, &[u8])]) -> Result<Vec<Sample>> {
        let folder = tempfile::tempdir().unwrap();
        for (name, bytes) in files {
            let path = folder.path().join(FOLDER).join(name);
            std::fs::create_dir_all(path.parent().unwrap()).unwrap();
            std::fs::write(path, bytes).unwrap();
        }
        Sample::all(folder.path(), 4_096)
    }

    /// What `numpy.save` writes.
    fn saved(descr: &str, shape: &str, data: &[u8]) -> Vec<u8> {
        let header = format!("{{'descr': '{descr}', 'fortran_order': False, 'shape': {shape}, }}\n");
        [b"\x93NUMPY\x01\x00", &(header.len() as u16).to_le_bytes()[..], header.as_bytes(), data].concat()
    }

    #[test]
    fn samples_are_read_from_json_and_numpy() {
        assert!(samples(&[]).unwrap().is_empty());
        let one = br#"{"inputs": {"x": {"dtype": "f32", "shape": [3], "data": [0.5, 1, "nan"]},
            "flag": {"dtype": "boolean", "shape": [], "data": [true]}, "t": {"dtype": "text", "shape": [1], "data": ["a"]}},
            "outputs": {"y": {"npy": "deep/y.npy"}}, "tolerance": {"relative": 0.5}}"#;
        let y = saved("<i8", "(1, 2)", &[[1u8, 0, 0, 0, 0, 0, 0, 0], [0xff; 8]].concat());
        let found = samples(&[("b.json", one), ("deep/y.npy", &y), ("a.json", one), ("note.txt", b"")]).unwrap();
        assert_eq!(found.iter().map(|sample| sample.name.as_str()).collect::<Vec<_>>(), ["a", "b"]);
        let Sample { inputs, outputs, .. } = &found[0];
        assert_eq!(inputs["x"].bytes[..8], [0.5f32.to_le_bytes(), 1f32.to_le_bytes()].concat());
        assert_eq!((inputs["flag"].bytes.as_slice(), inputs["flag"].dims.len()), (&[1][..], 0));
        assert_eq!(inputs["t"].strings, ["a"]);
        assert_eq!((outputs["y"].dtype, outputs["y"].dims.as_slice()), (DType::S64, &[1, 2][..]));
        assert_eq!(found[0].tolerance(DType::F32), Tolerance { absolute: 1e-4, relative: 0.5 });
    }

    #[test]
    fn wrong_samples_say_what_is_wrong() {
        let output = |array: &str| format!(r#"{{"inputs": {{}}, "outputs": {{"y": {array}}}}}"#);
        let table: Vec<(String, &str)> = vec![
            ("{".to_owned(), "no sample"),
            (r#"{"inputs": {}, "outputs": {}}"#.to_owned(), "names no output"),
            (r#"{"inputs": {}, "outputs": {}, "more": 1}"#.to_owned(), "unknown field"),
            (output(r#"{"dtype": "f32", "shape": [2], "data": [1]}"#), "takes 2"),
            (output(r#"{"dtype": "f31", "shape": [], "data": [1]}"#), "no dtype is called 'f31'"),
            (output(r#"{"dtype": "u8", "shape": [], "data": [256]}"#), "element 0 of data is no u8"),
            (output(r#"{"dtype": "u8", "shape": [], "npy": "y.npy"}"#), "npy alone"),
            (output(r#"{"dtype": "u8", "shape": [9223372036854775807, 9], "data": []}"#), "too many elements"),
            (output(r#"{"npy": "../model.onnx"}"#), "no name of a file below samples/"),
            (output(r#"{"npy": "/etc/passwd"}"#), "no name of a file below samples/"),
            (output(r#"{"npy": "none.npy"}"#), "samples/none.npy cannot be read"),
            (output(r#"{"npy": "large.npy"}"#), "limit sample_bytes"),
            (output(r#"{"npy": "big-endian.npy"}"#), "'>f4'"),
            (output(r#"{"npy": "short.npy"}"#), "4 bytes of elements and not 8"),
        ];
        for (text, part) in table {
            let files: [(&str, &[u8]); 4] = [
                ("s.json", text.as_bytes()),
                ("large.npy", &[0; 5_000]),
                ("big-endian.npy", &saved(">f4", "()", &[0; 4])),
                ("short.npy", &saved("<f4", "(2,)", &[0; 4])),
            ];
            let error = samples(&files).err().unwrap_or_else(|| panic!("{text} must be refused"));
            assert!(error.message().contains(part) && error.message().starts_with("samples/s.json"), "{part}: {error}");
        }
    }
}
