//! Bringing two spellings of the same names in line: the graph's (`m.down_blocks.0…`, a wrapper's attribute in front) and
//! the checkpoint's (`unet.down_blocks.0…`). One pair of prefixes is found for the whole model, by the most names that
//! agree in element count.

use crate::mapping::types::{Checkpoint, Inventory, Recipe, SourceTensor};
use crate::tensor::{Digest, Dtype, Tensor, TensorView};
use crate::weights::undecorated;
use std::borrow::Cow;
use std::collections::{BTreeMap, HashMap, HashSet};

/// At most so many leading components are taken for a prefix.
const DEEPEST: usize = 4;

/// One pair of prefixes: what the graph's names have in front, and what the checkpoint's have.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub(in crate::mapping) struct Prefixes {
    pub graph: String,
    pub checkpoint: String,
}

impl Prefixes {
    /// The checkpoint's spelling of a graph's name; none where the name does not carry the graph's prefix.
    pub fn translate(&self, name: &str) -> Option<String> {
        let rest = name.strip_prefix(&self.graph)?;
        Some(format!("{}{rest}", self.checkpoint))
    }
}

/// Every way to cut leading components off: (prefix with its dot, rest). A number is no prefix: it tells one layer from
/// the next.
fn cuts(name: &str) -> impl Iterator<Item = (&str, &str)> {
    let numeric = |end: usize| {
        let part = name[..end].rsplit('.').next().unwrap_or_default();
        part.bytes().all(|b| b.is_ascii_digit())
    };
    let dots = name.match_indices('.').map(|(i, _)| i);
    let ends = dots.take_while(move |&i| !numeric(i)).take(DEEPEST);
    std::iter::once(0)
        .chain(ends.map(|i| i + 1))
        .map(|i| name.split_at(i))
}

/// The pair of prefixes under which most of `presumed` names are in `actual` with the same element count. A count that is
/// not known fits any. Of equally good pairs the shortest is taken, then the first in order of letters.
pub(in crate::mapping) fn align<'a>(
    presumed: impl Iterator<Item = (&'a str, Option<usize>)>,
    actual: impl Iterator<Item = (&'a str, Option<usize>)>,
) -> Prefixes {
    // A bare `weight` is the rest of every name and says nothing.
    let telling = |(prefix, rest): &(&str, &str)| rest.contains('.') || prefix.is_empty();
    let presumed: Vec<_> = presumed.collect();
    let mut rests: HashMap<&str, Vec<(&str, Option<usize>)>> = (presumed.iter())
        .flat_map(|(name, _)| cuts(name).filter(telling))
        .map(|(_, rest)| (rest, Vec::new()))
        .collect();
    // A file may have a hundred times as many names as the model, and only those that the model has count.
    for (name, count) in actual {
        for (prefix, rest) in cuts(name) {
            if let Some(found) = rests.get_mut(rest) {
                found.push((prefix, count));
            }
        }
    }
    let mut votes: BTreeMap<(&str, &str), usize> = BTreeMap::new();
    for (name, count) in presumed {
        for (prefix, rest) in cuts(name).filter(telling) {
            for &(other, found) in rests.get(rest).map_or(&[][..], Vec::as_slice) {
                if count.is_none() || found.is_none() || count == found {
                    *votes.entry((prefix, other)).or_default() += 1;
                }
            }
        }
    }
    votes
        .into_iter()
        .min_by_key(|((a, b), n)| (std::cmp::Reverse(*n), a.len() + b.len()))
        .map(|((graph, checkpoint), _)| Prefixes {
            graph: graph.to_owned(),
            checkpoint: checkpoint.to_owned(),
        })
        .unwrap_or_default()
}

/// The first component that all `names` share, with its dot: the attribute under which a wrapper holds the model.
pub(in crate::mapping) fn wrapper<'a>(names: impl Iterator<Item = &'a str>) -> String {
    let mut common: Option<&str> = None;
    let mut count = 0;
    for name in names {
        let Some((first, _)) = name.split_once('.') else {
            return String::new();
        };
        if common.is_some_and(|c| c != first) {
            return String::new();
        }
        common = Some(first);
        count += 1;
    }
    match common {
        // One name alone has nothing to share it with.
        Some(first) if count > 1 => format!("{first}."),
        _ => String::new(),
    }
}

/// Whether two names are one, but for what wraps the module.
pub(crate) fn same_name(a: &str, b: &str) -> bool {
    let ends = |long: &str, short: &str| {
        long.strip_suffix(short)
            .is_some_and(|rest| rest.is_empty() || rest.ends_with('.'))
    };
    ends(a, b) || ends(b, a)
}

