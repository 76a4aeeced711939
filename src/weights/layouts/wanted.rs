//! The names that a model gives its parameters, under any wrapper (`m.`, `model.`): looked up by what they end with.

use std::collections::HashMap;

/// Names and sizes of a model's parameters.
pub(super) struct Wanted<'a> {
    names: Vec<&'a str>,
    /// Every name from each of its segments on, with the numbers of elements.
    endings: HashMap<&'a str, Vec<usize>>,
}

impl<'a> Wanted<'a> {
    pub(super) fn new(wanted: &'a [(String, Vec<usize>)]) -> Wanted<'a> {
        let mut endings: HashMap<&str, Vec<usize>> = HashMap::new();
        for (name, shape) in wanted {
            let elements = shape.iter().product();
            for ending in endings_of(name) {
                endings.entry(ending).or_default().push(elements);
            }
        }
        Wanted {
            names: wanted.iter().map(|(n, _)| n.as_str()).collect(),
            endings,
        }
    }

    pub(super) fn is_empty(&self) -> bool {
        self.names.is_empty()
    }

    pub(super) fn names(&self) -> impl Iterator<Item = &'a str> {
        self.names.iter().copied()
    }

    /// Whether the model has a parameter of this name, or one that ends with it.
    pub(super) fn has(&self, name: &str) -> bool {
        self.endings.contains_key(name)
    }

    /// Whether one of those has so many elements.
    pub(super) fn fits(&self, name: &str, elements: usize) -> bool {
        (self.endings.get(name)).is_some_and(|sizes| sizes.contains(&elements))
    }

    /// Elements of the parameter of this name.
    pub(super) fn elements(&self, name: &str) -> Option<usize> {
        self.endings.get(name)?.first().copied()
    }
}

/// `a.b.c`, `b.c`, `c`.
pub(super) fn endings_of(name: &str) -> impl Iterator<Item = &str> {
    std::iter::once(name).chain(name.match_indices('.').map(|(at, _)| &name[at + 1..]))
}
