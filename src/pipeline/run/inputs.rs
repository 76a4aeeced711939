//! Inputs for a run, from files and from a seed; expected outputs from files.
//!
//! # Prefixes
//! A file may hold inputs and expected outputs of several runs under prefixes that end in `.` or `/` (`in.sample`,
//! `base.out`). `FILE:PREFIX` takes one prefix. Without it the names are taken as they are if the file has any of them;
//! otherwise the one prefix under which the file has the most of the names is taken, and two equally good ones are an error.
//! For expected outputs of a plan that holds its base weights, `base.` is taken before any other; for a plan that was
//! refitted, any other before `base.`.

use crate::arrays;
use crate::pipeline::error::Error;
use crate::shapes::{InputShapes, Resolved};
use crate::tensor::{
    Dtype, Extent, NamedTensors, Tensor, TensorDecl, element_count, from_f32, show_shape,
};
use rand::{RngExt, SeedableRng};
use rand_chacha::ChaCha8Rng;
use rand_distr::{Distribution, StandardNormal};
use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};

/// `FILE` or `FILE:PREFIX`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PrefixedFile {
    /// The file.
    pub path: PathBuf,
    /// Only names that begin like this, without it.
    pub prefix: Option<String>,
}

impl std::str::FromStr for PrefixedFile {
    type Err = std::convert::Infallible;

    fn from_str(s: &str) -> Result<Self, Self::Err> {
        // A colon may be part of a path; the prefix is what follows a known file name ending.
        for ending in [".safetensors:", ".npz:"] {
            if let Some(at) = s.rfind(ending) {
                let colon = at + ending.len() - 1;
                return Ok(Self {
                    path: s[..colon].into(),
                    prefix: Some(s[colon + 1..].to_owned()),
                });
            }
        }
        Ok(Self {
            path: s.into(),
            prefix: None,
        })
    }
}

/// `NAME=FILE`: one tensor from a file that holds one.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TensorFile {
    /// Input name.
    pub name: String,
    /// The file.
    pub path: PathBuf,
}

/// Where a run's inputs come from.
#[derive(Debug, Default)]
pub struct InputRequest {
    /// Files with many tensors.
    pub files: Vec<PrefixedFile>,
    /// Files with one tensor each.
    pub single: Vec<TensorFile>,
    /// Shapes for inputs that are not in a file.
    pub shapes: Vec<(String, Vec<usize>)>,
    /// Sizes of named dims, for inputs that are not in a file.
    pub dims: BTreeMap<String, u64>,
    /// Seed for inputs that are not in a file.
    pub seed: u64,
}

/// Inputs, and which of them were made up.
#[derive(Debug, Default)]
pub struct Inputs {
    /// One per declared input, in graph order.
    pub tensors: NamedTensors,
    /// Names of those drawn from the seed.
    pub random: BTreeSet<String>,
    /// Sizes of the spec's dims.
    pub dims: BTreeMap<String, u64>,
}

/// Puts together one tensor for every declared input and checks it against the declaration and the spec.
///
/// # Errors
/// All problems together; see [`Error::Inputs`] and the shape spec's own errors.
pub fn gather_inputs(
    request: &InputRequest,
    declared: &[TensorDecl],
    shapes: &Resolved,
) -> Result<Inputs, Error> {
    let mut given: BTreeMap<String, Tensor> = BTreeMap::new();
    let mut problems = Vec::new();
    let mut add = |name: String, tensor: Tensor, problems: &mut Vec<String>| {
        if given.contains_key(&name) {
            problems.push(format!("input `{name}` is given twice"));
        }
        given.insert(name, tensor);
    };
    let names: Vec<&str> = declared.iter().map(|d| d.name.as_str()).collect();
    for file in &request.files {
        for (name, tensor) in take(file, &names, |_| 0)? {
            add(name, tensor, &mut problems);
        }
    }
    for one in &request.single {
        let mut all = arrays::read(&one.path)?;
        if all.len() == 1 {
            add(one.name.clone(), all.remove(0).1, &mut problems);
        } else {
            problems.push(format!(
                "`{}` holds {} tensors, so it cannot be taken for `{}`",
                one.path.display(),
                all.len(),
                one.name
            ));
        }
    }
    for name in given.keys().chain(request.shapes.iter().map(|(n, _)| n)) {
        if !names.contains(&name.as_str()) {
            problems.push(format!("the model has no input `{name}`"));
        }
    }
    for decl in declared {
        if let Some(tensor) = given.get(&decl.name) {
            problems.extend(check(decl, tensor.dtype, &tensor.shape));
        }
    }
    fail(&problems, declared)?;

    let mut known: InputShapes = given
        .iter()
        .map(|(n, t)| (n.clone(), t.shape.clone()))
        .collect();
    known.extend(request.shapes.iter().cloned());
    let mut dims = shapes.bind_some(&known)?;
    for (name, &size) in &request.dims {
        match dims.get(name) {
            Some(&bound) if bound != size => problems.push(format!(
                "`{name}` is {size} by --dim, but the given inputs make it {bound}"
            )),
            _ => {
                dims.insert(name.clone(), size);
            }
        }
    }
    fail(&problems, declared)?;

    let all = shapes.shapes_for(&dims)?;
    let mut rng = ChaCha8Rng::seed_from_u64(request.seed);
    let mut random = BTreeSet::new();
    let mut tensors = NamedTensors::new();
    for decl in declared {
        let tensor = if let Some(t) = given.remove(&decl.name) {
            t
        } else {
            let asked = known.iter().find(|(n, _)| *n == decl.name);
            let shape = asked
                .or_else(|| all.iter().find(|(n, _)| *n == decl.name))
                .map(|(_, s)| s.clone())
                .unwrap_or_default();
            problems.extend(check(decl, decl.dtype, &shape));
            random.insert(decl.name.clone());
            match draw(decl.dtype, &shape, &mut rng) {
                Ok(t) => t,
                Err(why) => {
                    problems.push(format!("input `{}`: {why}", decl.name));
                    continue;
                }
            }
        };
        tensors.push((decl.name.clone(), tensor));
    }
    fail(&problems, declared)?;
    let dims = shapes.bind(
        &tensors
            .iter()
            .map(|(n, t)| (n.clone(), t.shape.clone()))
            .collect(),
    )?;
    Ok(Inputs {
        tensors,
        random,
        dims,
    })
}

