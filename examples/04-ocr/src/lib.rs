//! Reads the text of an image: PP-OCRv4 detection and recognition on the host's device, everything between them here. It
//! never holds the model's tensors; it reads back a map of bytes and, for each step of a line, one character.

mod boxes;
mod crops;
mod ctc;
mod geometry;
mod order;
mod page;

use hearth_guest::{Error, Request, Response, Result, Tensor, handler};

#[handler(models = ["ocr-detect", "ocr-recognize"])]
fn ocr(request: Request) -> Result<Response> {
    if request.body().is_empty() {
        return Err(Error::invalid_argument("send a JPEG, PNG or WebP image as the body"));
    }
    let image = Tensor::decode_image(request.body())?;
    Response::json(&page::read(&image)?)
}
