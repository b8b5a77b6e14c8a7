//! Reads a handler's requested grants from the attribute's tokens and writes them as JSON. It never checks whether they exist.

use proc_macro::{Delimiter, TokenStream, TokenTree};

use crate::Refusal;

const KEYS: [&str; 4] = ["models", "config", "secrets", "hosts"];

/// The requested grants, one list for each of `KEYS`.
#[derive(Default)]
pub(crate) struct Manifest {
    lists: [Vec<String>; 4],
}

impl Manifest {
    /// Reads `models = ["a", "b"], config = ["c"]`: each key at most once, in any order.
    pub(crate) fn parse(tokens: TokenStream) -> Result<Manifest, Refusal> {
        let mut manifest = Manifest::default();
        let mut seen = [false; 4];
        let mut tokens = tokens.into_iter();
        while let Some(token) = tokens.next() {
            let span = token.span();
            let word = token.to_string();
            let Some(index) = KEYS.iter().position(|key| *key == word) else {
                return Err(Refusal::at(span, format!("expected one of {}, not `{word}`", KEYS.join(", "))));
            };
            if std::mem::replace(&mut seen[index], true) {
                return Err(Refusal::at(span, format!("`{word}` is given twice")));
            }
            let list = match (tokens.next(), tokens.next()) {
                (Some(TokenTree::Punct(sign)), Some(TokenTree::Group(group)))
                    if sign.as_char() == '=' && group.delimiter() == Delimiter::Bracket =>
                {
                    group
                }
                _ => return Err(Refusal::at(span, format!("expected `{word} = [\"…\"]`"))),
            };
            manifest.lists[index] = strings(list.stream())?;
            comma(tokens.next())?;
        }
        Ok(manifest)
    }

    /// The requested grants as a JSON object of four lists of strings.
    pub(crate) fn json(&self) -> String {
        let members = KEYS.iter().zip(&self.lists).map(|(key, names)| {
            let names: Vec<String> = names.iter().map(|name| format!("\"{name}\"")).collect();
            format!("\"{key}\":[{}]", names.join(","))
        });
        format!("{{{}}}", members.collect::<Vec<_>>().join(","))
    }
}

fn strings(tokens: TokenStream) -> Result<Vec<String>, Refusal> {
    let mut names = Vec::new();
    let mut tokens = tokens.into_iter();
    while let Some(token) = tokens.next() {
        let text = token.to_string();
        // Names need no escapes, and without escapes the literal's text is valid JSON.
        let plain = text.strip_prefix('"').and_then(|rest| rest.strip_suffix('"'));
        match plain.filter(|name| !name.contains(|c: char| c == '"' || c == '\\' || c.is_control())) {
            Some(name) => names.push(name.to_owned()),
            None => return Err(Refusal::at(token.span(), format!("expected a plain string, not `{text}`"))),
        }
        comma(tokens.next())?;
    }
    Ok(names)
}

fn comma(token: Option<TokenTree>) -> Result<(), Refusal> {
    match token {
        None => Ok(()),
        Some(TokenTree::Punct(sign)) if sign.as_char() == ',' => Ok(()),
        Some(other) => Err(Refusal::at(other.span(), "expected a comma")),
    }
}
