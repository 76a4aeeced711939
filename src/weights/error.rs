//! What can be wrong with weight files.

use crate::fault::Explain;
use crate::fsx;
use safetensors::SafeTensorError;
use std::path::{Path, PathBuf};

const CUT_SHORT: &str = "the file was cut short; download or copy it again";
const DAMAGED: &str = "the file is damaged or was written by a faulty tool; save it again";

/// Why weights could not be opened.
#[derive(Debug, thiserror::Error, Explain)]
pub enum Error {
    /// The tensors cannot be laid out as the model names them.
    #[error(transparent)]
    #[explain(transparent)]
    Layout(#[from] super::layouts::Error),
    /// The file system said no.
    #[error(transparent)]
    #[explain(transparent)]
    File(#[from] fsx::Error),
    /// A file of zero bytes.
    #[error("`{path}` is empty", path = path.display())]
    #[explain(code = "weights-empty", class = Input, hint("download or save the file again"))]
    Empty { path: PathBuf },
    /// The file is of another format.
    #[error("`{path}` is {kind}, not safetensors", path = path.display())]
    #[explain(code = "weights-format", class = Input, hints = of_other_format(path, kind))]
    OtherFormat {
        path: PathBuf,
        /// What it is, with its article: `a PyTorch pickle`.
        kind: &'static str,
    },
    /// The header cannot be read; the source says at which tensor or place.
    #[error("`{path}` has no valid safetensors header", path = path.display())]
    #[explain(code = "weights-header", class = Input, hint("{DAMAGED}"))]
    Header {
        path: PathBuf,
        /// What the parser said.
        source: SafeTensorError,
    },
    /// The file is shorter or longer than its header says.
    #[error("`{path}` should be {expected} bytes long by its header, and is {actual}", path = path.display())]
    #[explain(code = "weights-length", class = Input, hint("{}", if actual < expected { CUT_SHORT } else { DAMAGED }))]
    Length {
        path: PathBuf,
        /// Length that the header describes; `u64::MAX` where it exceeds a u64.
        expected: u64,
        /// Length of the file.
        actual: u64,
    },
    /// A header that names a tensor twice.
    #[error("the header of `{path}` names {} twice", quoted(names), path = path.display())]
    #[explain(code = "weights-repeated-name", class = Input, hint("{DAMAGED}"))]
    Repeated { path: PathBuf, names: Vec<String> },
    /// Tensors of an element type that nothing here can hold.
    #[error("`{path}` holds tensors of unsupported type: {}", typed(tensors), path = path.display())]
    #[explain(code = "weights-dtype", class = Input, hint("save these tensors in f32, f16, bf16 or an 8-bit float type"))]
    Dtype {
        path: PathBuf,
        /// Name and element type of each.
        tensors: Vec<(String, String)>,
    },
    /// Several files that hold the same name.
    #[error("{} tensors stand in more than one file, first `{}` in `{}` and `{}`", names.len(), names[0].0,
            names[0].1.display(), names[0].2.display())]
    #[explain(code = "weights-duplicate", class = Input, hint("give each tensor once; leave out one of the files"))]
    Duplicate {
        /// Name, first file, second file; never empty.
        names: Vec<(String, PathBuf, PathBuf)>,
    },
    /// No file was given.
    #[error("no weight file was given")]
    #[explain(code = "weights-none", class = Usage, hint("name a .safetensors file or an index of shards"))]
    None,
    /// A folder without weights.
    #[error("`{path}` holds no safetensors file and no index of shards", path = path.display())]
    #[explain(code = "weights-nothing-in-folder", class = Input, hint("name the file itself, e.g. `diffusion_pytorch_model.safetensors`"))]
    NothingInFolder { path: PathBuf },
    /// A folder with more than one candidate.
    #[error("`{path}` holds {} weight files, and which one is meant cannot be decided: {}", found.len(), quoted(found),
            path = path.display())]
    #[explain(code = "weights-several-in-folder", class = Input, hint("name one of them, e.g. `{}`", path.join(&found[0]).display()))]
    SeveralInFolder {
        path: PathBuf,
        /// File names found, sorted.
        found: Vec<String>,
    },
    /// A folder with some of the shards of one set and no index.
    #[error("`{path}` holds `{shard}`, and of the same set {} not there: {}", if missing.len() == 1 { "is" } else { "are" }, first_few(missing),
            path = path.display())]
    #[explain(code = "weights-shards-missing", class = Input,
        hint("download what is missing into `{}`; or name `{}` itself, where a part is meant", path.display(), path.join(shard).display()))]
    ShardsMissing {
        path: PathBuf,
        /// The first one that is there.
        shard: String,
        /// File names, sorted; never empty.
        missing: Vec<String>,
    },
    /// An index that is not the JSON it should be.
    #[error("`{path}` is not an index of shards", path = path.display())]
    #[explain(code = "shard-index-syntax", class = Input, hint("an index is JSON of the form {{\"weight_map\": {{\"tensor\": \"shard.safetensors\"}}}}"))]
    IndexSyntax {
        path: PathBuf,
        source: serde_json::Error,
    },
    /// An index that its shards contradict.
    #[error("`{path}` and its shards disagree in {} places, first: {}", problems.len(), problems[0], path = path.display())]
    #[explain(code = "shard-index-mismatch", class = Input,
        hints = problems.iter().skip(1).map(|p| format!("also: {p}")),
        hint("download every shard again into `{}`", path.parent().unwrap_or(path).display()))]
    Index {
        path: PathBuf,
        /// All of them; never empty.
        problems: Vec<IndexProblem>,
    },
}

