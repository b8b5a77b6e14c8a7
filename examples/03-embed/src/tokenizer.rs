//! BERT's tokenizer as `tokenizer.json` describes it: special tokens, normalisation, WordPiece, the frame of [CLS] and [SEP],
//! truncation. It refuses a file that asks for anything else.

use std::borrow::Cow;
use std::collections::BTreeMap;

use hearth_guest::{Error, Result};
use serde::Deserialize;

use crate::normalizer::{Normalizer, words};
use crate::vocabulary::Vocabulary;

/// Turns text into the numbers of its tokens.
pub struct Tokenizer<'a> {
    added: Vec<AddedToken<'a>>,
    normalizer: Normalizer,
    model: WordPiece<'a>,
    unknown: i64,
    before: Vec<i64>,
    after: Vec<i64>,
    padding: i64,
    max_tokens: usize,
}

impl<'a> Tokenizer<'a> {
    /// Reads `tokenizer.json`. Texts are cut to at most `max_tokens` tokens, including the frame; the file's own settings of
    /// truncation and padding length are ignored.
    ///
    /// Errors: `internal` if the file is invalid; `unsupported` if it is for another kind of tokenizer.
    pub fn parse(json: &'a [u8], max_tokens: usize) -> Result<Tokenizer<'a>> {
        let file: File<'a> =
            serde_json::from_slice(json).map_err(|error| Error::from(error).context("tokenizer.json"))?;
        if let Some(token) = file.added_tokens.iter().find(|token| token.is_special_kind()) {
            let content = &token.content;
            return Err(Error::unsupported(format!(
                "tokenizer.json: the token {content} has options that this tokenizer lacks"
            )));
        }
        let NormalizerFile::BertNormalizer(normalizer) = file.normalizer;
        let PreTokenizerFile::BertPreTokenizer = file.pre_tokenizer;
        let (before, after) = file.post_processor.frame()?;
        let unknown = file.model.vocab.get("", &file.model.unk_token).map(i64::from);
        Ok(Tokenizer {
            added: file.added_tokens,
            normalizer,
            unknown: unknown
                .ok_or_else(|| Error::internal("tokenizer.json: the vocabulary lacks the unknown token"))?,
            model: file.model,
            before,
            after,
            padding: file.padding.map_or(0, |padding| padding.pad_id),
            max_tokens,
        })
    }

    /// The number of the token that fills up shorter rows.
    pub fn padding(&self) -> i64 {
        self.padding
    }

    /// The numbers of a text's tokens, in the frame that the model expects.
    pub fn encode(&self, text: &str) -> Vec<i64> {
        let mut tokens = self.before.clone();
        let room = self.max_tokens.saturating_sub(self.after.len());
        let mut rest = text;
        while !rest.is_empty() && tokens.len() < room {
            let (plain, added, after) = self.split_at_added(rest);
            self.encode_plain(plain, room, &mut tokens);
            tokens.extend(added);
            rest = after;
        }
        tokens.truncate(room);
        tokens.extend(&self.after);
        tokens
    }

    /// The text before the first added token, that token, and the text after it.
    fn split_at_added<'t>(&self, text: &'t str) -> (&'t str, Option<i64>, &'t str) {
        let places = self.added.iter().filter_map(|token| text.find(&*token.content).map(|start| (start, token)));
        match places.min_by_key(|(start, token)| (*start, std::cmp::Reverse(token.content.len()))) {
            None => (text, None, ""),
            Some((start, token)) => (&text[..start], Some(token.id), &text[start + token.content.len()..]),
        }
    }

    fn encode_plain(&self, text: &str, room: usize, tokens: &mut Vec<i64>) {
        let text = self.normalizer.normalize(text);
        for word in words(&text) {
            if tokens.len() >= room {
                return;
            }
            let start = tokens.len();
            if !self.model.encode(word, tokens) {
                tokens.truncate(start);
                tokens.push(self.unknown);
            }
        }
    }
}

