//! Finds NVIDIA's libraries in a list of places, and loads them for other libraries; it calls none of them.

use std::path::{Path, PathBuf};

/// Where CUDA's installation puts them.
const FOLDERS: [&str; 2] = ["/usr/local/cuda/lib64", "/usr/local/cuda/targets/x86_64-linux/lib"];

/// The places of a library with one of these names, best first: in `folders`, in CUDA's installation, in the loader's path.
pub(super) fn places(folders: &[&Path], names: &[&str]) -> Vec<PathBuf> {
    let folders = folders.iter().copied().chain(FOLDERS.iter().map(Path::new));
    let within = folders.flat_map(|folder| names.iter().map(|name| folder.join(name)));
    within.filter(|path| path.exists()).chain(names.iter().map(PathBuf::from)).collect()
}

/// Loads a library with one of these names permanently, so that libraries that depend on it find it loaded; the order of places
/// is that of [`places`].
///
/// Errors: why the first place failed.
pub fn preload(folders: &[&Path], names: &[&str]) -> Result<(), String> {
    use libloading::os::unix::{Library, RTLD_GLOBAL, RTLD_NOW};
    first(&places(folders, names), |path| {
        // SAFETY: this is NVIDIA's library, and running its initialisers is intended.
        #[allow(unsafe_code)]
        let library = unsafe { Library::open(Some(path), RTLD_NOW | RTLD_GLOBAL) };
        library.map(std::mem::forget).map_err(|error| error.to_string())
    })
}

/// The result of `open` for the first place where it succeeds.
///
/// Errors: why the first place failed.
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
