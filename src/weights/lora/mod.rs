//! LoRAs: reading them in every format that is in use, finding the weights that they mean, and fusing them.
//!
//! A key that no weight of the model answers to is an error, and so is a weight that two keys answer to: a LoRA is fused
//! whole or not at all. Parts for other components of a pipeline (text encoders beside a UNet) are left out and named.

mod build;
mod change;
mod config;
mod error;
mod family_names;
mod fuse;
mod key_layouts;
mod kinds;
mod multiply;
mod place;
mod resolve;

pub use error::{Error, Problem};
pub use fuse::{Fuse, Fusion, Recipe};
pub use key_layouts::{Component, Format};
pub use resolve::Targets;

use super::Source;
use crate::tensor::Digest;
use change::{Change, Parts};
use config::Config;
use key_layouts::{Key, Role};
use resolve::{Found, Index};
use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};

/// How many nearest names an unmatched module is shown with.
const NEAREST: usize = 3;

/// A LoRA that fits a model.
#[derive(Debug)]
pub struct Lora {
    source: Source,
    path: PathBuf,
    digest: Digest,
    formats: BTreeSet<Format>,
    taken: BTreeMap<Component, usize>,
    skipped: BTreeMap<Component, usize>,
    misfits: BTreeMap<Component, Problem>,
    notes: Vec<String>,
    changes: Vec<Change>,
    targets: BTreeMap<String, Target>,
}

/// What a user says about a file that does not say it itself.
#[derive(Debug, Clone, Copy, Default, PartialEq)]
pub struct Options {
    /// Which component of a file that holds several.
    pub component: Option<Component>,
    /// The alpha of modules for which neither the file nor a configuration states one.
    pub alpha: Option<f64>,
    /// The file is given to several models: a part of which no module fits this one is for another, and so may be all of it.
    pub shared: bool,
}

/// A weight that a LoRA changes.
#[derive(Debug)]
struct Target {
    shape: Vec<usize>,
    parts: Vec<Part>,
}

/// Rows of a change and where they go.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Part {
    change: usize,
    /// First row of the change.
    from: usize,
    /// First row of the weight.
    to: usize,
    rows: usize,
}

impl Lora {
    /// Opens the LoRA at `path` (a safetensors file, or the folder that PEFT saved an adapter in) and finds what of
    /// `targets` it changes.
    ///
    /// # Errors
    /// See [`Error`]; all problems of the file are reported at once.
    pub fn open(path: impl AsRef<Path>, targets: &dyn Targets) -> Result<Lora, Error> {
        Self::open_with(path, targets, &Options::default())
    }

    /// As [`Lora::open`], with what the file does not say.
    ///
    /// # Errors
    /// As [`Lora::open`].
    pub fn open_with(
        path: impl AsRef<Path>,
        targets: &dyn Targets,
        options: &Options,
    ) -> Result<Lora, Error> {
        let path = file_at(path.as_ref());
        let source = Source::open(&path)?;
        let mut notes = Vec::new();
        let (modules, mut problems) = read(&source, &path, &mut notes)?;
        if modules.is_empty() {
            return Err(if problems.is_empty() {
                Error::NoLora { path }
            } else {
                Error::Problems { path, problems }
            });
        }
        let index = Index::new(targets);
        let mut by_component: BTreeMap<Component, Vec<Resolved>> = BTreeMap::new();
        for (name, module) in modules {
            let key_path = key_layouts::path(&name);
            let found = index.find(&key_path);
            (by_component.entry(key_path.component).or_default()).push(Resolved {
                name,
                path: key_path,
                module,
                found,
            });
        }
        let chosen = choose(&path, &source, &index, by_component, options)?;
        problems.extend(chosen.problems);
        notes.extend(noted(&source, &chosen.changes, &chosen.twice, options));
        if !problems.is_empty() {
            return Err(Error::Problems { path, problems });
        }
        let mut digests = source.files().iter().map(super::SourceFile::digest);
        // Of one file the file's own digest, which `b3sum` gives as well; of several, one over all.
        let digest = match (digests.next(), source.files().len()) {
            (Some(one), 1) => one,
            (first, _) => {
                let mut h = crate::tensor::LabelledHasher::new("trtmut.files/1");
                for d in first.into_iter().chain(digests) {
                    h.field("file", &d.0);
                }
                h.finish()
            }
        };
        Ok(Lora {
            formats: source.names().map(Format::of).collect(),
            source,
            path,
            digest,
            taken: chosen.taken,
            skipped: chosen.skipped,
            misfits: chosen.misfits,
            notes,
            changes: chosen.changes,
            targets: chosen.targets,
        })
    }

