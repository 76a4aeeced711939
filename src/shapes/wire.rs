//! Reads the three forms of a spec from JSON.

use super::error::Problems;
use super::expr::{Affine, MAX_SIZE, is_identifier};
use super::faults::{SpecFault, nearest};
use super::hint::hint;
use super::json::{Key, Node, Value};
use super::names::default_opt;
use super::quote::{Pos, shorten};
use super::spec::{ANY, Body, DimDecl, Entry, Leaf, ShapeSpec, Tree};
use std::collections::BTreeMap;

/// Reads the spec that `root` is; what is wrong goes to `problems`.
pub(super) fn read(root: &Node, origin: &str, problems: &mut Problems) -> Option<ShapeSpec> {
    let dims = BTreeMap::new();
    let reader = Reader {
        problems,
        dims,
        tensors: 0,
        torch: false,
    };
    reader.spec(root, origin)
}

/// Tensors that are read. The largest models have some hundreds of inputs.
const MAX_TENSORS: usize = 4096;
/// Largest number of an axis that is read.
const MAX_AXIS: i32 = 65_535;

struct Reader<'p> {
    problems: &'p mut Problems,
    dims: BTreeMap<String, DimDecl>,
    tensors: usize,
    /// Whether it is torch's dump.
    torch: bool,
}

/// Most profiles that a spec has: each is tuned by itself, and real engines have a handful.
const MOST_PROFILES: usize = 64;

/// What an axis entry may be, for messages.
const ENTRY: &str = "a dim, an expression like `4*H`, a size, a hint or null";

