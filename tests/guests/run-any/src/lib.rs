//! A guest for tests: runs whatever model is called `any` on the tensors of the request, and answers with its outputs.
//!
//! Both are JSON: `{"name": {"dtype": "f32", "shape": [1, 3], "data": "little-endian bytes in hexadecimal"}}`.

use hearth_guest::{DType, Error, Model, Request, Response, Result, Tensor, handler};
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;

#[derive(Serialize, Deserialize)]
struct Plain {
    dtype: String,
    shape: Vec<usize>,
    data: String,
}

const DTYPES: [(&str, DType); 13] = [
    ("boolean", DType::Boolean),
    ("u8", DType::U8),
    ("s8", DType::S8),
    ("u16", DType::U16),
    ("s16", DType::S16),
    ("u32", DType::U32),
    ("s32", DType::S32),
    ("u64", DType::U64),
    ("s64", DType::S64),
    ("f16", DType::F16),
    ("bf16", DType::Bf16),
    ("f32", DType::F32),
    ("f64", DType::F64),
];

#[handler(models = ["any"])]
fn run(request: Request) -> Result<Response> {
    let mut inputs = Vec::new();
    for (name, plain) in request.json::<BTreeMap<String, Plain>>()? {
        let dtype = DTYPES.iter().find(|(word, _)| *word == plain.dtype);
        let (_, dtype) = dtype.ok_or_else(|| Error::invalid_argument(format!("no dtype is called {}", plain.dtype)))?;
        let data = hex::decode(&plain.data).map_err(Error::invalid_argument)?;
        inputs.push((name, Tensor::from_bytes(*dtype, &plain.shape, &data)?));
    }
    let inputs = inputs.iter().map(|(name, tensor)| (name.as_str(), tensor));
    let mut outputs = Model::open("any")?.infer(inputs)?;
    let names: Vec<String> = outputs.names().map(str::to_owned).collect();
    let mut answer = BTreeMap::new();
    for name in names {
        let tensor = outputs.take(&name)?;
        let dtype = DTYPES.iter().find(|(_, dtype)| *dtype == tensor.dtype());
        let (word, _) = dtype.ok_or_else(|| Error::unsupported(format!("output {name} is text")))?;
        let data = hex::encode(tensor.to_bytes()?);
        answer.insert(name, Plain { dtype: (*word).to_owned(), shape: tensor.shape(), data });
    }
    Response::json(&answer)
}