#[derive(Deserialize)]
struct File<'a> {
    #[serde(borrow)]
    added_tokens: Vec<AddedToken<'a>>,
    normalizer: NormalizerFile,
    pre_tokenizer: PreTokenizerFile,
    #[serde(borrow)]
    post_processor: Template<'a>,
    #[serde(borrow)]
    model: WordPiece<'a>,
    padding: Option<Padding>,
}

#[derive(Deserialize)]
#[serde(tag = "type")]
enum NormalizerFile {
    BertNormalizer(Normalizer),
}

#[derive(Deserialize)]
#[serde(tag = "type")]
enum PreTokenizerFile {
    BertPreTokenizer,
}

#[derive(Deserialize)]
struct Padding {
    pad_id: i64,
}

#[derive(Deserialize)]
struct AddedToken<'a> {
    id: i64,
    #[serde(borrow)]
    content: Cow<'a, str>,
    single_word: bool,
    lstrip: bool,
    rstrip: bool,
    normalized: bool,
}

impl AddedToken<'_> {
    fn is_special_kind(&self) -> bool {
        self.single_word || self.lstrip || self.rstrip || self.normalized || self.content.is_empty()
    }
}

#[derive(Deserialize)]
enum IsTemplate {
    TemplateProcessing,
}

/// The special tokens around a text's own tokens.
#[derive(Deserialize)]
struct Template<'a> {
    #[serde(rename = "type")]
    _kind: IsTemplate,
    #[serde(borrow)]
    single: Vec<Piece<'a>>,
    #[serde(borrow)]
    special_tokens: BTreeMap<Cow<'a, str>, SpecialToken>,
}

#[derive(Deserialize)]
enum Piece<'a> {
    SpecialToken {
        #[serde(borrow)]
        id: Cow<'a, str>,
        type_id: u32,
    },
    Sequence {
        type_id: u32,
    },
}

#[derive(Deserialize)]
struct SpecialToken {
    ids: Vec<i64>,
}

impl Template<'_> {
    /// The tokens before and after the text's own.
    fn frame(&self) -> Result<(Vec<i64>, Vec<i64>)> {
        let (mut before, mut after, mut seen) = (Vec::new(), Vec::new(), false);
        for piece in &self.single {
            match piece {
                Piece::SpecialToken { id, type_id: 0 } => {
                    let token = self.special_tokens.get(id);
                    let token = token.ok_or_else(|| Error::internal(format!("tokenizer.json: {id} has no numbers")))?;
                    if seen { &mut after } else { &mut before }.extend(&token.ids);
                }
                Piece::Sequence { type_id: 0 } if !seen => seen = true,
                _ => {
                    return Err(Error::unsupported(
                        "tokenizer.json: the template is not one text between special tokens",
                    ));
                }
            }
        }
        Ok((before, after))
    }
}

#[derive(Deserialize)]
enum IsWordPiece {
    WordPiece,
}

#[derive(Deserialize)]
struct WordPiece<'a> {
    #[serde(rename = "type")]
    _kind: IsWordPiece,
    #[serde(borrow)]
    unk_token: Cow<'a, str>,
    #[serde(borrow)]
    continuing_subword_prefix: Cow<'a, str>,
    max_input_chars_per_word: usize,
    #[serde(borrow)]
    vocab: Vocabulary<'a>,
}

