//! The rules for names, versions and aliases, and the selector `name[@version|@alias]`; it never looks anything up.

use crate::config::Limits;
use crate::error::{Error, Result};
use std::fmt;

/// Selects a version of a function or model.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum At {
    /// `name`: the live version.
    Live,
    /// `name@3`: this version.
    Version(u64),
    /// `name@stable`: the version that the alias points to.
    Alias(String),
}

/// A parsed `name[@version|@alias]`. The name and the alias follow the rules of [`check_name`].
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Selector {
    /// The name of the function or model.
    pub name: String,
    /// Which of its versions.
    pub at: At,
}

impl Selector {
    /// Parses a selector from a URL, a command or a guest's call.
    ///
    /// Errors: `invalid-argument` that says what is allowed.
    pub fn parse(text: &str, limits: &Limits) -> Result<Selector> {
        let (name, at) = match text.split_once('@') {
            None => (text, None),
            Some((name, at)) => (name, Some(at)),
        };
        check_name("name", name, limits)?;
        let at = match at {
            None => At::Live,
            Some(digits) if is_number(digits) => At::Version(parse_version(digits)?),
            Some(alias) => {
                check_alias(alias, limits)?;
                At::Alias(alias.to_owned())
            }
        };
        Ok(Selector { name: name.to_owned(), at })
    }
}

impl fmt::Display for Selector {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.at {
            At::Live => f.write_str(&self.name),
            At::Version(version) => write!(f, "{}@{version}", self.name),
            At::Alias(alias) => write!(f, "{}@{alias}", self.name),
        }
    }
}

/// Checks the name of a function, model or tenant: `[a-z0-9][a-z0-9._-]*` without `..`, at most `limits.name_bytes`
/// bytes. `what` is the word for it in the message.
///
/// Errors: `invalid-argument` that says what is allowed.
pub fn check_name(what: &str, name: &str, limits: &Limits) -> Result<()> {
    let most = limits.name_bytes;
    let starts = name.bytes().next().is_some_and(|first| first.is_ascii_lowercase() || first.is_ascii_digit());
    let allowed = |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit() || b"-_.".contains(&byte);
    let fits = u64::try_from(name.len()).is_ok_and(|bytes| bytes <= most);
    if starts && fits && name.bytes().all(allowed) && !name.contains("..") {
        return Ok(());
    }
    Err(Error::invalid_argument(format!(
        "{} is no {what}: a {what} starts with a lowercase letter or digit, goes on with lowercase letters, digits, \
         '-', '_' and '.' (no '..'), and has at most {most} bytes",
        shown(name)
    )))
}

/// Checks an alias: the rules of a name, and no number, since `name@3` is a version.
///
/// Errors: `invalid-argument` that says what is allowed.
pub fn check_alias(alias: &str, limits: &Limits) -> Result<()> {
    if is_number(alias) {
        let message = format!("{} is no alias: a number after '@' means a version", shown(alias));
        return Err(Error::invalid_argument(message));
    }
    check_name("alias", alias, limits)
}

/// Checks a key of a function's configuration or the name of a secret: `[A-Za-z_][A-Za-z0-9._-]*`, at most
/// `limits.name_bytes` bytes, so that it can be the name of an environment variable. `what` is the word for it in the
/// message.
///
/// Errors: `invalid-argument` that says what is allowed.
pub fn check_key(what: &str, key: &str, limits: &Limits) -> Result<()> {
    let most = limits.name_bytes;
    let starts = key.bytes().next().is_some_and(|first| first.is_ascii_alphabetic() || first == b'_');
    let allowed = |byte: u8| byte.is_ascii_alphanumeric() || b"-_.".contains(&byte);
    if starts && key.len() as u64 <= most && key.bytes().all(allowed) {
        return Ok(());
    }
    Err(Error::invalid_argument(format!(
        "{} is no {what}: it starts with a letter or '_', goes on with letters, digits, '-', '_' and '.', and has at most \
         {most} bytes",
        shown(key)
    )))
}

