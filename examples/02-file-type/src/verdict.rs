//! Turns the model's score into the answer; it never runs the model.

use std::borrow::Cow;

use hearth_guest::{Error, Result};
use serde::de::{Deserializer as _, IgnoredAny, MapAccess, Visitor};
use serde::{Deserialize, Serialize};

use crate::config::Config;

/// The type that was found for the input.
#[derive(Debug, PartialEq)]
pub struct Verdict<'a> {
    /// The type.
    label: Cow<'a, str>,
    /// The model's label, if the model ran.
    model_label: Option<Cow<'a, str>>,
    /// The model's score, 1 if it did not run.
    score: f32,
}

impl<'a> Verdict<'a> {
    /// A type that is certain without the model.
    pub fn without_model(label: &'a str) -> Verdict<'a> {
        Verdict { label: Cow::Borrowed(label), model_label: None, score: 1.0 }
    }

    /// The type that follows from the model's label. If its score is too low, the answer only says whether the input is text,
    /// assuming that the model is right about that.
    pub fn of_model(config: &'a Config<'a>, types: &[u8], label: &'a str, score: f32) -> Result<Verdict<'a>> {
        let shown = config.overwrite_map.get(label).map_or(label, |shown| shown.as_ref());
        let threshold = config.thresholds.get(label).copied().unwrap_or(config.medium_confidence_threshold);
        let shown = match f64::from(score) >= threshold {
            true => shown,
            false if find(types, shown)?.is_text => "txt",
            false => "unknown",
        };
        Ok(Verdict { label: Cow::Borrowed(shown), model_label: Some(Cow::Borrowed(label)), score })
    }

    /// The answer, with what the table of types says about the label.
    pub fn describe(&'a self, types: &'a [u8]) -> Result<Description<'a>> {
        let entry = find(types, &self.label)?;
        let mime_type = if entry.is_text { "text/plain" } else { "application/octet-stream" };
        Ok(Description {
            label: &self.label,
            score: self.score,
            mime_type: entry.mime_type.unwrap_or(Cow::Borrowed(mime_type)),
            group: entry.group.unwrap_or(Cow::Borrowed("unknown")),
            description: entry.description.unwrap_or(Cow::Borrowed(&self.label)),
            is_text: entry.is_text,
            model_label: self.model_label.as_deref(),
        })
    }
}

/// The answer as JSON.
#[derive(Serialize)]
pub struct Description<'a> {
    label: &'a str,
    score: f32,
    mime_type: Cow<'a, str>,
    group: Cow<'a, str>,
    description: Cow<'a, str>,
    is_text: bool,
    model_label: Option<&'a str>,
}

/// What `content_types_kb.min.json` says about one label.
#[derive(Deserialize)]
struct Entry<'a> {
    #[serde(borrow)]
    mime_type: Option<Cow<'a, str>>,
    #[serde(borrow)]
    group: Option<Cow<'a, str>>,
    #[serde(borrow)]
    description: Option<Cow<'a, str>>,
    is_text: bool,
}

/// Finds one label in the table and skips the hundreds of others.
fn find<'a>(types: &'a [u8], label: &str) -> Result<Entry<'a>> {
    let entry = serde_json::Deserializer::from_slice(types).deserialize_map(Find(label))?;
    entry.ok_or_else(|| Error::internal(format!("the model's table of types lacks `{label}`")))
}

struct Find<'l>(&'l str);

impl<'de> Visitor<'de> for Find<'_> {
    type Value = Option<Entry<'de>>;

    fn expecting(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("an object of labels")
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Self::Value, A::Error> {
        let mut found = None;
        while let Some(label) = map.next_key::<Cow<'de, str>>()? {
            if label == self.0 {
                found = Some(map.next_value()?);
            } else {
                map.next_value::<IgnoredAny>()?;
            }
        }
        Ok(found)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const CONFIG: &str = r#"{"beg_size":8,"mid_size":0,"end_size":8,"use_inputs_at_offsets":false,
        "medium_confidence_threshold":0.5,"min_file_size_for_dl":8,"padding_token":256,"block_size":16,
        "target_labels_space":[],"thresholds":{"sql":0.9},"overwrite_map":{"randombytes":"unknown","randomtxt":"txt"}}"#;
    const TYPES: &str = r#"{
        "sql":{"mime_type":"application/x-sql","group":"code","description":"SQL source","extensions":["sql"],"is_text":true},
        "png":{"mime_type":"image/png","group":"image","description":"PNG image","extensions":["png"],"is_text":false},
        "txt":{"mime_type":null,"group":"text","description":null,"extensions":[],"is_text":true},
        "unknown":{"mime_type":null,"group":null,"description":"Unknown binary data","extensions":[],"is_text":false}}"#;

    #[test]
    fn scores_below_the_threshold_say_only_text_or_not() {
        let config = Config::parse(CONFIG.as_bytes()).unwrap();
        for (label, score, shown) in [
            ("sql", 0.95, "sql"),
            ("sql", 0.85, "txt"),
            ("png", 0.5, "png"),
            ("png", 0.49, "unknown"),
            ("randombytes", 0.9, "unknown"),
            ("randomtxt", 0.9, "txt"),
            ("randombytes", 0.1, "unknown"),
        ] {
            let verdict = Verdict::of_model(&config, TYPES.as_bytes(), label, score).unwrap();
            assert_eq!((verdict.label.as_ref(), verdict.model_label.as_deref()), (shown, Some(label)));
        }
    }

    #[test]
    fn gaps_in_the_table_are_filled() {
        let text =
            |label| serde_json::to_string(&Verdict::without_model(label).describe(TYPES.as_bytes()).unwrap()).unwrap();
        assert_eq!(
            text("txt"),
            r#"{"label":"txt","score":1.0,"mime_type":"text/plain","group":"text","description":"txt","is_text":true,"model_label":null}"#
        );
        assert!(text("unknown").contains(r#""mime_type":"application/octet-stream","group":"unknown""#));
        assert!(find(TYPES.as_bytes(), "gone").is_err());
    }
}
