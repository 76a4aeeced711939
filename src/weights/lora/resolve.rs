//! Which parameters of the model a LoRA's module means. Every answer is a module that the model has: names are looked up,
//! never made up, because turning `_` back into `.` has no unique answer.

use super::super::{Source, names};
use super::family_names::{Spellings, Within};
use super::key_layouts::Path;
use std::collections::{BTreeMap, HashMap};

/// The parameters that may be changed: names and shapes as torch has them (`[out, in]`, `[out, in, kernel…]`).
pub trait Targets {
    /// Every parameter's name and shape.
    fn shapes(&self) -> Vec<(&str, &[usize])>;
}

impl Targets for BTreeMap<String, Vec<usize>> {
    fn shapes(&self) -> Vec<(&str, &[usize])> {
        let pairs = self.iter();
        pairs.map(|(n, s)| (n.as_str(), s.as_slice())).collect()
    }
}

impl Targets for Source {
    fn shapes(&self) -> Vec<(&str, &[usize])> {
        let pairs = self.names().filter_map(|n| Some((n, self.shape(n)?)));
        pairs.collect()
    }
}

/// A parameter of the model.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Parameter {
    pub name: String,
    pub shape: Vec<usize>,
}

/// A module of the model and the two parameters that a LoRA may change.
#[derive(Debug, Default)]
pub(super) struct Module {
    pub name: String,
    pub weight: Option<Parameter>,
    pub bias: Option<Parameter>,
}

/// What a LoRA's module is in the model.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Found {
    Whole(usize),
    /// Several, or parts of some, stacked by rows in this order.
    Stacked {
        pieces: Vec<Within>,
        swapped: bool,
    },
    /// More than one candidate.
    Ambiguous(Vec<String>),
    Nothing,
}

/// The model's modules by every form of their names.
pub(super) struct Index {
    modules: Vec<Module>,
    exact: HashMap<String, usize>,
    dotted: HashMap<String, Vec<usize>>,
    flat: HashMap<String, Vec<usize>>,
    spellings: Spellings,
}

impl Index {
    pub(super) fn new(targets: &dyn Targets) -> Index {
        let mut by_name: BTreeMap<String, Module> = BTreeMap::new();
        for (name, shape) in targets.shapes() {
            let parameter = Parameter {
                name: name.to_owned(),
                shape: shape.to_vec(),
            };
            let (module, bias) = match (name.strip_suffix(".weight"), name.strip_suffix(".bias")) {
                (Some(m), _) => (m, false),
                (_, Some(m)) => (m, true),
                // A parameter that stands alone, such as `text_projection`.
                _ => (name, false),
            };
            let entry = by_name.entry(module.to_owned()).or_default();
            module.clone_into(&mut entry.name);
            *(if bias {
                &mut entry.bias
            } else {
                &mut entry.weight
            }) = Some(parameter);
        }
        let modules: Vec<Module> = by_name.into_values().collect();
        let mut index = Index {
            exact: HashMap::new(),
            dotted: HashMap::new(),
            flat: HashMap::new(),
            spellings: Spellings::new(&modules.iter().map(|m| m.name.as_str()).collect::<Vec<_>>()),
            modules: Vec::new(),
        };
        for (i, module) in modules.iter().enumerate() {
            index.exact.insert(module.name.clone(), i);
            for form in names::forms(&module.name) {
                push(&mut index.flat, form.replace('.', "_"), i);
                push(&mut index.dotted, form, i);
            }
        }
        index.modules = modules;
        index
    }

    pub(super) fn module(&self, index: usize) -> &Module {
        &self.modules[index]
    }

    pub(super) fn find(&self, path: &Path) -> Found {
        // A dotted path says where modules end, so an exact one counts before any that is
        // respelled.
        if !path.flat {
            for form in &path.forms {
                if let Some(&i) = self.exact.get(form) {
                    return Found::Whole(i);
                }
            }
            for form in &path.forms {
                match self.dotted.get(form).map(Vec::as_slice) {
                    Some([one]) => return Found::Whole(*one),
                    Some(several) => return self.ambiguous(several),
                    None => {}
                }
            }
        }
        // Last: with underscores two paths may be one.
        for form in path.forms.iter().map(|f| f.replace('.', "_")) {
            let found = self.find_flat(&form);
            if found != Found::Nothing {
                return found;
            }
        }
        Found::Nothing
    }

