//! Watches the sources of a crate and reports when a change is complete; it never reads them.

use anyhow::{Context, Result};
use notify::{Event, EventKind, RecommendedWatcher, RecursiveMode, Watcher};
use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant, SystemTime};
use tokio::sync::mpsc;

/// A change is complete after this time without another.
const REST: Duration = Duration::from_millis(100);
/// Uninterrupted changes are awaited for no longer than this.
const LONGEST: Duration = Duration::from_secs(2);
/// Folders that are watched at most; the system has a limit for all programs together.
const FOLDERS: usize = 5_000;

/// The watched folders, and the events in them.
pub(super) struct Watch {
    watcher: RecommendedWatcher,
    events: mpsc::UnboundedReceiver<notify::Result<Event>>,
    watched: BTreeSet<PathBuf>,
    left_out: Vec<PathBuf>,
    /// The lock file's time when cargo wrote it.
    locked: Option<SystemTime>,
    /// A Cargo.toml changed since the project was last read.
    manifests: bool,
}

/// A change.
pub(super) struct Change {
    /// When it began.
    pub(super) began: Instant,
    /// Whether a Cargo.toml changed.
    pub(super) manifests: bool,
}

impl Watch {
    /// Watches nothing yet, and never anything in `left_out`.
    pub(super) fn new(left_out: Vec<PathBuf>) -> Result<Watch> {
        let (sender, events) = mpsc::unbounded_channel();
        // The receiver is gone when the program ends.
        let watcher = notify::recommended_watcher(move |event| drop(sender.send(event)));
        let watcher = watcher.context("the system cannot watch files")?;
        Ok(Watch { watcher, events, watched: BTreeSet::new(), left_out, locked: None, manifests: false })
    }

    /// Watches a folder with all below it, except the folders of builds and version control.
    pub(super) fn add(&mut self, folder: &Path) -> Result<()> {
        if self.watched.contains(folder) || self.is_left_out(folder) {
            return Ok(());
        }
        self.add_alone(folder)?;
        for entry in std::fs::read_dir(folder).into_iter().flatten().flatten() {
            // Links are not followed: they may lead in circles.
            if entry.file_type().is_ok_and(|kind| kind.is_dir()) {
                self.add(&entry.path())?;
            }
        }
        Ok(())
    }

    /// Watches a folder without its subfolders.
    pub(super) fn add_alone(&mut self, folder: &Path) -> Result<()> {
        if self.watched.contains(folder) {
            return Ok(());
        }
        anyhow::ensure!(self.watched.len() < FOLDERS, "the sources have more than {FOLDERS} folders");
        let watched = self.watcher.watch(folder, RecursiveMode::NonRecursive);
        watched.with_context(|| format!("cannot watch {}", folder.display()))?;
        self.watched.insert(folder.to_owned());
        Ok(())
    }

    /// Treats the current lock file as written by cargo, which is no change.
    pub(super) fn settle(&mut self, lock: &Path) {
        self.locked = modified(lock);
    }

    /// Waits for a change and until it is complete.
    pub(super) async fn change(&mut self) -> Result<Change> {
        loop {
            let event = self.events.recv().await.context("the system stopped watching")?;
            if self.matters(&event) {
                break;
            }
        }
        let began = Instant::now();
        while began.elapsed() < LONGEST {
            match tokio::time::timeout(REST, self.events.recv()).await {
                Err(_) => break,
                // An irrelevant event does not restart the wait.
                Ok(Some(event)) => drop(self.matters(&event)),
                Ok(None) => anyhow::bail!("the system stopped watching"),
            }
        }
        Ok(Change { began, manifests: std::mem::take(&mut self.manifests) })
    }

