//! A guest for tests: what `vocabulary` does, without `init`.

use hearth_guest::{Request, Response, Result, handler};

#[path = "../../vocabulary/src/words.rs"]
mod words;

#[handler]
fn vocabulary(request: Request) -> Result<Response> {
    words::Vocabulary::parse()?.answer(&request)
}
