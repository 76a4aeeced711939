//! The decorations that tools put on parameter names, and taking them off as a whole, by named rules.

use crate::fault::Explain;
use std::collections::{BTreeMap, BTreeSet};

/// One way of decorating names.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Rule {
    /// Stable name, written to manifests and reports.
    pub name: &'static str,
    form: Form,
    /// It says which part of a pipeline a name belongs to.
    of_part: bool,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Form {
    /// Text before the name.
    Prefix(&'static str),
    /// A path segment, wherever it stands.
    Segment(&'static str),
}

const fn prefix(name: &'static str, text: &'static str) -> Rule {
    Rule {
        name,
        form: Form::Prefix(text),
        of_part: false,
    }
}

const fn part(name: &'static str, text: &'static str) -> Rule {
    Rule {
        of_part: true,
        ..prefix(name, text)
    }
}

const fn segment(name: &'static str, text: &'static str) -> Rule {
    Rule {
        name,
        form: Form::Segment(text),
        of_part: false,
    }
}

/// Every rule, in the order in which equal ones are preferred.
pub const RULES: &[Rule] = &[
    // torch.compile wraps modules, also inner ones.
    segment("drop-orig-mod", "_orig_mod"),
    // PEFT wraps each adapted layer.
    segment("drop-base-layer", "base_layer"),
    // torch.nn.parallel.DistributedDataParallel.
    prefix("strip-module", "module."),
    // PeftModel around a LoraModel.
    prefix("strip-base-model", "base_model.model."),
    // Original Stable Diffusion checkpoints hold the whole pipeline.
    part("strip-model-diffusion-model", "model.diffusion_model."),
    part("strip-diffusion-model", "diffusion_model."),
    part("strip-first-stage-model", "first_stage_model."),
    part("strip-cond-stage-model", "cond_stage_model.transformer."),
    // Components of a diffusers pipeline.
    part("strip-unet", "unet."),
    part("strip-transformer", "transformer."),
    // Ideogram 4 has a second transformer, without a condition.
    part("strip-conditional-transformer", "conditional_transformer."),
    part("strip-text-encoder", "text_encoder."),
    part("strip-text-encoder-2", "text_encoder_2."),
    part("strip-text-encoder-3", "text_encoder_3."),
    part("strip-text-encoder-4", "text_encoder_4."),
    part("strip-vae", "vae."),
    // transformers' CLIPTextModel, before and after it lost its inner module.
    prefix("strip-text-model", "text_model."),
    prefix("strip-model", "model."),
];

/// More rules in a row than any tool chain is known to need.
const DEPTH: usize = 4;

impl Rule {
    /// `name` without this decoration; `None` when it does not carry it.
    pub fn strip(&self, name: &str) -> Option<String> {
        match self.form {
            Form::Prefix(p) => {
                let rest = name.strip_prefix(p)?;
                (!rest.is_empty()).then(|| rest.to_owned())
            }
            Form::Segment(s) => {
                let kept: Vec<&str> = name.split('.').filter(|&part| part != s).collect();
                let rest = kept.join(".");
                (rest.len() < name.len() && !rest.is_empty()).then_some(rest)
            }
        }
    }
}

/// Which text encoder of a pipeline `ComfyUI` calls `text_encoders.NAME.` (`comfy/text_encoders/`): `OpenCLIP` is the second, T5 the
/// third and a language model the fourth, as in the pipelines that have so many.
pub(super) fn text_encoder(name: &str) -> u8 {
    match name {
        _ if name.starts_with("clip_g") => 2,
        _ if name.contains("clip") => 1,
        _ if name.contains("t5") => 3,
        _ => 4,
    }
}

/// Names of a source, as they are after the rules that were used.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Normalised {
    /// Source name to normalised name, one to one; every source name is in it.
    pub map: BTreeMap<String, String>,
    /// Names of the rules that were used, in order; empty when the names fitted as they were.
    pub rules: Vec<&'static str>,
    /// How many targets have a source after that.
    pub matched: usize,
}

/// Why names could not be normalised.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error, Explain)]
pub enum NameError {
    /// Two names become one.
    #[error("`{first}` and `{second}` both become `{name}` by {}", rules.join(", "))]
    #[explain(code = "names-collapse", class = Input, hint("save only the part of the pipeline that this model is (one component per file)"))]
    Collapse {
        name: String,
        first: String,
        second: String,
        /// The rules that were tried.
        rules: Vec<&'static str>,
    },
    /// Different rules fit equally well and mean different tensors.
    #[error("names fit the model equally well by {} and by {}", first.join(", "), second.join(", "))]
    #[explain(code = "names-ambiguous", class = Input, hint("save only the part of the pipeline that this model is (one component per file)"))]
    Ambiguous {
        /// One set of rules.
        first: Vec<&'static str>,
        second: Vec<&'static str>,
    },
}

/// Finds the rules that make the most of `targets` have a source, among no rule at all and every row of up to four.
/// A rule is used for all names or for none, and only when more targets match with it than without.
///
/// # Errors
/// [`NameError::Ambiguous`] when two rows of rules fit equally well and differ in what a target gets;
/// [`NameError::Collapse`] when the row that fits best makes one name of two.
pub fn normalise<'a>(
    sources: impl IntoIterator<Item = &'a str>,
    targets: &BTreeSet<&str>,
) -> Result<Normalised, NameError> {
    let names: Vec<&str> = sources.into_iter().collect();
    let plain: Vec<String> = names.iter().map(|&n| n.to_owned()).collect();
    let mut best = vec![(Vec::new(), plain.clone())];
    let mut most = score(&plain, targets);
    let mut layer: Vec<(Vec<Rule>, Vec<String>)> = vec![(Vec::new(), plain)];
    for _ in 0..DEPTH {
        let mut next = Vec::new();
        for (rules, current) in &layer {
            for rule in RULES.iter().filter(|r| !rules.contains(r)) {
                let mut any = false;
                let stripped: Vec<String> = (current.iter())
                    .map(|n| match rule.strip(n) {
                        Some(s) => {
                            any = true;
                            s
                        }
                        None => n.clone(),
                    })
                    .collect();
                // A rule that strips nothing leads to the same names by a longer row.
                if !any {
                    continue;
                }
                let rules = [rules.as_slice(), &[*rule]].concat();
                let matched = score(&stripped, targets);
                if matched > most {
                    most = matched;
                    best.clear();
                }
                // Fewer rules are better: a longer row competes only with rows of its own length.
                if matched == most && best.first().is_none_or(|(r, _)| r.len() == rules.len()) {
                    best.push((rules.clone(), stripped.clone()));
                }
                next.push((rules, stripped));
            }
        }
        layer = next;
    }
    // Rows of rules may differ in names that the model does not have; only what its parameters get
    // counts.
    let gives = |after: &[String]| -> BTreeMap<String, &str> {
        (after.iter().cloned())
            .zip(names.iter().copied())
            .filter(|(n, _)| targets.contains(n.as_str()))
            .collect()
    };
    let (rules, after) = &best[0];
    let listed = |rules: &[Rule]| rules.iter().map(|r| r.name).collect::<Vec<_>>();
    if let Some((other, _)) = best[1..].iter().find(|(_, a)| gives(a) != gives(after)) {
        return Err(NameError::Ambiguous {
            first: listed(rules),
            second: listed(other),
        });
    }
    // Names without a target count here as well: [`Normalised::map`] is one to one, so that no
    // tensor of the file hides behind another.
    let mut back: BTreeMap<&str, &str> = BTreeMap::new();
    for (name, source) in after.iter().zip(&names) {
        if let Some(first) = back.insert(name, source) {
            return Err(NameError::Collapse {
                name: name.clone(),
                first: first.to_owned(),
                second: (*source).to_owned(),
                rules: listed(rules),
            });
        }
    }
    Ok(Normalised {
        rules: listed(rules),
        matched: most,
        map: (names.iter().map(|&n| n.to_owned()))
            .zip(after.iter().cloned())
            .collect(),
    })
}

