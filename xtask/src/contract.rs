//! Keeps the contract: a change of `wit/` needs a new version, so that a component built against a version finds just that.
//! It reads files and never changes one.

use sha2::{Digest, Sha256};
use std::collections::BTreeMap;
use std::fs;

/// The versions there were, oldest first: `VERSION DIGEST` in each line. A released line never changes.
const VERSIONS: &str = "wit/versions.txt";

/// The version in `wit/` and the digest of everything in it but comments and white space.
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