fn fail(problems: &[String], declared: &[TensorDecl]) -> Result<(), Error> {
    if problems.is_empty() {
        return Ok(());
    }
    let list: Vec<String> = declared
        .iter()
        .map(|d| format!("{} {}{}", d.name, d.dtype, d.show_dims()))
        .collect();
    Err(Error::Inputs {
        problems: problems.to_vec(),
        hints: vec![format!("the model's inputs are: {}", list.join("; "))],
    })
}

/// What does not fit between a declaration and a tensor. Ranges of named dims are the spec's business.
fn check(decl: &TensorDecl, dtype: Dtype, shape: &[usize]) -> Vec<String> {
    let mut problems = Vec::new();
    let name = &decl.name;
    if dtype != decl.dtype {
        problems.push(format!(
            "input `{name}` is {dtype}, but the model wants {} (types are never converted silently)",
            decl.dtype
        ));
    }
    if let Some(dims) = &decl.dims {
        if dims.len() == shape.len() {
            for (axis, (extent, &size)) in dims.iter().zip(shape).enumerate() {
                if let Extent::Fixed(want) = extent
                    && *want != size
                {
                    problems.push(format!(
                        "axis {axis} of input `{name}` is {size}, but the model fixes it at {want}"
                    ));
                }
            }
        } else {
            problems.push(format!(
                "input `{name}` has rank {} ({}), but the model wants rank {} ({})",
                shape.len(),
                show_shape(shape),
                dims.len(),
                decl.show_dims()
            ));
        }
    }
    problems
}

/// Standard normal floats; 0 or 1 for integers and booleans, which are indices or flags more often than not.
fn draw(dtype: Dtype, shape: &[usize], rng: &mut ChaCha8Rng) -> Result<Tensor, String> {
    let count =
        element_count(shape).ok_or_else(|| format!("shape {} overflows", show_shape(shape)))?;
    let data = if dtype.is_float() {
        let values: Vec<f32> = (0..count).map(|_| StandardNormal.sample(rng)).collect();
        from_f32(dtype, &values).map_err(|e| e.to_string())?
    } else if dtype.bits() >= 8 && !matches!(dtype, Dtype::C64 | Dtype::C128) {
        let width = dtype.bits() / 8;
        let mut data = vec![0u8; count * width];
        for element in data.chunks_exact_mut(width) {
            element[0] = u8::from(rng.random::<bool>());
        }
        data
    } else {
        return Err(format!("{dtype} values cannot be drawn; give a file"));
    };
    Ok(Tensor {
        dtype,
        shape: shape.to_vec(),
        data,
    })
}

/// The expected outputs in `file`, and the prefix that they stand under. `is_base` says whether the plan holds its base weights.
///
/// # Errors
/// A file that has none of the outputs, or has them under several prefixes.
pub fn pick_expected(
    file: &PrefixedFile,
    outputs: &[TensorDecl],
    is_base: bool,
) -> Result<(NamedTensors, String), Error> {
    let names: Vec<&str> = outputs.iter().map(|d| d.name.as_str()).collect();
    let rank = |prefix: &str| usize::from((prefix == "base.") != is_base);
    let all = arrays::read(&file.path)?;
    let prefix = match &file.prefix {
        Some(p) => p.clone(),
        None => find_prefix(&file.path, &all, &names, rank)?,
    };
    let found: NamedTensors = strip(all, &prefix)
        .into_iter()
        .filter(|(n, _)| names.contains(&n.as_str()))
        .collect();
    if found.is_empty() {
        return Err(none_of(&file.path, &prefix, "outputs", &names));
    }
    Ok((found, prefix))
}

