//! A vocabulary as handlers often have one: a JSON file that becomes a map.

use std::collections::BTreeMap;

use hearth_guest::{Error, Request, Response, Result};

/// Words and their numbers.
pub(crate) struct Vocabulary(BTreeMap<&'static str, u32>);

impl Vocabulary {
    /// Parses the file that the build made.
    pub(crate) fn parse() -> Result<Vocabulary> {
        Ok(Vocabulary(serde_json::from_str(include_str!(concat!(env!("OUT_DIR"), "/vocabulary.json")))?))
    }

    /// `/WORD` answers its number, `/` how many words there are.
    pub(crate) fn answer(&self, request: &Request) -> Result<Response> {
        let segments = request.segments();
        let Some(word) = segments.first() else {
            return Ok(Response::text(self.0.len().to_string()));
        };
        let number = self.0.get(word.as_str());
        let number = number.ok_or_else(|| Error::not_found(format!("the vocabulary has no `{word}`")))?;
        Ok(Response::text(number.to_string()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn words_have_their_numbers() {
        let vocabulary = Vocabulary::parse().unwrap();
        let ask = |path| vocabulary.answer(&Request::new("GET", path)).map(|response| response.into_parts().2);
        assert_eq!(ask("/").unwrap(), b"30000");
        assert_eq!(ask("/bababaxi").err().map(|error| error.kind().to_owned()), Some("not-found".to_owned()));
        assert_eq!(ask("/zubababa").unwrap(), b"19");
        assert_eq!(ask("/bacebaba").unwrap(), b"20");
    }
}
