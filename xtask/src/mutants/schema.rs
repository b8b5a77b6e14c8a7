//! Rewrites a source text so that one program contains all of its mutants and chooses one when it starts; it never compiles
//! anything, so a mutant may not compile.
//!
//! An expression that can be changed becomes `(if on(7) { changed } else { original })`. This works on tokens, also inside
//! macros, which contain most loops of `device/cpu`; patterns, types and constants are not changed.

use super::lexer::{Kind, Node, nodes};
use std::ops::Range;

/// One change of one place.
#[derive(Clone, Debug)]
pub(super) struct Mutant {
    /// Its number, which selects it in the program.
    pub(super) id: u32,
    /// The source file, below `host/src/device`.
    pub(super) file: String,
    /// The line of the change.
    pub(super) line: usize,
    /// That line's text.
    pub(super) text: String,
    /// Where the change is in that text, in bytes.
    pub(super) column: usize,
    /// The original text.
    pub(super) from: String,
    /// The new text.
    pub(super) to: String,
}

/// A changed text, and where each mutant is in it.
pub(super) struct Rewritten {
    /// The text.
    pub(super) text: String,
    /// Expressions whose mutants are dropped together, outermost first.
    pub(super) wraps: Vec<Wrap>,
}

/// A changed expression.
#[derive(Clone, Debug)]
pub(super) struct Wrap {
    /// Its bytes in the rewritten text.
    pub(super) place: Range<usize>,
    /// The bytes of each mutant, and its number.
    pub(super) variants: Vec<(Range<usize>, u32)>,
}

/// Calls whose arguments no result shows: how often a stop is checked, what is charged, what a message says.
const UNSEEN: [&str; 22] = [
    "spend",
    "charge",
    "charged",
    "reserve",
    "reserve_items",
    "room",
    "with_capacity",
    "matches",
    "format",
    "context",
    "invalid_argument",
    "too_large",
    "limit_exceeded",
    "wrong_dtype",
    "assert",
    "debug_assert",
    "expect",
    "concat",
    "Err",
    "unplanned",
    "map_err",
    "try_reserve_exact",
];

/// Words after which no expression follows until a body or a semicolon.
const HEADS: [&str; 11] = ["fn", "trait", "impl", "struct", "enum", "use", "type", "where", "mod", "static", "const"];

/// Words that end an expression or begin one.
const BOUNDS: [&str; 16] = [
    "return", "break", "continue", "else", "loop", "move", "match", "if", "while", "in", "unsafe", "pub", "mut", "ref",
    "async", "await",
];

/// Words and their replacements of the same kind.
const SWAPS: [(&str, &str); 45] = [
    ("min", "max"),
    ("max", "min"),
    ("wrapping_add", "wrapping_sub"),
    ("wrapping_sub", "wrapping_add"),
    ("wrapping_mul", "wrapping_add"),
    ("wrapping_div", "wrapping_rem"),
    ("wrapping_rem", "wrapping_div"),
    ("saturating_mul", "saturating_add"),
    ("saturating_add", "saturating_sub"),
    ("floor", "ceil"),
    ("ceil", "floor"),
    ("is_none_or", "is_some_and"),
    ("is_some_and", "is_none_or"),
    ("any", "all"),
    ("all", "any"),
    ("first", "last"),
    ("last", "first"),
    ("add", "subtract"),
    ("subtract", "add"),
    ("multiply", "divide"),
    ("divide", "multiply"),
    ("key", "reversed_key"),
    ("reversed_key", "key"),
    ("is_float", "is_integer"),
    ("is_integer", "is_float"),
    ("is_signed_integer", "is_integer"),
    ("NEGATIVE_INFINITY", "ZERO"),
    ("INFINITY", "NEG_INFINITY"),
    ("NEG_INFINITY", "INFINITY"),
    ("ZERO", "ONE"),
    ("ONE", "ZERO"),
    ("MIN", "MAX"),
    ("MAX", "MIN"),
    ("exp", "sqrt"),
    ("sqrt", "exp"),
    ("tanh", "erf"),
    ("erf", "tanh"),
    ("take", "skip"),
    ("narrow_f16", "narrow_bf16"),
    ("narrow_bf16", "narrow_f16"),
    ("widen_f16", "widen_bf16"),
    ("widen_bf16", "widen_f16"),
    ("div_euclid", "rem_euclid"),
    ("rem_euclid", "div_euclid"),
    ("leading_zeros", "trailing_zeros"),
];