    /// The weights and biases that it changes, sorted.
    pub fn targets(&self) -> impl ExactSizeIterator<Item = &str> {
        self.targets.keys().map(String::as_str)
    }

    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Digest of the whole file.
    pub fn digest(&self) -> Digest {
        self.digest
    }

    /// Who writes keys like the file's.
    pub fn formats(&self) -> impl Iterator<Item = Format> {
        self.formats.iter().copied()
    }

    /// Components of the file that are for other models, with the number of modules of each.
    pub fn skipped(&self) -> impl Iterator<Item = (Component, usize)> {
        self.skipped.iter().map(|(c, n)| (*c, *n))
    }

    /// Components of the file that are for this model, with the number of modules of each.
    pub fn taken(&self) -> impl Iterator<Item = (Component, usize)> {
        self.taken.iter().map(|(c, n)| (*c, *n))
    }

    /// Why a component that has modules of the model's names is not for it: the first of them that does not fit.
    pub fn misfit(&self, component: Component) -> Option<&Problem> {
        self.misfits.get(&component)
    }

    /// What is to be said about the file.
    pub fn notes(&self) -> &[String] {
        &self.notes
    }

    /// The largest rank of the factors that change `target`; `None` when it is changed by a full tensor, or not at all.
    /// The delta's rank is at most this (its square for LoHa; for LoKr it says nothing).
    pub fn rank(&self, target: &str) -> Option<usize> {
        self.changes_of(target).filter_map(|c| c.rank).max()
    }

    /// The alpha that the file or its configuration states for `target`.
    pub fn alpha(&self, target: &str) -> Option<f64> {
        self.changes_of(target).find_map(|c| c.alpha)
    }

    /// The factor that `alpha` and rank give for `target`, without the user's scale.
    pub fn scaling(&self, target: &str) -> Option<f64> {
        self.changes_of(target).map(|c| c.scaling).next()
    }

    fn changes_of(&self, target: &str) -> impl Iterator<Item = &Change> {
        let parts = self.targets.get(target).into_iter().flat_map(|t| &t.parts);
        parts.map(|p| &self.changes[p.change])
    }
}

/// A module of the file with its configuration and what it was found to be.
struct Resolved {
    name: String,
    path: key_layouts::Path,
    module: ModuleParts,
    found: Found,
}

/// The tensors of a module and where its configuration is.
struct ModuleParts {
    parts: Parts,
    config: Option<(Config, String)>,
}

/// What was made of a set of modules.
#[derive(Default)]
struct Chosen {
    problems: Vec<Problem>,
    taken: BTreeMap<Component, usize>,
    skipped: BTreeMap<Component, usize>,
    /// Of components that are for another model, where a module of the same name is here.
    misfits: BTreeMap<Component, Problem>,
    changes: Vec<Change>,
    targets: BTreeMap<String, Target>,
    /// Modules that say what another one has said.
    twice: BTreeSet<String>,
}

/// What is to be said about a file that fits.
fn noted(
    source: &Source,
    changes: &[Change],
    twice: &BTreeSet<String>,
    options: &Options,
) -> Vec<String> {
    let mut notes = Vec::new();
    let nothing: BTreeSet<&str> = (changes.iter())
        .filter(|c| c.is_nothing())
        .map(|c| c.module.as_str())
        .collect();
    if !nothing.is_empty() {
        notes.push(format!(
            "{} modules have an alpha of 0 and change nothing",
            nothing.len()
        ));
    }
    let f8 = |n: &&str| source.get(n).is_some_and(|v| kinds::is_f8(v.dtype));
    let narrow = source.names().filter(f8).count();
    if narrow > 0 {
        notes.push(format!(
            "{narrow} tensors are f8 and are taken for what they say"
        ));
    }
    if !twice.is_empty() {
        notes.push(format!(
            "{} modules are stated twice, with the same values",
            twice.len()
        ));
    }
    if let Some(alpha) = options.alpha {
        notes.push(format!("alpha is {alpha} where the file states none"));
    }
    notes
}

/// The file of the LoRA that a user calls `path`.
fn file_at(path: &Path) -> PathBuf {
    // The name that PEFT's `save_pretrained` uses; the folder has the configuration beside it.
    let inner = path.join("adapter_model.safetensors");
    if inner.is_file() {
        inner
    } else {
        path.to_owned()
    }
}

