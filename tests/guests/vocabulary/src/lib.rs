//! A guest for tests: looks words up in a vocabulary that `init` parsed. Its twin `vocabulary-each-time` parses for each
//! request, so that both can be timed.

use hearth_guest::{Prepared, Request, Response, Result, handler, init};

mod words;

use words::Vocabulary;

static VOCABULARY: Prepared<Vocabulary> = Prepared::new();

#[init]
fn prepare() -> Result<()> {
    VOCABULARY.set(Vocabulary::parse()?)
}

#[handler]
fn vocabulary(request: Request) -> Result<Response> {
    VOCABULARY.get()?.answer(&request)
}
