//! Finds the file type of the body, as the Python package `magika` does in its mode "high confidence".

use hearth_guest::{Error, Model, Request, Response, Result, Tensor, handler};

mod config;
mod features;
mod verdict;

use config::Config;
use features::Features;
use verdict::Verdict;

#[handler(models = ["magika"])]
fn file_type(request: Request) -> Result<Response> {
    let model = Model::open("magika")?;
    let config = model.asset("config.min.json")?;
    let config = Config::parse(&config)?;
    let types = model.asset("content_types_kb.min.json")?;
    let verdict = match Features::extract(&config, request.body()) {
        Features::Known(label) => Verdict::without_model(label),
        Features::Tokens(tokens) => {
            let input = Tensor::from_slice(&[1, tokens.len()], &tokens)?;
            let scores = model.infer([("bytes", &input)])?.take("target_label")?;
            let (score, index) = scores.top_k(1)?;
            let score = score.to_vec::<f32>()?.first().copied().unwrap_or_default();
            let index = index.to_vec::<i64>()?.first().copied().unwrap_or_default();
            let label = usize::try_from(index).ok().and_then(|index| config.target_labels_space.get(index));
            let label = label.ok_or_else(|| Error::internal("the model gave a label that its configuration lacks"))?;
            Verdict::of_model(&config, &types, label, score)?
        }
    };
    Response::json(&verdict.describe(&types)?)
}

#[cfg(test)]
mod tests {
    use super::*;
    use hearth_guest::DType;
    use hearth_guest_testing::{TestHost, TestModel};

    const CONFIG: &str = r#"{"beg_size":10,"mid_size":0,"end_size":6,"use_inputs_at_offsets":false,
        "medium_confidence_threshold":0.5,"min_file_size_for_dl":4,"padding_token":256,"block_size":16,
        "target_labels_space":["ini","rust","zip"],"thresholds":{"zip":0.9},"overwrite_map":{"ini":"toml"}}"#;
    const TYPES: &str = r#"{"toml":{"mime_type":"application/toml","group":"code","description":"TOML","is_text":true},
        "rust":{"group":"code","is_text":true},"zip":{"is_text":false},"txt":{"is_text":true},"unknown":{"is_text":false}}"#;

    /// A model whose score of its second label is 0.25; the first and last byte give the others.
    fn host() -> TestHost {
        let model = TestModel::new("magika").input("bytes", DType::S32, "batch 16");
        let model = model.output("target_label", DType::F32, "batch 3");
        let model = model.asset("config.min.json", CONFIG).asset("content_types_kb.min.json", TYPES);
        TestHost::new().model(model.runs(|inputs| {
            let tokens = inputs.get("bytes")?.cast(DType::F32)?.scale_offset(-1, &[0.01], &[0.0])?;
            let quarter = Tensor::from_slice(&[1, 1], &[0.25f32])?;
            Ok(vec![Tensor::concat(&[&tokens.slice(1, ..1)?, &quarter, &tokens.slice(1, -1..)?], 1)?])
        }))
    }

    fn check(body: &[u8], label: &str, model_label: Option<&str>, mime_type: &str) {
        let reply = host().call(file_type, Request::new("POST", "").with_body(body)).unwrap();
        let answer: serde_json::Value = reply.json();
        assert_eq!((&answer["label"], &answer["mime_type"]), (&label.into(), &mime_type.into()), "{body:?}: {answer}");
        assert_eq!(answer["model_label"].as_str(), model_label, "{body:?}");
    }

    #[test]
    fn a_label_follows_from_the_models_scores() {
        check(b"ab", "txt", None, "text/plain");
        check(b"P   ( ", "toml", Some("ini"), "application/toml");
        check(b"!   _", "zip", Some("zip"), "application/octet-stream");
        // Below the label's threshold, the answer only says whether it is text.
        check(b"!   P", "unknown", Some("zip"), "application/octet-stream");
        check(b"\x02aaa\x03", "txt", Some("rust"), "text/plain");
    }
}
