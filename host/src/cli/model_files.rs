//! Chooses the files of a model: the graph, the weights next to it, assets; it never sends one.

use super::onnx::external_data;
use super::source::Packed;
use anyhow::{Context, Result, bail};
use std::collections::BTreeMap;
use std::ffi::OsStr;
use std::path::{Component, Path, PathBuf};

/// Depth of nested folders. Deeper ones mean a loop of links.
const DEPTH: usize = 32;
/// Names that a message lists.
const LISTED: usize = 12;
/// The folder into which Hugging Face's tools export.
const ONNX: &str = "onnx";
/// A folder with one of these is a model folder of Hugging Face.
const HUGGING_FACE: [&str; 4] = ["config.json", "tokenizer.json", "tokenizer_config.json", "preprocessor_config.json"];
/// The files of such a folder that a function may need: configuration, vocabularies, templates.
const ASSET_EXTENSIONS: [&str; 5] = ["json", "txt", "model", "jinja", "tiktoken"];

/// The files of a model.
#[derive(Debug, Default)]
pub(super) struct ModelFiles {
    /// The files that are sent, in the order of their names.
    pub(super) files: Vec<Packed>,
    /// The folder's files that are not sent.
    pub(super) left_out: Vec<String>,
}

impl ModelFiles {
    /// An .onnx file with the external data that it names. Other files next to it are left out.
    pub(super) fn of_file(onnx: &Path) -> Result<ModelFiles> {
        let mut chosen = Chosen::default();
        chosen.model(onnx)?;
        Ok(ModelFiles { files: chosen.files(), left_out: Vec::new() })
    }

    /// A folder's model: `model.onnx`, `onnx/model.onnx`, the only .onnx file there, or the one named; the external data that it
    /// names; `model.toml`, `samples/` and `assets/`. If there is no `assets/`, but files of Hugging Face's tools, their
    /// configuration and vocabularies become assets. Names that begin with a dot are left out; links to files are followed.
    pub(super) fn of_folder(folder: &Path, onnx: Option<&Path>) -> Result<ModelFiles> {
        let mut all = Vec::new();
        walk(folder, "", 0, &mut all)?;
        let graph = graph(folder, &all, onnx)?;
        let mut chosen = Chosen::default();
        chosen.model(&graph)?;
        let has_assets = all.iter().any(|file| file.name.starts_with("assets/"));
        let hugging_face = !has_assets && all.iter().any(|file| HUGGING_FACE.contains(&file.name.as_str()));
        let mut left_out = Vec::new();
        for Packed { name, path } in all {
            let belongs = name == "model.toml" || name.starts_with("samples/") || name.starts_with("assets/");
            if chosen.0.values().any(|taken| *taken == path) && !belongs {
                continue;
            }
            if belongs {
                chosen.add(name, path)?;
            } else if hugging_face && is_asset(&name) {
                chosen.add(format!("assets/{name}"), path)?;
            } else {
                left_out.push(name);
            }
        }
        Ok(ModelFiles { files: chosen.files(), left_out })
    }
}

/// Files by their names in the package.
#[derive(Default)]
struct Chosen(BTreeMap<String, PathBuf>);

impl Chosen {
    /// A graph and the files that it names.
    fn model(&mut self, onnx: &Path) -> Result<()> {
        let folder = onnx.parent().unwrap_or(Path::new(""));
        for location in external_data(onnx)? {
            let plain = Path::new(&location).components().all(|part| matches!(part, Component::Normal(_)));
            if !plain || location.is_empty() || location.contains('\\') {
                bail!("{} names external data at '{location}', which is not below its folder", onnx.display());
            }
            let path = folder.join(&location);
            if !path.is_file() {
                bail!("{} has external data in {location}, which is not next to it", onnx.display());
            }
            self.add(location, path)?;
        }
        self.add("model.onnx".to_owned(), onnx.to_owned())
    }

    fn add(&mut self, name: String, path: PathBuf) -> Result<()> {
        match self.0.insert(name, path) {
            None => Ok(()),
            Some(other) => {
                bail!("{} would have the name of another file of the model; rename one of them", other.display())
            }
        }
    }

