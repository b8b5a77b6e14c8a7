//! The model's configuration, `config.min.json` among its assets.

use std::borrow::Cow;
use std::collections::BTreeMap;

use hearth_guest::{Error, Result};
use serde::Deserialize;

/// The parameters that the model was trained with.
#[derive(Deserialize)]
pub struct Config<'a> {
    /// How many bytes of the beginning the model sees.
    pub beg_size: usize,
    mid_size: usize,
    /// How many bytes of the end the model sees.
    pub end_size: usize,
    use_inputs_at_offsets: bool,
    /// The least score for labels without their own threshold.
    pub medium_confidence_threshold: f64,
    /// Shorter inputs are not given to the model.
    pub min_file_size_for_dl: usize,
    /// The token for "no byte".
    pub padding_token: i32,
    /// The number of bytes at either end in which whitespace is removed.
    pub block_size: usize,
    /// The label of each of the model's outputs.
    #[serde(borrow)]
    pub target_labels_space: Vec<Cow<'a, str>>,
    /// The least score for a label.
    #[serde(borrow)]
    pub thresholds: BTreeMap<Cow<'a, str>, f64>,
    /// Labels that are replaced by others.
    #[serde(borrow)]
    pub overwrite_map: BTreeMap<Cow<'a, str>, Cow<'a, str>>,
}

impl<'a> Config<'a> {
    /// Reads the configuration; `unsupported` if the model needs features that this handler does not make.
    pub fn parse(json: &'a [u8]) -> Result<Config<'a>> {
        let config: Config<'a> = serde_json::from_slice(json)?;
        if config.mid_size != 0 || config.use_inputs_at_offsets {
            return Err(Error::unsupported("this model looks at the middle of a file, which this handler does not"));
        }
        if config.min_file_size_for_dl == 0 || config.min_file_size_for_dl > config.beg_size {
            return Err(Error::unsupported("the model's min_file_size_for_dl is not within its beg_size"));
        }
        Ok(config)
    }
}
