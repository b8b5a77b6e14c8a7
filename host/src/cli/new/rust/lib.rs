//! Counts the words of a text and finds its longest one.

use hearth_guest::{Request, Response, Result, handler, info};
use serde::{Deserialize, Serialize};

/// A request as JSON: `{"text": "the quick brown fox"}`.
#[derive(Deserialize)]
struct Question {
    text: String,
}

/// The answer.
#[derive(Debug, PartialEq, Serialize)]
struct Answer {
    words: usize,
    longest: String,
}

// Name the models that the handler needs here: #[handler(models = ["magika"])].
#[handler]
fn words(request: Request) -> Result<Response> {
    let text = match request.header("content-type") {
        Some(kind) if kind.starts_with("application/json") => request.json::<Question>()?.text,
        _ => request.text()?.to_owned(),
    };
    let answer = count(&text);
    info!("a text of {} words", answer.words);
    Response::json(&answer)
}

/// The part that needs no host, and so can be tested with `cargo test`.
fn count(text: &str) -> Answer {
    let words: Vec<&str> = text.split_whitespace().collect();
    let longest = words.iter().copied().max_by_key(|word| word.chars().count());
    Answer { words: words.len(), longest: longest.unwrap_or_default().to_owned() }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn words_are_counted() {
        let answer = count(" the quick  brown\nfox ");
        assert_eq!((answer.words, answer.longest.as_str()), (4, "brown"));
        assert_eq!(count(""), Answer { words: 0, longest: String::new() });
    }
}
