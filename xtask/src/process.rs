//! Runs other programs and reports their failures; it never interprets their output.

use anyhow::{Context, Result, bail};
use std::process::{Child, Command, Stdio};

/// Lines of a failed program's output that are shown.
const SHOWN_LINES: usize = 25;

/// Runs a program to its end and gives its standard output; a failure contains the last lines of its output.
pub(crate) fn run(command: &mut Command) -> Result<String> {
    let output = command.stdin(Stdio::null()).output().with_context(|| format!("cannot start {}", name(command)))?;
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    if output.status.success() {
        return Ok(text);
    }
    let all = text + &String::from_utf8_lossy(&output.stderr);
    let lines: Vec<&str> = all.lines().collect();
    let shown = lines[lines.len().saturating_sub(SHOWN_LINES)..].join("\n  ");
    bail!("{} failed ({}):\n  {shown}", name(command), output.status)
}

/// Runs a program to its end; it writes to this program's output.
pub(crate) fn show(command: &mut Command) -> Result<()> {
    let status = command.stdin(Stdio::null()).status().with_context(|| format!("cannot start {}", name(command)))?;
    if !status.success() {
        bail!("{} failed ({status})", name(command));
    }
    Ok(())
}

/// Whether a program can be started and succeeds.
pub(crate) fn succeeds(command: &mut Command) -> bool {
    command
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .status()
        .is_ok_and(|status| status.success())
}

/// Cargo: the one that runs this program, if that is known.
pub(crate) fn cargo(root: &std::path::Path) -> Command {
    hearth_guest_build::cargo(root)
}

fn name(command: &Command) -> String {
    let program =
        std::path::Path::new(command.get_program()).file_name().unwrap_or_default().to_string_lossy().into_owned();
    let first: Vec<_> = command.get_args().take(3).map(|argument| argument.to_string_lossy()).collect();
    format!("{program} {}", first.join(" ")).trim_end().to_owned()
}

/// A program that is stopped when this value is dropped.
pub(crate) struct Running(Child);

impl Running {
    /// Starts a program.
    pub(crate) fn start(command: &mut Command) -> Result<Running> {
        let child = command.stdin(Stdio::null()).spawn().with_context(|| format!("cannot start {}", name(command)))?;
        Ok(Running(child))
    }

    /// Fails if the program has ended by itself.
    pub(crate) fn alive(&mut self) -> Result<()> {
        match self.0.try_wait()? {
            None => Ok(()),
            Some(status) => bail!("the program ended by itself ({status})"),
        }
    }

    /// Waits until the program ends by itself.
    pub(crate) fn wait(mut self) -> Result<()> {
        let status = self.0.wait()?;
        if !status.success() {
            bail!("the program ended with {status}");
        }
        Ok(())
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        if let Ok(None) = self.0.try_wait() {
            // SIGTERM asks for a graceful end, which the standard library cannot send.
            let asked = succeeds(Command::new("kill").arg(self.0.id().to_string()));
            for _ in 0..if asked { 150 } else { 0 } {
                if !matches!(self.0.try_wait(), Ok(None)) {
                    return;
                }
                std::thread::sleep(std::time::Duration::from_millis(100));
            }
            // A failure is ignored: the process has ended or may not be ended by this user.
            let _ = self.0.kill();
            let _ = self.0.wait();
        }
    }
}
