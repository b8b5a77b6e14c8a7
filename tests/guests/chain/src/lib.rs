//! A guest for tests: classifies a picture. Between the picture's bytes and the best classes it reads nothing.

use hearth_guest::{Model, Request, Response, Result, Tensor, handler};
use serde_json::json;

const MEAN: [f32; 3] = [0.485, 0.456, 0.406];
const DEVIATION: [f32; 3] = [0.229, 0.224, 0.225];

#[handler(models = ["pictures"])]
fn chain(request: Request) -> Result<Response> {
    let picture = Tensor::decode_image(request.body())?;
    let input = picture.resize(16, 16)?.normalize(&MEAN, &DEVIATION)?.permute(&[2, 0, 1])?.reshape(&[1, 3, 16, 16])?;
    let scores = Model::open("pictures")?.infer([("picture", &input)])?.take("scores")?;
    let (best, classes) = scores.softmax(-1)?.top_k(5)?;
    Response::json(&json!({ "scores": best.to_vec::<f32>()?, "classes": classes.to_vec::<i64>()? }))
}
