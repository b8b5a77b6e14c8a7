//! Checks what ARCHITECTURE.md says about the sources: arrows between modules, sizes, docs, where `unsafe` may be. It never
//! changes a file.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

/// The modules of host/src from left to right; each may use only those further right.
const LAYERS: [&[&str]; 12] = [
    &["main", "allocator"],
    &["cli", "http"],
    &["deploy"],
    &["api"],
    &["sandbox", "catalog"],
    &["interface"],
    &["model"],
    &["device"],
    &["confined"],
    &["signed_cache"],
    &["config", "node_key", "bulk", "clock", "detached", "single_flight", "gate"],
    &["error", "interleaving"],
];

/// Words that host/src may contain only below the named paths.
const KEPT_TO: [(&str, &[&str]); 9] = [
    ("wasmtime", &["interface", "sandbox"]),
    ("hyper", &["http", "cli"]),
    ("ort", &["model"]),
    ("rten", &["model"]),
    ("sqlx", &["catalog"]),
    ("cudarc", &["device/cuda", "model/onnxruntime"]),
    ("hmac", &["node_key", "signed_cache"]),
    ("StatusCode", &["http", "cli"]),
    ("interface::bindings", &["interface"]),
];

/// Where host/src, or a folder that is named in full, may contain `unsafe`, and why.
const UNSAFE: [(&str, &str); 7] = [
    ("allocator", "an option of mimalloc"),
    ("device/cuda", "the CUDA driver"),
    ("device/cpu", "SIMD where no library has it"),
    ("model/onnxruntime", "the C API of ONNX Runtime"),
    ("model/prepared/pages", "asking which pages of a mapped file are in memory"),
    ("sandbox/artefacts", "loading code that this server compiled"),
    ("bench/src/gpu/baseline", "pinned memory, which cudarc gives as it is"),
];

const MOST_LINES: usize = 800;
const MOST_BYTES: u64 = 512 << 10;

struct Source {
    /// The name below the repository's root.
    name: String,
    text: String,
}

/// Every file that is or would be committed.
fn committed() -> Vec<PathBuf> {
    let root = crate::root();
    let list = ["ls-files", "--cached", "--others", "--exclude-standard", "-z"];
    let output = Command::new("git").args(list).current_dir(&root).output().expect("git runs");
    assert!(output.status.success(), "git cannot list the files: {}", String::from_utf8_lossy(&output.stderr));
    let names = String::from_utf8(output.stdout).expect("names of committed files are UTF-8");
    let mut files: Vec<PathBuf> = names.split('\0').filter(|name| !name.is_empty()).map(PathBuf::from).collect();
    // A file that is deleted, but not yet in a commit, is in the list and does not exist.
    files.retain(|name| root.join(name).is_file());
    files.sort();
    assert!(files.len() > 20, "only {} files: that is not the repository", files.len());
    files
}

fn sources(ending: &str) -> Vec<Source> {
    let root = crate::root();
    let named = committed().into_iter().filter(|path| path.extension().is_some_and(|extension| extension == ending));
    named
        .map(|path| Source {
            text: fs::read_to_string(root.join(&path)).expect("sources are UTF-8"),
            name: path.to_string_lossy().into_owned(),
        })
        .collect()
}

/// The sources of the library and program, named below host/src.
fn host() -> Vec<Source> {
    let all = sources("rs").into_iter();
    all.filter_map(|source| {
        let name = source.name.strip_prefix("host/src/")?.to_owned();
        Some(Source { name, text: source.text })
    })
    .collect()
}

fn check(claim: &str, faults: Vec<String>) {
    assert!(faults.is_empty(), "{claim}; not so in:\n  {}\n", faults.join("\n  "));
}

/// The text without comments and string literals, line for line.
fn code(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    let mut rest = text;
    while let Some(first) = rest.chars().next() {
        let skipped = if rest.starts_with("//") {
            rest.find('\n').unwrap_or(rest.len())
        } else if rest.starts_with("/*") {
            rest.find("*/").map_or(rest.len(), |end| end + 2)
        } else if let Some(length) = raw_string(rest) {
            length
        } else if first == '"' {
            string(rest)
        } else if let Some(length) = character(rest) {
            length
        } else {
            out.push(first);
            rest = &rest[first.len_utf8()..];
            continue;
        };
        out.extend(rest[..skipped].chars().filter(|character| *character == '\n'));
        // The text before and after a literal must not become one word.
        out.push(' ');
        rest = &rest[skipped..];
    }
    out
}

fn raw_string(text: &str) -> Option<usize> {
    let inner = text.strip_prefix("br").or_else(|| text.strip_prefix('r'))?;
    let hashes = inner.len() - inner.trim_start_matches('#').len();
    inner[hashes..].strip_prefix('"')?;
    let end = format!("\"{}", "#".repeat(hashes));
    let start = text.len() - inner.len() + hashes + 1;
    Some(text[start..].find(&end).map_or(text.len(), |found| start + found + end.len()))
}