/// Whether the tensor `name` is among those that a value was folded from, by the exporter's record: the graph and the file may each have a
/// wrapper's name in front.
pub(in crate::mapping) fn is_recorded(folded_from: &[String], name: &str) -> bool {
    folded_from
        .iter()
        .any(|f| same_name(f, name) || inner(f) == inner(name))
}

/// A name without what may wrap the module.
pub(in crate::mapping) fn inner(name: &str) -> &str {
    name.split_once('.').map_or(name, |(_, rest)| rest)
}

/// Many names, asked whether one of them is the [`same_name`] as another.
pub(in crate::mapping) struct SameNames<'n> {
    names: HashSet<&'n str>,
    /// Every name without what may wrap the module.
    endings: HashSet<&'n str>,
}

/// `name`, and what follows each of its dots.
fn endings(name: &str) -> impl Iterator<Item = &str> {
    let after = name.match_indices('.').map(|(dot, _)| &name[dot + 1..]);
    std::iter::once(name).chain(after)
}

impl<'n> FromIterator<&'n str> for SameNames<'n> {
    fn from_iter<I: IntoIterator<Item = &'n str>>(names: I) -> Self {
        let names: HashSet<&str> = names.into_iter().collect();
        let endings = names.iter().copied().flat_map(endings).collect();
        SameNames { names, endings }
    }
}

impl SameNames<'_> {
    pub fn have(&self, name: &str) -> bool {
        self.endings.contains(name) || endings(name).any(|ending| self.names.contains(ending))
    }
}

/// The new file under the base's names.
pub(in crate::mapping) struct Spelled<'a> {
    new: &'a dyn Checkpoint,
    /// What the file calls the base's tensors, those that it gives.
    pub by_base: HashMap<&'a str, String>,
    /// What the base's names begin with, and the file's in its place.
    prefixes: Prefixes,
}

impl Spelled<'_> {
    /// What the base would call a tensor of the file: one that it lacks has neighbours there all the same.
    pub fn in_base<'n>(&self, name: &'n str) -> Cow<'n, str> {
        let Prefixes { graph, checkpoint } = &self.prefixes;
        match name.strip_prefix(checkpoint.as_str()) {
            Some(rest) if graph != checkpoint => Cow::Owned(format!("{graph}{rest}")),
            _ => Cow::Borrowed(name),
        }
    }

    /// As [`Spelled::in_base`], without what tools wrap modules in, inside or outside of the file's prefix.
    pub fn core(&self, name: &str) -> String {
        undecorated(&self.in_base(&undecorated(name).name)).name
    }
}

impl Checkpoint for Spelled<'_> {
    fn names(&self) -> Vec<&str> {
        self.by_base.keys().copied().collect()
    }

    fn get(&self, name: &str) -> Option<TensorView<'_>> {
        self.new.get(self.by_base.get(name)?)
    }

    fn describe(&self, name: &str) -> Option<(Dtype, &[usize])> {
        self.new.describe(self.by_base.get(name)?)
    }

    fn read(&self, name: &str) -> Option<Tensor> {
        self.new.read(self.by_base.get(name)?)
    }

    fn laid_out(&self, weight: &str, recipe: &Recipe) -> Option<Digest> {
        self.new.laid_out(weight, recipe)
    }
}

/// Finds the base's tensors in `new`.
pub(in crate::mapping) fn spell<'a>(
    inventory: &'a Inventory,
    new: &'a dyn Checkpoint,
) -> Spelled<'a> {
    let listed = new.names();
    let names: HashSet<&str> = listed.iter().copied().collect();
    let known = || inventory.tensors.iter().map(|t| t.name.as_str());
    let count = |shape: &[usize]| Some(shape.iter().product::<usize>());
    let mut by_base = HashMap::new();
    // A prefix is bridged only where it brings more names together than the names as they are.
    let same = known().filter(|n| names.contains(n)).count();
    let prefixes = align(
        inventory
            .tensors
            .iter()
            .map(|t| (t.name.as_str(), count(&t.shape))),
        listed
            .iter()
            .map(|n| (*n, new.describe(n).and_then(|(_, shape)| count(shape)))),
    );
    let translated = known()
        .filter(|n| {
            prefixes
                .translate(n)
                .is_some_and(|t| names.contains(t.as_str()))
        })
        .count();
    let prefixes = if translated > same {
        prefixes
    } else {
        Prefixes::default()
    };
    for base in known() {
        let by_prefix = prefixes
            .translate(base)
            .filter(|n| names.contains(n.as_str()));
        let own = || names.contains(base).then(|| base.to_owned());
        if let Some(name) = by_prefix.or_else(own) {
            by_base.insert(base, name);
        }
    }
    let mut spelled = Spelled {
        new,
        by_base,
        prefixes,
    };
    read_decorated(inventory, &mut spelled);
    spelled
}