    /// Whether an event is a change of a source; new folders are watched from now on.
    fn matters(&mut self, event: &notify::Result<Event>) -> bool {
        let Ok(event) = event else {
            // Events were lost: what changed is unknown, so something may have.
            self.manifests = true;
            return true;
        };
        if event.need_rescan() {
            self.manifests = true;
            return true;
        }
        match event.kind {
            EventKind::Access(_) | EventKind::Other => return false,
            EventKind::Create(_) | EventKind::Modify(_) | EventKind::Remove(_) | EventKind::Any => {}
        }
        let mut matters = false;
        for path in &event.paths {
            if self.is_left_out(path) || is_passing(path) || self.is_own_lock(path) {
                continue;
            }
            matters = true;
            self.manifests |= path.file_name().is_some_and(|name| name == "Cargo.toml");
            if path.symlink_metadata().is_ok_and(|found| found.is_dir()) {
                // A folder that was removed again, or that cannot be watched, is no reason to stop.
                self.add(path).ok();
            } else if matches!(event.kind, EventKind::Remove(_) | EventKind::Modify(notify::event::ModifyKind::Name(_)))
            {
                self.watched.remove(path);
            }
        }
        matters
    }

    fn is_own_lock(&self, path: &Path) -> bool {
        let lock = path.file_name().is_some_and(|name| name == "Cargo.lock");
        lock && self.locked.is_some() && modified(path) == self.locked
    }

    fn is_left_out(&self, path: &Path) -> bool {
        let named = path.file_name().is_some_and(|name| name == ".git" || name == ".hearth");
        // Cargo marks target folders this way, also those of other crates.
        named || self.left_out.iter().any(|out| path.starts_with(out)) || path.join("CACHEDIR.TAG").exists()
    }
}

fn modified(path: &Path) -> Option<SystemTime> {
    path.metadata().and_then(|found| found.modified()).ok()
}

/// Temporary files of editors.
fn is_passing(path: &Path) -> bool {
    let name = path.file_name().unwrap_or_default().to_string_lossy();
    let ends = ["~", ".swp", ".swx", ".swo", ".tmp"].iter().any(|end| name.ends_with(end));
    ends || name.starts_with(".#") || (name.starts_with('#') && name.ends_with('#')) || name == "4913"
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn changes_of_sources_are_told_and_nothing_else() {
        let place = tempfile::tempdir().unwrap();
        let root = place.path().canonicalize().unwrap();
        for folder in ["src/deep", "target/debug", ".git", "other"] {
            std::fs::create_dir_all(root.join(folder)).unwrap();
        }
        std::fs::write(root.join("other/CACHEDIR.TAG"), "x").unwrap();
        std::fs::write(root.join("src/lib.rs"), "x").unwrap();
        let mut watch = Watch::new(vec![root.join("target")]).unwrap();
        watch.add(&root).unwrap();
        let change = async |watch: &mut Watch| {
            tokio::time::timeout(Duration::from_millis(600), watch.change()).await.ok().map(Result::unwrap)
        };
        let told = async |watch: &mut Watch| change(watch).await.is_some();
        std::fs::write(root.join("target/debug/x"), "x").unwrap();
        std::fs::write(root.join(".git/x"), "x").unwrap();
        std::fs::write(root.join("other/x"), "x").unwrap();
        std::fs::write(root.join("src/.lib.rs.swp"), "x").unwrap();
        std::fs::read(root.join("src/lib.rs")).unwrap();
        assert!(!told(&mut watch).await);
        std::fs::write(root.join("src/lib.rs"), "y").unwrap();
        assert!(change(&mut watch).await.is_some_and(|change| !change.manifests));
        std::fs::write(root.join("Cargo.toml"), "y").unwrap();
        assert!(change(&mut watch).await.is_some_and(|change| change.manifests));
        std::fs::write(root.join("Cargo.lock"), "cargo's").unwrap();
        watch.settle(&root.join("Cargo.lock"));
        assert!(!told(&mut watch).await);
        std::fs::write(root.join("Cargo.lock"), "a person's").unwrap();
        assert!(told(&mut watch).await);
        std::fs::create_dir(root.join("src/new")).unwrap();
        assert!(told(&mut watch).await);
        std::fs::write(root.join("src/new/mod.rs"), "y").unwrap();
        assert!(told(&mut watch).await);
        // Like editors save: a new file replaces the old one.
        std::fs::write(root.join("src/deep/x.tmp"), "y").unwrap();
        std::fs::rename(root.join("src/deep/x.tmp"), root.join("src/deep/x.rs")).unwrap();
        assert!(told(&mut watch).await);
        std::fs::remove_dir_all(root.join("src/new")).unwrap();
        assert!(told(&mut watch).await);
        assert!(!told(&mut watch).await);
    }
}
