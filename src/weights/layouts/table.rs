//! One family's table: how its first authors' names, and the pieces behind them, are those of
//! diffusers or transformers.
//!
//! A table is a text file in `data/`. Its head has one property a line, then come rows, the first
//! that matches counts:
//!
//! ```text
//! TO = FROM                      the same tensor
//! TO, TO, TO = FROM / 1 1 4      FROM is these, stacked by rows in this proportion (equal where none is given)
//! TO = FROM swap                 second half of the rows first
//! TO = FROM transpose            matrix turned
//! TO = FROM linear               a 1x1 convolution there, a matrix here
//! TO = identity OTHER            no source: the unit matrix as wide as OTHER
//! TO = FROM:                     prefixes, joined with a dot, of the indented rows that follow
//! ```
//!
//! `last N A B` sets `N` to the largest number at `{}`, in `A` for the first authors' names and in
//! `B` for the others; `stride S A B` sets `S` to the smallest number in `A`, or to two more than
//! the largest in `B`, 3 where there is none.

use super::pattern::{Bindings, Parameters, Pattern};

/// How one tensor becomes another.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Turn {
    None,
    SwapHalves,
    Transpose,
    /// `[out, in, 1, 1]` there, `[out, in]` here; other ranks stay.
    Linear,
}

#[derive(Debug)]
pub struct Table {
    pub family: String,
    /// The classes whose names are on the left.
    pub writes: String,
    /// Part of the pipeline.
    pub part: String,
    keys: Vec<String>,
    without: Vec<String>,
    /// Prefixes of the names on the left of which some exports leave out one.
    pub(super) optional: Vec<String>,
    /// Names of the first authors that no target reads.
    unused: Vec<Pattern>,
    /// Parts that are exported on their own: name, prefixes of their tensors in either spelling.
    pub(super) halves: Vec<(String, Vec<String>)>,
    parameters: Vec<Parameter>,
    rows: Vec<Row>,
    identities: Vec<(Pattern, Pattern)>,
}

/// A property of a model that its names show.
#[derive(Debug)]
struct Parameter {
    letter: char,
    stride: bool,
    there: (String, String),
    here: (String, String),
}

#[derive(Debug)]
struct Row {
    to: Vec<Pattern>,
    from: Pattern,
    heights: Vec<usize>,
    turn: Turn,
    module: Option<ModuleRow>,
}

/// A row between modules instead of parameters; with dots and without.
#[derive(Debug)]
struct ModuleRow {
    to: Vec<Pattern>,
    from: Pattern,
    flat_to: Vec<Pattern>,
    flat_from: Pattern,
}

/// What a name is in the other spelling.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Hit {
    /// The names, stacked by rows in this order.
    pub to: Vec<String>,
    /// Their heights in proportion.
    pub heights: Vec<usize>,
    pub turn: Turn,
}

/// A line of a table that cannot be read: its number and text.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct BadLine(pub usize, pub String);

impl Table {
    pub(super) fn parse(text: &str) -> Result<Table, BadLine> {
        let mut table = Table {
            family: String::new(),
            writes: String::new(),
            part: String::new(),
            keys: Vec::new(),
            without: Vec::new(),
            optional: Vec::new(),
            unused: Vec::new(),
            halves: Vec::new(),
            parameters: Vec::new(),
            rows: Vec::new(),
            identities: Vec::new(),
        };
        let mut scopes: Vec<(&str, &str)> = Vec::new();
        let mut open = false;
        for (n, line) in text.lines().enumerate() {
            let bad = || BadLine(n + 1, line.to_owned());
            let content = line.trim();
            if content.is_empty() || content.starts_with('#') {
                continue;
            }
            let Some((to, from)) = content.split_once(" = ") else {
                table.property(content).ok_or_else(bad)?;
                continue;
            };
            let indented = line.starts_with(' ');
            if let Some(from) = from.strip_suffix(':') {
                // Prefixes in a row all hold for the rows that follow them; after a row, a prefix
                // begins a new list.
                if !open {
                    scopes.clear();
                }
                scopes.push((to, from));
                open = true;
                continue;
            }
            open = false;
            if indented {
                for scope in &scopes {
                    table.row(Some(*scope), to, from).ok_or_else(bad)?;
                }
            } else {
                table.row(None, to, from).ok_or_else(bad)?;
            }
        }
        Ok(table)
    }

