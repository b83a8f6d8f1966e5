//! Which namespaces are watched.

use std::collections::BTreeSet;
use std::str::FromStr;

use k8s_openapi::NamespaceResourceScope;
use kube::api::DynamicObject;
use kube::core::ApiResource;
use kube::{Api, Client, Resource};

/// The name for all namespaces together.
pub const ALL: &str = "all namespaces";

/// The namespaces in which tasks are served.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum Namespaces {
    /// Every namespace, also those created later.
    #[default]
    All,
    /// These, each with its own watch, so that permissions in these are enough.
    Only(BTreeSet<String>),
}

/// A name that is not valid for a namespace.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
#[error("{0:?} is not a valid namespace (lowercase letters, digits and dashes, at most 63 characters)")]
pub struct BadNamespace(String);

impl FromStr for Namespaces {
    type Err = BadNamespace;

    /// Names separated by commas; an empty text means all.
    fn from_str(text: &str) -> Result<Self, BadNamespace> {
        let names = text
            .split(',')
            .map(str::trim)
            .filter(|name| !name.is_empty())
            .map(checked)
            .collect::<Result<BTreeSet<_>, _>>()?;
        Ok(if names.is_empty() { Self::All } else { Self::Only(names) })
    }
}

fn checked(name: &str) -> Result<String, BadNamespace> {
    let plain = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit();
    let fits = name.len() <= 63
        && name.starts_with(plain)
        && name.ends_with(plain)
        && name.chars().all(|c| plain(c) || c == '-');
    if fits { Ok(name.to_owned()) } else { Err(BadNamespace(name.to_owned())) }
}

impl std::fmt::Display for Namespaces {
    fn fmt(&self, out: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::All => out.write_str(ALL),
            Self::Only(names) => {
                let names: Vec<&str> = names.iter().map(String::as_str).collect();
                out.write_str(&names.join(", "))
            }
        }
    }
}

impl Namespaces {
    /// One `Api` for the whole cluster, or one for each namespace.
    pub fn apis<K>(&self, client: &Client) -> Vec<Api<K>>
    where
        K: Resource<Scope = NamespaceResourceScope, DynamicType = ()>,
    {
        match self {
            Self::All => vec![Api::all(client.clone())],
            Self::Only(names) => names.iter().map(|name| Api::namespaced(client.clone(), name)).collect(),
        }
    }

    /// The same for objects without a static type.
    pub fn raw_apis(&self, client: &Client, kind: &ApiResource) -> Vec<Api<DynamicObject>> {
        match self {
            Self::All => vec![Api::all_with(client.clone(), kind)],
            Self::Only(names) => {
                names.iter().map(|name| Api::namespaced_with(client.clone(), name, kind)).collect()
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_empty_list_means_all() {
        for text in ["", " ", ","] {
            assert_eq!(text.parse(), Ok(Namespaces::All), "{text:?}");
        }
    }

    #[test]
    fn a_name_given_twice_is_watched_once() {
        let Ok(Namespaces::Only(names)) = "b, a,b,".parse() else { panic!("two names") };
        assert_eq!(names.into_iter().collect::<Vec<_>>(), ["a", "b"]);
    }

    #[test]
    fn an_invalid_name_is_refused_and_never_means_all() {
        for text in ["*", "Team", "a b", "-a", "a-", "a/b"] {
            assert!(text.parse::<Namespaces>().is_err(), "{text:?}");
        }
    }
}
