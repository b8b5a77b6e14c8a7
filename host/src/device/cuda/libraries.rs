//! Where NVIDIA's libraries are looked for, one after the other; it opens none itself.

use std::path::{Path, PathBuf};

/// Where CUDA's installation puts them.
const FOLDERS: [&str; 2] = ["/usr/local/cuda/lib64", "/usr/local/cuda/targets/x86_64-linux/lib"];

/// The places of a library of one of these names, the best first: in `folder`, in CUDA's installation, in the loader's path.
pub(super) fn places(folder: Option<&Path>, names: &[&str]) -> Vec<PathBuf> {
    let folders = folder.into_iter().chain(FOLDERS.iter().map(Path::new));
    let within = folders.flat_map(|folder| names.iter().map(|name| folder.join(name)));
    within.filter(|path| path.exists()).chain(names.iter().map(PathBuf::from)).collect()
}

/// What `open` makes of the first place where it succeeds.
///
/// Errors: why the first place does not do.
pub(super) fn first<T>(places: &[PathBuf], open: impl Fn(&Path) -> Result<T, String>) -> Result<T, String> {
    let mut why = None;
    for path in places {
        match open(path) {
            Ok(opened) => return Ok(opened),
            Err(error) => why = why.or(Some(format!("{}: {error}", path.display()))),
        }
    }
    Err(why.unwrap_or_default())
}
