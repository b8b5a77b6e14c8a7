//! `hearth new`: makes a folder with a small function and the SDK; it never builds the function or overwrites a file.

mod vendor;

use super::output::print;
use super::upload;
use anyhow::{Context, Result, bail};
use std::path::{Path, PathBuf};

/// The folder's files besides the SDK; `{{name}}` and `{{function}}` are replaced.
const FILES: [(&str, &str); 4] = [
    ("Cargo.toml", include_str!("new/rust/Cargo.toml.in")),
    ("src/lib.rs", include_str!("new/rust/lib.rs")),
    ("README.md", include_str!("new/rust/README.md")),
    (".gitignore", include_str!("new/rust/gitignore")),
];

/// Where the SDK is in the folder.
const VENDOR: &str = "vendor/hearth";
const NAME_BYTES: usize = 64;

/// Arguments of `hearth new`.
#[derive(Debug, clap::Args)]
pub struct New {
    /// The name of the folder, the crate and the function
    name: String,
    /// The language of the function; only rust so far
    #[arg(long, default_value = "rust")]
    lang: String,
}

impl New {
    pub(super) fn run(self) -> Result<()> {
        check_language(&self.lang)?;
        check_name(&self.name)?;
        let folder = PathBuf::from(&self.name);
        write(&folder, &self.name)?;
        print(&format!(
            "{name}/ is a function in Rust: see {name}/src/lib.rs\n\
             run it with: cd {name} && hearth dev\n",
            name = self.name
        ))
    }
}

/// Writes a new project into a folder that does not exist or is empty.
fn write(folder: &Path, name: &str) -> Result<()> {
    let shown = folder.display();
    match std::fs::read_dir(folder) {
        Ok(mut entries) => {
            if entries.next().is_some() {
                bail!("{shown} exists already and is not empty; choose another name, or remove it");
            }
        }
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => {}
        Err(error) if error.kind() == std::io::ErrorKind::NotADirectory => {
            bail!("{shown} exists already and is a file; choose another name, or remove it")
        }
        Err(error) => return Err(error).with_context(|| format!("cannot read {shown}")),
    }
    let function = upload::suggested_name(Path::new(name))?;
    for (path, text) in FILES {
        let text = text.replace("{{name}}", name).replace("{{function}}", &function);
        put(&folder.join(path), &text)?;
    }
    // The versions that this SDK was tested with; cargo removes those that the project does not need.
    put(&folder.join("Cargo.lock"), vendor::lock()?)?;
    for (path, text) in vendor::files()? {
        put(&folder.join(VENDOR).join(path), &text)?;
    }
    Ok(())
}

fn put(path: &Path, text: &str) -> Result<()> {
    let write = || {
        std::fs::create_dir_all(path.parent().unwrap_or(path))?;
        std::fs::write(path, text)
    };
    write().with_context(|| format!("cannot write {}", path.display()))
}

fn check_language(lang: &str) -> Result<()> {
    match lang {
        "rust" => Ok(()),
        "python" | "js" | "javascript" | "c" => {
            bail!("--lang {lang}: only rust so far; python, js and c come later")
        }
        other => {
            bail!("--lang {other} is no language that hearth knows; use --lang rust (python, js and c come later)")
        }
    }
}

/// Checks a name that is used for the crate, the folder and (with `-` for `_`) the function.
fn check_name(name: &str) -> Result<()> {
    // Names that cargo refuses or that would hide a crate that the project uses.
    const TAKEN: [&str; 11] = [
        "alloc",
        "core",
        "hearth-guest",
        "hearth-guest-macros",
        "hearth_guest",
        "proc-macro",
        "proc_macro",
        "serde",
        "std",
        "test",
        "wit-bindgen",
    ];
    const KEYWORDS: [&str; 50] = [
        "abstract", "as", "async", "await", "become", "box", "break", "const", "continue", "crate", "do", "dyn",
        "else", "enum", "extern", "false", "final", "fn", "for", "gen", "if", "impl", "in", "let", "loop", "macro",
        "match", "mod", "move", "mut", "override", "priv", "pub", "ref", "return", "self", "static", "struct", "super",
        "trait", "true", "try", "type", "typeof", "unsafe", "unsized", "use", "virtual", "where", "while",
    ];
    let starts = name.bytes().next().is_some_and(|first| first.is_ascii_lowercase());
    let ends = name.bytes().next_back().is_some_and(|last| last.is_ascii_alphanumeric());
    let allowed = |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit() || b"-_".contains(&byte);
    if !starts || !ends || name.len() > NAME_BYTES || !name.bytes().all(allowed) {
        let shown: String = name.chars().take(NAME_BYTES).collect();
        bail!(
            "'{shown}' is no name for a function: it starts with a lowercase letter, goes on with lowercase letters, \
             digits, '-' and '_', ends with a letter or digit, and has at most {NAME_BYTES} bytes"
        );
    }
    if TAKEN.contains(&name) || KEYWORDS.contains(&name) || name == "yield" {
        bail!("'{name}' means something else in Rust or to the SDK; choose another name");
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_those_of_crates_and_functions() {
        for name in ["demo", "file-type", "a1", "my_function"] {
            assert!(check_name(name).is_ok(), "{name}");
            let limits = crate::config::Limits::default();
            let function = upload::suggested_name(Path::new(name)).unwrap();
            assert!(function.len() as u64 <= limits.name_bytes, "{function}");
        }
        let long = "a".repeat(65);
        for name in ["", "1a", "Demo", "a b", "../a", "a/b", "a.b", "a-", "_a", "-a", "ä", "a\n", &long] {
            let error = check_name(name).expect_err(name).to_string();
            assert!(error.contains("no name for a function"), "{error}");
        }
        for name in ["fn", "yield", "test", "core", "serde", "hearth-guest"] {
            assert!(check_name(name).expect_err(name).to_string().contains("choose another"), "{name}");
        }
    }

    #[test]
    fn languages_to_come_are_told_from_unknown_ones() {
        assert!(check_language("rust").is_ok());
        assert!(check_language("python").unwrap_err().to_string().contains("come later"));
        assert!(check_language("cobol").unwrap_err().to_string().contains("no language that hearth knows"));
    }

    #[test]
    fn nothing_is_written_over() {
        let place = tempfile::tempdir().unwrap();
        let folder = place.path().join("demo");
        std::fs::create_dir(&folder).unwrap();
        write(&folder, "demo").unwrap();
        let error = write(&folder, "demo").unwrap_err().to_string();
        assert!(error.contains("not empty"), "{error}");
        let error = write(&folder.join("Cargo.toml"), "demo").unwrap_err().to_string();
        assert!(error.contains("is a file"), "{error}");
    }

    #[test]
    fn a_new_project_has_every_file_and_no_placeholder() {
        let place = tempfile::tempdir().unwrap();
        write(place.path(), "my_demo").unwrap();
        let read = |name: &str| std::fs::read_to_string(place.path().join(name)).unwrap();
        for name in ["Cargo.toml", "README.md", "src/lib.rs", ".gitignore", "Cargo.lock"] {
            assert!(!read(name).contains("{{"), "{name}");
        }
        assert!(read("README.md").contains("/fn/my-demo"));
        let manifest: toml::Table = read("Cargo.toml").parse().unwrap();
        assert_eq!(manifest["package"]["name"].as_str(), Some("my_demo"));
        let sdk = manifest["dependencies"]["hearth-guest"]["path"].as_str().unwrap();
        assert!(place.path().join(sdk).join("Cargo.toml").is_file());
        // The path that the SDK's own sources use.
        assert!(place.path().join(sdk).join("../../wit/worlds.wit").is_file());
    }
}
