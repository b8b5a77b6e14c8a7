//! Cleans text and splits it into words as BERT's tokenizer does, with the character classes of Hugging Face's `BertNormalizer`
//! and `BertPreTokenizer`; it never calls the host.

use serde::Deserialize;
use unicode_categories::UnicodeCategories;
use unicode_normalization::UnicodeNormalization;

/// `normalizer` of `tokenizer.json`.
#[derive(Clone, Copy, Deserialize)]
pub struct Normalizer {
    clean_text: bool,
    handle_chinese_chars: bool,
    strip_accents: Option<bool>,
    lowercase: bool,
}

impl Normalizer {
    /// The cleaned text.
    pub fn normalize(&self, text: &str) -> String {
        let strip_accents = self.strip_accents.unwrap_or(self.lowercase);
        let mut output = String::with_capacity(text.len());
        let cleaned = text.chars().filter_map(|c| self.clean(c));
        if text.is_ascii() {
            // No accents, no ideographs, and nothing that normalisation would change.
            output.extend(cleaned.map(|c| if self.lowercase { c.to_ascii_lowercase() } else { c }));
            return output;
        }
        let spaced = cleaned.flat_map(|c| {
            let space = (self.handle_chinese_chars && is_ideograph(c)).then_some(' ');
            [space, Some(c), space].into_iter().flatten()
        });
        let mut push = |c: char| match self.lowercase {
            true => output.extend(c.to_lowercase()),
            false => output.push(c),
        };
        match strip_accents {
            true => spaced.nfd().filter(|c| !c.is_mark_nonspacing()).for_each(&mut push),
            false => spaced.for_each(&mut push),
        }
        output
    }

    fn clean(&self, c: char) -> Option<char> {
        match c {
            _ if !self.clean_text => Some(c),
            '\0' | '\u{fffd}' => None,
            '\t' | '\n' | '\r' => Some(' '),
            _ if c.is_other() => None,
            _ if c.is_whitespace() => Some(' '),
            _ => Some(c),
        }
    }
}

/// The words of a normalised text: cut at whitespace, and each punctuation character on its own.
pub fn words(text: &str) -> impl Iterator<Item = &str> {
    let mut rest = text;
    std::iter::from_fn(move || {
        rest = rest.trim_start();
        let first = rest.chars().next()?;
        let end = match is_punctuation(first) {
            true => first.len_utf8(),
            false => rest.find(|c: char| c.is_whitespace() || is_punctuation(c)).unwrap_or(rest.len()),
        };
        let (word, after) = rest.split_at(end);
        rest = after;
        Some(word)
    })
}

fn is_punctuation(c: char) -> bool {
    if c.is_ascii() { c.is_ascii_punctuation() } else { c.is_punctuation() }
}

/// The blocks of CJK ideographs, each of which is a word of its own.
fn is_ideograph(c: char) -> bool {
    matches!(
        u32::from(c),
        0x4E00..=0x9FFF
            | 0x3400..=0x4DBF
            | 0x20000..=0x2A6DF
            | 0x2A700..=0x2B73F
            | 0x2B740..=0x2B81F
            | 0x2B920..=0x2CEAF
            | 0xF900..=0xFAFF
            | 0x2F800..=0x2FA1F
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    const BERT: Normalizer =
        Normalizer { clean_text: true, handle_chinese_chars: true, strip_accents: None, lowercase: true };

    #[test]
    fn text_is_cleaned_as_bert_wants_it() {
        for (text, wanted) in [
            ("Hello\tWorld\u{7}!\0", "hello world!"),
            ("Crème Brûlée", "creme brulee"),
            ("e\u{301}\u{fffd}", "e"),
            ("a中文b", "a 中  文 b"),
            ("İstanbul Straße", "istanbul straße"),
            ("zero\u{200b}width\u{ad}", "zerowidth"),
            ("a\u{a0}b\u{2003}c", "a b c"),
            ("🤗 ok", "🤗 ok"),
        ] {
            assert_eq!(BERT.normalize(text), wanted, "{text}");
        }
        let kept = Normalizer { strip_accents: Some(false), lowercase: false, ..BERT };
        assert_eq!(kept.normalize("Crème"), "Crème");
        let only_lower = Normalizer { strip_accents: Some(false), ..BERT };
        assert_eq!(only_lower.normalize("CRÈME"), "crème");
    }

    #[test]
    fn words_end_at_whitespace_and_punctuation() {
        let cut = |text| words(text).collect::<Vec<_>>();
        assert_eq!(cut("  hey,friend!?  "), ["hey", ",", "friend", "!", "?"]);
        assert_eq!(cut("a—b「c」$"), ["a", "—", "b", "「", "c", "」", "$"]);
        assert!(cut(" ").is_empty());
    }
}
