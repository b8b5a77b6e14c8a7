//! What functions may use: the names that are requested, granted or missing, and the granted values; it never decides what is
//! granted.

use crate::error::{Error, Result};
use serde_json::Value;
use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::sync::Arc;
use zeroize::Zeroizing;

/// Names of models, configuration keys, secrets and hosts, one list each: requested, granted or missing.
#[derive(Clone, Debug, Default, PartialEq, Eq, serde::Serialize, serde::Deserialize, utoipa::ToSchema)]
#[serde(default, deny_unknown_fields)]
pub struct GrantNames {
    /// Models, perhaps with `@version` or `@alias`.
    pub models: BTreeSet<String>,
    /// Keys of the configuration.
    pub config: BTreeSet<String>,
    /// Names of secrets.
    pub secrets: BTreeSet<String>,
    /// Hosts of outgoing requests.
    pub hosts: BTreeSet<String>,
}

impl GrantNames {
    /// The requested grants of a component, from the JSON of its `hearth:manifest` section, which is `null` where it has none.
    /// Unknown members are ignored, since a newer SDK may write more.
    ///
    /// Errors: `invalid-argument` where a list is no list of strings.
    pub fn of_manifest(manifest: &Value) -> Result<GrantNames> {
        const KEYS: [&str; 4] = ["models", "config", "secrets", "hosts"];
        let known = match manifest {
            Value::Null => return Ok(GrantNames::default()),
            Value::Object(members) => {
                members.iter().filter(|(key, _)| KEYS.contains(&key.as_str())).map(|(k, v)| (k.clone(), v.clone()))
            }
            _ => return Err(Error::invalid_argument("the section hearth:manifest is no JSON object")),
        };
        serde_json::from_value(Value::Object(known.collect())).map_err(|error| {
            let lists = "models, config, secrets and hosts are lists of strings";
            Error::invalid_argument(format!("the section hearth:manifest is wrong: {error}; {lists}"))
        })
    }

    /// The four lists with their names.
    pub fn lists(&self) -> [(&'static str, &BTreeSet<String>); 4] {
        let GrantNames { models, config, secrets, hosts } = self;
        [("models", models), ("config", config), ("secrets", secrets), ("hosts", hosts)]
    }

    fn lists_mut(&mut self) -> [&mut BTreeSet<String>; 4] {
        let GrantNames { models, config, secrets, hosts } = self;
        [models, config, secrets, hosts]
    }

    /// How many names there are.
    pub fn count(&self) -> usize {
        self.lists().iter().map(|(_, names)| names.len()).sum()
    }

    /// Whether there is no name.
    pub fn is_empty(&self) -> bool {
        self.count() == 0
    }

    /// Adds the names of another one.
    pub fn add(&mut self, more: &GrantNames) {
        for (names, (_, more)) in self.lists_mut().into_iter().zip(more.lists()) {
            names.extend(more.iter().cloned());
        }
    }

    /// Removes the names of another one.
    pub fn remove(&mut self, less: &GrantNames) {
        for (names, (_, less)) in self.lists_mut().into_iter().zip(less.lists()) {
            names.retain(|name| !less.contains(name));
        }
    }

    /// The names that `granted` does not cover.
    pub fn missing_from(&self, granted: &GrantNames) -> GrantNames {
        let mut missing = self.clone();
        missing.remove(granted);
        missing.models.retain(|name| !covers(&granted.models, name));
        missing
    }
}

/// As in `models magika, ocr; secrets TOKEN`, with the first names of each list.
impl fmt::Display for GrantNames {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        const SHOWN: usize = 10;
        let lists = self.lists().into_iter().filter(|(_, names)| !names.is_empty()).map(|(kind, names)| {
            let some: Vec<_> = names.iter().take(SHOWN).map(String::as_str).collect();
            let more = if names.len() > SHOWN { format!(" and {} more", names.len() - SHOWN) } else { String::new() };
            format!("{kind} {}{more}", some.join(", "))
        });
        f.write_str(&lists.collect::<Vec<_>>().join("; "))
    }
}

/// Whether a grant covers a model: `m` covers `m`, `m@3` and `m@stable`; `m@stable` covers itself alone.
fn covers(granted: &BTreeSet<String>, model: &str) -> bool {
    granted.contains(model) || model.split_once('@').is_some_and(|(name, _)| granted.contains(name))
}