/// Where PEFT's configuration of the LoRA in `file` is, if anywhere.
fn configuration(file: &Path) -> PathBuf {
    file.with_file_name("adapter_config.json")
}

/// The files that [`Lora::open`] may read at `path`. Not all of them have to be there.
pub fn files_of(path: &Path) -> Vec<PathBuf> {
    let file = file_at(path);
    let mut files = super::files_of(&file);
    files.push(configuration(&file));
    files
}

/// The tensors by module, and keys that cannot be used.
type Read = (BTreeMap<String, ModuleParts>, Vec<Problem>);

/// Groups the keys by module. Configurations come from the metadata, or for PEFT's keys from beside the file.
fn read(source: &Source, path: &Path, notes: &mut Vec<String>) -> Result<Read, Error> {
    const PEFT: &str = "base_model.model.";
    let metadata = source
        .files()
        .iter()
        .find_map(|f| f.metadata().get(config::METADATA));
    let by_prefix = match metadata {
        Some(text) => Config::from_metadata(text, path)?,
        None => BTreeMap::new(),
    };
    let adapter = if by_prefix.is_empty() && source.names().any(|n| n.starts_with(PEFT)) {
        let beside = configuration(path);
        if beside.is_file() {
            Some(Config::open(&beside)?)
        } else {
            notes.push(format!(
                "there is no `{}`: where the file states no alpha, it is taken to be the rank, as ComfyUI and diffusers do \
                 (`--lora-alpha` says another)",
                beside.display()
            ));
            None
        }
    } else {
        None
    };
    let config_of = |module: &str| -> Option<(Config, String)> {
        if let (Some(config), Some(inner)) = (&adapter, module.strip_prefix(PEFT)) {
            return Some((config.clone(), inner.to_owned()));
        }
        let bare = module.strip_prefix(PEFT).unwrap_or(module);
        if let Some((first, rest)) = bare.split_once('.')
            && let Some(config) = by_prefix.get(first)
        {
            return Some((config.clone(), rest.to_owned()));
        }
        by_prefix.get("").map(|c| (c.clone(), bare.to_owned()))
    };
    let mut modules: BTreeMap<String, ModuleParts> = BTreeMap::new();
    let mut problems = Vec::new();
    let (mut plain, mut ignored) = (Vec::new(), Vec::new());
    let (mut any, mut refused) = (false, false);
    for key in source.names() {
        let (module, role) = match key_layouts::parse(key) {
            Key::Part { module, role } => {
                any = true;
                (module, role)
            }
            Key::Plain { module, role } => {
                plain.push((key, module, role));
                continue;
            }
            Key::Ignored => {
                ignored.push(key);
                continue;
            }
            Key::Implied => continue,
            Key::Refused(kind) => {
                (any, refused) = (true, true);
                problems.push(Problem::Unsupported {
                    key: key.to_owned(),
                    kind,
                });
                continue;
            }
            Key::Unknown => {
                problems.push(Problem::UnknownKey {
                    key: key.to_owned(),
                });
                continue;
            }
        };
        insert(&mut modules, module, role, key, &config_of, &mut problems);
    }
    // Last: whether a plain parameter was trained, or is of a refused kind, the others say.
    for (key, module, role) in plain {
        let declared = config_of(&module)
            .is_some_and(|(c, inner)| c.saves(&inner) || (c.bias && role == Role::BiasReplacement));
        if declared {
            any = true;
            insert(&mut modules, module, role, key, &config_of, &mut problems);
        } else if !refused {
            problems.push(Problem::UnknownKey {
                key: key.to_owned(),
            });
        }
    }
    // Plain parameters alone are a checkpoint, which one message says better than one for each key.
    if !any {
        return Err(Error::NoLora {
            path: path.to_owned(),
        });
    }
    if let Some(first) = ignored.first() {
        notes.push(format!(
            "{} tensors that are not for the model's weights are left out, first `{first}`",
            ignored.len()
        ));
    }
    Ok((modules, problems))
}

fn insert(
    modules: &mut BTreeMap<String, ModuleParts>,
    module: String,
    role: Role,
    key: &str,
    config_of: &dyn Fn(&str) -> Option<(Config, String)>,
    problems: &mut Vec<Problem>,
) {
    let entry = modules.entry(module).or_insert_with_key(|m| ModuleParts {
        parts: Parts::new(),
        config: config_of(m),
    });
    if let Some(other) = entry.parts.insert(role, key.to_owned()) {
        problems.push(Problem::Value {
            key: key.to_owned(),
            what: format!("says the same as `{other}`"),
        });
    }
}

