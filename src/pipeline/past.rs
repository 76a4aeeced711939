//! What was once computed from whole files and is remembered in the engine cache's memo, so that a build that finds its engine
//! there reads no weights.
//!
//! This program's version is part of what is asked for: it decides what a weight is called and how a mapping is proven.

use crate::cache::{Memo, Seen};
use crate::engine;
use crate::fsx::Map;
use crate::mapping::{self, Mapping, ModelValues};
use crate::memory;
use crate::onnx::Model;
use crate::pipeline::error::Error;
use crate::pipeline::facts::digests;
use crate::tensor::Digest;
use crate::watch::{Event, Watch};
use crate::weights::layouts::open_in_layout;
use crate::weights::{self, Source, SourceFile};
use serde::Serialize;
use serde::de::DeserializeOwned;
use std::borrow::Cow;
use std::collections::HashMap;
use std::sync::Arc;

const FILE: &str = "digest of the file/1";
const PLAN: &str = "digest of the plan/2";
const WEIGHTS: &str = concat!(
    "digests of the model's weights/1, trtmut ",
    env!("CARGO_PKG_VERSION")
);
const MAPPING: &str = concat!(
    "mapping proven against its checkpoint/4, trtmut ",
    env!("CARGO_PKG_VERSION")
);

/// One thing that may be remembered of some files.
struct Past<'a> {
    memo: Option<&'a Memo>,
    seen: Seen,
    purpose: Cow<'static, str>,
}

impl<'a> Past<'a> {
    fn of(
        memo: Option<&'a Memo>,
        files: &[&Map],
        purpose: impl Into<Cow<'static, str>>,
    ) -> Past<'a> {
        Past {
            memo,
            seen: Memo::seen(files),
            purpose: purpose.into(),
        }
    }

    fn recall<T: DeserializeOwned>(&self) -> Option<T> {
        serde_json::from_str(&self.memo?.recall(&self.seen, &self.purpose)?).ok()
    }

    fn remember<T: Serialize>(&self, value: &T) {
        if let (Some(memo), Ok(text)) = (self.memo, serde_json::to_string(value)) {
            // What cannot be remembered is computed again.
            let _ = memo.remember(&self.seen, &self.purpose, &text);
        }
    }
}

/// Digest of a whole file.
pub(super) fn file(map: &Map, memo: Option<&Memo>) -> Digest {
    let past = Past::of(memo, &[map], FILE);
    past.recall().unwrap_or_else(|| {
        let digest = Digest::of_length(map.len(), |at, into| map.copy_to(at, into));
        past.remember(&digest);
        digest
    })
}

/// The digest by which a plan is known.
pub(super) fn plan(map: &Map, memo: Option<&Memo>) -> Digest {
    let past = Past::of(memo, &[map], PLAN);
    past.recall().unwrap_or_else(|| {
        let digest = engine::digest_of(map);
        past.remember(&digest);
        digest
    })
}

/// Digest of every constant tensor of a model by name.
pub(super) fn weights<'m>(
    model: &'m Model,
    memo: Option<&Memo>,
    watch: &dyn Watch,
) -> HashMap<&'m str, Digest> {
    let files: Vec<&Map> = model.files().iter().collect();
    let past = Past::of(memo, &files, WEIGHTS);
    let known: Option<HashMap<String, Digest>> = past.recall();
    let all = known.and_then(|known| {
        let of_name = |name| Some((name, *known.get(name)?));
        let names = model.weights().iter().map(|w| w.name.as_str());
        names.map(of_name).collect()
    });
    all.unwrap_or_else(|| {
        let all = digests(model, watch).into_iter().collect();
        past.remember(&all);
        all
    })
}

/// The mapping of a model, proven against the checkpoint that it was exported from, or `component` of that. `digests` are those of the
/// model's weights.
///
/// # Errors
/// As [`mapping::infer`].
pub(super) fn mapping(
    model: &Model,
    base: &Arc<Source>,
    component: Option<&str>,
    digests: &HashMap<&str, Digest>,
    memo: Option<&Memo>,
    watch: &dyn Watch,
) -> Result<Mapping, Error> {
    let of_base = base.files().iter().map(SourceFile::map);
    let files: Vec<&Map> = model.files().iter().chain(of_base).collect();
    let past = match component {
        None => Past::of(memo, &files, MAPPING),
        Some(part) => Past::of(memo, &files, format!("{MAPPING}, part {part}")),
    };
    if let Some(mapping) = past.recall() {
        return Ok(mapping);
    }
    watch.event(Event::Begin {
        step: "proving the mapping",
        total: None,
    });
    let outline = mapping::infer(model, None)?;
    let view = open_in_layout(Arc::clone(base), &outline.wanted(), component)
        .map_err(weights::Error::from)?;
    let held = ModelValues::knowing(model, digests.clone());
    let mapping = mapping::prove(&outline, &held, &view)?;
    watch.event(Event::End);
    // A compiler may take as much as the model has; what was compared is not to stand beside that.
    memory::trim();
    past.remember(&mapping);
    Ok(mapping)
}
