//! Turns onnxruntime's errors into hearth's, with the right kind and a message without paths of the host; it never hides a cause
//! from the log.

use crate::error::{Error, Kind};
use ort::ErrorCode;
use std::path::Path;

/// Characters of the engine's text that a message quotes.
const MOST_CHARS: usize = 400;

/// The text before the name of a missing locale.
const LOCALE: &str = "Failed to construct locale with name:";

/// Removes the path of a model from messages.
pub(super) struct Reason {
    folders: Vec<String>,
}

impl Reason {
    /// For a model in this folder.
    pub(super) fn without(folder: &Path) -> Reason {
        let resolved = folder.canonicalize().ok();
        let folders = [Some(folder.to_path_buf()), resolved].into_iter().flatten();
        let mut folders: Vec<_> =
            folders.map(|path| path.display().to_string()).filter(|path| path.len() > 1).collect();
        folders.dedup();
        Reason { folders }
    }

    /// Why a model could not be loaded.
    pub(super) fn of_load(&self, error: ort::Error) -> Error {
        let kind = match error.code() {
            ErrorCode::NotImplemented => Kind::Unsupported,
            _ if is_memory(error.message()) => Kind::Overloaded,
            _ => Kind::InvalidArgument,
        };
        let text = self.shortened(error.message());
        if let Some(locale) = locale_of(error.message()) {
            let message = format!(
                "the model normalises text by the locale '{locale}', which this machine lacks: install it (as \
                 `localedef -i en_US -f UTF-8 en_US.UTF-8` does en_US.UTF-8), or name a folder that has it in the server's \
                 LOCPATH"
            );
            return Error::unsupported(message).with_source(error);
        }
        Error::new(kind, format!("onnxruntime cannot load the model: {text}")).with_source(error)
    }

    /// Why a run failed. The signature has been checked, but the graph may still refuse shapes or values: that is the caller's
    /// mistake, as far as the engine's codes show.
    pub(super) fn of_run(&self, error: ort::Error) -> Error {
        let text = self.shortened(error.message());
        if is_memory(error.message()) {
            return Error::overloaded(format!("not enough memory to run the model: {text}")).with_source(error);
        }
        let (kind, what) = match error.code() {
            ErrorCode::InvalidArgument | ErrorCode::RuntimeException | ErrorCode::GenericFailure => {
                (Kind::InvalidArgument, "the model refuses these inputs")
            }
            ErrorCode::NotImplemented => (Kind::Unsupported, "onnxruntime cannot run the model on these inputs"),
            _ => (Kind::Internal, "the model run failed"),
        };
        Error::new(kind, format!("{what}: {text}")).with_source(error)
    }

    fn shortened(&self, text: &str) -> String {
        let mut text = text.lines().map(str::trim).filter(|line| !line.is_empty()).collect::<Vec<_>>().join(" ");
        for folder in &self.folders {
            text = text.replace(&format!("{folder}/"), "").replace(folder, "the model's folder");
        }
        let text = without_sources(text.strip_prefix("Load model from model.onnx failed:").unwrap_or(&text));
        // Paths outside the model's folder follow.
        let text = text.split(" resolved path:").next().unwrap_or_default().trim();
        match text.char_indices().nth(MOST_CHARS) {
            None => text.to_owned(),
            Some((end, _)) => format!("{}…", &text[..end]),
        }
    }
}

/// The locale that was missing.
fn locale_of(text: &str) -> Option<String> {
    let (_, locale) = text.split_once(LOCALE)?;
    Some(locale.split(':').next().unwrap_or_default().chars().take(64).collect())
}

fn is_memory(text: &str) -> bool {
    ["bad_alloc", "Failed to allocate memory", "bad allocation"].iter().any(|sign| text.contains(sign))
}

/// Removes the place in onnxruntime's sources where an error arose: `/…/file.cc:12 ` and the function named after it.
fn without_sources(text: &str) -> String {
    let mut kept = String::new();
    let mut rest = text;
    while let Some(mark) = [".cc:", ".h:", ".cpp:"].iter().filter_map(|mark| rest.find(mark)).min() {
        let start = rest[..mark].rfind(' ').map_or(0, |space| space + 1);
        let end = rest[mark..].find(' ').map_or(rest.len(), |space| mark + space);
        if rest[start..].starts_with('/') {
            kept.push_str(&rest[..start]);
            rest = rest[end..].trim_start();
            rest = rest[parameters_end(rest).unwrap_or(0)..].trim_start();
            rest = rest.strip_prefix("const ").unwrap_or(rest);
        } else {
            kept.push_str(&rest[..end]);
            rest = &rest[end..];
        }
    }
    kept.push_str(rest);
    kept
}

/// Where a function's parameters end.
fn parameters_end(text: &str) -> Option<usize> {
    let mut depth = 0usize;
    for (index, c) in text.char_indices() {
        match c {
            '(' => depth += 1,
            ')' if depth == 1 => return Some(index + 1),
            ')' => depth = depth.checked_sub(1)?,
            _ => {}
        }
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn messages_keep_the_reason_and_lose_paths_and_sources() {
        let table = [
            ("Load model from /data/m/model.onnx failed:Protobuf parsing failed.", "Protobuf parsing failed."),
            (
                "Load model from /data/m/model.onnx failed:/src/core/graph/model.cc:256 onnxruntime::Model::Model(onnx::M&&, \
                 const std::function<int(int)>&) Unsupported model IR version: 99, max supported IR version: 14\n",
                "Unsupported model IR version: 99, max supported IR version: 14",
            ),
            (
                "Non-zero status code returned while running Add node. Name:'/layer.0/Add' Status Message: \
                 /src/core/providers/cpu/op.h:56 void onnxruntime::BroadcastIterator::Init(ptrdiff_t, ptrdiff_t) axis == 1 \
                 was false. 2 by 3\n",
                "Non-zero status code returned while running Add node. Name:'/layer.0/Add' Status Message: axis == 1 was \
                 false. 2 by 3",
            ),
            (
                "External data path validation failed for initializer: w. Error: tensorprotoutils.cc:619 Validate External \
                 data path does not exist: \"/data/m/missing.bin\"",
                "External data path validation failed for initializer: w. Error: tensorprotoutils.cc:619 Validate External \
                 data path does not exist: \"missing.bin\"",
            ),
            (
                "Error: External data path escapes model directory. External data path: \"../x\" resolved path: \
                 \"/data/x\" allowed directory: \"/data/m\"",
                "Error: External data path escapes model directory. External data path: \"../x\"",
            ),
            ("/src/a.cc:1", ""),
            ("/src/a.cc:1 f(", "f("),
            ("", ""),
        ];
        let reason = Reason { folders: vec!["/data/m".to_owned()] };
        for (text, expected) in table {
            assert_eq!(reason.shortened(text), expected);
        }
        assert!(reason.shortened(&"é".repeat(10_000)).len() < 1_000);
        let missing = "Exception during initialization: /src/string_normalizer.cc:96 L::L() Failed to construct locale \
                       with name:en_US.UTF-8:locale::facet::_S_create_c_locale name not valid:Please, install it";
        assert_eq!(locale_of(missing).as_deref(), Some("en_US.UTF-8"));
        assert_eq!(locale_of("Protobuf parsing failed."), None);
    }
}
