//! Inputs for a run, from files and from a seed; expected outputs from files.
//!
//! # Prefixes
//! A file may hold inputs and expected outputs of several runs under prefixes that end in `.` or `/` (`in.sample`,
//! `base.out`). `FILE:PREFIX` takes one prefix. Without it the names are taken as they are if the file has any of them;
//! otherwise the one prefix under which the file has the most of the names is taken, and two equally good ones are an error.
//! For expected outputs of a plan that holds its base weights, `base.` is taken before any other; for a plan that was
//! refitted, any other before `base.`. Expected outputs may stand beside inputs that have no prefix.
//!
//! # Names
//! An input has the name that the model has for it, and the one that `forward` has where the spec says which it is: the whole
//! path (`added_cond_kwargs.text_embeds`), or its end where no other input has it.

use super::draw::draw;
use crate::arrays;
use crate::pipeline::error::Error;
use crate::shapes::{InputShapes, Resolved};
use crate::tensor::{Dtype, Extent, NamedTensors, Tensor, TensorDecl, show_shape};
use rand::SeedableRng;
use rand_chacha::ChaCha8Rng;
use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};

/// A file of tensors as arguments name it: `FILE` or `FILE:PREFIX`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PrefixedFile {
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
    pub name: String,
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

/// The tensors that files give, by the model's names.
fn read_given(
    request: &InputRequest,
    names: &Names,
    outputs: &[TensorDecl],
    problems: &mut Vec<String>,
) -> Result<BTreeMap<String, Tensor>, Error> {
    let mut given: BTreeMap<String, Tensor> = BTreeMap::new();
    let mut add = |name: String, tensor: Tensor, problems: &mut Vec<String>| {
        if given.contains_key(&name) {
            problems.push(format!("input `{name}` is given twice"));
        }
        given.insert(name, tensor);
    };
    for file in &request.files {
        for (name, tensor) in take(file, names, outputs)? {
            add(names.of_model(name), tensor, problems);
        }
    }
    for one in &request.single {
        let mut all = arrays::read(&one.path)?;
        if all.len() == 1 {
            let name = names.of_model(one.name.clone());
            add(name, all.remove(0).1, problems);
        } else {
            problems.push(format!(
                "`{}` holds {} tensors, so it cannot be taken for `{}`",
                one.path.display(),
                all.len(),
                one.name
            ));
        }
    }
    Ok(given)
}

/// One tensor for each declared input, those that are not `given` drawn from `seed`; and the names of the drawn ones. Shapes are
/// those that are `known`, else those of `all`.
fn drawn(
    seed: u64,
    declared: &[TensorDecl],
    mut given: BTreeMap<String, Tensor>,
    known: &InputShapes,
    all: &InputShapes,
    problems: &mut Vec<String>,
) -> (NamedTensors, BTreeSet<String>) {
    let mut rng = ChaCha8Rng::seed_from_u64(seed);
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
    (tensors, random)
}

