//! Which tensor of a spec is which ONNX input: all ways that hold, and whether they are one.
//!
//! `torch.export` (`torch/_export/utils.py`, `placeholder_naming_pass`) flattens the arguments, positional ones before
//! keywords, and names each tensor by its path: argument, keys and places, in small letters, what is no letter or digit as
//! `_`, joined with `_`; a name that is taken gets a number. So the order decides for what is positional, whose argument
//! has no name here; a name decides only from an argument that has one. JSON objects may be in another order than the
//! call, so that the keys of a nested dict are looked for in the names too.
//!
//! Every way to match that holds is sought, the strictest kind first: all tensors and inputs matched, then inputs that need
//! no spec left over, then tensors that the exporter left out; each with torch's names, then in order alone. The first kind
//! with a way decides. If there are two in it that do not mean the same, nothing is decided.

use super::alignment::{Kind, MAX_STEPS, OfLeaf, Sides, distinct};
use super::fits::Fits;
use super::leaves::Place;
use super::torch_names::{ends_with, spellings, without_number};
use crate::tensor::TensorDecl;
use std::collections::{BTreeMap, HashMap, HashSet};

pub(super) enum Outcome {
    One(OfLeaf),
    /// Two ways that do not mean the same.
    Several(OfLeaf, OfLeaf),
    None {
        /// Named leaves that claim the same input, with it.
        rivals: Vec<(usize, usize)>,
    },
}

const KINDS: [(bool, bool, bool); 4] = [
    (true, false, false),
    (true, true, false),
    (true, false, true),
    // To say what does not agree where there is only one way.
    (false, false, false),
];

pub(super) struct Matching<'a, 's> {
    leaves: &'a [Place<'s>],
    inputs: &'a [TensorDecl],
    sides: Sides<'a, 's>,
    /// Named leaves with the inputs that could be theirs.
    candidates: Vec<(usize, Vec<usize>)>,
    /// Inputs by name, and by the name without the number that torch adds where it is taken.
    by_name: HashMap<&'a str, usize>,
}

