//! Turns sentences into vectors, as sentence-transformers does with all-MiniLM-L6-v2: a pipeline whose tokenizer is made once, by
//! `#[init]`.

use hearth_guest::{Model, Prepared, Result, init, pipeline};
use serde::Deserialize;

#[path = "../../03-embed/src/normalizer.rs"]
mod normalizer;
#[path = "../../03-embed/src/tokenizer.rs"]
mod tokenizer;
#[path = "../../03-embed/src/vocabulary.rs"]
mod vocabulary;

use tokenizer::Tokenizer;

/// The most sentences of one request: they are one run of the model.
const MOST_SENTENCES: usize = 32;

static TOKENIZER: Prepared<Tokenizer<'static>> = Prepared::new();

/// `sentence_bert_config.json` among the model's assets.
#[derive(Deserialize)]
struct Limits {
    max_seq_length: usize,
}

#[init]
fn prepare() -> Result<()> {
    let model = Model::open("minilm")?;
    let limits: Limits = serde_json::from_slice(&model.asset("sentence_bert_config.json")?)?;
    // The tokenizer borrows from the file, and lives as long as the component.
    let file = model.asset("tokenizer.json")?.leak();
    TOKENIZER.set(Tokenizer::parse(file, limits.max_seq_length)?)
}

#[pipeline(models = ["minilm"])]
mod embed {
    use std::borrow::Cow;

    use hearth_guest::{Call, Error, Kept, Outputs, Request, Response, Result, Tensor};
    use serde::{Deserialize, Serialize};

    #[derive(Deserialize)]
    struct Sentences<'a> {
        #[serde(borrow)]
        sentences: Vec<Cow<'a, str>>,
    }

    #[derive(Serialize)]
    struct Embeddings<'a> {
        embeddings: Vec<&'a [f32]>,
    }

    pub(super) fn preprocess(request: Request) -> Result<Call> {
        let is_json = request.header("content-type").is_some_and(|value| value.starts_with("application/json"));
        let sentences = match is_json {
            true => request.json::<Sentences<'_>>()?.sentences,
            false => vec![Cow::Borrowed(request.text()?)],
        };
        if !(1..=super::MOST_SENTENCES).contains(&sentences.len()) {
            let (given, most) = (sentences.len(), super::MOST_SENTENCES);
            return Err(Error::invalid_argument(format!("{given} sentences; send 1 to {most} in one request")));
        }
        let tokenizer = super::TOKENIZER.get()?;
        let rows: Vec<Vec<i64>> = sentences.iter().map(|sentence| tokenizer.encode(sentence)).collect();
        let length = rows.iter().map(Vec::len).max().unwrap_or_default();
        let (mut ids, mut mask) = (Vec::new(), Vec::new());
        for row in &rows {
            ids.extend_from_slice(row);
            ids.resize(mask.len() + length, tokenizer.padding());
            mask.resize(mask.len() + row.len(), 1i64);
            mask.resize(ids.len(), 0);
        }
        let shape = [rows.len(), length];
        let mask = Tensor::from_slice(&shape, &mask)?;
        Ok(Call::new("minilm")
            .input("input_ids", Tensor::from_slice(&shape, &ids)?)
            .input("token_type_ids", Tensor::from_slice(&shape, &vec![0i64; ids.len()])?)
            // A second handle on the same elements: one is for the model, the other for the second half.
            .input("attention_mask", mask.reshape(&[-1, length as i64])?)
            .keep(mask))
    }

    pub(super) fn postprocess(mut outputs: Outputs, kept: Kept) -> Result<Response> {
        let [mask] = &kept.tensors[..] else {
            return Err(Error::internal("the first half did not keep the mask"));
        };
        let vectors = outputs.take("last_hidden_state")?.masked_mean_pool(mask)?.l2_normalize(-1)?;
        let width = vectors.shape().last().copied().unwrap_or(1).max(1);
        let vectors = vectors.to_vec::<f32>()?;
        Response::json(&Embeddings { embeddings: vectors.chunks_exact(width).collect() })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use hearth_guest::{DType, Request, Tensor};
    use hearth_guest_testing::{TestHost, TestModel};

    const FILE: &str = r####"{"padding":{"pad_id":3},"added_tokens":[],
        "normalizer":{"type":"BertNormalizer","clean_text":true,"handle_chinese_chars":true,"strip_accents":null,"lowercase":true},
        "pre_tokenizer":{"type":"BertPreTokenizer"},
        "post_processor":{"type":"TemplateProcessing","single":[{"Sequence":{"id":"A","type_id":0}}],"special_tokens":{}},
        "model":{"type":"WordPiece","unk_token":"[UNK]","continuing_subword_prefix":"##","max_input_chars_per_word":9,
            "vocab":{"[UNK]":0,"one":1,"two":2,"[PAD]":3}}}"####;

    /// A model that gives, for each token, a 1 at the index of the token's number.
    fn one_hot() -> TestModel {
        let shape = "batch tokens";
        let model = TestModel::new("minilm").input("input_ids", DType::S64, shape);
        let model = model.input("attention_mask", DType::S64, shape).input("token_type_ids", DType::S64, shape);
        let model = model.asset("tokenizer.json", FILE).asset("sentence_bert_config.json", r#"{"max_seq_length":4}"#);
        model.output("last_hidden_state", DType::F32, "batch tokens 4").runs(|inputs| {
            let ids = inputs.get("input_ids")?;
            let mut states = Vec::new();
            for id in ids.to_vec::<i64>()? {
                states.extend((0..4).map(|place| f32::from(u8::from(place == id))));
            }
            let mut shape = ids.shape();
            shape.push(4);
            Ok(vec![Tensor::from_slice(&shape, &states)?])
        })
    }

    fn check(host: &TestHost, json: &str, wanted: &[[f32; 4]]) {
        let request = Request::new("POST", "").with_header("content-type", "application/json").with_body(json);
        let reply = host.pipeline(embed::preprocess, embed::postprocess, request).unwrap();
        let vectors = &reply.json::<std::collections::BTreeMap<String, Vec<Vec<f32>>>>()["embeddings"];
        assert_eq!(vectors.len(), wanted.len());
        for (vector, wanted) in vectors.iter().zip(wanted) {
            assert!(vector.iter().zip(wanted).all(|(a, b)| (a - b).abs() < 1e-6), "{json}: {vector:?}");
        }
    }

    #[test]
    fn vectors_are_means_over_a_sentences_own_tokens() {
        let host = TestHost::new().model(one_hot());
        host.init(prepare).unwrap();
        let half = 0.5f32.sqrt();
        check(&host, r#"{"sentences":["one"]}"#, &[[0., 1., 0., 0.]]);
        check(&host, r#"{"sentences":["two","one two one two one"]}"#, &[[0., 0., 1., 0.], [0., half, half, 0.]]);
        let refused = host.pipeline(embed::preprocess, embed::postprocess, Request::new("POST", "").with_body(b"\xff"));
        assert_eq!(refused.unwrap_err().kind(), "invalid-argument");
        let none = Request::new("POST", "").with_header("content-type", "application/json");
        let none = host.pipeline(embed::preprocess, embed::postprocess, none.with_body(r#"{"sentences":[]}"#));
        assert!(none.unwrap_err().message().contains("1 to 32"));
    }
}
