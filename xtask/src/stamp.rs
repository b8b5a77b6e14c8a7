//! Records what set-up has done, so that a second run does nothing; it never trusts a stamp whose files are missing.

use crate::progress::{self, Outcome, Step};
use anyhow::{Context, Result};
use sha2::{Digest, Sha256};
use std::fs;
use std::io::Read;
use std::path::{Path, PathBuf};

/// The SHA-256 of some bytes, in hexadecimal.
pub(crate) fn sha256(bytes: &[u8]) -> String {
    hex::encode(Sha256::digest(bytes))
}

/// The SHA-256 of a file, in hexadecimal.
pub(crate) fn sha256_file(path: &Path) -> Result<String> {
    let mut hasher = Sha256::new();
    let mut file = fs::File::open(path).with_context(|| format!("cannot read {}", path.display()))?;
    let mut part = vec![0; 1 << 20];
    loop {
        let length = file.read(&mut part)?;
        if length == 0 {
            return Ok(hex::encode(hasher.finalize()));
        }
        hasher.update(&part[..length]);
    }
}

/// Runs `work` as a step, unless it has run before with the same inputs and its files still exist with the same sizes. `work`
/// gives the files it made; a folder means all files in it.
pub(crate) fn once(
    setup: &Path,
    name: &str,
    inputs: &[&[u8]],
    work: impl FnOnce(&Step) -> Result<Vec<PathBuf>>,
) -> Result<()> {
    let mut hasher = Sha256::new();
    for input in inputs {
        hasher.update((input.len() as u64).to_le_bytes());
        hasher.update(input);
    }
    let inputs = hex::encode(hasher.finalize());
    let stamp = setup.join("stamps").join(name.replace(' ', "-"));
    progress::step(name, |step| {
        if fs::read_to_string(&stamp).is_ok_and(|text| holds(&text, &inputs)) {
            return Ok(Outcome::Kept);
        }
        if stamp.exists() {
            fs::remove_file(&stamp)?;
        }
        let mut text = inputs.clone() + "\n";
        for made in work(step)? {
            record(&made, &mut text)?;
        }
        fs::create_dir_all(setup.join("stamps"))?;
        // Renamed when complete: a stamp cut short by a full disk or a power failure must not count.
        let partial = stamp.with_extension("partial");
        fs::write(&partial, text)?;
        fs::rename(&partial, &stamp)?;
        Ok(Outcome::Done)
    })?;
    Ok(())
}

fn holds(stamp: &str, inputs: &str) -> bool {
    let mut lines = stamp.lines();
    lines.next() == Some(inputs)
        && lines.all(|line| {
            let Some((bytes, path)) = line.split_once(' ') else { return false };
            fs::metadata(path).is_ok_and(|metadata| metadata.len().to_string() == bytes)
        })
}

fn record(path: &Path, text: &mut String) -> Result<()> {
    let metadata = fs::metadata(path).with_context(|| format!("{} is missing", path.display()))?;
    if metadata.is_dir() {
        for entry in fs::read_dir(path)? {
            record(&entry?.path(), text)?;
        }
    } else {
        text.push_str(&format!("{} {}\n", metadata.len(), path.display()));
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn scratch(name: &str) -> PathBuf {
        let folder = std::env::temp_dir().join(format!("hearth-xtask-{name}-{}", std::process::id()));
        if folder.exists() {
            fs::remove_dir_all(&folder).unwrap();
        }
        fs::create_dir_all(&folder).unwrap();
        folder
    }

    #[test]
    fn work_is_done_again_when_inputs_or_files_change() {
        let folder = scratch("stamp");
        let made = folder.join("made");
        let runs = std::cell::Cell::new(0);
        let run = |input: &str| {
            once(&folder, "a step", &[input.as_bytes()], |_| {
                runs.set(runs.get() + 1);
                fs::write(&made, input)?;
                Ok(vec![made.clone()])
            })
            .unwrap();
            runs.get()
        };
        assert_eq!((run("a"), run("a")), (1, 1));
        assert_eq!((run("bc"), run("bc")), (2, 2));
        fs::write(&made, "cut").unwrap();
        assert_eq!(run("bc"), 3);
        fs::remove_file(&made).unwrap();
        assert_eq!(run("bc"), 4);
        fs::remove_dir_all(folder).unwrap();
    }
}