/// Chooses the components that are for this model. Two that fit the same weights cannot both be meant: the one without
/// problems counts, and if that does not decide it, the user has to.
fn choose(
    path: &Path,
    source: &Source,
    index: &Index,
    mut all: BTreeMap<Component, Vec<Resolved>>,
    options: &Options,
) -> Result<Chosen, Error> {
    let mut skipped = leave_out(&mut all, options);
    if all.is_empty() && !options.shared {
        return Err(Error::NoLora {
            path: path.to_owned(),
        });
    }
    let mut placed: BTreeMap<Component, Chosen> = (all.iter())
        .map(|(component, modules)| {
            (
                *component,
                place::place(source, index, modules, options.alpha),
            )
        })
        .collect();
    let mut misfits = BTreeMap::new();
    if options.shared {
        placed.retain(|component, one| {
            let keep = !one.targets.is_empty();
            if !keep {
                skipped.insert(*component, all[component].len());
                let first = std::mem::take(&mut one.problems).into_iter().next();
                // For several plans a part that fits none of this one's weights is another plan's;
                // its first problem is kept to say so where no plan takes it.
                misfits.extend(first.map(|p| (*component, p)));
            }
            keep
        });
    }
    let rivals = rivals(&placed);
    let clean: Vec<Component> = (rivals.iter().copied())
        .filter(|c| placed[c].problems.is_empty())
        .collect();
    match clean.as_slice() {
        [one] => {
            placed.retain(|c, _| c == one || !rivals.contains(c));
            for loser in rivals.iter().filter(|c| *c != one) {
                skipped.insert(*loser, all[loser].len());
            }
        }
        // There are no rivals, or none of them fits: then the problems of all of them say why.
        [] => {}
        _ => {
            return Err(Error::Components {
                path: path.to_owned(),
                components: rivals.iter().map(|c| c.name()).collect(),
            });
        }
    }
    let taken = (placed.keys())
        .map(|component| (*component, all[component].len()))
        .collect();
    Ok(Chosen {
        taken,
        skipped,
        misfits,
        ..joined(placed)
    })
}

/// Takes away the components that are not asked for or fit nothing, and returns how many modules each of them has.
fn leave_out(
    all: &mut BTreeMap<Component, Vec<Resolved>>,
    options: &Options,
) -> BTreeMap<Component, usize> {
    let mut skipped = BTreeMap::new();
    let fits = |modules: &[Resolved]| modules.iter().any(|m| m.found != Found::Nothing);
    let any = all.values().any(|m| fits(m));
    all.retain(|component, modules| {
        let keep = match options.component {
            Some(w) => *component == w,
            None if options.shared => fits(modules),
            // Keys that name no component can be for no other model.
            None => !any || *component == Component::Unnamed || fits(modules),
        };
        if !keep {
            skipped.insert(*component, modules.len());
        }
        keep
    });
    skipped
}

/// The components of which only one can be meant.
fn rivals(placed: &BTreeMap<Component, Chosen>) -> BTreeSet<Component> {
    let text = |c: &Component| matches!(c, Component::TextEncoder(_));
    (placed.iter())
        .flat_map(|(a, one)| {
            let others = placed.iter().filter(move |(b, _)| *b != a);
            let same = others.filter(move |(b, two)| {
                // A text encoder of other widths finds its modules by name and fits none of them.
                let misfit = |c: &Chosen| c.targets.is_empty();
                (text(a) && text(b) && (misfit(one) || misfit(two)))
                    || two.targets.keys().any(|t| one.targets.contains_key(t))
            });
            same.map(|(b, _)| *b)
        })
        .collect()
}

/// What the components change, as one.
fn joined(placed: BTreeMap<Component, Chosen>) -> Chosen {
    let mut chosen = Chosen::default();
    for one in placed.into_values() {
        // Parts name their change by its number in their component's list.
        let offset = chosen.changes.len();
        chosen.problems.extend(one.problems);
        chosen.changes.extend(one.changes);
        chosen.twice.extend(one.twice);
        for (name, mut target) in one.targets {
            for part in &mut target.parts {
                part.change += offset;
            }
            chosen.targets.insert(name, target);
        }
    }
    chosen
}

#[cfg(test)]
mod tests;
