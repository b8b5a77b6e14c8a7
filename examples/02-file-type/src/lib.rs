//! Says what type of file the body is, as the Python package `magika` does in its mode "high confidence".

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