fn string(text: &str) -> usize {
    let mut escaped = false;
    for (index, byte) in text.bytes().enumerate().skip(1) {
        match byte {
            _ if escaped => escaped = false,
            b'\\' => escaped = true,
            b'"' => return index + 1,
            _ => {}
        }
    }
    text.len()
}

/// The length of a character literal; none for a lifetime.
fn character(text: &str) -> Option<usize> {
    let inner = text.strip_prefix('\'')?;
    let length = match inner.strip_prefix('\\') {
        Some(escaped) => 1 + escaped.chars().next()?.len_utf8(),
        None => inner.chars().next()?.len_utf8(),
    };
    if inner.starts_with("\\u") || inner.starts_with("\\x") {
        return inner.find('\'').map(|end| end + 2);
    }
    inner[length..].starts_with('\'').then_some(length + 2)
}

fn is_word_part(character: char) -> bool {
    character.is_alphanumeric() || character == '_'
}

/// The positions of `word` as a separate word.
fn positions(code: &str, word: &str) -> Vec<usize> {
    let whole = |at: &usize| {
        let before = code[..*at].chars().next_back().is_some_and(is_word_part);
        let after = code[at + word.len()..].chars().next().is_some_and(is_word_part);
        !before && !after
    };
    code.match_indices(word).map(|(at, _)| at).filter(whole).collect()
}

fn line_of(code: &str, at: usize) -> usize {
    code[..at].matches('\n').count() + 1
}

/// The top modules that some code names after `crate::`, with the line of each.
fn used_modules(code: &str) -> Vec<(String, usize)> {
    let mut found = Vec::new();
    for (at, start) in code.match_indices("crate::") {
        let rest = code[at + start.len()..].trim_start();
        let line = line_of(code, at);
        let first =
            |text: &str| text.trim_start().chars().take_while(|character| is_word_part(*character)).collect::<String>();
        let Some(group) = rest.strip_prefix('{') else {
            found.push((first(rest), line));
            continue;
        };
        let (mut depth, mut part) = (0, 0);
        for (index, character) in group.char_indices() {
            match character {
                '{' => depth += 1,
                '}' if depth == 0 => {
                    found.push((first(&group[part..index]), line));
                    break;
                }
                '}' => depth -= 1,
                ',' if depth == 0 => {
                    found.push((first(&group[part..index]), line));
                    part = index + 1;
                }
                _ => {}
            }
        }
    }
    found.retain(|(name, _)| !name.is_empty());
    found
}

fn layer(module: &str) -> Option<usize> {
    LAYERS.iter().position(|layer| layer.contains(&module))
}

fn top(name: &str) -> &str {
    name.split('/').next().unwrap_or(name).trim_end_matches(".rs")
}

fn below(name: &str, places: &[&str]) -> bool {
    places.iter().any(|place| name.strip_prefix(place).is_some_and(|rest| rest.starts_with(['/', '.', '_'])))
}

#[test]
fn modules_use_only_those_to_their_right() {
    let mut faults = Vec::new();
    for source in host() {
        let module = top(&source.name);
        if module == "lib" {
            continue;
        }
        let Some(own) = layer(module) else {
            faults.push(format!("{}: the module {module} has no place in LAYERS", source.name));
            continue;
        };
        for (used, line) in used_modules(&code(&source.text)) {
            if used != module && layer(&used).is_some_and(|other| other <= own) {
                faults.push(format!("{}:{line} uses {used}", source.name));
            }
        }
    }
    check("a module uses only modules to its right in ARCHITECTURE.md's arrows", faults);
}

#[test]
fn libraries_and_words_stay_where_they_belong() {
    let mut faults = Vec::new();
    for source in host().iter().filter(|source| top(&source.name) != "main") {
        let code = code(&source.text);
        for (word, places) in KEPT_TO {
            if below(&source.name, places) {
                continue;
            }
            for at in positions(&code, word) {
                // A crate's name counts only in a path; the same word may be a field or a variable.
                let path =
                    code[at + word.len()..].trim_start().starts_with("::") || code[..at].trim_end().ends_with("use");
                if path || word.starts_with(char::is_uppercase) || word.contains("::") {
                    faults.push(format!(
                        "{}:{} names {word}, which is for {}",
                        source.name,
                        line_of(&code, at),
                        places.join(", ")
                    ));
                }
            }
        }
    }
    check("each library and word stays in its modules", faults);
}