/// Checks the name of a host, optionally with a port, as in a URL.
///
/// Errors: `invalid-argument` that says what is allowed.
pub(super) fn check_host(host: &str) -> Result<()> {
    const MOST_BYTES: usize = 260;
    let allowed = |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit() || b"-.:*[]".contains(&byte);
    if !host.is_empty() && host.len() <= MOST_BYTES && host.bytes().all(allowed) {
        return Ok(());
    }
    Err(Error::invalid_argument(format!(
        "{} is no host: write it like api.example.org or api.example.org:8443, in lowercase, without https:// and path",
        shown(host)
    )))
}

fn is_number(text: &str) -> bool {
    !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit())
}

fn parse_version(digits: &str) -> Result<u64> {
    let version = digits.parse::<u64>().ok().filter(|version| *version > 0 && !digits.starts_with('0'));
    version
        .ok_or_else(|| Error::invalid_argument(format!("{} is no version: versions count 1, 2, 3, …", shown(digits))))
}

/// An untrusted name, quoted, escaped and shortened for a message.
fn shown(name: &str) -> String {
    const MOST: usize = 80;
    let start: String = name.chars().take(MOST).flat_map(char::escape_debug).collect();
    let more = if name.chars().nth(MOST).is_some() { "…" } else { "" };
    format!("'{start}{more}'")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_keep_the_rules() {
        let limits = Limits::default();
        let longest = "a".repeat(64);
        for name in ["a", "0", "file-type", "all-minilm-l6-v2", "a_b.c", "a.b.c", "3", longest.as_str()] {
            check_name("name", name, &limits).unwrap();
        }
        let too_long = "a".repeat(65);
        let huge = "x".repeat(10_000);
        let wrong = [
            "", "-a", ".a", "_a", "A", "aB", "a b", "a/b", "../a", "a..b", "a..", "..", "ä", "a\0", "a\n", "a%2f",
            "a\\b", "a:b", &too_long, &huge,
        ];
        for name in wrong {
            let error = check_name("name", name, &limits).unwrap_err();
            assert_eq!(error.kind(), crate::error::Kind::InvalidArgument);
            assert!(error.message().contains("at most 64 bytes"), "{error}");
            assert!(error.message().len() < 500, "{} bytes", error.message().len());
        }
    }

    #[test]
    fn keys_and_hosts_keep_the_rules() {
        let limits = Limits::default();
        for key in ["a", "_", "API_KEY", "log.level", "a-b9"] {
            check_key("key", key, &limits).unwrap();
        }
        for key in ["", "9a", "-a", ".a", "a=b", "a b", "a/b", "ä", "a\0", &"a".repeat(65)] {
            assert!(check_key("key", key, &limits).unwrap_err().message().contains("is no key"), "{key}");
        }
        for host in ["example.org", "*.example.org", "10.0.0.1:80", "[::1]:8443"] {
            check_host(host).unwrap();
        }
        for host in ["", "https://example.org", "example.org/a", "Example.org", "a b", &"a".repeat(261)] {
            assert!(check_host(host).unwrap_err().message().contains("is no host"), "{host}");
        }
    }

    #[test]
    fn selectors_tell_versions_from_aliases() {
        let limits = Limits::default();
        let of = |text: &str| Selector::parse(text, &limits).map(|selector| selector.at).ok();
        assert_eq!(of("echo"), Some(At::Live));
        assert_eq!(of("echo@3"), Some(At::Version(3)));
        assert_eq!(of("echo@stable"), Some(At::Alias("stable".to_owned())));
        assert_eq!(of("echo@3a"), Some(At::Alias("3a".to_owned())));
        for text in
            ["echo@", "@3", "echo@0", "echo@03", "echo@99999999999999999999", "echo@a@b", "echo@A", "echo@..", "e/o@1"]
        {
            assert_eq!(of(text), None, "{text}");
        }
        assert!(check_alias("12", &limits).unwrap_err().message().contains("version"));
        assert_eq!(Selector::parse("echo@stable", &limits).unwrap().to_string(), "echo@stable");
    }
}