    fn property(&mut self, line: &str) -> Option<()> {
        let (name, value) = line.split_once(' ')?;
        let value = value.trim();
        let words: Vec<&str> = value.split_whitespace().collect();
        match name {
            "family" => value.clone_into(&mut self.family),
            "writes" => value.clone_into(&mut self.writes),
            "part" => value.clone_into(&mut self.part),
            "key" => self.keys.push(value.to_owned()),
            "without" => self.without.push(value.to_owned()),
            "optional" => self.optional.push(value.to_owned()),
            "unused" => self.unused.push(Pattern::parse(value)?),
            "half" => {
                let (name, prefixes) = words.split_first()?;
                let prefixes = prefixes.iter().map(|&p| p.to_owned()).collect();
                self.halves.push(((*name).to_owned(), prefixes));
            }
            "last" | "stride" => {
                let [letter, there, here] = words[..] else {
                    return None;
                };
                let halves = |p: &str| {
                    let (a, b) = p.split_once("{}")?;
                    Some((a.to_owned(), b.to_owned()))
                };
                self.parameters.push(Parameter {
                    letter: letter.chars().next()?,
                    stride: name == "stride",
                    there: halves(there)?,
                    here: halves(here)?,
                });
            }
            _ => return None,
        }
        Some(())
    }

    fn row(&mut self, scope: Option<(&str, &str)>, to: &str, from: &str) -> Option<()> {
        let within = |prefix: Option<&str>, name: &str| match prefix {
            None => Pattern::parse(name),
            Some(prefix) => Pattern::parse(&format!("{prefix}.{name}")),
        };
        let to: Vec<Pattern> = (to.split(", "))
            .map(|t| within(scope.map(|s| s.0), t))
            .collect::<Option<_>>()?;
        if let Some(like) = from.strip_prefix("identity ") {
            let like = within(scope.map(|s| s.1), like)?;
            self.identities.push((to.into_iter().next()?, like));
            return Some(());
        }
        let (from, heights) = match from.split_once(" / ") {
            None => (from, vec![1; to.len()]),
            Some((from, heights)) => {
                let heights = heights.split(' ').map(|h| h.parse().ok());
                (from, heights.collect::<Option<Vec<usize>>>()?)
            }
        };
        let (from, turn) = match from.split_once(' ') {
            None => (from, Turn::None),
            Some((from, "swap")) => (from, Turn::SwapHalves),
            Some((from, "transpose")) => (from, Turn::Transpose),
            Some((from, "linear")) => (from, Turn::Linear),
            Some(_) => return None,
        };
        if heights.len() != to.len() || (to.len() > 1 && turn != Turn::None) {
            return None;
        }
        let from = within(scope.map(|s| s.1), from)?;
        let module = from.module().and_then(|module| {
            let modules: Vec<Pattern> = to.iter().map(Pattern::module).collect::<Option<_>>()?;
            Some(ModuleRow {
                flat_to: modules.iter().map(Pattern::flat).collect(),
                flat_from: module.flat(),
                to: modules,
                from: module,
            })
        });
        self.rows.push(Row {
            to,
            from,
            heights,
            turn,
            module,
        });
        Some(())
    }

    /// Names of the first authors that tell the family.
    pub(super) fn keys(&self) -> impl Iterator<Item = &str> {
        self.keys.iter().map(String::as_str)
    }