/// Replacements of dtypes.
const DTYPES: [(&str, &str); 13] = [
    ("Boolean", "U8"),
    ("U8", "S8"),
    ("S8", "U8"),
    ("U16", "S16"),
    ("S16", "U16"),
    ("U32", "S32"),
    ("S32", "U32"),
    ("U64", "S64"),
    ("S64", "S32"),
    ("F16", "BF16"),
    ("BF16", "F16"),
    ("F32", "F64"),
    ("F64", "F32"),
];

/// The replacements of an operator of two operands.
fn swapped(operator: &str) -> &'static [&'static str] {
    match operator {
        "+" => &["-"],
        "-" => &["+"],
        "*" => &["/"],
        "/" => &["*"],
        "%" => &["/"],
        "<" => &["<=", ">"],
        "<=" => &["<"],
        ">" => &[">=", "<"],
        ">=" => &[">"],
        "==" => &["!="],
        "!=" => &["=="],
        "&&" => &["||"],
        "||" => &["&&"],
        "&" => &["|"],
        "|" => &["&"],
        "^" => &["|"],
        "<<" => &[">>"],
        ">>" => &["<<"],
        "+=" => &["-="],
        "-=" => &["+="],
        "*=" => &["+="],
        "/=" => &["*="],
        "|=" => &["&="],
        "&=" => &["|="],
        _ => &[],
    }
}

/// Rewrites the file's text up to its tests. `wanted` selects the mutants that are made; all are counted and returned.
pub(super) fn rewrite(
    file: &str,
    text: &str,
    first: u32,
    wanted: &dyn Fn(&Mutant) -> bool,
) -> (Rewritten, Vec<Mutant>) {
    let end = text.find("\n#[cfg(test)]").unwrap_or(text.len());
    let tree = nodes(&text[..end]);
    let mut writer =
        Writer { file, source: &text[..end], out: String::new(), next: first, wanted, wraps: vec![], mutants: vec![] };
    writer.sequence(&tree, 0..end);
    writer.out.push_str(&text[end..]);
    (Rewritten { text: writer.out, wraps: writer.wraps }, writer.mutants)
}

struct Writer<'a> {
    file: &'a str,
    source: &'a str,
    out: String,
    next: u32,
    wanted: &'a dyn Fn(&Mutant) -> bool,
    wraps: Vec<Wrap>,
    mutants: Vec<Mutant>,
}

/// A change within an expression: the bytes to replace, and the new text.
type Change = (Range<usize>, String);

