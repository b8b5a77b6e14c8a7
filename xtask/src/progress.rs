//! Shows what a command is doing: a spinner on a terminal, plain lines elsewhere; it never decides anything.

use anyhow::Result;
use indicatif::{ProgressBar, ProgressStyle};
use std::io::{IsTerminal, Write};
use std::time::{Duration, Instant};

/// The result of a step.
pub(crate) enum Outcome {
    /// It did its work.
    Done,
    /// Its work was done already.
    Kept,
}

/// Prints one line. A closed output is no reason to stop.
pub(crate) fn say(line: impl AsRef<str>) {
    let _ = writeln!(std::io::stdout(), "{}", line.as_ref());
}

/// Runs `work` as a step called `name`: a spinner and the time on a terminal, else a line before and a line after. `work` should
/// use [`Step::doing`] instead of printing, which would break the spinner.
pub(crate) fn step(name: &str, work: impl FnOnce(&Step) -> Result<Outcome>) -> Result<Outcome> {
    let step =
        Step { name: name.to_owned(), bar: std::io::stderr().is_terminal().then(spinner), started: Instant::now() };
    step.say(None);
    let result = work(&step);
    if let Some(bar) = &step.bar {
        bar.finish_and_clear();
    }
    let seconds = step.started.elapsed().as_secs_f64();
    match &result {
        Ok(Outcome::Done) => say(format!("{name}: done in {seconds:.1} s")),
        Ok(Outcome::Kept) => say(format!("{name}: there")),
        Err(_) => say(format!("{name}: failed after {seconds:.1} s")),
    }
    result
}

/// A running step.
pub(crate) struct Step {
    name: String,
    bar: Option<ProgressBar>,
    started: Instant,
}

impl Step {
    /// Shows what the step is doing now.
    pub(crate) fn doing(&self, what: &str) {
        self.say(Some(what));
    }

    fn say(&self, what: Option<&str>) {
        match (&self.bar, what) {
            (Some(bar), None) => bar.set_message(self.name.clone()),
            (Some(bar), Some(what)) => bar.set_message(format!("{}: {what}", self.name)),
            (None, Some(what)) => say(format!("{}: {what}", self.name)),
            (None, None) => {}
        }
    }
}

fn spinner() -> ProgressBar {
    let bar = ProgressBar::new_spinner();
    if let Ok(style) = ProgressStyle::with_template("{spinner} {msg} ({elapsed})") {
        bar.set_style(style);
    }
    bar.enable_steady_tick(Duration::from_millis(120));
    bar
}

/// `2.5 MB`.
pub(crate) fn megabytes(bytes: u64) -> String {
    format!("{:.1} MB", bytes as f64 / 1e6)
}
