//! One spelling for build options that mean the same, so that an engine is found however it was asked for.

use super::options::{bytes, capabilities};
use crate::engine::Options;

/// What [`super::options::Choices`] takes where nothing is said.
const DEFAULTS: &[(&str, &str)] = &[
    ("refit", "full"),
    ("strip", "false"),
    ("precision", "model"),
    ("tf32", "false"),
    ("hardware-compat", "none"),
    ("version-compatible", "false"),
    ("sparsity", "false"),
];

/// `options` without those that say the default, and with one spelling of sizes and lists. What no version takes stays as it is:
/// the build refuses it.
pub fn canonical(options: &Options) -> Options {
    options
        .iter()
        .map(|(name, value)| (name.clone(), spelling(name, value)))
        .filter(|(name, value)| !DEFAULTS.contains(&(name.as_str(), value.as_str())))
        .collect()
}

fn spelling(name: &str, value: &str) -> String {
    let same = || value.to_owned();
    match name {
        "workspace" => bytes(value).map_or_else(|_| same(), |n| n.to_string()),
        "compute-capability" => capabilities(value).map_or_else(
            |_| same(),
            |all| {
                let all = all.iter().map(|c| format!("{}.{}", c / 10, c % 10));
                all.collect::<Vec<_>>().join(",")
            },
        ),
        "precision" => {
            let mut parts: Vec<_> = value.split(',').collect();
            parts.sort_unstable();
            parts.dedup();
            if parts.len() > 1 {
                // It is always allowed.
                parts.retain(|p| *p != "fp32");
            }
            parts.join(",")
        }
        _ => same(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn of(options: &[(&str, &str)]) -> Vec<(String, String)> {
        let options = options.iter().map(|(n, v)| ((*n).into(), (*v).into()));
        canonical(&options.collect()).into_iter().collect()
    }

    #[test]
    fn what_means_the_same_is_spelled_the_same() {
        for (left, right) in [
            (("refit", "full"), None),
            (("tf32", "false"), None),
            (("precision", "model"), None),
            (("workspace", "1G"), Some(("workspace", "1024M"))),
            (("workspace", "1073741824"), Some(("workspace", "1048576K"))),
            (
                ("precision", "bf16,fp16"),
                Some(("precision", "fp16,fp32,bf16,fp16")),
            ),
            (
                ("compute-capability", "8.9, 8.6"),
                Some(("compute-capability", "8.6,8.9,8.6")),
            ),
        ] {
            assert_eq!(of(&[left]), of(right.as_slice()), "{left:?} {right:?}");
        }
    }

    #[test]
    fn what_means_something_else_is_not() {
        for (left, right) in [
            (("refit", "full"), Some(("refit", "none"))),
            // Not the default of TensorRT 8, which looks at the model's tensors.
            (("precision", "fp32"), None),
            (("precision", "fp16"), Some(("precision", "bf16"))),
            (("workspace", "1G"), Some(("workspace", "1M"))),
            (("workspace", "0"), None),
            (
                ("compute-capability", "8.9"),
                Some(("compute-capability", "8.6")),
            ),
            (("compute-capability", "9.0"), None),
            (("opt-level", "3"), None),
        ] {
            assert_ne!(of(&[left]), of(right.as_slice()), "{left:?} {right:?}");
        }
    }
}
