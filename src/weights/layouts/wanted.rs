//! The names that a model gives its parameters, under any wrapper (`m.`, `model.`): looked up by
//! what they end with.

use std::collections::{HashMap, HashSet};

/// Names and sizes of a model's parameters.
pub(super) struct Wanted<'a> {
    parameters: &'a [(String, Vec<usize>)],
    /// Indices of the parameters whose names end so, the shortest name first.
    endings: HashMap<&'a str, Vec<usize>>,
    /// What stands before the `.scale` and `.weight` of these endings.
    modules: HashSet<&'a str>,
}

/// Last segments that say nothing about the module.
const PARAMETERS: [&str; 5] = ["weight", "bias", "gamma", "beta", "scale"];

impl<'a> Wanted<'a> {
    pub(super) fn new(parameters: &'a [(String, Vec<usize>)]) -> Wanted<'a> {
        let mut endings: HashMap<&str, Vec<usize>> = HashMap::new();
        for (i, (name, _)) in parameters.iter().enumerate() {
            for ending in endings_of(name) {
                endings.entry(ending).or_default().push(i);
            }
        }
        for indices in endings.values_mut() {
            indices.sort_by_key(|&i| parameters[i].0.len());
        }
        let module = |ending: &&'a str| {
            let scale = ending.strip_suffix(".scale");
            scale.or_else(|| ending.strip_suffix(".weight"))
        };
        Wanted {
            parameters,
            modules: endings.keys().filter_map(module).collect(),
            endings,
        }
    }

    pub(super) fn is_empty(&self) -> bool {
        self.parameters.is_empty()
    }

    pub(super) fn len(&self) -> usize {
        self.parameters.len()
    }

    pub(super) fn names(&self) -> impl Iterator<Item = &'a str> {
        self.parameters.iter().map(|(n, _)| n.as_str())
    }

    /// Whether the model has a parameter of this name, or one that ends with it.
    pub(super) fn has(&self, name: &str) -> bool {
        self.endings.contains_key(name)
    }

    /// Whether the model may have a `.scale` or a `.weight` of the module of this name.
    pub(super) fn has_module(&self, module: &str) -> bool {
        self.modules.contains(module)
    }

    /// The parameter of this name that has so many elements, the one with the shortest name where
    /// several end so.
    pub(super) fn fitting(&self, name: &str, elements: usize) -> Option<usize> {
        let size = |i: usize| self.parameters[i].1.iter().product::<usize>();
        let mut indices = self.endings.get(name)?.iter().copied();
        indices.find(|&i| size(i) == elements)
    }

    /// Elements of the parameter of this name.
    pub(super) fn elements(&self, name: &str) -> Option<usize> {
        let first = *self.endings.get(name)?.first()?;
        Some(self.parameters[first].1.iter().product())
    }
}

/// `a.b.0.weight` and `b.0.weight`, but not `0.weight` and `weight`, which every model has.
pub(super) fn endings_of(name: &str) -> impl Iterator<Item = &str> + Clone {
    let later = name.match_indices('.').map(|(at, _)| &name[at + 1..]);
    let telling =
        later.filter(|e| !e.starts_with(|c: char| c.is_ascii_digit()) && !PARAMETERS.contains(e));
    std::iter::once(name).chain(telling)
}
