//! The names of ONNX inputs: how exporters make them of the path to a tensor.

use super::leaves::Step;
use std::collections::HashMap;

/// What an argument could be called, if `name` is one of its tensors.
pub(super) fn prefixes<'n>(name: &'n str, rests: &HashMap<String, Vec<usize>>) -> Vec<&'n str> {
    let mut found: Vec<&str> = (name.char_indices())
        .filter(|&(at, _)| at == 0 || name[..at].ends_with(['_', '.']))
        .filter(|&(at, _)| {
            let rest = &name[at..];
            rests.contains_key(rest) || without_number(rest).is_some_and(|r| rests.contains_key(r))
        })
        // Both separators are one byte.
        .map(|(at, _)| &name[..at.saturating_sub(1)])
        .collect();
    found.dedup();
    found
}

/// The leaves that an input's name can be of, in an argument called `prefix`.
pub(super) fn claimants(
    name: &str,
    prefix: &str,
    rests: &HashMap<String, Vec<usize>>,
) -> Vec<usize> {
    let Some(rest) = name.strip_prefix(prefix) else {
        return Vec::new();
    };
    let rest = if prefix.is_empty() {
        rest
    } else if let Some(rest) = rest.strip_prefix(['_', '.']) {
        rest
    } else {
        return Vec::new();
    };
    let exact = rests.get(rest).into_iter().flatten();
    let numbered = without_number(rest).and_then(|r| rests.get(r));
    let mut leaves: Vec<usize> = exact
        .chain(numbered.into_iter().flatten())
        .copied()
        .collect();
    leaves.dedup();
    leaves
}

/// A path as exporters spell it: joined with `_`, with `.`, and as torch does.
pub(super) fn spellings(steps: &[Step<'_>]) -> Vec<String> {
    let raw: Vec<String> = (steps.iter())
        .map(|step| match step {
            Step::Index(n) => n.to_string(),
            Step::Key(key) => (*key).to_owned(),
        })
        .collect();
    let mut all = vec![raw.join("_"), raw.join("."), torch_name(&raw.join("_"))];
    all.dedup();
    if all.len() > 1 && all.first() == all.last() {
        all.pop();
    }
    all
}

fn torch_name(text: &str) -> String {
    let small = text.to_lowercase();
    (small.chars())
        .map(|c| if c.is_ascii_alphanumeric() { c } else { '_' })
        .collect()
}

/// The name without the number that torch adds where a name is taken: `a` of `a_12`.
pub(super) fn without_number(name: &str) -> Option<&str> {
    let (base, number) = name.rsplit_once('_')?;
    (!base.is_empty() && !number.is_empty() && number.bytes().all(|b| b.is_ascii_digit()))
        .then_some(base)
}

/// Whether the last part of an input's name is `part`, as a nested tensor's is.
pub(super) fn ends_with(name: &str, part: &str) -> bool {
    let ends = |name: &str, part: &str| {
        (name.strip_suffix(part)).is_some_and(|rest| rest.is_empty() || rest.ends_with(['_', '.']))
    };
    let torch = torch_name(part);
    [Some(name), without_number(name)]
        .into_iter()
        .flatten()
        .any(|name| ends(name, part) || ends(name, &torch))
}
