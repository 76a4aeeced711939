//! Positional tensors of a spec beside the inputs that are left for them, in order.

use super::fits::Fits;
use super::leaves::Place;
use super::torch_names::{claimants, prefixes, spellings};
use crate::tensor::TensorDecl;
use std::collections::{HashMap, HashSet};

/// Input of each leaf.
pub(super) type OfLeaf = Vec<Option<usize>>;

/// Ways to give named arguments their inputs that are tried; more are not decided.
const MAX_WAYS: usize = 64;
/// Steps of one search.
pub(super) const MAX_STEPS: usize = 200_000;

/// A kind of match.
#[derive(Clone, Copy)]
pub(super) struct Kind {
    /// Ranks, sizes and symbols agree.
    pub fits: bool,
    /// Names are as torch gives them; else only the order counts.
    pub torch: bool,
    /// Inputs that need no spec may have no leaf.
    pub spare: bool,
    /// Leaves may have no input, if every input has a leaf.
    pub pruned: bool,
}

/// What is matched with what.
#[derive(Clone, Copy)]
pub(super) struct Sides<'a, 's> {
    pub leaves: &'a [Place<'s>],
    pub inputs: &'a [TensorDecl],
    pub fits: &'a Fits<'a>,
}

/// Positional leaves that have their inputs side by side.
struct Group {
    leaves: Vec<usize>,
    /// Leaves by what follows the argument's name in an input's name.
    rests: HashMap<String, Vec<usize>>,
    nested: bool,
    required: usize,
}

impl Sides<'_, '_> {
    /// All ways to match the positional leaves, where `named` have their inputs; `None` where that takes too long.
    pub fn positional(&self, named: &[(usize, usize)], kind: Kind) -> Option<Vec<(u64, OfLeaf)>> {
        if kind.fits && !(named.iter()).all(|&(l, i)| self.fits.fits(self.leaves[l].leaf, i)) {
            return Some(Vec::new());
        }
        let mut of_leaf: OfLeaf = vec![None; self.leaves.len()];
        let mut taken = vec![false; self.inputs.len()];
        let mut effect = 0u64;
        for &(l, i) in named {
            of_leaf[l] = Some(i);
            taken[i] = true;
            effect = effect.wrapping_add(self.fits.effect(self.leaves[l].leaf, i));
        }
        let free: Vec<usize> = (0..self.inputs.len()).filter(|&i| !taken[i]).collect();
        let mut search = Search {
            sides: *self,
            kind,
            groups: self.groups(kind.torch),
            free,
            ways: Vec::new(),
            steps: 0,
        };
        let found = search.run()?;
        let whole = found.into_iter().map(|way| {
            let mut of_leaf = of_leaf.clone();
            let mut next = Some(way);
            while let Some(at) = next {
                let Way { pairs, .. } = &search.ways[at];
                for &(l, i) in pairs {
                    of_leaf[l] = Some(i);
                }
                next = search.ways[at].next;
            }
            (effect.wrapping_add(search.ways[way].effect), of_leaf)
        });
        Some(whole.collect())
    }

    /// The positional leaves by argument; each for itself where only the order counts.
    fn groups(&self, by_argument: bool) -> Vec<Group> {
        let positional = (0..self.leaves.len()).filter(|&l| self.leaves[l].path.positional);
        let mut groups: Vec<Group> = Vec::new();
        let mut last = None;
        for l in positional {
            let leaf = &self.leaves[l];
            let argument = leaf.path.steps[0];
            // Tensors of one argument stand side by side in the inputs: torch flattens the
            // arguments in order.
            if !by_argument || last != Some(argument) {
                groups.push(Group {
                    leaves: Vec::new(),
                    rests: HashMap::new(),
                    nested: by_argument && leaf.path.steps.len() > 1,
                    required: 0,
                });
                last = Some(argument);
            }
            let group = groups.last_mut().expect("one was pushed");
            group.leaves.push(l);
            group.required += usize::from(!leaf.is_optional());
            if group.nested {
                for rest in spellings(&leaf.path.steps[1..]) {
                    group.rests.entry(rest).or_default().push(l);
                }
            }
        }
        groups
    }
}

/// The rest of a match from some group on, kept by number.
struct Way {
    pairs: Vec<(usize, usize)>,
    next: Option<usize>,
    effect: u64,
}

struct Search<'a, 's> {
    sides: Sides<'a, 's>,
    kind: Kind,
    groups: Vec<Group>,
    free: Vec<usize>,
    ways: Vec<Way>,
    steps: usize,
}

impl Search<'_, '_> {
    /// At most two ways to match all groups with all free inputs that do not mean the same; `None` where the search is too
    /// long to say.
    fn run(&mut self) -> Option<Vec<usize>> {
        let all = self.free.len();
        let sums = |of: &dyn Fn(&Group) -> usize| -> Vec<usize> {
            let sums = self.groups.iter().scan(0, |sum, g| {
                *sum += of(g);
                Some(*sum)
            });
            std::iter::once(0).chain(sums).collect()
        };
        let least = sums(&|g| if self.kind.pruned { 0 } else { g.required });
        let most = sums(&|g| g.leaves.len());
        let (total_least, total_most) = (least[self.groups.len()], most[self.groups.len()]);
        // From the last group to the first, so that each rest is worked out once however many ways
        // lead to it; only two layers are kept.
        let mut after: HashMap<usize, Vec<usize>> = HashMap::new();
        for g in (0..=self.groups.len()).rev() {
            let mut here: HashMap<usize, Vec<usize>> = HashMap::new();
            let top = if self.kind.spare {
                all
            } else {
                all.min(most[g])
            };
            for s in (least[g]..=top).rev() {
                let rest = all - s;
                // What is before this group could not take up the inputs that are before this
                // place: no way comes through here.
                let too_many = !self.kind.spare && rest > total_most - most[g];
                if too_many || rest < total_least - least[g] {
                    continue;
                }
                self.steps += 1;
                let found = self.cell(g, s, &here, &after);
                if self.steps >= MAX_STEPS {
                    return None;
                }
                if !found.is_empty() {
                    here.insert(s, found);
                }
            }
            after = here;
        }
        Some(after.remove(&0).unwrap_or_default())
    }

