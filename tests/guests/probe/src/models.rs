//! A model with one input `bytes`, s32 [any, 2048] (magika), used wrongly and rightly.

use hearth_guest::{DType, Error, Model, Request, Response, Result, Tensor};

const TOKENS: usize = 2048;

/// Runs one case below `/model/`. `?name=` opens another model.
pub fn run(case: &str, request: &Request) -> Result<Response> {
    let model = Model::open(&request.parameter("name").unwrap_or_else(|| "magika".into()))?;
    let tokens = |rows: usize| Tensor::from_slice(&[rows, TOKENS], &vec![97i32; rows * TOKENS]);
    let one = tokens(1)?;
    match case {
        "open" => Ok(Response::text("fine")),
        "signature" => Ok(Response::text(format!("{:#?}", model.signature()))),
        // `/model/asset?asset=config.min.json`
        "asset" => {
            let asset = model.asset(&request.parameter("asset").unwrap_or_default())?;
            Ok(Response::bytes("application/octet-stream", asset))
        }
        "right" => shapes(&model, &[("bytes", &one)]),
        "batch" => shapes(&model, &[("bytes", &tokens(3)?)]),
        // Wrong use: invalid-argument.
        "dtype" => shapes(&model, &[("bytes", &one.cast(DType::F32)?)]),
        "shape" => shapes(&model, &[("bytes", &one.slice(1, ..100)?)]),
        "rank" => shapes(&model, &[("bytes", &one.reshape(&[TOKENS as i64])?)]),
        "name" => shapes(&model, &[("letters", &one)]),
        "missing" => shapes(&model, &[]),
        "extra" => shapes(&model, &[("bytes", &one), ("more", &one)]),
        "twice" => shapes(&model, &[("bytes", &one), ("bytes", &one)]),
        // `/model/again?count=100`: one after the other.
        "again" => {
            for _ in 0..crate::number(request, "count", 10)? {
                model.infer([("bytes", &one)])?;
            }
            Ok(Response::text("fine"))
        }
        // `/model/submit?count=4`: runs that overlap; each gives what a run alone gives.
        "submit" => {
            let alone = model.infer([("bytes", &one)])?.take_first()?.to_bytes()?;
            let count = crate::number(request, "count", 4)?;
            let pending = (0..count).map(|_| model.submit([("bytes", &one)])).collect::<Result<Vec<_>>>()?;
            for run in pending {
                if run.wait()?.take_first()?.to_bytes()? != alone {
                    return Err(Error::internal("a submitted run gave something else"));
                }
            }
            Ok(Response::text(count.to_string()))
        }
        // A withdrawn run is over, and says so.
        "cancel" => {
            let run = model.submit([("bytes", &tokens(64)?)])?;
            run.cancel();
            match run.wait() {
                Err(error) => Err(error),
                Ok(_) => Err(Error::internal("a cancelled run gave outputs")),
            }
        }
        // Runs that nobody waits for.
        "abandon" => {
            for _ in 0..crate::number(request, "count", 10)? {
                drop(model.submit([("bytes", &tokens(64)?)])?);
            }
            Ok(Response::text("fine"))
        }
        "submit-shape" => model.submit([("bytes", &one.slice(1, ..100)?)])?.wait().map(|_| Response::new(200)),
        "output" => model.infer([("bytes", &one)])?.take("no-such-output").map(|_| Response::new(200)),
        _ => Err(Error::not_found(format!("the probe has no model `{case}`"))),
    }
}

fn shapes(model: &Model, inputs: &[(&str, &Tensor)]) -> Result<Response> {
    let mut outputs = model.infer(inputs.iter().copied())?;
    let names: Vec<String> = outputs.names().map(str::to_owned).collect();
    let mut text = String::new();
    for name in names {
        let tensor = outputs.take(&name)?;
        text.push_str(&format!("{name} {:?} {:?}\n", tensor.dtype(), tensor.shape()));
    }
    Ok(Response::text(text))
}
