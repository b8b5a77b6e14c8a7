//! The SDK and the contract that are embedded in this program, adapted for a project outside the repository; it never reads a
//! file.

use anyhow::{Context, Result, bail};
use std::borrow::Cow;
use toml::{Table, Value};

/// Files of the repository, embedded by build.rs: their names below its root, and their contents.
static CARRIED: &[(&str, &str)] = include!(concat!(env!("OUT_DIR"), "/sdk.rs"));

/// The workspace that the SDK belongs to in the repository.
const WORKSPACE: &str = "examples/Cargo.toml";
const LOCK: &str = "examples/Cargo.lock";

/// The versions of the SDK's dependencies that it was tested with.
pub(super) fn lock() -> Result<&'static str> {
    carried(LOCK)
}

/// Every file of the SDK and the contract, laid out as in the repository. Its manifests name no workspace: what they inherit from
/// the repository's is written into them.
pub(super) fn files() -> Result<Vec<(&'static str, Cow<'static, str>)>> {
    let workspace: Table = carried(WORKSPACE)?.parse().context(WORKSPACE)?;
    let workspace = workspace.get("workspace").and_then(Value::as_table).context("examples/ is no workspace")?;
    let files = CARRIED.iter().filter(|(name, _)| !name.starts_with("examples/"));
    files
        .map(|(name, text)| {
            let text = match name.ends_with("/Cargo.toml") {
                true => Cow::Owned(alone(text, workspace).with_context(|| (*name).to_owned())?),
                false => Cow::Borrowed(*text),
            };
            Ok((*name, text))
        })
        .collect()
}

fn carried(name: &str) -> Result<&'static str> {
    let found = CARRIED.iter().find(|(carried, _)| *carried == name);
    found.map(|(_, text)| *text).with_context(|| format!("this program does not carry {name}"))
}

/// A manifest with the values that it inherits from its workspace written out.
fn alone(manifest: &str, workspace: &Table) -> Result<String> {
    let mut manifest: Table = manifest.parse()?;
    let of = |key: &str| workspace.get(key).and_then(Value::as_table).with_context(|| format!("no workspace.{key}"));
    for (key, value) in &mut manifest {
        match (key.as_str(), value) {
            ("package", Value::Table(package)) => {
                package.remove("workspace");
                inherit(package, of("package")?)?;
            }
            ("lints", lints) if inherits(lints) => *lints = Value::Table(of("lints")?.clone()),
            ("dependencies" | "dev-dependencies" | "build-dependencies", Value::Table(dependencies)) => {
                inherit(dependencies, of("dependencies").unwrap_or(&Table::new()))?;
            }
            _ => {}
        }
    }
    Ok(toml::to_string(&manifest)?)
}

fn inherits(value: &Value) -> bool {
    value.get("workspace").and_then(Value::as_bool) == Some(true)
}

fn inherit(table: &mut Table, workspace: &Table) -> Result<()> {
    for (key, value) in table.iter_mut().filter(|(_, value)| inherits(value)) {
        let Some(found) = workspace.get(key) else { bail!("the workspace has no {key}") };
        let own = value.as_table().cloned().unwrap_or_default();
        let others = own.into_iter().filter(|(key, _)| key != "workspace").collect::<Table>();
        *value = match (others.is_empty(), found) {
            (true, found) => found.clone(),
            (false, Value::Table(found)) => joined(found.clone(), others),
            (false, version) => joined(Table::from_iter([("version".to_owned(), version.clone())]), others),
        };
    }
    Ok(())
}

/// A dependency's own keys are added to those of the workspace; features are merged, as cargo does.
fn joined(mut found: Table, others: Table) -> Value {
    for (key, value) in others {
        match (found.get_mut(&key), value) {
            (Some(Value::Array(features)), Value::Array(more)) => features.extend(more),
            (_, value) => {
                found.insert(key, value);
            }
        }
    }
    Value::Table(found)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn manifests_stand_alone() {
        let workspace = r#"
            package = { version = "2.0.0", edition = "2024" }
            dependencies = { serde = { version = "1", features = ["alloc"] }, plain = "3" }
            lints.rust = { unsafe_code = "deny" }
        "#;
        let manifest = r#"
            [package]
            name = "sdk"
            workspace = "../../examples"
            version.workspace = true
            [dependencies]
            serde = { workspace = true, optional = true, features = ["derive"] }
            plain = { workspace = true, optional = true }
            macros = { path = "macros" }
            [lints]
            workspace = true
        "#;
        let expected = r#"
            [package]
            name = "sdk"
            version = "2.0.0"
            [dependencies]
            serde = { version = "1", features = ["alloc", "derive"], optional = true }
            plain = { version = "3", optional = true }
            macros = { path = "macros" }
            [lints.rust]
            unsafe_code = "deny"
        "#;
        let workspace: Table = workspace.parse().unwrap();
        let found: Table = alone(manifest, &workspace).unwrap().parse().unwrap();
        assert_eq!(found, expected.parse().unwrap());
        assert!(alone("[package]\nlicense.workspace = true", &workspace).is_err());
    }

    #[test]
    fn the_table_is_what_the_folders_hold() {
        fn walk(folder: &std::path::Path, found: &mut Vec<std::path::PathBuf>) {
            for entry in std::fs::read_dir(folder).unwrap().map(Result::unwrap) {
                match entry.path() {
                    path if path.is_dir() => walk(&path, found),
                    path => found.push(path),
                }
            }
        }
        let root = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).parent().unwrap();
        let mut found = Vec::new();
        walk(&root.join("guest-sdk/rust/src"), &mut found);
        walk(&root.join("guest-sdk/rust/macros/src"), &mut found);
        walk(&root.join("wit"), &mut found);
        assert!(found.len() > 15);
        for path in found {
            let name = path.strip_prefix(root).unwrap().to_str().unwrap();
            assert_eq!(carried(name).unwrap(), std::fs::read_to_string(&path).unwrap(), "{name}");
        }
        for (name, text) in files().unwrap() {
            if name.ends_with("Cargo.toml") {
                assert!(!text.contains("workspace"), "{name}: {text}");
            }
        }
    }
}