    /// The ways from group `g` and free input `s` on; `here` has those from this group, `after` those from the next.
    fn cell(
        &mut self,
        g: usize,
        s: usize,
        here: &HashMap<usize, Vec<usize>>,
        after: &HashMap<usize, Vec<usize>>,
    ) -> Vec<usize> {
        let mut found: Vec<usize> = Vec::new();
        if g == self.groups.len() && s == self.free.len() {
            self.add(&mut found, Vec::new(), 0, None);
        }
        let inputs = self.sides.inputs;
        if self.kind.spare && s < self.free.len() && !inputs[self.free[s]].is_dynamic() {
            found.clone_from(here.get(&(s + 1)).unwrap_or(&Vec::new()));
        }
        if g < self.groups.len() {
            let group = &self.groups[g];
            let least = if self.kind.pruned { 0 } else { group.required };
            let most = group.leaves.len().min(self.free.len() - s);
            for size in least..=most {
                let Some(rests) = after.get(&(s + size)) else {
                    continue;
                };
                for pairs in self.blocks(g, s, size) {
                    let leaves = self.sides.leaves;
                    let effect = (pairs.iter())
                        .map(|&(l, i)| self.sides.fits.effect(leaves[l].leaf, i))
                        .fold(0, u64::wrapping_add);
                    for &next in rests {
                        self.add(&mut found, pairs.clone(), effect, Some(next));
                    }
                }
            }
        }
        found
    }

    fn add(
        &mut self,
        found: &mut Vec<usize>,
        pairs: Vec<(usize, usize)>,
        effect: u64,
        next: Option<usize>,
    ) {
        let effect = effect.wrapping_add(next.map_or(0, |n| self.ways[n].effect));
        // Two that mean different things are enough to know that nothing is decided.
        if found.len() < 2 && found.iter().all(|&w| self.ways[w].effect != effect) {
            found.push(self.ways.len());
            self.ways.push(Way {
                pairs,
                next,
                effect,
            });
        }
    }

    /// The ways to match a group with exactly the `size` free inputs from `s` on.
    fn blocks(&mut self, g: usize, s: usize, size: usize) -> Vec<Vec<(usize, usize)>> {
        let group = &self.groups[g];
        let block = &self.free[s..s + size];
        let fits = |l: usize, i: usize| {
            !self.kind.fits || self.sides.fits.fits(self.sides.leaves[l].leaf, i)
        };
        let Some(&first) = block.first() else {
            return vec![Vec::new()];
        };
        if !group.nested {
            let l = group.leaves[0];
            return if fits(l, first) {
                vec![vec![(l, first)]]
            } else {
                Vec::new()
            };
        }
        let inputs = self.sides.inputs;
        let required: Vec<usize> = (group.leaves.iter().copied())
            .filter(|&l| !self.kind.pruned && !self.sides.leaves[l].is_optional())
            .collect();
        let mut found: Vec<Vec<(usize, usize)>> = Vec::new();
        for prefix in prefixes(&inputs[first].name, &group.rests) {
            let candidates: Option<Vec<Vec<usize>>> = (block.iter())
                .map(|&i| {
                    let mut leaves = claimants(&inputs[i].name, prefix, &group.rests);
                    leaves.retain(|&l| fits(l, i));
                    (!leaves.is_empty()).then_some(leaves)
                })
                .collect();
            let Some(candidates) = candidates else {
                continue;
            };
            for leaves in distinct(&candidates, &mut self.steps) {
                if required.iter().all(|r| leaves.contains(r)) {
                    let pairs = leaves.into_iter().zip(block.iter().copied()).collect();
                    if !found.contains(&pairs) {
                        found.push(pairs);
                    }
                }
            }
        }
        found
    }
}

/// Choices of one candidate each, all different; at most [`MAX_WAYS`].
pub(super) fn distinct(candidates: &[Vec<usize>], steps: &mut usize) -> Vec<Vec<usize>> {
    fn go(
        candidates: &[Vec<usize>],
        order: &[usize],
        chosen: &mut Vec<usize>,
        used: &mut HashSet<usize>,
        steps: &mut usize,
        out: &mut Vec<Vec<usize>>,
    ) {
        let Some(&at) = order.get(chosen.len()) else {
            let mut way = vec![0; order.len()];
            order.iter().zip(&*chosen).for_each(|(&o, &c)| way[o] = c);
            return out.push(way);
        };
        for &candidate in &candidates[at] {
            *steps += 1;
            if out.len() >= MAX_WAYS {
                *steps = MAX_STEPS;
            }
            if *steps >= MAX_STEPS {
                return;
            }
            if used.insert(candidate) {
                chosen.push(candidate);
                go(candidates, order, chosen, used, steps, out);
                chosen.pop();
                used.remove(&candidate);
            }
        }
    }
    // Those with the fewest candidates first, so that little is tried in vain.
    let mut order: Vec<usize> = (0..candidates.len()).collect();
    order.sort_by_key(|&i| candidates[i].len());
    let mut out = Vec::new();
    let (mut chosen, mut used) = (Vec::new(), HashSet::new());
    go(candidates, &order, &mut chosen, &mut used, steps, &mut out);
    out
}