    fn ambiguous(&self, modules: &[usize]) -> Found {
        Found::Ambiguous(
            modules
                .iter()
                .map(|&i| self.modules[i].name.clone())
                .collect(),
        )
    }

    fn find_flat(&self, form: &str) -> Found {
        let look = |name: &str| match self.flat.get(name).map(Vec::as_slice) {
            Some([one]) => Some(Found::Whole(*one)),
            Some(several) => Some(self.ambiguous(several)),
            None => None,
        };
        let spellings = [Some(form.to_owned())]
            .into_iter()
            .chain(processor_names(form));
        for name in spellings.flatten() {
            if let Some(found) = look(&name) {
                return found;
            }
        }
        // A LoRA of a part, where the model has the parts stacked.
        match self.spellings.backwards(form) {
            [] => {}
            [one] => return stacked(vec![one.clone()], false),
            several => {
                let modules: Vec<usize> = several.iter().map(|w| w.module).collect();
                return self.ambiguous(&modules);
            }
        }
        for hit in self.spellings.forwards(form) {
            // A part that the model has under its own name, or inside a stacked module.
            let piece = |to: &String| match look(to) {
                Some(Found::Whole(module)) => Some(Within {
                    module,
                    part: 0,
                    heights: vec![1],
                    swapped: false,
                }),
                _ => None,
            };
            if let Some(pieces) = hit.to.iter().map(piece).collect() {
                return stacked(pieces, hit.swapped);
            }
        }
        match self.spellings.by_way_of_diffusers(form) {
            Some((pieces, swapped)) => stacked(pieces, swapped),
            None => Found::Nothing,
        }
    }

    /// The `count` module names that are most like the last, most stripped form of `path`.
    pub(super) fn nearest(&self, path: &Path, count: usize) -> Vec<String> {
        let Some(wanted) = path.forms.iter().min_by_key(|f| f.len()) else {
            return Vec::new();
        };
        let wanted = wanted.replace('.', "_");
        let mut scored: Vec<(f64, &str)> = (self.modules.iter())
            .map(|m| {
                let likeness = strsim::normalized_levenshtein(&m.name.replace('.', "_"), &wanted);
                (likeness, m.name.as_str())
            })
            // Less alike than by half is no hint.
            .filter(|(likeness, _)| *likeness > 0.5)
            .collect();
        // By name where equally alike, so that a message does not change from run to run.
        scored.sort_by(|a, b| b.0.total_cmp(&a.0).then(a.1.cmp(b.1)));
        (scored.iter().take(count))
            .map(|(_, n)| (*n).to_owned())
            .collect()
    }
}

fn stacked(pieces: Vec<Within>, swapped: bool) -> Found {
    match &pieces[..] {
        [one] if !swapped && !one.swapped && one.heights.len() == 1 => Found::Whole(one.module),
        _ => Found::Stacked { pieces, swapped },
    }
}

fn push(map: &mut HashMap<String, Vec<usize>>, key: String, value: usize) {
    let entry = map.entry(key).or_default();
    if !entry.contains(&value) {
        entry.push(value);
    }
}

/// What diffusers' attention processors called the projections before 0.22, in the names of today and of transformers.
fn processor_names(form: &str) -> Vec<Option<String>> {
    let pairs = [
        ("_to_out", "_to_out_0"),
        ("_to_q", "_q_proj"),
        ("_to_k", "_k_proj"),
        ("_to_v", "_v_proj"),
        ("_to_out", "_out_proj"),
    ];
    let renamed = pairs.map(|(from, to)| Some(format!("{}{to}", form.strip_suffix(from)?)));
    renamed.to_vec()
}

#[cfg(test)]
mod tests {
    use super::super::key_layouts;
    use super::*;

    fn index(names: &[&str]) -> Index {
        let targets: BTreeMap<String, Vec<usize>> = names
            .iter()
            .map(|n| ((*n).to_owned(), vec![2, 2]))
            .collect();
        Index::new(&targets)
    }

    fn find(index: &Index, module: &str) -> Option<String> {
        match index.find(&key_layouts::path(module)) {
            Found::Whole(i) => Some(index.module(i).name.clone()),
            Found::Nothing => None,
            other => panic!("{module}: {other:?}"),
        }
    }