impl WordPiece<'_> {
    /// Appends the longest pieces that make up a word, from left to right; false if there are no such pieces.
    fn encode(&self, word: &str, tokens: &mut Vec<i64>) -> bool {
        if word.chars().count() > self.max_input_chars_per_word {
            return false;
        }
        let mut prefix = "";
        let mut rest = word;
        while !rest.is_empty() {
            let mut end = rest.floor_char_boundary(self.vocab.longest());
            let number = loop {
                if end == 0 {
                    return false;
                }
                match self.vocab.get(prefix, &rest[..end]) {
                    Some(number) => break number,
                    None => end = rest.floor_char_boundary(end - 1),
                }
            };
            tokens.push(i64::from(number));
            rest = &rest[end..];
            prefix = &self.continuing_subword_prefix;
        }
        true
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const FILE: &str = r####"{"version":"1.0","truncation":null,
        "padding":{"strategy":"BatchLongest","direction":"Right","pad_to_multiple_of":null,"pad_id":7,"pad_type_id":0,"pad_token":"[PAD]"},
        "added_tokens":[
            {"id":1,"special":true,"content":"[CLS]","single_word":false,"lstrip":false,"rstrip":false,"normalized":false},
            {"id":2,"special":true,"content":"[SEP]","single_word":false,"lstrip":false,"rstrip":false,"normalized":false}],
        "normalizer":{"type":"BertNormalizer","clean_text":true,"handle_chinese_chars":true,"strip_accents":null,"lowercase":true},
        "pre_tokenizer":{"type":"BertPreTokenizer"},
        "post_processor":{"type":"TemplateProcessing",
            "single":[{"SpecialToken":{"id":"[CLS]","type_id":0}},{"Sequence":{"id":"A","type_id":0}},{"SpecialToken":{"id":"[SEP]","type_id":0}}],
            "pair":[],"special_tokens":{"[CLS]":{"id":"[CLS]","ids":[1],"tokens":["[CLS]"]},"[SEP]":{"id":"[SEP]","ids":[2],"tokens":["[SEP]"]}}},
        "decoder":{"type":"WordPiece","prefix":"##","cleanup":true},
        "model":{"type":"WordPiece","unk_token":"[UNK]","continuing_subword_prefix":"##","max_input_chars_per_word":5,
            "vocab":{"[PAD]":7,"[UNK]":0,"[CLS]":1,"[SEP]":2,"un":10,"##aff":11,"##able":12,"##a":13,"é":14,"e":15,"!":16,"中":17,"aff":18}}}"####;

    fn check(max_tokens: usize, text: &str, wanted: &[i64]) {
        let tokenizer = Tokenizer::parse(FILE.as_bytes(), max_tokens).unwrap();
        assert_eq!(tokenizer.encode(text), wanted, "{text}");
        assert_eq!(tokenizer.padding(), 7);
    }

    #[test]
    fn words_become_their_longest_pieces() {
        check(9, "", &[1, 2]);
        check(9, "unaff", &[1, 10, 11, 2]);
        check(9, "Un É!", &[1, 10, 15, 16, 2]);
        check(9, "una unx", &[1, 10, 13, 0, 2]);
        // Six characters are more than a word may have.
        check(9, "unaffa aff", &[1, 0, 18, 2]);
        check(9, "a中", &[1, 0, 17, 2]);
    }

    #[test]
    fn special_tokens_are_found_in_the_text() {
        check(9, "un[SEP]aff[sep]", &[1, 10, 2, 18, 0, 0, 0, 2]);
        check(9, "[CLS][CLS]", &[1, 1, 1, 2]);
    }

    #[test]
    fn long_texts_are_cut() {
        check(4, "un aff e e e", &[1, 10, 18, 2]);
        check(4, "un[SEP][SEP][SEP]", &[1, 10, 2, 2]);
        check(3, "unaff", &[1, 10, 2]);
    }

    #[test]
    fn another_kind_of_tokenizer_is_refused() {
        for (from, to) in [
            ("BertNormalizer", "NFC"),
            ("BertPreTokenizer", "ByteLevel"),
            ("TemplateProcessing", "RobertaProcessing"),
            (r#""lstrip":false"#, r#""lstrip":true"#),
            (r#""model":{"type":"WordPiece""#, r#""model":{"type":"BPE""#),
            (r#""[UNK]":0,"#, ""),
        ] {
            assert!(Tokenizer::parse(FILE.replace(from, to).as_bytes(), 9).is_err(), "{to}");
        }
    }
}