    fn files(self) -> Vec<Packed> {
        self.0.into_iter().map(|(name, path)| Packed { name, path }).collect()
    }
}

/// Where the graph is.
fn graph(folder: &Path, all: &[Packed], onnx: Option<&Path>) -> Result<PathBuf> {
    if let Some(onnx) = onnx {
        let below = folder.join(onnx);
        let found = [below.as_path(), onnx].into_iter().find(|path| path.is_file());
        return found.map(Path::to_owned).with_context(|| format!("there is no {}", below.display()));
    }
    let graphs: Vec<&Packed> = all.iter().filter(|file| file.name.ends_with(".onnx")).collect();
    let usual = ["model.onnx", "onnx/model.onnx"];
    let usual = usual.iter().find_map(|name| graphs.iter().find(|file| file.name == *name));
    match (usual, &graphs[..]) {
        (Some(file), _) | (None, [file]) => Ok(file.path.clone()),
        (None, []) => {
            let there = listed(all.iter().map(|file| file.name.as_str()));
            bail!(
                "{} has no .onnx file, but {there}; hearth runs models that were exported to ONNX, and docs/exporting.md in \
                 hearth's repository says how to export one",
                folder.display()
            )
        }
        (None, several) => {
            let there = listed(several.iter().map(|file| file.name.as_str()));
            bail!("{} has no model.onnx, but {there}; name one with --onnx FILE", folder.display())
        }
    }
}

/// A list of names for a message.
pub(super) fn listed<'a>(names: impl Iterator<Item = &'a str>) -> String {
    let names: Vec<&str> = names.collect();
    match names.len() {
        0 => "no files".to_owned(),
        count if count > LISTED => format!("{} and {} more", names[..LISTED].join(", "), count - LISTED),
        _ => names.join(", "),
    }
}

fn is_asset(name: &str) -> bool {
    let extension = Path::new(name).extension().and_then(OsStr::to_str).unwrap_or_default();
    // An index says which part of the weights is in which file.
    ASSET_EXTENSIONS.contains(&extension) && !name.ends_with(".index.json") && !name.starts_with(&format!("{ONNX}/"))
}