impl<'a, 's> Matching<'a, 's> {
    pub fn new(leaves: &'a [Place<'s>], inputs: &'a [TensorDecl], fits: &'a Fits<'a>) -> Self {
        let mut matching = Matching {
            leaves,
            inputs,
            sides: Sides {
                leaves,
                inputs,
                fits,
            },
            candidates: Vec::new(),
            by_name: (inputs.iter().enumerate())
                .map(|(i, d)| (d.name.as_str(), i))
                .collect(),
        };
        matching.candidates = matching.named_candidates();
        matching
    }

    pub fn solve(&self) -> Outcome {
        let mut rivals = Vec::new();
        for (fits, spare, pruned) in KINDS {
            for torch in [true, false] {
                let kind = Kind {
                    fits,
                    torch,
                    spare,
                    pruned,
                };
                match self.solve_kind(kind) {
                    Some(Outcome::None { rivals: found }) => rivals = found,
                    // That some of them are unused is the least likely where several claim one input.
                    Some(Outcome::Several(..)) if pruned && !rivals.is_empty() => {}
                    Some(decided) => return decided,
                    None => return Outcome::None { rivals },
                }
            }
        }
        Outcome::None { rivals }
    }

    /// Named leaves that have one candidate which no other has.
    pub fn named(&self) -> OfLeaf {
        let mut claims: BTreeMap<usize, usize> = BTreeMap::new();
        for (_, inputs) in &self.candidates {
            for &i in inputs {
                *claims.entry(i).or_default() += 1;
            }
        }
        let mut of_leaf = vec![None; self.leaves.len()];
        for (leaf, inputs) in &self.candidates {
            if let [one] = inputs[..]
                && claims[&one] == 1
            {
                of_leaf[*leaf] = Some(one);
            }
        }
        of_leaf
    }

    /// What one kind of match decides; `None` where the search is too long.
    fn solve_kind(&self, kind: Kind) -> Option<Outcome> {
        let mut found: Vec<(u64, OfLeaf)> = Vec::new();
        let mut rivals = Vec::new();
        // A null that has the name of an input may be it, or no tensor at all.
        let optional: HashSet<usize> = (self.candidates.iter())
            .map(|(l, _)| *l)
            .filter(|&l| self.leaves[l].is_optional())
            .collect();
        for with_optional in [true, false] {
            if !with_optional && optional.is_empty() {
                break;
            }
            let named: Vec<&(usize, Vec<usize>)> = (self.candidates.iter())
                .filter(|(l, c)| {
                    if optional.contains(l) {
                        with_optional
                    } else {
                        !kind.pruned || !c.is_empty()
                    }
                })
                .filter(|(l, c)| !(c.is_empty() && optional.contains(l)))
                .collect();
            let Some(ways) = ways_of(&named, kind.pruned, &mut rivals) else {
                continue;
            };
            for pairs in ways {
                for (effect, of_leaf) in self.sides.positional(&pairs, kind)? {
                    if self.holds(&of_leaf, kind) && found.iter().all(|(e, _)| *e != effect) {
                        found.push((effect, of_leaf));
                    }
                }
            }
        }
        if kind.pruned {
            // The fewest tensors left out: what has an input is not taken for unused.
            let left_out = |way: &OfLeaf| {
                (way.iter().zip(self.leaves))
                    .filter(|(i, l)| i.is_none() && !l.is_optional())
                    .count()
            };
            let least = found.iter().map(|(_, way)| left_out(way)).min();
            found.retain(|(_, way)| Some(left_out(way)) == least);
        }
        let mut found = found.into_iter().map(|(_, of_leaf)| of_leaf);
        Some(match (found.next(), found.next()) {
            (None, _) => Outcome::None { rivals },
            (Some(one), None) => Outcome::One(one),
            (Some(one), Some(other)) => Outcome::Several(one, other),
        })
    }

    /// Whether names and order agree with a match as a whole.
    fn holds(&self, of_leaf: &OfLeaf, kind: Kind) -> bool {
        let input_of = |positional: bool| {
            (self.leaves.iter().zip(of_leaf))
                .filter(move |(l, _)| l.path.positional == positional)
                .filter_map(|(_, i)| *i)
        };
        if kind.torch {
            let ordered = match (input_of(true).max(), input_of(false).min()) {
                (Some(last), Some(first)) => last < first,
                _ => true,
            };
            ordered && self.numbers_are_needed(of_leaf)
        } else {
            self.numbers_are_needed(of_leaf) && !self.contradicts_a_name(of_leaf)
        }
    }

    /// A named leaf has an input with a number behind its name only where the name itself is another leaf's.
    fn numbers_are_needed(&self, of_leaf: &OfLeaf) -> bool {
        let taken: HashSet<usize> = of_leaf.iter().flatten().copied().collect();
        self.candidates.iter().all(|(l, _)| {
            // A leaf without an input took no number either.
            let Some(i) = of_leaf[*l] else { return true };
            let name = self.inputs[i].name.as_str();
            let full = spellings(&self.leaves[*l].path.steps);
            let base = without_number(name).filter(|base| full.iter().any(|n| n == base));
            match base {
                Some(base) if !full.iter().any(|n| n == name) => match self.by_name.get(base) {
                    Some(base) => taken.contains(base),
                    None => self.may_be_no_tensor(base, *l),
                },
                _ => true,
            }
        })
    }

    /// Whether another argument could be called `name` and be no tensor: torch counts its name as taken.
    fn may_be_no_tensor(&self, name: &str, but: usize) -> bool {
        (self.leaves.iter().enumerate()).any(|(l, leaf)| {
            let called =
                || leaf.path.positional || spellings(&leaf.path.steps).contains(&name.to_owned());
            l != but && leaf.is_optional() && called()
        })
    }

    /// Whether the name of some input tells of another nested leaf than the one that it has.
    fn contradicts_a_name(&self, of_leaf: &OfLeaf) -> bool {
        let mut of_input: Vec<Option<usize>> = vec![None; self.inputs.len()];
        for (l, i) in of_leaf.iter().enumerate() {
            if let Some(i) = i {
                of_input[*i] = Some(l);
            }
        }
        // What the names of nested tensors end with: the path below the argument, or at least the key.
        let endings: Vec<Vec<String>> = (self.leaves.iter())
            .map(|leaf| {
                let steps = &leaf.path.steps;
                if !leaf.path.positional || steps.len() < 2 {
                    return Vec::new();
                }
                let mut all = spellings(&steps[1..]);
                all.extend(leaf.path.last_key().map(ToOwned::to_owned));
                all
            })
            .collect();
        let named = |l: usize, i: usize| {
            endings[l]
                .iter()
                .any(|e| ends_with(&self.inputs[i].name, e))
        };
        let agrees = |l: usize| of_leaf[l].is_some_and(|i| named(l, i));
        (0..self.leaves.len())
            .filter(|&l| !endings[l].is_empty() && !agrees(l))
            .any(|l| {
                (0..self.inputs.len()).any(|i| named(l, i) && !of_input[i].is_some_and(&agrees))
            })
    }

    /// The inputs that could be a named argument's: by the full path; else by the path below the argument; else by the last
    /// key, where only one leaf has it.
    fn named_candidates(&self) -> Vec<(usize, Vec<usize>)> {
        let mut numbered: HashMap<&str, Vec<usize>> = HashMap::new();
        for (i, input) in self.inputs.iter().enumerate() {
            if let Some(base) = without_number(&input.name) {
                numbered.entry(base).or_default().push(i);
            }
        }
        // A key that several tensors have could be any of them.
        let mut keys: HashMap<&str, usize> = HashMap::new();
        for key in self.leaves.iter().filter_map(|l| l.path.last_key()) {
            *keys.entry(key).or_default() += 1;
        }
        let find = |l: usize, names: &[String]| {
            let mut found: Vec<usize> = (names.iter())
                .filter_map(|n| self.by_name.get(n.as_str()).copied())
                .collect();
            let more = (names.iter())
                .filter(|n| !found.is_empty() || self.may_be_no_tensor(n, l))
                .filter_map(|n| numbered.get(n.as_str()));
            let more: Vec<usize> = more.flatten().copied().collect();
            found.extend(more);
            // Spellings of one path often coincide, and one input must not count as two candidates.
            found.sort_unstable();
            found.dedup();
            found
        };
        (self.leaves.iter().enumerate())
            .filter(|(_, leaf)| !leaf.path.positional)
            .map(|(l, leaf)| {
                let steps = &leaf.path.steps;
                let mut found = find(l, &spellings(steps));
                if found.is_empty() && steps.len() > 1 && !leaf.is_optional() {
                    found = find(l, &spellings(&steps[1..]));
                    if let (true, Some(key)) = (found.is_empty(), leaf.path.last_key())
                        && keys[key] == 1
                    {
                        found = find(l, &[key.to_owned()]);
                    }
                }
                (l, found)
            })
            .collect()
    }
}

