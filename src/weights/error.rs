//! What can be wrong with weight files.

use crate::fault::{Class, Explain};
use crate::fsx;
use safetensors::SafeTensorError;
use std::fmt;
use std::path::PathBuf;

/// Why weights could not be opened.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The tensors cannot be laid out as the model names them.
    #[error(transparent)]
    Layout(#[from] super::layouts::Error),
    /// The file system said no.
    #[error(transparent)]
    File(#[from] fsx::Error),
    /// A file of zero bytes.
    #[error("`{path}` is empty", path = path.display())]
    Empty { path: PathBuf },
    /// The file is of another format.
    #[error("`{path}` is {kind}, not safetensors", path = path.display())]
    OtherFormat {
        path: PathBuf,
        /// What it is, with its article: `a PyTorch pickle`.
        kind: &'static str,
    },
    /// The header cannot be read; the source says at which tensor or place.
    #[error("`{path}` has no valid safetensors header", path = path.display())]
    Header {
        path: PathBuf,
        /// What the parser said.
        source: SafeTensorError,
    },
    /// The file is shorter or longer than its header says.
    #[error("`{path}` should be {expected} bytes long by its header, and is {actual}", path = path.display())]
    Length {
        path: PathBuf,
        /// Length that the header describes; `u64::MAX` where it exceeds a u64.
        expected: u64,
        /// Length of the file.
        actual: u64,
    },
    /// A header that names a tensor twice.
    #[error("the header of `{path}` names {} twice", quoted(names), path = path.display())]
    Repeated { path: PathBuf, names: Vec<String> },
    /// Tensors of an element type that nothing here can hold.
    #[error("`{path}` holds tensors of unsupported type: {}", typed(tensors), path = path.display())]
    Dtype {
        path: PathBuf,
        /// Name and element type of each.
        tensors: Vec<(String, String)>,
    },
    /// Several files that hold the same name.
    #[error("{} tensors stand in more than one file, first `{}` in `{}` and `{}`", names.len(), names[0].0,
            names[0].1.display(), names[0].2.display())]
    Duplicate {
        /// Name, first file, second file; never empty.
        names: Vec<(String, PathBuf, PathBuf)>,
    },
    /// No file was given.
    #[error("no weight file was given")]
    None,
    /// A folder without weights.
    #[error("`{path}` holds no safetensors file and no index of shards", path = path.display())]
    NothingInFolder { path: PathBuf },
    /// A folder with more than one candidate.
    #[error("`{path}` holds {} weight files, and which one is meant cannot be decided: {}", found.len(), quoted(found),
            path = path.display())]
    SeveralInFolder {
        path: PathBuf,
        /// File names found, sorted.
        found: Vec<String>,
    },
    /// An index that is not the JSON it should be.
    #[error("`{path}` is not an index of shards", path = path.display())]
    IndexSyntax {
        path: PathBuf,
        source: serde_json::Error,
    },
    /// An index that its shards contradict.
    #[error("`{path}` and its shards disagree in {} places, first: {}", problems.len(), problems[0], path = path.display())]
    Index {
        path: PathBuf,
        /// All of them; never empty.
        problems: Vec<IndexProblem>,
    },
}

/// One contradiction between an index of shards and the files.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum IndexProblem {
    /// A shard's name leads out of the index's folder.
    Escapes {
        /// As the index says it.
        shard: String,
    },
    /// A shard is not there.
    Missing {
        /// As the index says it.
        shard: String,
    },
    /// The shard does not hold a tensor that the index places in it.
    Absent {
        tensor: String,
        /// As the index says it.
        shard: String,
    },
    /// Two shards hold the tensor.
    Twice {
        tensor: String,
        /// Where the index places it.
        shard: String,
        /// Where else it is.
        other: String,
    },
    /// A shard holds a tensor that the index does not list.
    Unlisted { tensor: String, shard: String },
    /// The index lists the tensor twice.
    Repeated { tensor: String },
}

impl fmt::Display for IndexProblem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Escapes { shard } => write!(f, "shard `{shard}` is outside the index's folder"),
            Self::Missing { shard } => write!(f, "shard `{shard}` is missing"),
            Self::Absent { tensor, shard } => {
                write!(f, "tensor `{tensor}` is not in shard `{shard}`")
            }
            Self::Twice {
                tensor,
                shard,
                other,
            } => {
                write!(
                    f,
                    "tensor `{tensor}` is in shard `{shard}` and in `{other}`"
                )
            }
            Self::Unlisted { tensor, shard } => {
                write!(
                    f,
                    "tensor `{tensor}` of shard `{shard}` is not in the index"
                )
            }
            Self::Repeated { tensor } => write!(f, "tensor `{tensor}` is listed twice"),
        }
    }
}