/// A tensor that the file has only in a wrapper is that tensor, whatever the others are called: some were saved through the wrapper. One in a
/// part of a pipeline may be another model's.
fn read_decorated<'a>(inventory: &'a Inventory, spelled: &mut Spelled<'a>) {
    let is_absent = |t: &&SourceTensor| !spelled.by_base.contains_key(t.name.as_str());
    if inventory.tensors.iter().all(|t| !is_absent(&t)) {
        return;
    }
    let absent: HashMap<String, &str> = (cores(inventory, |_| true).into_iter())
        .filter_map(|(core, tensors)| match tensors[..] {
            [one] if is_absent(&one) => Some((core, one.name.as_str())),
            _ => None,
        })
        .collect();
    let taken: HashSet<&str> = spelled.by_base.values().map(String::as_str).collect();
    let mut found: HashMap<&str, &str> = HashMap::new();
    for name in spelled.new.names() {
        if taken.contains(name) || undecorated(name).of_part {
            continue;
        }
        if let Some(&base) = absent.get(&spelled.core(name)) {
            // Of several the first; the others have to agree with it.
            let first = found.entry(base).or_insert(name);
            *first = name.min(first);
        }
    }
    let found = found
        .into_iter()
        .map(|(base, name)| (base, name.to_owned()))
        .collect::<Vec<_>>();
    spelled.by_base.extend(found);
}

/// The base's tensors, those that are `meant`, by their names without what tools wrap modules in.
pub(in crate::mapping) fn cores(
    inventory: &Inventory,
    meant: impl Fn(&SourceTensor) -> bool,
) -> HashMap<String, Vec<&SourceTensor>> {
    let mut found: HashMap<String, Vec<&SourceTensor>> = HashMap::new();
    for tensor in inventory.tensors.iter().filter(|t| meant(t)) {
        let core = undecorated(&tensor.name).name;
        found.entry(core).or_default().push(tensor);
    }
    found
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn many_names_are_asked_as_each_of_them() {
        let names = ["m.a.weight", "a.weight", "b", "x.b", "", "a.", "weight"];
        let others = [
            "a.weight",
            "n.m.a.weight",
            "weight",
            "m.b",
            "c.x.b",
            "a",
            "",
            "x.",
            "a.",
            "ight",
        ];
        for of in 0..=names.len() {
            let several: SameNames = names[of..].iter().copied().collect();
            for other in others {
                let any = names[of..].iter().any(|n| same_name(n, other));
                assert_eq!(several.have(other), any, "{other} in {:?}", &names[of..]);
            }
        }
    }

    fn known<'a>(names: &'a [&'a str]) -> impl Iterator<Item = (&'a str, Option<usize>)> {
        names.iter().map(|n| (*n, Some(1)))
    }

    #[test]
    fn a_wrapper_and_a_component_are_brought_in_line() {
        let p = align(
            known(&["m.a.weight", "m.b.weight", "m.c.bias"]),
            known(&[
                "unet.a.weight",
                "unet.b.weight",
                "unet.c.bias",
                "vae.a.weight",
            ]),
        );
        assert_eq!((p.graph.as_str(), p.checkpoint.as_str()), ("m.", "unet."));
        assert_eq!(p.translate("m.a.weight").unwrap(), "unet.a.weight");
        assert_eq!(p.translate("x"), None);
    }

    #[test]
    fn equal_names_need_no_prefix() {
        let names = [
            "proj_out.weight",
            "blocks.0.proj_out.weight",
            "blocks.1.proj_out.weight",
        ];
        assert_eq!(align(known(&names), known(&names)), Prefixes::default());
    }

    #[test]
    fn one_layer_is_never_taken_for_another() {
        let p = align(known(&["blocks.0.weight"]), known(&["blocks.1.weight"]));
        assert_eq!(p, Prefixes::default());
    }

    #[test]
    fn a_name_of_another_size_is_no_vote() {
        let p = align(
            [("m.a.weight", Some(4))].into_iter(),
            [("a.weight", Some(5))].into_iter(),
        );
        assert_eq!(p, Prefixes::default());
    }

    #[test]
    fn only_a_component_that_all_share_is_a_wrapper() {
        assert_eq!(wrapper(["m.a.weight", "m.b"].into_iter()), "m.");
        assert_eq!(wrapper(["m.a.weight", "n.b"].into_iter()), "");
        assert_eq!(wrapper(["m.a.weight", "pos"].into_iter()), "");
        assert_eq!(wrapper(["m.a"].into_iter()), "");
    }
}