/// What a deployed function may use.
#[derive(Clone, Debug, Default)]
pub struct Grant {
    /// Models, as [`GrantNames::models`].
    pub models: BTreeSet<String>,
    /// Configuration, by key.
    pub config: BTreeMap<String, String>,
    /// Secrets, by name. A granted secret without a value is there as `None`.
    pub secrets: BTreeMap<String, Option<Secret>>,
    /// Hosts of outgoing requests.
    pub hosts: BTreeSet<String>,
}

impl Grant {
    /// Whether the function may open this model, with its `@version` or `@alias`.
    ///
    /// Errors: `permission-denied` that says how to get the grant. It says nothing about whether there is such a model.
    pub fn check_model(&self, model: &str) -> Result<()> {
        if covers(&self.models, model) {
            return Ok(());
        }
        let model: String = model.chars().take(128).collect();
        Err(Error::permission_denied(format!(
            "the function was not granted the model '{model}'; name it in the handler's attribute, as in \
             #[handler(models = [\"{model}\"])], and grant it in the function's settings (hearth settings NAME \
             --grant-model)"
        )))
    }
}

/// A value that only the guest it was granted to may see: `Debug` and errors never show it, and its memory is overwritten when
/// the last clone is dropped.
#[derive(Clone, PartialEq, Eq)]
pub struct Secret(Arc<Zeroizing<String>>);

impl Secret {
    /// Wraps a value.
    pub fn new(value: impl Into<String>) -> Secret {
        Secret(Arc::new(Zeroizing::new(value.into())))
    }

    /// The value, for sealing it and for the guest.
    pub fn expose(&self) -> &str {
        &self.0
    }
}

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Secret(…)")
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::error::Kind;
    use serde_json::json;

    fn names(value: Value) -> GrantNames {
        GrantNames::of_manifest(&value).unwrap()
    }

    #[test]
    fn manifests_are_lists_of_strings_and_may_say_more() {
        let asked = names(json!({"models": ["b", "a"], "secrets": ["KEY"], "gpus": 3}));
        assert_eq!(asked.to_string(), "models a, b; secrets KEY");
        assert!(names(Value::Null).is_empty() && names(json!({})).is_empty());
        for wrong in
            [json!([]), json!("models"), json!({"models": "a"}), json!({"hosts": [1]}), json!({"config": null})]
        {
            let error = GrantNames::of_manifest(&wrong).unwrap_err();
            assert!(error.kind() == Kind::InvalidArgument && error.message().contains("hearth:manifest"), "{error}");
        }
        let many: Vec<String> = (10..40).map(|number| format!("m{number}")).collect();
        assert!(names(json!({ "models": many })).to_string().ends_with("m19 and 20 more"));
    }

    #[test]
    fn a_grant_of_a_model_covers_its_versions_and_one_of_an_alias_itself() {
        let granted = names(json!({"models": ["a", "b@stable"], "hosts": ["x.test"]}));
        for (model, covered) in [
            ("a", true),
            ("a@3", true),
            ("a@stable", true),
            ("b@stable", true),
            ("b", false),
            ("b@3", false),
            ("b@stable@x", false),
            ("ab", false),
            ("", false),
        ] {
            let asked = GrantNames { models: [model.to_owned()].into(), ..GrantNames::default() };
            assert_eq!(asked.missing_from(&granted).is_empty(), covered, "{model}");
            let grant = Grant { models: granted.models.clone(), ..Grant::default() };
            assert_eq!(grant.check_model(model).is_ok(), covered, "{model}");
        }
        let asked = names(json!({"hosts": ["x.test", "y.test"], "config": ["k"]}));
        assert_eq!(asked.missing_from(&granted).to_string(), "config k; hosts y.test");
    }

    #[test]
    fn secrets_are_not_printed() {
        let secrets = BTreeMap::from([("KEY".to_owned(), Some(Secret::new("hunter2")))]);
        let shown = format!("{:?}", Grant { secrets, ..Grant::default() });
        assert!(shown.contains("KEY") && !shown.contains("hunter2"), "{shown}");
    }
}
