//! Splits Rust into tokens with their places and brackets, as far as mutations need them; it never interprets a program.

/// The kind of a token.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) enum Kind {
    /// A word, including keywords.
    Word,
    /// A number.
    Number,
    /// A string, a character or a lifetime.
    Text,
    /// An operator or another mark, the longest possible.
    Mark,
}

/// A token, or a group between two brackets.
#[derive(Clone, Debug)]
pub(super) enum Node {
    /// A token.
    Leaf {
        /// Its kind.
        kind: Kind,
        /// Its first byte.
        start: usize,
        /// One past its last byte.
        end: usize,
    },
    /// An opening bracket, its contents, and the closing bracket.
    Group {
        /// The byte of the opening bracket.
        start: usize,
        /// One past the closing bracket.
        end: usize,
        /// The contents.
        inner: Vec<Node>,
    },
}

impl Node {
    /// The first byte.
    pub(super) fn start(&self) -> usize {
        match self {
            Node::Leaf { start, .. } | Node::Group { start, .. } => *start,
        }
    }

    /// One past the last byte.
    pub(super) fn end(&self) -> usize {
        match self {
            Node::Leaf { end, .. } | Node::Group { end, .. } => *end,
        }
    }
}

/// Marks of more than one character; longer ones first.
const MARKS: [&str; 24] = [
    "<<=", ">>=", "..=", "...", "::", "->", "=>", "==", "!=", "<=", ">=", "&&", "||", "+=", "-=", "*=", "/=", "%=",
    "^=", "&=", "|=", "<<", ">>", "..",
];

/// The tokens of a source text.
pub(super) fn nodes(text: &str) -> Vec<Node> {
    let mut open: Vec<(usize, Vec<Node>)> = Vec::new();
    let mut nodes = Vec::new();
    let bytes = text.as_bytes();
    let mut at = 0;
    while at < bytes.len() {
        let rest = &text[at..];
        let byte = bytes[at];
        let (kind, length) = match byte {
            b if b.is_ascii_whitespace() => {
                at += 1;
                continue;
            }
            b'/' if rest.starts_with("//") => {
                at += rest.find('\n').unwrap_or(rest.len());
                continue;
            }
            b'/' if rest.starts_with("/*") => {
                at += rest.find("*/").map_or(rest.len(), |end| end + 2);
                continue;
            }
            b'(' | b'[' | b'{' => {
                open.push((at, std::mem::take(&mut nodes)));
                at += 1;
                continue;
            }
            b')' | b']' | b'}' => {
                at += 1;
                if let Some((start, before)) = open.pop() {
                    let inner = std::mem::replace(&mut nodes, before);
                    nodes.push(Node::Group { start, end: at, inner });
                }
                continue;
            }
            b'"' => (Kind::Text, quoted(rest)),
            b'b' | b'r' if prefixed(rest).is_some() => (Kind::Text, prefixed(rest).unwrap_or(1)),
            b'\'' => (Kind::Text, single(rest)),
            b if b.is_ascii_digit() => (Kind::Number, number(rest)),
            b if b.is_ascii_alphabetic() || b == b'_' => {
                (Kind::Word, rest.find(|c: char| !c.is_alphanumeric() && c != '_').unwrap_or(rest.len()))
            }
            _ => {
                let mark = MARKS.iter().find(|mark| rest.starts_with(**mark)).map(|mark| mark.len());
                (Kind::Mark, mark.unwrap_or_else(|| rest.chars().next().map_or(1, char::len_utf8)))
            }
        };
        nodes.push(Node::Leaf { kind, start: at, end: at + length });
        at += length;
    }
    nodes
}

/// The length of a string that starts here.
fn quoted(rest: &str) -> usize {
    let mut escaped = false;
    for (index, c) in rest.char_indices().skip(1) {
        match c {
            '"' if !escaped => return index + 1,
            _ => escaped = c == '\\' && !escaped,
        }
    }
    rest.len()
}

/// The length of a byte string, raw string or byte that starts here with its prefix.
fn prefixed(rest: &str) -> Option<usize> {
    let prefix = rest.len() - rest.trim_start_matches(['b', 'r']).len();
    let after = &rest[prefix..];
    let hashes = after.len() - after.trim_start_matches('#').len();
    match after[hashes..].chars().next()? {
        '"' if rest[..prefix].contains('r') => {
            let end = format!("\"{}", "#".repeat(hashes));
            after[hashes + 1..].find(&end).map(|at| prefix + hashes + 1 + at + end.len())
        }
        '"' if hashes == 0 => Some(prefix + quoted(after)),
        '\'' if hashes == 0 && prefix == 1 => Some(1 + single(after)),
        _ => None,
    }
}

/// The length of a character or lifetime that starts here.
fn single(rest: &str) -> usize {
    let mut chars = rest.char_indices().skip(1);
    match (chars.next(), chars.next()) {
        (Some((_, '\\')), Some(_)) => rest[3..].find('\'').map_or(rest.len(), |at| at + 4),
        (Some(_), Some((at, '\''))) => at + 1,
        _ => 1 + rest[1..].find(|c: char| !c.is_alphanumeric() && c != '_').unwrap_or(rest.len() - 1),
    }
}

/// The length of a number that starts here.
fn number(rest: &str) -> usize {
    let bytes = rest.as_bytes();
    let hex = rest.starts_with("0x");
    let mut end = 1;
    while let Some(byte) = bytes.get(end) {
        let exponent = !hex && matches!(bytes[end - 1], b'e' | b'E') && matches!(byte, b'-' | b'+');
        let point = *byte == b'.' && bytes.get(end + 1).is_some_and(u8::is_ascii_digit);
        if !(byte.is_ascii_alphanumeric() || *byte == b'_' || exponent || point) {
            break;
        }
        end += 1;
    }
    end
}

#[cfg(test)]
mod tests {
    use super::*;

    fn words(text: &str) -> Vec<String> {
        fn walk(nodes: &[Node], text: &str, found: &mut Vec<String>) {
            for node in nodes {
                match node {
                    Node::Leaf { start, end, .. } => found.push(text[*start..*end].to_owned()),
                    Node::Group { inner, .. } => walk(inner, text, found),
                }
            }
        }
        let mut found = Vec::new();
        walk(&nodes(text), text, &mut found);
        found
    }

    #[test]
    fn tokens_are_those_of_rust() {
        let text = "fn f<'a>(x: &'a [u8; 0x1f]) -> f32 { x[1] << 2.5e-3 // 1 + 1\n ..= '\\'' 'x' \"a\\\"+\" r#\"\"+\"# b\"+\" 1..2 }";
        let found = words(text);
        let expected = [
            "fn",
            "f",
            "<",
            "'a",
            ">",
            "x",
            ":",
            "&",
            "'a",
            "u8",
            ";",
            "0x1f",
            "->",
            "f32",
            "x",
            "1",
            "<<",
            "2.5e-3",
            "..=",
            "'\\''",
            "'x'",
            "\"a\\\"+\"",
            "r#\"\"+\"#",
            "b\"+\"",
            "1",
            "..",
            "2",
        ];
        assert_eq!(found, expected);
    }
}