fn walk(folder: &Path, prefix: &str, depth: usize, files: &mut Vec<Packed>) -> Result<()> {
    if depth > DEPTH {
        bail!("{} is {DEPTH} folders deep; is it a loop of links?", folder.display());
    }
    let entries = std::fs::read_dir(folder).and_then(Iterator::collect::<std::io::Result<Vec<_>>>);
    let mut entries = entries.with_context(|| format!("cannot read {}", folder.display()))?;
    entries.sort_by_key(std::fs::DirEntry::file_name);
    for entry in entries {
        let path = entry.path();
        let Some(name) = entry.file_name().to_str().map(str::to_owned) else {
            bail!("the name of {} is not UTF-8", path.display());
        };
        if name.starts_with('.') {
            continue;
        }
        let name = format!("{prefix}{name}");
        let found = std::fs::metadata(&path).with_context(|| format!("cannot read {}", path.display()))?;
        match (found.is_dir(), found.is_file()) {
            (true, _) => walk(&path, &format!("{name}/"), depth + 1, files)?,
            (_, true) => files.push(Packed { name, path }),
            _ => bail!("{} is neither a file nor a folder", path.display()),
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::super::onnx::tests::model;
    use super::*;

    fn folder(files: &[(&str, &[u8])]) -> tempfile::TempDir {
        let folder = tempfile::tempdir().unwrap();
        for (name, bytes) in files {
            let path = folder.path().join(name);
            std::fs::create_dir_all(path.parent().unwrap()).unwrap();
            std::fs::write(path, bytes).unwrap();
        }
        folder
    }

    fn names(files: &ModelFiles) -> Vec<&str> {
        files.files.iter().map(|file| file.name.as_str()).collect()
    }

    #[test]
    fn a_folder_gives_its_model_and_what_belongs_to_it() {
        let graph = model(&["weights/a.bin", "b.bin"]);
        let plain = folder(&[
            ("model.onnx", &graph),
            ("weights/a.bin", b"a"),
            ("b.bin", b"b"),
            ("notes.md", b"x"),
            ("config.json", b"{}"),
            ("model.toml", b""),
            ("samples/1/input.npy", b"1"),
            ("assets/deep/vocab.txt", b"v"),
            ("assets/.DS_Store", b"x"),
            (".git/config", b"x"),
        ]);
        let linked = plain.path().join("assets/linked");
        std::os::unix::fs::symlink(plain.path().join("b.bin"), &linked).unwrap();
        let files = ModelFiles::of_folder(plain.path(), None).unwrap();
        let wanted = [
            "assets/deep/vocab.txt",
            "assets/linked",
            "b.bin",
            "model.onnx",
            "model.toml",
            "samples/1/input.npy",
            "weights/a.bin",
        ];
        assert_eq!(names(&files), wanted);
        assert_eq!(files.left_out, ["config.json", "notes.md"]);
        // A single file includes only the files that it names.
        let file = ModelFiles::of_file(&plain.path().join("model.onnx")).unwrap();
        assert_eq!(names(&file), ["b.bin", "model.onnx", "weights/a.bin"]);
    }

    #[test]
    fn a_folder_of_hugging_face_gives_its_export_and_configuration() {
        let files: [(&str, &[u8]); 11] = [
            ("onnx/model.onnx", &model(&["model.onnx_data"])),
            ("onnx/model.onnx_data", b"w"),
            ("onnx/model_fp16.onnx", &model(&[])),
            ("onnx/config.json", b"x"),
            ("config.json", b"{}"),
            ("tokenizer.json", b"{}"),
            ("vocab.txt", b"a"),
            ("1_Pooling/config.json", b"{}"),
            ("model.safetensors", b"w"),
            ("model.safetensors.index.json", b"{}"),
            ("README.md", b"#"),
        ];
        let folder = folder(&files);
        let chosen = ModelFiles::of_folder(folder.path(), None).unwrap();
        let assets = ["1_Pooling/config.json", "config.json", "tokenizer.json", "vocab.txt"];
        let wanted: Vec<String> = assets.iter().map(|name| format!("assets/{name}")).collect();
        let wanted: Vec<&str> = wanted.iter().map(String::as_str).chain(["model.onnx", "model.onnx_data"]).collect();
        assert_eq!(names(&chosen), wanted);
        let half = ModelFiles::of_folder(folder.path(), Some(Path::new("onnx/model_fp16.onnx"))).unwrap();
        assert_eq!(names(&half), wanted[..5]);
        assert!(half.files[4].path.ends_with("onnx/model_fp16.onnx"));
    }

    #[test]
    fn what_is_missing_is_named() {
        let check = |files: &[(&str, &[u8])], onnx: Option<&str>, part: &str| {
            let folder = folder(files);
            let error = ModelFiles::of_folder(folder.path(), onnx.map(Path::new)).unwrap_err();
            let error = format!("{error:#}");
            assert!(error.contains(part), "'{part}' is not in: {error}");
        };
        check(&[], None, "no files; hearth runs");
        check(&[("config.json", b""), ("model.safetensors", b"")], None, "but config.json, model.safetensors; hearth");
        check(&[("pytorch_model.bin", b"")], None, "docs/exporting.md");
        check(&[("a.onnx", b""), ("b/c.onnx", b"")], None, "but a.onnx, b/c.onnx; name one with --onnx");
        check(&[("a.onnx", b"")], Some("b.onnx"), "b.onnx");
        check(&[("net.onnx", &model(&["gone.bin"]))], None, "in gone.bin, which is not next to it");
        check(&[("net.onnx", &model(&["../up.bin"]))], None, "'../up.bin', which is not below");
        check(&[("net.onnx", &model(&["/etc/passwd"]))], None, "not below");
        check(&[("net.onnx", b"words, not a model")], None, "is no ONNX model");
        check(&[("net.onnx", &model(&["model.onnx"])), ("model.onnx", b"")], Some("net.onnx"), "rename one");
    }
}