impl Reader<'_> {
    fn spec(mut self, root: &Node, origin: &str) -> Option<ShapeSpec> {
        let top = self.object(root, "a shape spec", "an object")?;
        let find = |name: &str| top.iter().find(|(k, _)| k.name == name).map(|(_, v)| v);
        self.keys(
            top,
            "a shape spec",
            &[
                "dims",
                "profiles",
                "inputs",
                "args",
                "kwargs",
                "dynamic_shapes",
            ],
        );
        if let Some(dims) = find("dims") {
            self.dims(dims);
        }
        let profiles = find("profiles").map_or_else(Vec::new, |profiles| self.profiles(profiles));
        let (inputs, args, kwargs, torch) = (
            find("inputs"),
            find("args"),
            find("kwargs"),
            find("dynamic_shapes"),
        );
        let tree = args.map(|a| ("args", a)).or(kwargs.map(|k| ("kwargs", k)));
        let forms: Vec<(&'static str, &Node)> = [
            torch.map(|t| ("dynamic_shapes", t)),
            inputs.map(|i| ("inputs", i)),
            tree,
        ]
        .into_iter()
        .flatten()
        .collect();
        // Told and then read on: what is wrong inside of the first form is worth knowing in the
        // same run.
        if let [(first, _), (second, node), ..] = forms[..] {
            self.problems
                .push(node.pos, SpecFault::MixedForms { first, second });
        }
        let body = match forms.first() {
            None => {
                // An unknown key is the likelier mistake, and has been told.
                if self.problems.is_empty() {
                    self.problems.push(root.pos, SpecFault::NoForm);
                }
                return None;
            }
            Some(("dynamic_shapes", node)) => self.torch(node)?,
            Some(("inputs", node)) => {
                let inputs = self.object(node, "`inputs`", "an object of input names")?;
                Body::Inputs(
                    inputs
                        .iter()
                        .filter_map(|(k, v)| Some((k.name.clone(), self.leaf(v)?)))
                        .collect(),
                )
            }
            Some(_) => {
                let args = args.map_or(Some(Vec::new()), |node| match &node.value {
                    Value::List(items) => Some(self.trees(items)),
                    _ => self.wrong(node, "`args`", "a list"),
                });
                let kwargs = kwargs.map_or(Some(Vec::new()), |node| {
                    let items = self.object_of(node, "`kwargs`")?;
                    Some(self.named(items))
                });
                Body::Tree {
                    args: args?,
                    kwargs: kwargs?,
                    torch: false,
                }
            }
        };
        Some(ShapeSpec {
            origin: origin.to_owned(),
            dims: self.dims,
            profiles,
            body,
        })
    }

    /// The top of torch's dump is a tuple of all arguments, or a dict of them, and never a tensor.
    fn torch(&mut self, node: &Node) -> Option<Body> {
        self.torch = true;
        Some(match &node.value {
            Value::Null => Body::Nothing,
            Value::List(items) => Body::Tree {
                args: self.trees(items),
                kwargs: Vec::new(),
                torch: true,
            },
            Value::Map(items) => Body::Tree {
                args: Vec::new(),
                kwargs: self.named(items),
                torch: true,
            },
            _ => return self.wrong(node, "`dynamic_shapes`", "a list, an object or null"),
        })
    }

    fn wrong<T>(
        &mut self,
        node: &Node,
        what: impl Into<String>,
        expected: &'static str,
    ) -> Option<T> {
        self.problems.push(
            node.pos,
            SpecFault::Type {
                what: what.into(),
                expected,
                found: node.describe(),
            },
        );
        None
    }

    fn object<'n>(
        &mut self,
        node: &'n Node,
        what: &str,
        expected: &'static str,
    ) -> Option<&'n [(Key, Node)]> {
        match &node.value {
            Value::Map(items) => Some(items),
            _ => self.wrong(node, what, expected),
        }
    }

    fn object_of<'n>(&mut self, node: &'n Node, what: &str) -> Option<&'n [(Key, Node)]> {
        self.object(node, what, "an object")
    }

    fn keys(&mut self, items: &[(Key, Node)], place: &str, known: &[&str]) {
        for (key, _) in items
            .iter()
            .filter(|(k, _)| !known.contains(&k.name.as_str()))
        {
            self.problems.push(
                key.pos,
                SpecFault::UnknownKey {
                    key: shorten(&key.name),
                    place: place.to_owned(),
                    expected: known
                        .iter()
                        .map(|k| format!("`{k}`"))
                        .collect::<Vec<_>>()
                        .join(", "),
                    nearest: nearest(&key.name, known.iter().copied()),
                },
            );
        }
    }

    fn dims(&mut self, node: &Node) {
        let Some(items) = self.object_of(node, "`dims`") else {
            return;
        };
        for (key, node) in items {
            let reason = if is_identifier(&key.name) {
                hint(&key.name).map(|_| "it is a hint")
            } else {
                Some("a name has letters, digits and `_`, and does not begin with a digit")
            };
            if let Some(reason) = reason {
                self.problems.push(
                    key.pos,
                    SpecFault::DimName {
                        name: key.name.clone(),
                        reason,
                    },
                );
            }
            let place = format!("the dim `{}`", shorten(&key.name));
            // A dim with a fault is listed all the same, so that its uses are no second fault.
            let decl = self.dim(&key.name, node, &place, ANY).unwrap_or(ANY);
            self.dims.insert(key.name.clone(), decl);
        }
        for (key, node) in items {
            let derived = match &node.value {
                Value::Map(fields) => fields
                    .iter()
                    .find(|(k, _)| k.name == "derived")
                    .map(|(_, v)| v),
                _ => None,
            };
            if let Some(derived) = derived {
                self.derived(&key.name, derived);
            }
        }
    }

    /// Reads `profiles`, each of which gives some dims other ranges, and makes `dims` the smallest that hold all; the size
    /// to optimise for is the first one's. Returns the dims of each, where there are several.
    fn profiles(&mut self, node: &Node) -> Vec<BTreeMap<String, DimDecl>> {
        let Value::List(items) = &node.value else {
            return self
                .wrong(node, "`profiles`", "a list of objects")
                .unwrap_or_default();
        };
        if items.len() > MOST_PROFILES {
            return self
                .wrong(node, "`profiles`", "a list of 64 objects or less")
                .unwrap_or_default();
        }
        let mut all: Vec<BTreeMap<String, DimDecl>> = Vec::new();
        let mut joined: Option<BTreeMap<String, DimDecl>> = None;
        for item in items {
            let Some(fields) = self.object_of(item, "a profile") else {
                continue;
            };
            let mut dims = self.dims.clone();
            for (key, value) in fields {
                let Some(&base) = self.dims.get(&key.name) else {
                    self.unknown_dim(&key.name, key.pos);
                    continue;
                };
                let place = format!("`{}` of a profile", shorten(&key.name));
                if let Some(decl) = self.dim(&key.name, value, &place, base) {
                    dims.insert(key.name.clone(), decl);
                }
            }
            all.push(dims.clone());
            joined = Some(match joined {
                None => dims,
                Some(before) => (before.into_iter())
                    .map(|(name, d)| {
                        let other = dims[&name];
                        let whole = DimDecl {
                            min: d.min.min(other.min),
                            max: d.max.zip(other.max).map(|(a, b)| a.max(b)),
                            opt: Some(d.opt.unwrap_or_else(|| default_opt(d.min, d.max))),
                        };
                        let one = (d.min, d.max) == (other.min, other.max);
                        (name, if one { d } else { whole })
                    })
                    .collect(),
            });
        }
        if let Some(joined) = joined {
            self.dims = joined;
        }
        if all.len() < 2 { Vec::new() } else { all }
    }

    /// The range of a dim, whose fields are those of `base` where they are not given.
    fn dim(&mut self, name: &str, node: &Node, place: &str, base: DimDecl) -> Option<DimDecl> {
        let fields = self.object_of(node, place)?;
        self.keys(fields, place, &["min", "max", "opt", "derived"]);
        let mut decl = base;
        // The best size of the whole range need not be in a profile's.
        if !fields.iter().any(|(k, _)| k.name == "opt") {
            decl.opt = None;
        }
        let mut opt_at = node.pos;
        for (key, value) in fields {
            let what = format!("`{}` of `{name}`", key.name);
            match key.name.as_str() {
                "min" => decl.min = self.size(value, &what)?,
                "max" if value.value == Value::Null => decl.max = None,
                // What Python has for no bound.
                "max" => decl.max = Some(self.size(value, &what)?).filter(|&max| max < MAX_SIZE),
                "opt" => (decl.opt, opt_at) = (Some(self.size(value, &what)?), value.pos),
                _ => {}
            }
        }
        if let Some(max) = decl.max.filter(|&max| max < decl.min) {
            self.problems.push(
                node.pos,
                SpecFault::EmptyRange {
                    dim: name.to_owned(),
                    min: decl.min,
                    max,
                },
            );
            return None;
        }
        if let Some(opt) = decl
            .opt
            .filter(|&o| o < decl.min || decl.max.is_some_and(|max| o > max))
        {
            let (min, max) = (decl.min, decl.max);
            self.problems.push(
                opt_at,
                SpecFault::OptOutside {
                    dim: name.to_owned(),
                    opt,
                    min,
                    max,
                },
            );
            return None;
        }
        Some(decl)
    }

    fn derived(&mut self, dim: &str, node: &Node) {
        let Value::List(items) = &node.value else {
            return self
                .wrong(
                    node,
                    format!("`derived` of `{dim}`"),
                    "a list of expressions",
                )
                .unwrap_or(());
        };
        for item in items {
            let Value::String(text) = &item.value else {
                self.wrong::<()>(
                    item,
                    format!("an entry of `derived` of `{dim}`"),
                    "an expression",
                );
                continue;
            };
            match text.parse::<Affine>() {
                Err(source) => self.problems.push(
                    item.pos,
                    SpecFault::Expr {
                        text: text.clone(),
                        source,
                    },
                ),
                Ok(expr) if expr.root != dim => {
                    let root = expr.root.clone();
                    self.problems.push(
                        item.pos,
                        SpecFault::Derived {
                            dim: dim.to_owned(),
                            expr,
                            root,
                        },
                    );
                }
                // `derived` only repeats what axes say; it is checked and then not needed.
                Ok(expr) => self.range(&expr, item.pos),
            }
        }
    }

    /// A size or a bound: an integer from 0 to 2⁶³-1.
    fn size(&mut self, node: &Node, what: &str) -> Option<u64> {
        const EXPECTED: &str = "an integer from 0 to 9223372036854775807";
        let read = match &node.value {
            Value::Number(text) => text.parse().ok().filter(|&n| n <= MAX_SIZE),
            _ => None,
        };
        read.or_else(|| self.wrong(node, what, EXPECTED))
    }

    fn trees(&mut self, items: &[Node]) -> Vec<Tree> {
        items.iter().filter_map(|item| self.tree(item)).collect()
    }

    fn named(&mut self, items: &[(Key, Node)]) -> Vec<(String, Tree)> {
        items
            .iter()
            .filter_map(|(key, node)| Some((key.name.clone(), self.tree(node)?)))
            .collect()
    }

    fn tree(&mut self, node: &Node) -> Option<Tree> {
        match &node.value {
            Value::List(items) if items.iter().any(is_container) => {
                if let Some(scalar) = items
                    .iter()
                    .find(|i| !is_container(i) && i.value != Value::Null)
                {
                    self.problems.push(scalar.pos, SpecFault::MixedList);
                    return None;
                }
                Some(Tree::List(self.trees(items)))
            }
            Value::Map(items) if self.is_dict(items) => {
                let is_name = |(k, v): &&(Key, Node)| !is_axis_like(&k.name) || is_container(v);
                let axis = (items.iter()).find(|i| !is_name(i) && i.1.value != Value::Null);
                if let Some((axis, _)) = axis {
                    let name = items.iter().find(is_name).map(|(k, _)| &k.name);
                    let name = name.map(|n| shorten(n)).unwrap_or_default();
                    let axis_name = shorten(&axis.name);
                    self.problems.push(
                        axis.pos,
                        SpecFault::MixedObject {
                            axis: axis_name,
                            name,
                        },
                    );
                    return None;
                }
                Some(Tree::Dict(self.named(items)))
            }
            _ => Some(Tree::Leaf(self.leaf(node)?)),
        }
    }

    /// Whether an object is a dict of arguments: keys of a dict may be numbers too.
    fn is_dict(&self, items: &[(Key, Node)]) -> bool {
        let names = (items.iter()).any(|(k, v)| !is_axis_like(&k.name) || is_container(v));
        // Torch writes no tensor as an object, so one with nothing in it is a dict.
        names || (self.torch && items.iter().all(|(_, v)| v.value == Value::Null))
    }

    fn leaf(&mut self, node: &Node) -> Option<Leaf> {
        // Every tensor costs a search among the inputs.
        self.tensors += 1;
        // Counted and not only limited by the file's size: matching takes longer than reading.
        if self.tensors > MAX_TENSORS {
            let (count, limit) = (self.tensors, MAX_TENSORS);
            self.problems
                .push(node.pos, SpecFault::Tensors { count, limit });
            return None;
        }
        match &node.value {
            Value::Null => Some(Leaf::Null),
            Value::List(items) if items.iter().all(|i| i.value == Value::Null) => {
                Some(Leaf::Nulls(items.len()))
            }
            Value::List(items) => {
                let entries: Vec<Entry> =
                    items.iter().filter_map(|item| self.entry(item)).collect();
                (entries.len() == items.len()).then_some(Leaf::Full(entries))
            }
            Value::Map(items) => {
                let mut axes = BTreeMap::new();
                let mut whole = true;
                for (key, value) in items {
                    // One spelling per axis, so that `"1"` and `"01"` cannot both be there.
                    let axis = key
                        .name
                        .parse::<i32>()
                        .ok()
                        .filter(|a| a.to_string() == key.name && a.abs() <= MAX_AXIS);
                    if axis.is_none() {
                        self.problems.push(
                            key.pos,
                            SpecFault::Axis {
                                key: key.name.clone(),
                            },
                        );
                    }
                    match (axis, self.entry(value)) {
                        (Some(axis), Some(entry)) => {
                            axes.insert(axis, entry);
                        }
                        _ => whole = false,
                    }
                }
                whole.then_some(Leaf::Sparse(axes))
            }
            _ => self.wrong(
                node,
                "a tensor",
                "an object of axes, a list of axes or null",
            ),
        }
    }

    fn entry(&mut self, node: &Node) -> Option<Entry> {
        match &node.value {
            Value::Null => Some(Entry::Null),
            Value::Number(_) => self.size(node, "a static size").map(Entry::Size),
            Value::String(text) => match hint(text) {
                Some(Ok(hint)) => Some(Entry::Hint(hint)),
                Some(Err(reason)) => {
                    self.problems.push(
                        node.pos,
                        SpecFault::Hint {
                            text: shorten(text),
                            reason,
                        },
                    );
                    None
                }
                None => self.dim_entry(text, node.pos),
            },
            _ => self.wrong(node, "an axis", ENTRY),
        }
    }

    fn dim_entry(&mut self, text: &str, pos: Pos) -> Option<Entry> {
        let expr: Affine = match text.parse() {
            Ok(expr) => expr,
            Err(source) => {
                self.problems.push(
                    pos,
                    SpecFault::Expr {
                        text: text.to_owned(),
                        source,
                    },
                );
                return None;
            }
        };
        if !self.dims.contains_key(&expr.root) {
            self.unknown_dim(&expr.root, pos);
            return None;
        }
        self.range(&expr, pos);
        Some(Entry::Dim(expr))
    }

    fn unknown_dim(&mut self, name: &str, pos: Pos) {
        let known = (self.dims.keys().map(String::as_str)).chain(["AUTO", "DYNAMIC", "STATIC"]);
        // Every name against every dim: only as often as it is shown.
        let nearest = (!self.problems.is_full()).then(|| nearest(name, known));
        self.problems.push(
            pos,
            SpecFault::UnknownDim {
                name: shorten(name),
                nearest: nearest.flatten(),
            },
        );
    }

    /// Checks that a derived dim has a size everywhere in its root's range.
    fn range(&mut self, expr: &Affine, pos: Pos) {
        let Some(&DimDecl { min, max, .. }) = self.dims.get(&expr.root) else {
            return;
        };
        let root = expr.root.clone();
        let at = |x: u64| i128::from(expr.scale) * i128::from(x) + i128::from(expr.offset);
        if at(min) < 0 {
            let needed = i128::from(expr.offset)
                .unsigned_abs()
                .div_ceil(expr.scale.unsigned_abs().into());
            let needed = u64::try_from(needed).unwrap_or(MAX_SIZE);
            self.problems.push(
                pos,
                SpecFault::Negative {
                    expr: expr.clone(),
                    root,
                    min,
                    needed,
                },
            );
        } else if let Some(value) = [Some(min), max]
            .into_iter()
            .flatten()
            .find(|&x| at(x) > i128::from(MAX_SIZE))
        {
            self.problems.push(
                pos,
                SpecFault::Overflow {
                    expr: expr.clone(),
                    root,
                    value,
                },
            );
        }
    }
}

fn is_container(node: &Node) -> bool {
    matches!(node.value, Value::List(_) | Value::Map(_))
}

/// Whether a key means an axis, also where it is not a valid one.
fn is_axis_like(key: &str) -> bool {
    let digits = key.strip_prefix('-').unwrap_or(key);
    !digits.is_empty() && digits.bytes().all(|b| b.is_ascii_digit())
}