/// Puts together one tensor for every declared input and checks it against the declaration and the spec.
///
/// # Errors
/// All problems together; see [`Error::Inputs`] and the shape spec's own errors.
pub fn gather_inputs(
    request: &InputRequest,
    declared: &[TensorDecl],
    outputs: &[TensorDecl],
    shapes: &Resolved,
) -> Result<Inputs, Error> {
    let names = Names::new(declared, shapes);
    let mut problems = Vec::new();
    let mut given = read_given(request, &names, outputs, &mut problems)?;
    let asked: Vec<(String, Vec<usize>)> = request
        .shapes
        .iter()
        .map(|(name, shape)| (names.of_model(name.clone()), shape.clone()))
        .collect();
    for name in given.keys().chain(asked.iter().map(|(n, _)| n)) {
        if !declared.iter().any(|d| d.name == *name) {
            problems.push(format!("the model has no input `{name}`"));
        }
    }
    for decl in declared {
        if let Some(tensor) = given.get_mut(&decl.name) {
            // Most tools cannot write a scalar other than as one element.
            if decl.dims.as_ref().is_some_and(Vec::is_empty) && tensor.shape.iter().all(|&n| n == 1)
            {
                tensor.shape.clear();
            }
            problems.extend(check(decl, tensor.dtype, &tensor.shape));
        }
    }
    fail(&problems, shapes)?;

    let mut known: InputShapes = given
        .iter()
        .map(|(n, t)| (n.clone(), t.shape.clone()))
        .collect();
    known.extend(asked);
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
    fail(&problems, shapes)?;

    let (tensors, random) = drawn(
        request.seed,
        declared,
        given,
        &known,
        &shapes.shapes_for(&dims)?,
        &mut problems,
    );
    fail(&problems, shapes)?;
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

/// The names that inputs go by.
struct Names {
    /// Each with the model's own.
    all: BTreeMap<String, String>,
}

impl Names {
    fn new(declared: &[TensorDecl], shapes: &Resolved) -> Names {
        let last = |argument: &str| argument.rsplit('.').next().unwrap_or_default().to_owned();
        let arguments: Vec<(&str, &str)> = shapes
            .inputs()
            .iter()
            .filter_map(|i| Some((i.name.as_str(), i.argument.as_deref()?)))
            .collect();
        let mut ends: BTreeMap<String, usize> = BTreeMap::new();
        for (_, argument) in &arguments {
            *ends.entry(last(argument)).or_default() += 1;
        }
        let mut all = BTreeMap::new();
        for (name, argument) in arguments {
            if ends[&last(argument)] == 1 {
                all.insert(last(argument), name.to_owned());
            }
            all.insert(argument.to_owned(), name.to_owned());
        }
        // The model's own names come before any other meaning.
        all.extend(declared.iter().map(|d| (d.name.clone(), d.name.clone())));
        Names { all }
    }

    fn list(&self) -> Vec<&str> {
        self.all.keys().map(String::as_str).collect()
    }

    /// What the model calls the input `name`; a name that means nothing stays, and is reported.
    fn of_model(&self, name: String) -> String {
        self.all.get(&name).cloned().unwrap_or(name)
    }
}

/// Shapes of those of the model's inputs that `file` has.
///
/// # Errors
/// A file that cannot be read, has none of them, or has them under several prefixes.
pub fn example_shapes(file: &PrefixedFile, declared: &[TensorDecl]) -> Result<InputShapes, Error> {
    let all = declared.iter().map(|d| (d.name.clone(), d.name.clone()));
    let names = Names { all: all.collect() };
    let mut shapes = InputShapes::new();
    for (name, tensor) in take(file, &names, &[])? {
        if names.all.contains_key(&name) {
            shapes.push((name, tensor.shape));
        }
    }
    if shapes.is_empty() {
        let prefix = file.prefix.as_deref().unwrap_or_default();
        return Err(none_of(&file.path, prefix, "inputs", &names.list()));
    }
    Ok(shapes)
}

fn fail(problems: &[String], shapes: &Resolved) -> Result<(), Error> {
    if problems.is_empty() {
        return Ok(());
    }
    Err(Error::Inputs {
        problems: problems.to_vec(),
        hints: vec![format!("the model's inputs are: {}", shapes.show_inputs())],
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
    let all = arrays::read_some(&file.path, |full| names.iter().any(|n| full.ends_with(n)))?;
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

/// The inputs in `file`. Where it has them without a prefix, the expected `outputs` beside them, with any prefix, are no inputs.
fn take(file: &PrefixedFile, names: &Names, outputs: &[TensorDecl]) -> Result<NamedTensors, Error> {
    let known = names.list();
    let all = arrays::read_some(&file.path, |full| {
        known.iter().any(|n| full.ends_with(n)) || is_expected(full, outputs)
    })?;
    let prefix = match &file.prefix {
        Some(p) => p.clone(),
        None => find_prefix(&file.path, &all, &known, |_| 0)?,
    };
    let mut found = strip(all, &prefix);
    if file.prefix.is_none() && prefix.is_empty() {
        found.retain(|(name, _)| known.contains(&name.as_str()) || !is_expected(name, outputs));
    }
    if found.is_empty() {
        return Err(none_of(&file.path, &prefix, "inputs", &known));
    }
    Ok(found)
}

/// Whether `name` is that of an output, or ends in one after a prefix.
fn is_expected(name: &str, outputs: &[TensorDecl]) -> bool {
    outputs.iter().any(|d| {
        name.strip_suffix(d.name.as_str())
            .is_some_and(|prefix| prefix.is_empty() || prefix.ends_with(['.', '/']))
    })
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

    fn decl(name: &str) -> TensorDecl {
        TensorDecl {
            name: name.into(),
            dtype: Dtype::F32,
            dims: Some(Vec::new()),
        }
    }

    fn gather(
        file: &NamedTensors,
        inputs: &[&str],
        outputs: &[&str],
        spec: &str,
    ) -> Result<BTreeSet<String>, Error> {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("io.safetensors");
        arrays::write(&path, file).unwrap();
        let inputs: Vec<TensorDecl> = inputs.iter().map(|n| decl(n)).collect();
        let outputs: Vec<TensorDecl> = outputs.iter().map(|n| decl(n)).collect();
        let shapes = crate::shapes::ShapeSpec::parse(spec, "s.json")
            .unwrap()
            .resolve(&inputs, &crate::shapes::Overrides::default())
            .unwrap();
        let request = InputRequest {
            files: vec![PrefixedFile { path, prefix: None }],
            ..InputRequest::default()
        };
        let gathered = gather_inputs(&request, &inputs, &outputs, &shapes)?;
        let drawn = gathered.random;
        Ok(inputs
            .into_iter()
            .map(|d| d.name)
            .filter(|n| !drawn.contains(n))
            .collect())
    }

    #[test]
    fn outputs_beside_inputs_are_no_inputs() {
        let none = r#"{"inputs": {}}"#;
        let all = BTreeSet::from(["a".to_owned(), "b".to_owned()]);
        for beside in ["base.y", "y", "fused/y"] {
            let file = named(&["a", "b", beside]);
            assert_eq!(
                gather(&file, &["a", "b"], &["y"], none).unwrap(),
                all,
                "{beside}"
            );
        }
        // What is neither input nor output may be a misspelt input.
        for stray in ["base.z", "c", "in.a.x"] {
            let error = gather(&named(&["a", "b", stray]), &["a", "b"], &["y"], none);
            assert!(matches!(error, Err(Error::Inputs { .. })), "{stray}");
        }
    }

    #[test]
    fn one_element_is_a_scalar() {
        let mut file = named(&["a", "b"]);
        file[0].1.shape = vec![1];
        file[1].1.shape = vec![1, 1];
        assert_eq!(
            gather(&file, &["a", "b"], &["y"], r#"{"inputs": {}}"#)
                .unwrap()
                .len(),
            2
        );
        file[0].1 = Tensor {
            dtype: Dtype::F32,
            shape: vec![2],
            data: vec![0; 8],
        };
        assert!(gather(&file, &["a", "b"], &["y"], r#"{"inputs": {}}"#).is_err());
    }

    #[test]
    fn inputs_go_by_the_names_of_forward() {
        let spec = r#"{"kwargs": {"x": [], "cond": {"text_embeds": [], "ids": []}, "other": {"ids": []}}}"#;
        let inputs = ["x", "cond_text_embeds", "cond_ids", "other_ids"];
        let given = |names: &[&str]| gather(&named(names), &inputs, &["y"], spec);
        let all: BTreeSet<String> = inputs.iter().map(|n| (*n).to_owned()).collect();
        assert_eq!(
            given(&["x", "text_embeds", "cond.ids", "other.ids"]).unwrap(),
            all
        );
        assert_eq!(given(&inputs).unwrap(), all);
        // Two have this end.
        assert!(given(&["x", "ids"]).is_err());
        assert!(given(&["x", "text_embeds", "cond_text_embeds"]).is_err());
    }
}
