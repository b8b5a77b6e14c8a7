//! `hearth inspect`: shows what a file is and which grants a component requests; it never contacts a server or runs anything.

use super::component::Facts;
use super::output::{bytes, print, print_json, printable};
use crate::config::LIMITS;
use crate::sandbox::snapshot_obstacle;
use anyhow::{Context, Result, bail};
use serde_json::json;
use std::io::Read;
use std::path::{Path, PathBuf};

/// Arguments of `hearth inspect`.
#[derive(Debug, clap::Args)]
pub struct Inspect {
    /// A component (.wasm), or a model (.onnx, or a folder with model.onnx)
    file: PathBuf,
    /// Print JSON instead of text
    #[arg(long)]
    json: bool,
}

impl Inspect {
    pub(super) fn run(self) -> Result<()> {
        let path = &self.file;
        if is_model(path)? {
            return self.model();
        }
        let wasm = read(path)?;
        let facts = Facts::read(&wasm).with_context(|| path.display().to_string())?;
        let without_snapshot = if facts.has_init() { snapshot_obstacle(&wasm) } else { None };
        if self.json {
            return print_json(&facts.json(without_snapshot.as_deref()));
        }
        print(&aligned(&facts.rows(without_snapshot.as_deref())))
    }

    fn model(&self) -> Result<()> {
        let path = self.file.display();
        if self.json {
            return print_json(&json!({ "kind": "model" }));
        }
        print(&format!(
            "{path} is a model. A server checks it and shows its inputs and outputs: hearth model add {path}\n"
        ))
    }
}

/// Whether a path is a model, by its name or by the files of its folder.
fn is_model(path: &Path) -> Result<bool> {
    let found = std::fs::metadata(path).with_context(|| format!("cannot read {}", path.display()))?;
    if found.is_dir() {
        if path.join("model.onnx").is_file() {
            return Ok(true);
        }
        bail!("{} is a folder without model.onnx; name a component, a model, or a folder with one", path.display());
    }
    Ok(path.extension().is_some_and(|extension| extension.eq_ignore_ascii_case("onnx")))
}

/// The bytes of a file that a server could accept.
pub(super) fn read(path: &Path) -> Result<Vec<u8>> {
    let most = LIMITS.iter().find(|limit| limit.name == "component_bytes").map_or(1 << 30, |limit| limit.most);
    let file = std::fs::File::open(path).with_context(|| format!("cannot read {}", path.display()))?;
    let mut wasm = Vec::new();
    file.take(most + 1).read_to_end(&mut wasm).with_context(|| format!("cannot read {}", path.display()))?;
    if wasm.len() as u64 > most {
        bail!("{} is larger than {}; no server accepts such a component", path.display(), bytes(most));
    }
    Ok(wasm)
}

/// Rows of a name and one or more lines, one below the other.
fn aligned(rows: &[(&str, String)]) -> String {
    let width = rows.iter().map(|(name, _)| name.len()).max().unwrap_or(0);
    let mut text = String::new();
    for (name, lines) in rows {
        for (index, line) in lines.lines().enumerate() {
            let name = if index == 0 { name } else { "" };
            text.push_str(&format!("{name:<width$}  {}\n", printable(line)));
        }
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn models_are_known_by_name_or_folder() {
        let place = tempfile::tempdir().unwrap();
        let (file, folder) = (place.path().join("net.ONNX"), place.path().join("folder"));
        std::fs::create_dir(&folder).unwrap();
        std::fs::write(&file, b"x").unwrap();
        assert!(is_model(&file).unwrap());
        assert!(is_model(&folder).unwrap_err().to_string().contains("without model.onnx"));
        std::fs::write(folder.join("model.onnx"), b"x").unwrap();
        assert!(is_model(&folder).unwrap());
        assert!(is_model(&place.path().join("missing")).unwrap_err().to_string().contains("cannot read"));
    }

    #[test]
    fn lines_of_one_row_stand_below_each_other() {
        assert_eq!(aligned(&[("a", "x\ny".to_owned()), ("long", "z".to_owned())]), "a     x\n      y\nlong  z\n");
    }
}