fn score(names: &[String], targets: &BTreeSet<&str>) -> usize {
    let distinct: BTreeSet<&str> = names.iter().map(String::as_str).collect();
    distinct.intersection(targets).count()
}

/// A name without any decoration.
pub(crate) struct Undecorated {
    pub name: String,
    /// Some decoration named a part of a pipeline.
    pub of_part: bool,
}

/// `name` without any decoration. In which order they are taken off makes no difference.
pub(crate) fn undecorated(name: &str) -> Undecorated {
    let mut found = Undecorated {
        name: name.to_owned(),
        of_part: false,
    };
    while let Some((rule, rest)) =
        (RULES.iter()).find_map(|rule| Some((rule, rule.strip(&found.name)?)))
    {
        found.name = rest;
        found.of_part |= rule.of_part;
    }
    found
}

/// `name` and every form of it that rows of rules lead to, the least stripped first.
pub(super) fn forms(name: &str) -> Vec<String> {
    let mut found = vec![name.to_owned()];
    let mut at = 0;
    while at < found.len() {
        for rule in RULES {
            if let Some(s) = rule.strip(&found[at])
                && !found.contains(&s)
            {
                found.push(s);
            }
        }
        at += 1;
    }
    found
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn run(sources: &[&str], targets: &[&str]) -> Result<Normalised, NameError> {
        normalise(sources.iter().copied(), &targets.iter().copied().collect())
    }

    #[test]
    fn names_that_fit_are_left_alone() {
        let n = run(&["unet.a", "b"], &["unet.a", "b"]).unwrap();
        assert!(n.rules.is_empty());
        assert_eq!((n.matched, n.map["unet.a"].as_str()), (2, "unet.a"));
    }

    #[test]
    fn each_rule_is_found_and_named() {
        for rule in RULES {
            let source = match rule.form {
                Form::Prefix(p) => format!("{p}blocks.0.weight"),
                Form::Segment(s) => format!("blocks.0.{s}.weight"),
            };
            let n = run(&[&source], &["blocks.0.weight"]).unwrap();
            assert_eq!(n.rules, [rule.name], "{source}");
            assert_eq!(n.map[&source], "blocks.0.weight");
        }
    }

    #[test]
    fn rules_combine() {
        let n = run(
            &["module._orig_mod.unet.a.base_layer.weight", "module.x"],
            &["a.weight"],
        )
        .unwrap();
        assert_eq!(n.rules.len(), 4);
        assert_eq!(
            n.map["module._orig_mod.unet.a.base_layer.weight"],
            "a.weight"
        );
        assert_eq!(n.map["module.x"], "x");
    }

    #[test]
    fn a_rule_that_matches_nothing_more_is_not_used() {
        let n = run(&["unet.zzz", "a"], &["a"]).unwrap();
        assert!(n.rules.is_empty());
        assert_eq!(n.map["unet.zzz"], "unet.zzz");
    }

    #[test]
    fn two_components_that_fit_equally_are_ambiguous() {
        let e = run(&["text_encoder.a", "text_encoder_2.a", "vae.z"], &["a"]);
        assert!(matches!(e, Err(NameError::Ambiguous { .. })), "{e:?}");
    }

    #[test]
    fn names_that_collapse_are_an_error() {
        let e = run(&["unet.a", "a", "unet.b"], &["a", "b"]);
        assert_eq!(
            e,
            Err(NameError::Collapse {
                name: "a".into(),
                first: "unet.a".into(),
                second: "a".into(),
                rules: vec!["strip-unet"],
            })
        );
    }

    #[test]
    fn every_decoration_is_taken_off_in_any_order() {
        for (name, bare, of_part) in [
            ("a.weight", "a.weight", false),
            (
                "module._orig_mod.model.a.base_layer.weight",
                "a.weight",
                false,
            ),
            ("base_model.model.text_model.a", "a", false),
            ("model.diffusion_model.a", "a", true),
            ("_orig_mod.text_encoder_2.text_model.a", "a", true),
            ("vision_model.a", "vision_model.a", false),
            ("model_ema.a", "model_ema.a", false),
        ] {
            let found = undecorated(name);
            assert_eq!((found.name.as_str(), found.of_part), (bare, of_part));
            // What no more than some rules lead to ends in the same name.
            for form in forms(name) {
                assert_eq!(undecorated(&form).name, bare, "{form}");
            }
        }
    }

    proptest! {
        #[test]
        fn the_map_is_one_to_one_and_rules_only_ever_help(
            sources in prop::collection::btree_set("(unet\\.|module\\.|_orig_mod\\.|)[ab](\\.base_layer|)(\\.w|)", 0..8),
            targets in prop::collection::btree_set("(unet\\.|)[ab](\\.w|)", 0..6),
        ) {
            let s: Vec<&str> = sources.iter().map(String::as_str).collect();
            let t: BTreeSet<&str> = targets.iter().map(String::as_str).collect();
            if let Ok(n) = normalise(s.iter().copied(), &t) {
                let values: BTreeSet<&String> = n.map.values().collect();
                prop_assert_eq!(values.len(), sources.len());
                let before = s.iter().filter(|x| t.contains(**x)).count();
                prop_assert!(n.matched >= before);
                prop_assert_eq!(n.rules.is_empty(), n.matched == before);
            }
        }
    }
}
