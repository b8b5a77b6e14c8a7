//! Which prepared forms lie in host memory: in the page cache, from where the next load takes them without the disk. It never
//! keeps one there; the system drops what was unused for long where it needs the memory.

use super::pages::is_held;
use super::{Form, Prepared};
use crate::model::engine::WEIGHTS;
use crate::model::{EngineName, Residency};
use std::collections::HashSet;
use std::fs::File;
use std::io;

/// Which models lie in host memory, at the moment of asking.
#[derive(Default)]
pub struct Staged(HashSet<String>);

impl Staged {
    /// Where a model is that is not loaded. Prepared forms are onnxruntime's.
    pub fn unloaded(&self, digest: &str, engine: Option<EngineName>) -> Residency {
        let is_staged = engine == Some(EngineName::Onnxruntime) && self.0.contains(digest);
        if is_staged { Residency::Staged } else { Residency::Stored }
    }
}

impl Prepared {
    /// The models whose forms lie in host memory, as far as samples tell.
    pub(in crate::model) fn staged(&self) -> Staged {
        let forms = self.forms().unwrap_or_default();
        Staged(forms.into_iter().filter(|form| form.is_staged().unwrap_or(false)).map(|form| form.digest).collect())
    }

    /// Reads a model's form into host memory, before there is room for it on the device. Not where it and the others
    /// that lie there, but for those of the models `resident`, are more than `staged_bytes`.
    pub(in crate::model) fn stage(&self, digest: &str, resident: &HashSet<String>) {
        let forms = self.forms().unwrap_or_default();
        let is_staged = |form: &&Form| form.is_staged().unwrap_or(false);
        let bytes = |forms: &[&Form]| forms.iter().map(|form| form.bytes).sum::<u64>();
        let (own, others): (Vec<&Form>, Vec<&Form>) = forms.iter().partition(|form| form.digest == digest);
        let others: Vec<_> =
            others.into_iter().filter(|form| !resident.contains(&form.digest)).filter(is_staged).collect();
        let own: Vec<_> = own.into_iter().filter(|form| !is_staged(form)).collect();
        if bytes(&own).saturating_add(bytes(&others)) > self.staged_bytes {
            return;
        }
        for form in own {
            // All that is read is compared, since what lies in memory is not looked at again.
            if self.checked(&form.name).is_err() {
                let _making = self.making();
                if form.path.exists()
                    && let Err(error) = self.checked(&form.name)
                {
                    self.discard(&form.name, &error);
                    continue;
                }
            }
            tracing::debug!(digest, bytes = form.bytes, "the model's prepared form lies in host memory");
        }
    }
}

impl Form {
    fn is_staged(&self) -> io::Result<bool> {
        is_held(&File::open(self.path.join(WEIGHTS))?)
    }
}
