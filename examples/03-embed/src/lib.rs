//! Turns sentences into vectors, as sentence-transformers does with all-MiniLM-L6-v2.

use std::borrow::Cow;

use hearth_guest::{Model, Request, Response, Result, Tensor, handler};
use serde::{Deserialize, Serialize};

mod normalizer;
mod tokenizer;
mod vocabulary;

use tokenizer::Tokenizer;

/// How many sentences go into one run of the model. They are sorted by length first, so that little is padded.
const BATCH: usize = 32;

#[derive(Deserialize)]
struct Sentences<'a> {
    #[serde(borrow)]
    sentences: Vec<Cow<'a, str>>,
}

#[derive(Serialize)]
struct Embeddings {
    embeddings: Vec<Vec<f32>>,
}

/// `sentence_bert_config.json` among the model's assets.
#[derive(Deserialize)]
struct Limits {
    max_seq_length: usize,
}

#[handler(models = ["minilm"])]
fn embed(request: Request) -> Result<Response> {
    let is_json = request.header("content-type").is_some_and(|value| value.starts_with("application/json"));
    let sentences = match is_json {
        true => request.json::<Sentences<'_>>()?.sentences,
        false => vec![Cow::Borrowed(request.text()?)],
    };

    let model = Model::open("minilm")?;
    let limits: Limits = serde_json::from_slice(&model.asset("sentence_bert_config.json")?)?;
    let tokenizer = model.asset("tokenizer.json")?;
    let tokenizer = Tokenizer::parse(&tokenizer, limits.max_seq_length)?;
    let tokens: Vec<Vec<i64>> = sentences.iter().map(|sentence| tokenizer.encode(sentence)).collect();

    let mut order: Vec<usize> = (0..tokens.len()).collect();
    order.sort_by_key(|index| tokens[*index].len());
    let mut embeddings = vec![Vec::new(); tokens.len()];
    for batch in order.chunks(BATCH) {
        let rows: Vec<&[i64]> = batch.iter().map(|index| tokens[*index].as_slice()).collect();
        let vectors = run(&model, &rows, tokenizer.padding())?;
        let length = vectors.len() / rows.len();
        for (index, vector) in batch.iter().zip(vectors.chunks_exact(length.max(1))) {
            embeddings[*index] = vector.to_vec();
        }
    }
    Response::json(&Embeddings { embeddings })
}

/// The vectors of a batch, one after the other.
fn run(model: &Model, rows: &[&[i64]], padding: i64) -> Result<Vec<f32>> {
    let length = rows.iter().map(|row| row.len()).max().unwrap_or_default();
    let (mut ids, mut mask) = (Vec::new(), Vec::new());
    for row in rows {
        ids.extend_from_slice(row);
        ids.resize(mask.len() + length, padding);
        mask.resize(mask.len() + row.len(), 1i64);
        mask.resize(ids.len(), 0);
    }
    let shape = [rows.len(), length];
    let ids = Tensor::from_slice(&shape, &ids)?;
    let types = Tensor::from_slice(&shape, &vec![0i64; mask.len()])?;
    let mask = Tensor::from_slice(&shape, &mask)?;
    let states = model
        .infer([("input_ids", &ids), ("attention_mask", &mask), ("token_type_ids", &types)])?
        .take("last_hidden_state")?;
    states.masked_mean_pool(&mask)?.l2_normalize(-1)?.to_vec()
}