    /// The prefixes under which `names` are of this family. `has` tells whether a name is one of them.
    pub(super) fn prefixes<'a>(
        &self,
        names: impl Iterator<Item = &'a str>,
        has: impl Fn(&str) -> bool,
    ) -> Vec<&'a str> {
        let Some(key) = self.keys.first() else {
            return Vec::new();
        };
        let under = |prefix: &str, key: &String| has(&format!("{prefix}{key}"));
        names
            .filter_map(|n| n.strip_suffix(key.as_str()))
            .filter(|p| p.is_empty() || p.ends_with('.'))
            .filter(|p| self.keys.iter().all(|k| under(p, k)))
            .filter(|p| !self.without.iter().any(|k| under(p, k)))
            .collect()
    }

    /// The values of the table's letters, from names in the first authors' spelling and from names
    /// in the other.
    pub(super) fn parameters<'a>(
        &self,
        there: &(impl Iterator<Item = &'a str> + Clone),
        here: &(impl Iterator<Item = &'a str> + Clone),
    ) -> Parameters {
        let numbers = |(before, after): &(String, String),
                       names: &mut dyn Iterator<Item = &'a str>| {
            let number = |name: &str| -> Option<i64> {
                let rest = name.strip_prefix(before.as_str())?;
                if after.is_empty() {
                    return rest.split('.').next()?.parse().ok();
                }
                // The name of a module or of one of its parameters.
                let (number, tail) = rest.split_once('.')?;
                let tail = tail.strip_prefix(after.strip_prefix('.')?)?;
                (tail.is_empty() || tail.starts_with('.')).then(|| number.parse().ok())?
            };
            names.filter_map(number).collect::<Vec<i64>>()
        };
        let mut values = Parameters::new();
        for p in &self.parameters {
            let first = numbers(&p.there, &mut there.clone());
            let second = numbers(&p.here, &mut here.clone());
            let value = if p.stride {
                let counted = second.iter().max().map(|most| most + 2);
                Some(first.iter().min().copied().or(counted).unwrap_or(3))
            } else {
                first.iter().max().or(second.iter().max()).copied()
            };
            if let Some(value) = value.filter(|v| *v < i64::from(u16::MAX)) {
                values.insert(p.letter, value);
            }
        }
        values
    }

    /// What the parameter `name` of the first authors is.
    pub(super) fn translate(&self, name: &str, parameters: &Parameters) -> Option<Hit> {
        self.rows.iter().find_map(|row| {
            let bound = row.from.matches(name, parameters)?;
            let to: Option<Vec<String>> =
                row.to.iter().map(|t| t.fill(parameters, &bound)).collect();
            Some(Hit {
                to: to?,
                heights: row.heights.clone(),
                turn: row.turn,
            })
        })
    }

    /// What the module `name` of the first authors is. `flat` names have `_` for `.`, here and in
    /// the answer.
    pub(super) fn translate_module(
        &self,
        name: &str,
        flat: bool,
        parameters: &Parameters,
    ) -> Option<Hit> {
        self.rows.iter().find_map(|row| {
            let module = row.module.as_ref()?;
            let (from, to) = if flat {
                (&module.flat_from, &module.flat_to)
            } else {
                (&module.from, &module.to)
            };
            let bound = from.matches(name, parameters)?;
            let to: Option<Vec<String>> = to.iter().map(|t| t.fill(parameters, &bound)).collect();
            Some(Hit {
                to: to?,
                heights: row.heights.clone(),
                turn: row.turn,
            })
        })
    }

    /// Whether a module of this name is one that the table writes.
    pub(crate) fn writes_module(&self, name: &str) -> bool {
        let any = Parameters::new();
        let modules = self.rows.iter().filter_map(|r| r.module.as_ref());
        modules
            .flat_map(|m| &m.to)
            .any(|to| to.could_be(name, &any))
    }

    /// Whether no target reads the tensor `name` of the first authors.
    pub(super) fn is_unused(&self, name: &str) -> bool {
        let none = Parameters::new();
        let mut patterns = self.unused.iter();
        patterns.any(|p| p.matches(name, &none).is_some())
    }

    /// Targets without a source that are the unit matrix, and the tensor as wide as it.
    pub(super) fn identities(&self) -> impl Iterator<Item = (String, String)> {
        let none = Parameters::new();
        (self.identities.iter()).filter_map(move |(to, like)| {
            let bound = Bindings::default();
            Some((to.fill(&none, &bound)?, like.fill(&none, &bound)?))
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rows_of_a_scope_are_read_for_each_of_its_prefixes() {
        let table = Table::parse(
            "# comment\nfamily x\na = A:\nb = B:\n  q.*, k.* = qk.* / 2 1\n  n = m swap\n\ntop.* = t.*\n",
        )
        .unwrap();
        let none = Parameters::new();
        let hit = table.translate("B.qk.bias", &none).unwrap();
        assert_eq!(hit.to, ["b.q.bias", "b.k.bias"]);
        assert_eq!(hit.heights, [2, 1]);
        assert_eq!(
            table.translate("A.m", &none).unwrap().turn,
            Turn::SwapHalves
        );
        assert_eq!(
            table.translate("t.weight", &none).unwrap().to,
            ["top.weight"]
        );
        assert_eq!(table.translate("A.t.weight", &none), None);
        let flat = table.translate_module("A_qk", true, &none).unwrap();
        assert_eq!(flat.to, ["a_q", "a_k"]);
        assert_eq!(
            table.translate_module("A.qk", false, &none).unwrap().to,
            ["a.q", "a.k"]
        );
        assert_eq!(table.translate_module("A_m", true, &none), None);
    }

    #[test]
    fn a_line_that_means_nothing_is_named() {
        for line in [
            "nonsense here",
            "a = b twist",
            "a, b = c / 1",
            "a.{ = b",
            "a, b = c swap",
        ] {
            assert_eq!(Table::parse(line).unwrap_err(), BadLine(1, line.to_owned()));
        }
    }

    #[test]
    fn letters_are_counted_in_either_spelling() {
        let table =
            Table::parse("last N up.{} down.{}\nstride S in.{}.op out.{}.conv\nx.{N} = y.{N}")
                .unwrap();
        let of = |there: &[&'static str], here: &[&'static str]| {
            table.parameters(&there.iter().copied(), &here.iter().copied())
        };
        assert_eq!(
            of(&["up.2.x", "up.10.x", "in.6.op", "in.3.op"], &[])[&'N'],
            10
        );
        assert_eq!(of(&["in.6.op", "in.4.op"], &[])[&'S'], 4);
        let here = of(&[], &["down.1.x", "out.0.conv", "out.1.conv"]);
        assert_eq!((here[&'N'], here[&'S']), (1, 3));
        assert_eq!(of(&[], &[]).get(&'N'), None);
    }
}
