//! A guest for tests: runs whatever model is called `any` on the tensors of the request, and answers with its outputs.
//!
//! Both are JSON: `{"name": {"dtype": "f32", "shape": [1, 3], "data": "little-endian bytes in hexadecimal"}}`, and for text
//! `{"name": {"dtype": "text", "shape": [2], "data": ["one", "two"]}}`.

use hearth_guest::{DType, Error, Model, Request, Response, Result, Tensor, handler};
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;

#[derive(Serialize, Deserialize)]
struct Plain {
    dtype: String,
    shape: Vec<usize>,
    data: Data,
}

#[derive(Serialize, Deserialize)]
#[serde(untagged)]
enum Data {
    Bytes(String),
    Strings(Vec<String>),
}

const DTYPES: [(&str, DType); 14] = [
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
    ("text", DType::Text),
];

impl Plain {
    fn tensor(&self) -> Result<Tensor> {
        let dtype = DTYPES.iter().find(|(word, _)| *word == self.dtype);
        let (_, dtype) = dtype.ok_or_else(|| Error::invalid_argument(format!("no dtype is called {}", self.dtype)))?;
        match (&self.data, dtype) {
            (Data::Strings(strings), DType::Text) => Tensor::text(&self.shape, strings),
            (Data::Bytes(hexadecimal), dtype) => {
                let bytes = hex::decode(hexadecimal).map_err(Error::invalid_argument)?;
                Tensor::from_bytes(*dtype, &self.shape, &bytes)
            }
            (Data::Strings(_), _) => Err(Error::invalid_argument(format!("{} is given as a string", self.dtype))),
        }
    }

    fn of(tensor: &Tensor) -> Result<Plain> {
        let dtype = DTYPES.iter().find(|(_, dtype)| *dtype == tensor.dtype());
        let (word, dtype) = dtype.ok_or_else(|| Error::internal("a dtype without a word"))?;
        let data = match dtype {
            DType::Text => Data::Strings(tensor.to_text()?),
            _ => Data::Bytes(hex::encode(tensor.to_bytes()?)),
        };
        Ok(Plain { dtype: (*word).to_owned(), shape: tensor.shape(), data })
    }
}

#[handler(models = ["any"])]
fn run(request: Request) -> Result<Response> {
    let mut inputs = Vec::new();
    for (name, plain) in request.json::<BTreeMap<String, Plain>>()? {
        inputs.push((name, plain.tensor()?));
    }
    let inputs = inputs.iter().map(|(name, tensor)| (name.as_str(), tensor));
    let mut outputs = Model::open("any")?.infer(inputs)?;
    let names: Vec<String> = outputs.names().map(str::to_owned).collect();
    let mut answer = BTreeMap::new();
    for name in names {
        let tensor = outputs.take(&name)?;
        answer.insert(name, Plain::of(&tensor)?);
    }
    Response::json(&answer)
}