fn take(
    file: &PrefixedFile,
    names: &[&str],
    rank: impl Fn(&str) -> usize,
) -> Result<NamedTensors, Error> {
    let all = arrays::read(&file.path)?;
    let prefix = match &file.prefix {
        Some(p) => p.clone(),
        None => find_prefix(&file.path, &all, names, rank)?,
    };
    let found = strip(all, &prefix);
    if found.is_empty() {
        return Err(none_of(&file.path, &prefix, "inputs", names));
    }
    Ok(found)
}

fn strip(all: NamedTensors, prefix: &str) -> NamedTensors {
    all.into_iter()
        .filter_map(|(n, t)| n.strip_prefix(prefix).map(|n| (n.to_owned(), t)))
        .collect()
}

fn none_of(path: &Path, prefix: &str, what: &str, names: &[&str]) -> Error {
    Error::Inputs {
        problems: vec![format!(
            "`{}` has none of the model's {what} under the prefix `{prefix}`",
            path.display()
        )],
        hints: vec![format!("the model's {what} are: {}", names.join(", "))],
    }
}

/// The prefix under which `all` has the most of `names`; `rank` breaks ties, lower first.
fn find_prefix(
    path: &Path,
    all: &NamedTensors,
    names: &[&str],
    rank: impl Fn(&str) -> usize,
) -> Result<String, Error> {
    if all.iter().any(|(n, _)| names.contains(&n.as_str())) {
        return Ok(String::new());
    }
    let mut hits: BTreeMap<&str, usize> = BTreeMap::new();
    for (full, _) in all {
        for name in names {
            if let Some(prefix) = full.strip_suffix(name)
                && prefix.ends_with(['.', '/'])
            {
                *hits.entry(prefix).or_default() += 1;
            }
        }
    }
    let best = hits
        .iter()
        .map(|(p, n)| (std::cmp::Reverse(*n), rank(p)))
        .min();
    let winners: Vec<&str> = hits
        .iter()
        .filter(|(p, n)| Some((std::cmp::Reverse(**n), rank(p))) == best)
        .map(|(p, _)| *p)
        .collect();
    match winners[..] {
        [one] => Ok(one.to_owned()),
        // Names that match nothing are reported by their own names, without a prefix.
        [] => Ok(String::new()),
        _ => Err(Error::Inputs {
            problems: vec![format!(
                "`{}` has {} under several prefixes: {}",
                path.display(),
                names.join(", "),
                winners.join(", ")
            )],
            hints: vec![format!("choose one: `{}:{}`", path.display(), winners[0])],
        }),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn named(names: &[&str]) -> NamedTensors {
        names
            .iter()
            .map(|n| {
                (
                    (*n).to_owned(),
                    Tensor {
                        dtype: Dtype::F32,
                        shape: vec![],
                        data: vec![0; 4],
                    },
                )
            })
            .collect()
    }

    fn find(all: &[&str], names: &[&str], rank: impl Fn(&str) -> usize) -> Result<String, Error> {
        find_prefix(Path::new("f.safetensors"), &named(all), names, rank)
    }

    #[test]
    fn prefixes_are_found_where_they_are_clear() {
        assert_eq!(find(&["a", "in.a"], &["a"], |_| 0).unwrap(), "");
        assert_eq!(
            find(&["in.a", "in.b", "base.o"], &["a", "b"], |_| 0).unwrap(),
            "in."
        );
        let two = ["base.o", "fused.o"];
        assert!(find(&two, &["o"], |_| 0).is_err());
        let base_first = |p: &str| usize::from(p != "base.");
        assert_eq!(find(&two, &["o"], base_first).unwrap(), "base.");
        let base_last = |p: &str| usize::from(p == "base.");
        assert_eq!(find(&two, &["o"], base_last).unwrap(), "fused.");
        assert!(find(&["base.o", "x.o", "y.o"], &["o"], base_last).is_err());
    }

    #[test]
    fn a_prefix_is_split_off_only_after_a_file_name() {
        let f: PrefixedFile = "d:ir/io.safetensors:in.".parse().unwrap();
        assert_eq!(f.path, Path::new("d:ir/io.safetensors"));
        assert_eq!(f.prefix.as_deref(), Some("in."));
        let f: PrefixedFile = "a:b/io.npz".parse().unwrap();
        assert_eq!(
            (f.path.as_path(), f.prefix),
            (Path::new("a:b/io.npz"), None)
        );
    }

    #[test]
    fn a_seed_gives_the_same_numbers_again() {
        let draw = |seed| draw(Dtype::F32, &[4], &mut ChaCha8Rng::seed_from_u64(seed)).unwrap();
        assert_eq!(draw(1), draw(1));
        assert_ne!(draw(1), draw(2));
    }
}
