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

use super::fits::Fits;
use super::leaves::{Place, Step};
use crate::tensor::TensorDecl;
use std::collections::{BTreeMap, HashMap, HashSet};

/// Input of each leaf.
type OfLeaf = Vec<Option<usize>>;

pub(super) enum Outcome {
    One(OfLeaf),
    /// Two ways that do not mean the same.
    Several(OfLeaf, OfLeaf),
    None {
        /// Named leaves that claim the same input, with it.
        rivals: Vec<(usize, usize)>,
    },
}

/// Ways to give named arguments their inputs that are tried; more are not decided.
const MAX_WAYS: usize = 64;
/// Steps of one search.
const MAX_STEPS: usize = 200_000;

/// A kind of match.
#[derive(Clone, Copy)]
struct Kind {
    /// Ranks, sizes and symbols agree.
    fits: bool,
    /// Names are as torch gives them; else only the order counts.
    torch: bool,
    /// Inputs that need no spec may have no leaf.
    spare: bool,
    /// Leaves may have no input, if every input has a leaf.
    pruned: bool,
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
    fits: &'a Fits<'a>,
    /// Named leaves with the inputs that could be theirs.
    candidates: Vec<(usize, Vec<usize>)>,
    /// Inputs by name, and by the name without the number that torch adds where it is taken.
    by_name: HashMap<&'a str, usize>,
}

/// Positional leaves that have their inputs side by side.
struct Group {
    leaves: Vec<usize>,
    /// Leaves by what follows the argument's name in an input's name.
    rests: HashMap<String, Vec<usize>>,
    nested: bool,
    required: usize,
}

impl<'a, 's> Matching<'a, 's> {
    pub fn new(leaves: &'a [Place<'s>], inputs: &'a [TensorDecl], fits: &'a Fits<'a>) -> Self {
        let mut matching = Matching {
            leaves,
            inputs,
            fits,
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
            inputs
                .iter()
                .for_each(|&i| *claims.entry(i).or_default() += 1);
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
                for (effect, of_leaf) in self.positional(&pairs, kind)? {
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

    /// All ways to match the positional leaves, where `named` have their inputs; `None` where that takes too long.
    fn positional(&self, named: &[(usize, usize)], kind: Kind) -> Option<Vec<(u64, OfLeaf)>> {
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
            matching: self,
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
                pairs.iter().for_each(|&(l, i)| of_leaf[l] = Some(i));
                next = search.ways[at].next;
            }
            (effect.wrapping_add(search.ways[way].effect), of_leaf)
        });
        Some(whole.collect())
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
            self.numbers_are_needed(of_leaf) && !self.contradicts_a_key(of_leaf)
        }
    }

    /// A named leaf has an input with a number behind its name only where the name itself is another leaf's.
    fn numbers_are_needed(&self, of_leaf: &OfLeaf) -> bool {
        let taken: HashSet<usize> = of_leaf.iter().flatten().copied().collect();
        self.candidates.iter().all(|(l, _)| {
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
            let called = || leaf.path.positional || spellings(&leaf.path.steps).contains(&name.to_owned());
            l != but && leaf.is_optional() && called()
        })
    }

    /// Whether a nested positional leaf has one input, and another has its key in the name.
    fn contradicts_a_key(&self, of_leaf: &OfLeaf) -> bool {
        let mut of_input: Vec<Option<usize>> = vec![None; self.inputs.len()];
        for (l, i) in of_leaf.iter().enumerate() {
            if let Some(i) = i {
                of_input[*i] = Some(l);
            }
        }
        let key_of = |l: usize| {
            let path = &self.leaves[l].path;
            path.last_key().filter(|_| path.steps.len() > 1)
        };
        (self.leaves.iter().enumerate())
            .filter(|(_, leaf)| leaf.path.positional)
            .any(|(l, _)| {
                let (Some(key), Some(i)) = (key_of(l), of_leaf[l]) else {
                    return false;
                };
                !ends_with_key(&self.inputs[i].name, key)
                    && (self.inputs.iter().zip(&of_input)).any(|(other, of)| {
                        ends_with_key(&other.name, key) && of.and_then(key_of) != Some(key)
                    })
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

    /// The positional leaves by argument; each for itself where only the order counts.
    fn groups(&self, by_argument: bool) -> Vec<Group> {
        let positional = (0..self.leaves.len()).filter(|&l| self.leaves[l].path.positional);
        let mut groups: Vec<Group> = Vec::new();
        let mut last = None;
        for l in positional {
            let leaf = &self.leaves[l];
            let argument = leaf.path.steps[0];
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

struct Search<'m, 'a, 's> {
    matching: &'m Matching<'a, 's>,
    kind: Kind,
    groups: Vec<Group>,
    free: Vec<usize>,
    ways: Vec<Way>,
    steps: usize,
}

impl Search<'_, '_, '_> {
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
        let inputs = self.matching.inputs;
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
                    let leaves = self.matching.leaves;
                    let effect = (pairs.iter())
                        .map(|&(l, i)| self.matching.fits.effect(leaves[l].leaf, i))
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
            !self.kind.fits || self.matching.fits.fits(self.matching.leaves[l].leaf, i)
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
        let inputs = self.matching.inputs;
        let required: Vec<usize> = (group.leaves.iter().copied())
            .filter(|&l| !self.kind.pruned && !self.matching.leaves[l].is_optional())
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

/// Choices of one candidate each, all different; at most [`MAX_WAYS`].
fn distinct(candidates: &[Vec<usize>], steps: &mut usize) -> Vec<Vec<usize>> {
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
    go(
        candidates,
        &order,
        &mut chosen,
        &mut used,
        steps,
        &mut out,
    );
    out
}

/// What an argument could be called, if `name` is one of its tensors.
fn prefixes<'n>(name: &'n str, rests: &HashMap<String, Vec<usize>>) -> Vec<&'n str> {
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
fn claimants(name: &str, prefix: &str, rests: &HashMap<String, Vec<usize>>) -> Vec<usize> {
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
    let mut leaves: Vec<usize> = exact.chain(numbered.into_iter().flatten()).copied().collect();
    leaves.dedup();
    leaves
}

/// A path as exporters spell it: joined with `_`, with `.`, and as torch does.
fn spellings(steps: &[Step<'_>]) -> Vec<String> {
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

/// `a` of `a_12`.
fn without_number(name: &str) -> Option<&str> {
    let (base, number) = name.rsplit_once('_')?;
    (!base.is_empty() && !number.is_empty() && number.bytes().all(|b| b.is_ascii_digit()))
        .then_some(base)
}

/// Whether the last part of an input's name is `key`, as a nested tensor's is.
fn ends_with_key(name: &str, key: &str) -> bool {
    let ends = |name: &str, key: &str| {
        (name.strip_suffix(key)).is_some_and(|rest| rest.is_empty() || rest.ends_with(['_', '.']))
    };
    let torch = torch_name(key);
    [Some(name), without_number(name)]
        .into_iter()
        .flatten()
        .any(|name| ends(name, key) || ends(name, &torch))
}