impl Writer<'_> {
    fn word(&self, node: &Node) -> &str {
        match node {
            Node::Leaf { start, end, .. } => &self.source[*start..*end],
            Node::Group { .. } => "",
        }
    }

    fn opens(&self, node: &Node, bracket: u8) -> bool {
        matches!(node, Node::Group { start, .. } if self.source.as_bytes()[*start] == bracket)
    }

    /// Whether a mark has spaces on both sides, as rustfmt writes operators of two operands, and a left operand.
    fn binary(&self, nodes: &[Node], index: usize) -> bool {
        let Node::Leaf { kind: Kind::Mark, start, end } = nodes[index] else { return false };
        let bytes = self.source.as_bytes();
        let spaced =
            start > 0 && bytes[start - 1].is_ascii_whitespace() && bytes.get(end).is_some_and(u8::is_ascii_whitespace);
        let operand = index > 0
            && match &nodes[index - 1] {
                Node::Leaf { kind: Kind::Mark, .. } => self.word(&nodes[index - 1]) == "?",
                node => !BOUNDS.contains(&self.word(node)) && self.word(node) != "let",
            };
        spaced && operand
    }

    /// Whether an expression ends before this node.
    fn is_bound(&self, nodes: &[Node], index: usize) -> bool {
        let word = self.word(&nodes[index]);
        match word {
            ";" | "," | "=>" | "=" | "->" | ":" | ".." | "..=" | "@" | "#" | "let" | "for" => true,
            "+=" | "-=" | "*=" | "/=" | "%=" | "^=" | "&=" | "|=" | "<<=" | ">>=" => true,
            "|" | "||" => !self.binary(nodes, index),
            _ => BOUNDS.contains(&word) || self.opens(&nodes[index], b'{'),
        }
    }

    /// Whether the text before this node is a match's pattern, or a part of one.
    fn ends_a_pattern(&self, nodes: &[Node], index: usize) -> bool {
        let arrow = |from: usize, within: &[&str]| {
            let mut ends =
                (from..nodes.len()).filter(|at| self.is_bound(nodes, *at) && !within.contains(&self.word(&nodes[*at])));
            ends.next().is_some_and(|at| self.word(&nodes[at]) == "=>")
        };
        match self.word(&nodes[index]) {
            "=>" => true,
            ".." | "..=" | "@" => arrow(index + 1, &["..", "..=", "@", "if"]),
            "if" => arrow(index + 1, &["..", "..=", "|", "||"]),
            _ => false,
        }
    }

    /// Copies the source unchanged.
    fn verbatim(&mut self, range: Range<usize>) {
        self.out.push_str(&self.source[range]);
    }

    /// Writes everything between two bytes, which contain `nodes`.
    fn sequence(&mut self, nodes: &[Node], range: Range<usize>) {
        let mut written = range.start;
        let (mut from, mut index) = (0, 0);
        // Whether the expression is a condition.
        let mut condition = false;
        while index < nodes.len() {
            let word = self.word(&nodes[index]).to_owned();
            if HEADS.contains(&word.as_str()) {
                self.flush(&nodes[from..index], &mut written, condition);
                let body = |node: &Node| word != "const" && self.opens(node, b'{');
                let ends = |node: &Node| self.word(node) == ";" || (word == "const" && self.word(node) == ",");
                let mut end = index + 1;
                while end < nodes.len() && !body(&nodes[end]) && !ends(&nodes[end]) {
                    end += 1;
                }
                if end < nodes.len() && ["struct", "enum", "use"].contains(&word.as_str()) {
                    end += 1;
                }
                let until = nodes.get(end).map_or(range.end, Node::start);
                self.verbatim(written..until);
                (written, from, index, condition) = (until, end, end, false);
                continue;
            }
            if word == "let" || word == "for" {
                self.flush(&nodes[from..index], &mut written, condition);
                let stop = if word == "let" { "=" } else { "in" };
                let mut end = index + 1;
                while end < nodes.len() && self.word(&nodes[end]) != stop && self.word(&nodes[end]) != ";" {
                    end += 1;
                }
                let until = nodes.get(end).map_or(range.end, Node::start);
                self.verbatim(written..until);
                (written, from, index, condition) = (until, end, end, false);
                continue;
            }
            if word == "#" {
                self.flush(&nodes[from..index], &mut written, condition);
                let end = (index + 1..nodes.len()).find(|at| self.opens(&nodes[*at], b'[')).map_or(index, |at| at);
                self.verbatim(written..nodes[end].end());
                (written, from, index, condition) = (nodes[end].end(), end + 1, end + 1, false);
                continue;
            }
            if !self.is_bound(nodes, index) {
                index += 1;
                continue;
            }
            if !condition && self.ends_a_pattern(nodes, index) {
                self.verbatim(written..nodes[index].end());
                condition = word == "if";
                (written, from, index) = (nodes[index].end(), index + 1, index + 1);
                continue;
            }
            if word.len() > 1 && word.ends_with('=') && self.assignment(nodes, from, index, &mut written) {
                from = (index + 1..nodes.len()).find(|at| self.word(&nodes[*at]) == ";").unwrap_or(nodes.len());
                index = from;
                condition = false;
                continue;
            }
            let negatable = condition && self.opens(&nodes[index], b'{');
            self.flush(&nodes[from..index], &mut written, negatable);
            match &nodes[index] {
                Node::Group { start, end, inner } => {
                    self.verbatim(written..start + 1);
                    self.sequence(inner, start + 1..end - 1);
                    self.verbatim(end - 1..*end);
                    written = *end;
                }
                Node::Leaf { end, .. } => {
                    self.verbatim(written..*end);
                    written = *end;
                }
            }
            condition = word == "if" || word == "while";
            index += 1;
            from = index;
        }
        self.flush(&nodes[from..], &mut written, false);
        self.verbatim(written..range.end);
    }

    /// Writes `left += right` with its mutants; false if it is not of this simple form.
    fn assignment(&mut self, nodes: &[Node], from: usize, index: usize, written: &mut usize) -> bool {
        let operator = self.word(&nodes[index]).to_owned();
        let end = (index + 1..nodes.len()).find(|at| self.word(&nodes[*at]) == ";").unwrap_or(nodes.len());
        let simple = (index + 1..end).all(|at| !self.is_bound(nodes, at)) && from < index && index + 1 < end;
        if !simple || swapped(&operator).is_empty() {
            return false;
        }
        let whole = nodes[from].start()..nodes[end - 1].end();
        let changes: Vec<Change> =
            swapped(&operator).iter().map(|to| (nodes[index].start()..nodes[index].end(), (*to).to_owned())).collect();
        self.verbatim(*written..whole.start);
        let (left, right) = (nodes[from..index].to_vec(), nodes[index + 1..end].to_vec());
        let between = (nodes[index - 1].end(), nodes[index + 1].start());
        self.wrap(whole.clone(), &changes, "{", "}", |writer| {
            writer.expression(&left, false);
            writer.verbatim(between.0..between.1);
            writer.expression(&right, false);
        });
        *written = whole.end;
        true
    }

    /// Writes an expression after the text before it.
    fn flush(&mut self, nodes: &[Node], written: &mut usize, negatable: bool) {
        // In a macro's arguments a name may stand before an expression, as in `i8 1 << 63`.
        let named = (1..nodes.len()).rev().find(|at| {
            let word = |at: usize| matches!(nodes[at], Node::Leaf { kind: Kind::Word, .. });
            let value = word(*at) || matches!(nodes[*at], Node::Leaf { kind: Kind::Number | Kind::Text, .. });
            word(at - 1) && value && ![at - 1, *at].iter().any(|at| ["as", "dyn"].contains(&self.word(&nodes[*at])))
        });
        let nodes = &nodes[named.unwrap_or(0)..];
        let (Some(first), Some(last)) = (nodes.first(), nodes.last()) else { return };
        self.verbatim(*written..first.start());
        match self.binary(nodes, nodes.len() - 1) {
            // The next nodes belong to it: `x != 1 && let …`.
            true => self.parts(nodes),
            false => self.expression(nodes, negatable),
        }
        *written = last.end();
    }

    fn expression(&mut self, nodes: &[Node], negatable: bool) {
        let whole = nodes[0].start()..nodes[nodes.len() - 1].end();
        let mut changes = Vec::new();
        for (index, node) in nodes.iter().enumerate() {
            let Node::Leaf { kind, start, end } = *node else { continue };
            let word = &self.source[start..end];
            let before = index.checked_sub(1).map_or("", |at| self.word(&nodes[at]));
            let place = start..end;
            match kind {
                Kind::Mark if self.binary(nodes, index) => {
                    // After a type, `<` would begin its arguments.
                    let typed = index >= 2 && self.word(&nodes[index - 2]) == "as";
                    let fits = |to: &&&str| !(typed && to.starts_with('<'));
                    changes.extend(swapped(word).iter().filter(fits).map(|to| (place.clone(), (*to).to_owned())));
                }
                Kind::Mark if word == "!" => {
                    let macro_call = index > 0 && nodes[index - 1].end() == start;
                    let last = index + 1 == nodes.len();
                    if !macro_call && !last {
                        changes.push((place, String::new()));
                    }
                }
                Kind::Word => {
                    let dtype = index >= 2 && before == "::" && self.word(&nodes[index - 2]) == "DType";
                    let table: &[(&str, &str)] = if dtype { &DTYPES } else { &SWAPS };
                    let named = table.iter().filter(|(from, _)| *from == word);
                    changes.extend(named.map(|(_, to)| (place.clone(), (*to).to_owned())));
                }
                Kind::Mark | Kind::Number | Kind::Text => {}
            }
        }
        if changes.is_empty() && negatable {
            changes.push((whole.start..whole.start, "!".to_owned()));
        }
        let own = nodes.to_vec();
        self.wrap(whole, &changes, "(", ")", |writer| writer.parts(&own));
    }

    /// Writes the parts of an expression, each with its own mutants.
    fn parts(&mut self, nodes: &[Node]) {
        let mut written = nodes[0].start();
        for (index, node) in nodes.iter().enumerate() {
            self.verbatim(written..node.start());
            let before = index.checked_sub(1).map_or("", |at| self.word(&nodes[at])).to_owned();
            match node {
                Node::Group { start, end, inner } => {
                    let called = if before == "!" && index > 1 { self.word(&nodes[index - 2]) } else { &before };
                    if UNSEEN.contains(&called) {
                        self.verbatim(*start..*end);
                    } else {
                        self.verbatim(*start..start + 1);
                        self.sequence(inner, start + 1..end - 1);
                        self.verbatim(end - 1..*end);
                    }
                }
                Node::Leaf { kind, start, end } => {
                    let word = self.source[*start..*end].to_owned();
                    let type_argument = self.source[*end..].starts_with('>') || before == "<";
                    let to = match kind {
                        Kind::Number if before != "." && !type_argument => other_number(&word),
                        Kind::Word if word == "true" => Some("false".to_owned()),
                        Kind::Word if word == "false" => Some("true".to_owned()),
                        _ => None,
                    };
                    let changes: Vec<Change> = to.map(|to| (*start..*end, to)).into_iter().collect();
                    self.wrap(*start..*end, &changes, "(", ")", |writer| writer.verbatim(*start..*end));
                }
            }
            written = node.end();
        }
    }

    /// Writes what `original` writes, as the last branch after one branch for each change.
    fn wrap(
        &mut self,
        whole: Range<usize>,
        changes: &[Change],
        open: &str,
        close: &str,
        original: impl FnOnce(&mut Self),
    ) {
        let mut made = Vec::new();
        for (place, to) in changes {
            let line_start = self.source[..place.start].rfind('\n').map_or(0, |at| at + 1);
            let line = self.source[line_start..].lines().next().unwrap_or("");
            let mutant = Mutant {
                id: self.next,
                file: self.file.to_owned(),
                line: 1 + self.source[..place.start].matches('\n').count(),
                text: line.trim().to_owned(),
                column: place.start - line_start - (line.len() - line.trim_start().len()),
                from: self.source[place.clone()].to_owned(),
                to: to.clone(),
            };
            self.next += 1;
            if (self.wanted)(&mutant) {
                made.push((mutant.id, place.clone(), to.clone()));
            }
            self.mutants.push(mutant);
        }
        if made.is_empty() {
            return original(self);
        }
        let (start, slot) = (self.out.len(), self.wraps.len());
        self.wraps.push(Wrap { place: 0..0, variants: Vec::new() });
        self.out.push_str(open);
        let mut variants = Vec::new();
        for (id, place, to) in made {
            self.out.push_str(&format!("if crate::mutants::on({id}) {{ "));
            let variant = self.out.len();
            let (before, after) = (&self.source[whole.start..place.start], &self.source[place.end..whole.end]);
            let changed = match (place.is_empty(), to.as_str()) {
                (true, "!") => format!("!({after})"),
                _ => format!("{before}{to}{after}"),
            };
            self.out.push_str(&changed);
            variants.push((variant..self.out.len(), id));
            self.out.push_str(" } else ");
        }
        self.out.push_str("{ ");
        original(self);
        self.out.push_str(" }");
        self.out.push_str(close);
        self.wraps[slot] = Wrap { place: start..self.out.len(), variants };
    }
}

