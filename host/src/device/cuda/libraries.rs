//! Where NVIDIA's libraries are looked for, one after the other, and loading them for others; it calls none of them.

use std::path::{Path, PathBuf};

/// Where CUDA's installation puts them.
const FOLDERS: [&str; 2] = ["/usr/local/cuda/lib64", "/usr/local/cuda/targets/x86_64-linux/lib"];

/// The places of a library of one of these names, the best first: in `folders`, in CUDA's installation, in the loader's path.
pub(super) fn places(folders: &[&Path], names: &[&str]) -> Vec<PathBuf> {
    let folders = folders.iter().copied().chain(FOLDERS.iter().map(Path::new));
    let within = folders.flat_map(|folder| names.iter().map(|name| folder.join(name)));
    within.filter(|path| path.exists()).chain(names.iter().map(PathBuf::from)).collect()
}

/// Loads a library of one of these names for good, so that others which name it find it loaded; looks where [`places`] says.
///
/// Errors: why the first place does not do.
pub fn preload(folders: &[&Path], names: &[&str]) -> Result<(), String> {
    use libloading::os::unix::{Library, RTLD_GLOBAL, RTLD_NOW};
    first(&places(folders, names), |path| {
        // SAFETY: NVIDIA's library; what its initialisers do is what it is installed for.
        #[allow(unsafe_code)]
        let library = unsafe { Library::open(Some(path), RTLD_NOW | RTLD_GLOBAL) };
        library.map(std::mem::forget).map_err(|error| error.to_string())
    })
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
