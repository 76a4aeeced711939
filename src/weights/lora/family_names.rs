//! A model's modules in the other spelling of its family, from the layout tables.
//!
//! Which tables count is decided by the model: those that know the most of its modules, in either
//! direction, and at least half.

use super::super::layouts::{ModuleHit, Translation, tables};
use super::super::names;
use std::collections::HashMap;

/// A part of a module's rows.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Within {
    pub module: usize,
    /// Which of its parts.
    pub part: usize,
    /// The heights of all parts in proportion; one part is the whole module.
    pub heights: Vec<usize>,
    pub swapped: bool,
}

/// The tables that count for a model.
#[derive(Default)]
pub(super) struct Spellings {
    /// The model is in diffusers' names: what a first author's module is.
    forwards: Vec<Translation>,
    /// The model is in the first authors' names: where a module of diffusers (with `_` for `.`) is.
    backwards: HashMap<String, Vec<Within>>,
    /// The tables behind `backwards`.
    others: Vec<Translation>,
}

impl Spellings {
    pub(super) fn new(modules: &[&str]) -> Spellings {
        let forms: Vec<Vec<String>> = modules.iter().map(|m| names::forms(m)).collect();
        let all = || forms.iter().flatten().map(String::as_str);
        let mut best = (0, Vec::new(), Vec::new());
        for table in tables() {
            let translation = Translation::new(table, &all());
            let known = |has: &dyn Fn(&str) -> bool| {
                forms.iter().filter(|f| f.iter().any(|n| has(n))).count()
            };
            let here = known(&|n| table.writes_module(n));
            let there = known(&|n| translation.module(n, false).is_some());
            for (count, forwards) in [(here, true), (there, false)] {
                if count > best.0 {
                    best = (count, Vec::new(), Vec::new());
                }
                // Of tables that know equally many all count: families share spellings.
                if count == best.0 && count > 0 {
                    if forwards {
                        best.1.push(Translation::new(table, &all()));
                    } else {
                        best.2.push(Translation::new(table, &all()));
                    }
                }
            }
        }
        if best.0 * 2 < modules.len() {
            return Spellings::default();
        }
        let mut backwards: HashMap<String, Vec<Within>> = HashMap::new();
        for translation in &best.2 {
            for (module, forms) in forms.iter().enumerate() {
                let found = forms
                    .iter()
                    .find_map(|f| Some((f, translation.module(f, false)?)));
                let Some((form, hit)) = found else {
                    continue;
                };
                // A name that is the same in both spellings is found without a table.
                for (part, to) in hit.to.iter().enumerate().filter(|(_, to)| *to != form) {
                    let within = Within {
                        module,
                        part,
                        heights: hit.heights.clone(),
                        swapped: hit.swapped,
                    };
                    let entry = backwards.entry(to.replace('.', "_")).or_default();
                    if !entry.contains(&within) {
                        entry.push(within);
                    }
                }
            }
        }
        Spellings {
            forwards: best.1,
            backwards,
            others: best.2,
        }
    }

    /// What the first authors' module `flat` is in diffusers' names, by every table that counts.
    pub(super) fn forwards(&self, flat: &str) -> impl Iterator<Item = ModuleHit> {
        self.forwards
            .iter()
            .filter_map(move |t| t.module(flat, true))
    }

    /// Where in the model the first authors' module `flat` is that the model itself has no module for: as several of diffusers (FLUX's
    /// `qkv` of a single block is the first three parts of `linear1`), and whether its halves are exchanged.
    pub(super) fn by_way_of_diffusers(&self, flat: &str) -> Option<(Vec<Within>, bool)> {
        self.others.iter().find_map(|table| {
            let hit = table.module(flat, true)?;
            let one = |to: &String| match self.backwards(to) {
                [one] => Some(one.clone()),
                _ => None,
            };
            Some((hit.to.iter().map(one).collect::<Option<_>>()?, hit.swapped))
        })
    }

    /// Where diffusers' module `flat` is in the model.
    pub(super) fn backwards(&self, flat: &str) -> &[Within] {
        self.backwards.get(flat).map_or(&[], Vec::as_slice)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// From `diffusers/loaders/lora_conversion_utils.py`, `_maybe_map_sgm_blocks_to_diffusers` and
    /// `_convert_unet_lora_key`.
    #[test]
    fn every_layer_of_sdxl_is_what_diffusers_makes_of_it() {
        let path = concat!(env!("CARGO_MANIFEST_DIR"), "/fixtures/lora/sdxl_names.json");
        let names: std::collections::BTreeMap<String, String> =
            serde_json::from_slice(&std::fs::read(path).unwrap()).unwrap();
        assert_eq!(names.len(), 320);
        let table = tables().iter().find(|t| t.family == "sd_unet").unwrap();
        let unet = Translation::new(table, &std::iter::empty());
        for (name, expected) in names {
            assert_eq!(unet.module(&name, true).unwrap().to, [expected], "{name}");
        }
    }

    #[test]
    fn the_number_of_resnets_is_the_models() {
        let forward = |model: &[&str], name: &str| {
            Spellings::new(model)
                .forwards(name)
                .next()
                .map(|hit| hit.to.concat())
        };
        let three = [
            "down_blocks.0.resnets.0.conv1",
            "down_blocks.0.resnets.1.conv1",
            "down_blocks.0.resnets.2.conv1",
        ];
        assert_eq!(
            forward(&three, "input_blocks_5_1_proj_in").unwrap(),
            "down_blocks_1_attentions_0_proj_in"
        );
        assert_eq!(
            forward(&three[..2], "input_blocks_5_1_proj_in").unwrap(),
            "down_blocks_1_attentions_1_proj_in"
        );
    }
}