    #[test]
    fn underscores_are_looked_up_and_not_guessed() {
        let i = index(&[
            "mid_block.attentions.0.proj_in.weight",
            "a.b_c.weight",
            "a.b.c.weight",
        ]);
        assert_eq!(
            find(&i, "lora_unet_mid_block_attentions_0_proj_in").unwrap(),
            "mid_block.attentions.0.proj_in"
        );
        assert_eq!(
            i.find(&key_layouts::path("lora_unet_a_b_c")),
            Found::Ambiguous(vec!["a.b.c".into(), "a.b_c".into()])
        );
        assert_eq!(find(&i, "unet.a.b_c").unwrap(), "a.b_c");
    }

    #[test]
    fn old_and_new_text_encoders_answer_to_both_names() {
        let new = index(&["encoder.layers.0.self_attn.q_proj.weight"]);
        let old = index(&["text_model.encoder.layers.0.self_attn.q_proj.weight"]);
        for i in [&new, &old] {
            for module in [
                "lora_te_text_model_encoder_layers_0_self_attn_q_proj",
                "lora_te1_encoder_layers_0_self_attn_q_proj",
                "text_encoder.text_model.encoder.layers.0.self_attn.q_proj",
                "text_encoder.encoder.layers.0.self_attn.to_q",
                "text_encoders.clip_l.transformer.text_model.encoder.layers.0.self_attn.q_proj",
            ] {
                assert!(find(i, module).is_some(), "{module}");
            }
        }
    }

    #[test]
    fn both_spellings_of_a_unet_answer_to_each_other() {
        let diffusers = index(&[
            "down_blocks.0.resnets.0.conv1.weight",
            "down_blocks.0.resnets.1.conv1.weight",
            "down_blocks.1.attentions.0.transformer_blocks.0.attn1.to_q.weight",
        ]);
        let sgm = index(&[
            "model.diffusion_model.input_blocks.3.0.op.weight",
            "model.diffusion_model.input_blocks.4.1.transformer_blocks.0.attn1.to_q.weight",
        ]);
        for module in [
            "lora_unet_input_blocks_4_1_transformer_blocks_0_attn1_to_q",
            "diffusion_model.input_blocks.4.1.transformer_blocks.0.attn1.to_q",
            "unet.down_blocks.1.attentions.0.transformer_blocks.0.attn1.to_q",
            "lora_unet_down_blocks_1_attentions_0_transformer_blocks_0_attn1_to_q",
        ] {
            assert!(find(&diffusers, module).is_some(), "{module}");
            assert!(find(&sgm, module).is_some(), "{module}");
        }
    }

    #[test]
    fn flux_is_split_and_joined() {
        let split = index(&[
            "transformer_blocks.0.attn.to_q.weight",
            "transformer_blocks.0.attn.to_k.weight",
            "transformer_blocks.0.attn.to_v.weight",
            "single_transformer_blocks.0.proj_out.weight",
        ]);
        assert!(matches!(
            split.find(&key_layouts::path("lora_unet_double_blocks_0_img_attn_qkv")),
            Found::Stacked { pieces, swapped: false } if pieces.len() == 3
        ));
        let joined = index(&[
            "double_blocks.0.img_attn.qkv.weight",
            "single_blocks.0.linear2.weight",
        ]);
        assert!(matches!(
            joined.find(&key_layouts::path("transformer.transformer_blocks.0.attn.to_k")),
            Found::Stacked { pieces, .. } if pieces[0].part == 1 && pieces[0].heights == [1, 1, 1]
        ));
        assert_eq!(
            find(&joined, "transformer.single_transformer_blocks.0.proj_out").unwrap(),
            "single_blocks.0.linear2"
        );
        // The same key means nothing to a model that is no FLUX.
        let other = index(&["proj_out.weight", "h.0.a.weight", "h.1.a.weight"]);
        assert_eq!(find(&other, "lora_unet_final_layer_linear"), None);
    }

    #[test]
    fn the_nearest_names_are_told() {
        let i = index(&[
            "blocks.0.attn.to_q.weight",
            "blocks.0.attn.to_out.0.weight",
            "zz.weight",
        ]);
        assert_eq!(
            i.nearest(&key_layouts::path("lora_unet_blocks_0_attn_to_qq"), 1),
            ["blocks.0.attn.to_q"]
        );
    }
}