#[test]
fn unsafe_is_only_where_it_may_be() {
    let mut faults = Vec::new();
    for source in sources("rs") {
        let name = source.name.strip_prefix("host/src/").unwrap_or(&source.name);
        if UNSAFE.iter().any(|(place, _)| below(name, &[place])) {
            continue;
        }
        // Exports of a component are unsafe by nature, and guests written for tests forge handles.
        if source.name.starts_with("guest-sdk/rust/") || source.name.starts_with("tests/guests/") {
            continue;
        }
        let code = code(&source.text);
        faults
            .extend(positions(&code, "unsafe").into_iter().map(|at| format!("{}:{}", source.name, line_of(&code, at))));
    }
    check("unsafe is only in the places that UNSAFE lists", faults);
}

#[test]
fn every_rust_file_says_what_it_does_and_is_short() {
    let mut faults = Vec::new();
    for source in sources("rs") {
        let lines = source.text.lines().count();
        if lines > MOST_LINES {
            faults.push(format!("{}: {lines} lines, at most {MOST_LINES}", source.name));
        }
        if !source.text.starts_with("//! ") {
            faults.push(format!("{}: does not start with its doc (//!)", source.name));
        }
    }
    check("every Rust file starts with its doc and is short", faults);
}

#[test]
fn nothing_is_left_to_do_in_the_code() {
    let words = ["todo", "unimplemented", "dbg"];
    let mut faults = Vec::new();
    for source in sources("rs") {
        let code = code(&source.text);
        for word in words {
            let calls = positions(&code, word).into_iter().filter(|at| code[at + word.len()..].starts_with('!'));
            faults.extend(calls.map(|at| format!("{}:{}: {word}!", source.name, line_of(&code, at))));
        }
    }
    check("no macro marks unfinished code", faults);
}

#[test]
fn no_file_names_a_machine_or_a_registry() {
    // Written in two parts, so that this file does not name them either.
    let parts = [
        ("/ro", "ot/"),
        ("/ho", "me/"),
        ("/wo", "rk/"),
        ("/tmp", "/w/"),
        ("py", "pi.org"),
        ("python", "hosted.org"),
        ("static.crates", ".io"),
        ("npm", "js.org"),
        ("deb.debian", ".org"),
    ];
    let root = crate::root();
    let mut faults = Vec::new();
    for path in committed() {
        let name = path.to_string_lossy();
        // Cargo writes its lock files itself.
        let Ok(text) = fs::read_to_string(root.join(&path)) else { continue };
        if name.ends_with("Cargo.lock") {
            continue;
        }
        for (line, text) in text.lines().enumerate() {
            let found =
                parts.iter().map(|(start, end)| format!("{start}{end}")).find(|part| text.contains(part.as_str()));
            faults.extend(found.map(|part| format!("{name}:{}: {part}", line + 1)));
        }
    }
    check("no file has a path of a machine or the host of a registry", faults);
}

#[test]
fn committed_files_are_small() {
    let root = crate::root();
    let sizes: BTreeMap<PathBuf, u64> = committed()
        .into_iter()
        .filter_map(|path| fs::metadata(root.join(&path)).ok().map(|metadata| (path, metadata.len())))
        .collect();
    let large = sizes.into_iter().filter(|(_, bytes)| *bytes > MOST_BYTES);
    check(
        "no file is larger than 512 KiB",
        large.map(|(path, bytes)| format!("{}: {bytes}", path.display())).collect(),
    );
}

#[test]
fn links_in_documents_lead_somewhere() {
    let root = crate::root();
    let mut faults = Vec::new();
    for source in sources("md") {
        let folder = Path::new(&source.name).parent().unwrap_or(Path::new(""));
        for (at, _) in source.text.match_indices("](") {
            let rest = &source.text[at + 2..];
            let target = rest.split([')', ' ', '\n']).next().unwrap_or_default();
            let file = target.split('#').next().unwrap_or_default();
            if file.is_empty() || file.contains("://") || file.starts_with("mailto:") {
                continue;
            }
            if !root.join(folder).join(file).exists() {
                faults.push(format!("{}:{}: {target}", source.name, line_of(&source.text, at)));
            }
        }
    }
    check("every link in a Markdown file leads to a file", faults);
}

#[test]
fn the_reader_of_sources_knows_strings_comments_and_groups() {
    let text = "use crate::{error::{A, B}, model::C}; // crate::http\nlet x = \"crate::cli\"; let c = '\"'; r#\"crate::x\"#; crate::device::D";
    let found = used_modules(&code(text));
    let names: Vec<(&str, usize)> = found.iter().map(|(name, line)| (name.as_str(), *line)).collect();
    assert_eq!(names, [("error", 1), ("model", 1), ("device", 2)]);
    assert_eq!(positions("unsafe_code unsafe{", "unsafe"), [12]);
    assert!(below("device/cpu/simd.rs", &["device/cpu"]) && !below("device/cpuid.rs", &["device/cpu"]));
    assert!(layer("main") < layer("http") && layer("config") < layer("error"));
}