/// A number near another one.
fn other_number(word: &str) -> Option<String> {
    let digits = word.replace('_', "");
    if digits.contains('.') || (!digits.starts_with("0x") && digits.contains(['e', 'E'])) {
        // A thousandth more, but at least that of 1: more than rounding may change.
        let number: f64 = digits.parse().ok()?;
        return Some(format!("{:?}", number + 1e-2 * number.abs().max(0.1)));
    }
    let number = match digits.strip_prefix("0x") {
        Some(hex) => u128::from_str_radix(hex, 16).ok()?,
        None => digits.parse().ok()?,
    };
    Some(format!("{}", number + 1))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn all(text: &str) -> (String, Vec<String>) {
        let (rewritten, mutants) = rewrite("x.rs", text, 0, &|_| true);
        (rewritten.text, mutants.iter().map(|mutant| format!("{} {}", mutant.from, mutant.to)).collect())
    }

    #[test]
    fn expressions_have_mutants_and_what_is_around_them_none() {
        let (text, mutants) =
            all("fn f(x: [u8; 3], y: usize) -> usize {\n    if x.is_empty() { return 7; }\n    y + 1\n}\n");
        assert_eq!(mutants, [" !", "7 8", "+ -", "1 2"]);
        assert!(text.starts_with("fn f(x: [u8; 3], y: usize) -> usize {"), "{text}");
        assert!(text.contains("if (if crate::mutants::on(0) { !(x.is_empty()) } else { x.is_empty() }) {"), "{text}");
        assert!(
            text.contains(
                "(if crate::mutants::on(2) { y - 1 } else { y + (if crate::mutants::on(3) { 2 } else { 1 }) })"
            ),
            "{text}"
        );
    }

    #[test]
    fn patterns_types_constants_and_messages_are_left_alone() {
        for text in [
            "const A: usize = 1 + 2;",
            "fn f() { let [a, 3] = b; }",
            "fn f() { match x { 1 | 2 => y, [_, 4] => z } }",
            "fn f() { pace.spend(a + 1)?; }",
            "struct S { a: [u8; 4] }",
            "fn f() { for (a, 1) in b {} }",
            "#[test(a = 1)] fn f() {}",
            "fn f<T: A + B>() where T: C + D {}",
            "fn f() { x.0 }",
            "fn f() { g(|a, b| a) }",
        ] {
            assert_eq!(all(text).1, Vec::<String>::new(), "{text}");
            assert_eq!(all(text).0, text);
        }
    }

    #[test]
    fn assignments_closures_and_dtypes_have_mutants() {
        assert_eq!(all("fn f() { a += b; }").1, ["+= -="]);
        assert_eq!(all("fn f() { g(|a, b| a * b); }").1, ["* /"]);
        assert_eq!(all("fn f() { g(DType::S64, shape) }").1, ["S64 S32"]);
        assert_eq!(all("fn f() { matches(x) || !y.any(z) }").1, ["|| &&", "! ", "any all"]);
        assert_eq!(all("m! { A: B, |a, b| a.add(b); }").1, ["add subtract"]);
    }

    #[test]
    fn a_mutant_that_is_not_wanted_leaves_no_trace() {
        let text = "fn f() { a + b }";
        assert_eq!(rewrite("x.rs", text, 5, &|mutant| mutant.id != 5).0.text, text);
        let wrap = &rewrite("x.rs", text, 5, &|_| true).0.wraps[0];
        assert_eq!((wrap.variants.len(), wrap.variants[0].1), (1, 5));
    }
}