/// The ways to give each leaf one of its candidates, no two the same; `None` where there are too many. A leaf may have none
/// if `pruned`. Leaves that alone claim one and the same input go to `rivals`.
fn ways_of(
    named: &[&(usize, Vec<usize>)],
    pruned: bool,
    rivals: &mut Vec<(usize, usize)>,
) -> Option<Vec<Vec<(usize, usize)>>> {
    const NOTHING: usize = usize::MAX;
    if named.iter().any(|(_, c)| c.is_empty()) {
        return None;
    }
    let candidates: Vec<Vec<usize>> = (named.iter().enumerate())
        .map(|(n, (_, c))| {
            let mut c = c.clone();
            // A leaf that may be missing needs a choice that stands for nothing.
            if pruned {
                // One for each, since they need not differ.
                c.push(NOTHING - n);
            }
            c
        })
        .collect();
    let mut steps = 0;
    let ways = distinct(&candidates, &mut steps);
    if ways.is_empty() {
        let mut of_input: BTreeMap<usize, Vec<usize>> = BTreeMap::new();
        for (l, c) in named {
            if let [one] = c[..] {
                of_input.entry(one).or_default().push(*l);
            }
        }
        *rivals = (of_input.iter().filter(|(_, ls)| ls.len() > 1))
            .flat_map(|(&i, ls)| ls.iter().map(move |&l| (l, i)))
            .collect();
    }
    // A search that was cut short may have missed a second way, so what it found decides nothing.
    if steps >= MAX_STEPS {
        return None;
    }
    let pairs = ways.into_iter().map(|way| {
        (named.iter().zip(way))
            .filter(|(_, i)| *i <= NOTHING - named.len())
            .map(|((l, _), i)| (*l, i))
            .collect()
    });
    Some(pairs.collect())
}