/// One contradiction between an index of shards and the files.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum IndexProblem {
    /// A shard's name leads out of the index's folder.
    #[error("shard `{shard}` is outside the index's folder")]
    Escapes {
        /// As the index says it.
        shard: String,
    },
    /// A shard is not there.
    #[error("shard `{shard}` is missing")]
    Missing {
        /// As the index says it.
        shard: String,
    },
    /// The shard does not hold a tensor that the index places in it.
    #[error("tensor `{tensor}` is not in shard `{shard}`")]
    Absent {
        tensor: String,
        /// As the index says it.
        shard: String,
    },
    /// Two shards hold the tensor.
    #[error("tensor `{tensor}` is in shard `{shard}` and in `{other}`")]
    Twice {
        tensor: String,
        /// Where the index places it.
        shard: String,
        /// Where else it is.
        other: String,
    },
    /// A shard holds a tensor that the index does not list.
    #[error("tensor `{tensor}` of shard `{shard}` is not in the index")]
    Unlisted { tensor: String, shard: String },
    /// The index lists the tensor twice.
    #[error("tensor `{tensor}` is listed twice")]
    Repeated { tensor: String },
}

/// Some of what may be many names.
fn first_few(names: &[String]) -> String {
    const SHOWN: usize = 4;
    match names.len() {
        0..=SHOWN => quoted(names),
        all => format!("{} and {} more", quoted(&names[..SHOWN]), all - SHOWN),
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

fn of_other_format(path: &Path, kind: &str) -> Vec<String> {
    let hint = match kind {
        "a Git LFS pointer" => {
            "the file itself was not fetched: run `git lfs pull` in its repository, or download it again"
        }
        "a web page" | "a JSON document" => {
            "the download was answered with a page, as when a login is needed: download the file again"
        }
        "a GGUF file" => {
            "GGUF holds quantised blocks: give the safetensors checkpoint that it was made from"
        }
        _ if kind.contains("pickle") => {
            let (from, to) = (path.display(), path.with_extension("safetensors"));
            let convert = format!(
                "convert it: python3 -c \"import torch, safetensors.torch as s; d = torch.load('{from}', \
                 map_location='cpu', weights_only=True); d = d.get('state_dict', d); \
                 s.save_file({{k: v.contiguous() for k, v in d.items()}}, '{}')\"",
                to.display()
            );
            return vec![
                convert,
                "pickles can run code when they are loaded, so they are not read here".into(),
            ];
        }
        _ => "name a .safetensors file",
    };
    vec![hint.into()]
}