fn quoted(names: &[String]) -> String {
    let shown: Vec<_> = names.iter().map(|n| format!("`{n}`")).collect();
    shown.join(", ")
}

fn typed(tensors: &[(String, String)]) -> String {
    let shown: Vec<_> = tensors
        .iter()
        .map(|(n, d)| format!("`{n}` ({d})"))
        .collect();
    shown.join(", ")
}

impl Explain for Error {
    fn code(&self) -> &'static str {
        match self {
            Error::Layout(e) => e.code(),
            Error::File(e) => e.code(),
            Error::Empty { .. } => "weights-empty",
            Error::OtherFormat { .. } => "weights-format",
            Error::Header { .. } => "weights-header",
            Error::Length { .. } => "weights-length",
            Error::Repeated { .. } => "weights-repeated-name",
            Error::Dtype { .. } => "weights-dtype",
            Error::Duplicate { .. } => "weights-duplicate",
            Error::None => "weights-none",
            Error::NothingInFolder { .. } => "weights-nothing-in-folder",
            Error::SeveralInFolder { .. } => "weights-several-in-folder",
            Error::IndexSyntax { .. } => "shard-index-syntax",
            Error::Index { .. } => "shard-index-mismatch",
        }
    }

    fn class(&self) -> Class {
        match self {
            Error::Layout(e) => e.class(),
            Error::File(e) => e.class(),
            Error::None => Class::Usage,
            _ => Class::Input,
        }
    }

    fn hints(&self) -> Vec<String> {
        match self {
            Error::Layout(e) => e.hints(),
            Error::File(e) => e.hints(),
            Error::Empty { .. } => vec!["download or save the file again".into()],
            Error::OtherFormat { path, kind } if kind.contains("pickle") => {
                let (from, to) = (path.display(), path.with_extension("safetensors"));
                vec![
                    format!(
                        "convert it: python3 -c \"import torch, safetensors.torch as s; d = torch.load('{from}', \
                         map_location='cpu', weights_only=True); d = d.get('state_dict', d); \
                         s.save_file({{k: v.contiguous() for k, v in d.items()}}, '{}')\"",
                        to.display()
                    ),
                    "pickles can run code when they are loaded, so they are not read here".into(),
                ]
            }
            Error::OtherFormat { kind, .. } => vec![match *kind {
                "a Git LFS pointer" => {
                    "the file itself was not fetched: run `git lfs pull` in its repository, or download it again".into()
                }
                "a web page" | "a JSON document" => {
                    "the download was answered with a page, as when a login is needed: download the file again".into()
                }
                "a GGUF file" => {
                    "GGUF holds quantised blocks: give the safetensors checkpoint that it was made from".into()
                }
                _ => "name a .safetensors file".into(),
            }],
            Error::Length {
                expected, actual, ..
            } if actual < expected => {
                vec!["the file was cut short; download or copy it again".into()]
            }
            Error::Length { .. } | Error::Header { .. } | Error::Repeated { .. } => {
                vec!["the file is damaged or was written by a faulty tool; save it again".into()]
            }
            Error::Dtype { .. } => {
                vec!["save these tensors in f32, f16, bf16 or an 8-bit float type".into()]
            }
            Error::Duplicate { .. } => {
                vec!["give each tensor once; leave out one of the files".into()]
            }
            Error::None => vec!["name a .safetensors file or an index of shards".into()],
            Error::NothingInFolder { .. } => {
                vec!["name the file itself, e.g. `diffusion_pytorch_model.safetensors`".into()]
            }
            Error::SeveralInFolder { path, found } => {
                vec![format!(
                    "name one of them, e.g. `{}`",
                    path.join(&found[0]).display()
                )]
            }
            Error::IndexSyntax { .. } => vec![
                "an index is JSON of the form {\"weight_map\": {\"tensor\": \"shard.safetensors\"}}"
                    .into(),
            ],
            Error::Index { path, problems } => {
                let mut hints: Vec<String> = problems
                    .iter()
                    .skip(1)
                    .map(|p| format!("also: {p}"))
                    .collect();
                let folder = path.parent().unwrap_or(path);
                hints.push(format!(
                    "download every shard again into `{}`",
                    folder.display()
                ));
                hints
            }
        }
    }
}
