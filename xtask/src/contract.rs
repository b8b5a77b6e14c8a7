//! Checks the contract: a change of `wit/` needs a new version, so that a component built against a version always finds the same
//! one; and a new function needs a guest that calls it. It never changes a file.

use sha2::{Digest, Sha256};
use std::collections::BTreeMap;
use std::fs;

/// All versions, oldest first: `VERSION DIGEST` in each line. A released line never changes.
const VERSIONS: &str = "wit/versions.txt";

/// The version in `wit/` and the digest of everything in it except comments and white space.
fn contract() -> (String, String) {
    let folder = crate::root().join("wit");
    let mut files = BTreeMap::new();
    for entry in fs::read_dir(&folder).expect("wit/ can be read").flatten() {
        let path = entry.path();
        if path.extension().is_some_and(|extension| extension == "wit") {
            files.insert(entry.file_name(), fs::read_to_string(&path).expect("WIT is UTF-8"));
        }
    }
    let mut versions = Vec::new();
    let mut hasher = Sha256::new();
    for text in files.values() {
        for line in text.lines().map(|line| line.split("//").next().unwrap_or_default()) {
            if let Some(package) = line.strip_prefix("package ") {
                versions
                    .push(package.trim_end().trim_end_matches(';').rsplit('@').next().unwrap_or_default().to_owned());
            }
            for word in line.split_whitespace() {
                hasher.update(word);
                hasher.update(" ");
            }
        }
    }
    let version = versions.first().cloned().unwrap_or_default();
    assert!(versions.iter().all(|other| *other == version), "the files of wit/ are of several versions: {versions:?}");
    (version, hex::encode(hasher.finalize()))
}

#[test]
fn a_change_of_the_contract_has_a_new_version() {
    let (version, digest) = contract();
    let kept = fs::read_to_string(crate::root().join(VERSIONS)).unwrap_or_default();
    let lines: Vec<(&str, &str)> = kept.lines().filter_map(|line| line.split_once(' ')).collect();
    let found = lines.iter().find(|(known, _)| *known == version);
    match found {
        Some((_, known)) => assert_eq!(
            *known, digest,
            "wit/ is not what version {version} was: give every file a new version (a minor one where anything was taken \
             away or changed, else a patch) and add the line `VERSION DIGEST` to {VERSIONS}"
        ),
        None => panic!("version {version} of wit/ is new: add the line `{version} {digest}` to {VERSIONS}"),
    }
    assert_eq!(lines.last().map(|(last, _)| *last), Some(version.as_str()), "{VERSIONS} ends with the version in wit/");
}

/// The guest that calls every operator through the contract.
const PROBE: &str = "tests/guests/probe/src/operators.rs";

/// The functions of an interface.
fn functions(wit: &str) -> Vec<&str> {
    let lines = wit.lines().map(|line| line.split("//").next().unwrap_or_default());
    lines.filter_map(|line| line.split_once(": func(").map(|(name, _)| name.trim().trim_start_matches('%'))).collect()
}

/// Whether Rust code calls a function of `Tensor` as a method, with a path, or as the variant with more parameters.
fn calls(code: &str, function: &str) -> bool {
    let name = function.replace('-', "_");
    let follows = |rest: &str| !rest.starts_with(|next: char| next.is_alphanumeric() || next == '_');
    let lines = code.lines().map(|line| line.split("//").next().unwrap_or_default());
    let found = |line: &str| {
        [".", "Tensor::"].into_iter().any(|before| {
            line.match_indices(&format!("{before}{name}")).any(|(start, word)| {
                let rest = &line[start + word.len()..];
                follows(rest) || rest.strip_prefix("_with").is_some_and(follows)
            })
        })
    };
    lines.into_iter().any(found)
}

#[test]
fn the_probe_calls_every_operator() {
    let read = |path: &str| fs::read_to_string(crate::root().join(path)).expect("it can be read");
    let (operators, probe) = (read("wit/operators.wit"), read(PROBE));
    let operators = functions(&operators);
    assert!(operators.len() > 60, "{operators:?}");
    let missing: Vec<_> = operators.into_iter().filter(|operator| !calls(&probe, operator)).collect();
    assert!(missing.is_empty(), "{PROBE} is to call every function of wit/operators.wit and lacks {missing:?}");
}

#[test]
fn a_call_is_told_from_what_resembles_it() {
    assert_eq!(
        functions("    // old: func(\n    log-softmax: func(input: borrow<tensor>)\n    cast: func(\n"),
        ["log-softmax", "cast"]
    );
    for code in ["x.top_k(2)?", "x.top_k_with(2, 0, true)", "(\"top-k\", Tensor::top_k)", "    .top_k(1)"] {
        assert!(calls(code, "top-k"), "{code}");
    }
    for code in ["top_k", "// x.top_k(2)", "x.top_kept()", "x.top_k_without()", "Resize::top_k()"] {
        assert!(!calls(code, "top-k"), "{code}");
    }
}
