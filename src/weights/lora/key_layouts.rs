//! Keys of LoRA files: which module a tensor belongs to, what it is there, and who writes keys like that.

use super::super::names;

/// What a tensor is to its module.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(super) enum Role {
    /// Maps the input down to the rank: `[rank, in, kernel…]`.
    Down,
    /// Maps the rank up to the output: `[out, rank, 1…]`.
    Up,
    /// Tucker core `[rank, rank, kernel…]`.
    Mid,
    /// Bias of the up projection, `[out]`.
    UpBias,
    /// One number, of any element type; the scale is this by the rank.
    Alpha,
    /// LyCORIS' DoRA magnitude, `[out, 1…]` or `[1, in, 1…]`.
    DoraScale,
    /// PEFT's DoRA magnitude, one per output.
    Magnitude,
    /// PEFT's embedding factors `[rank, entries]` and `[width, rank]`.
    EmbeddingA,
    EmbeddingB,
    HadaW1A,
    HadaW1B,
    HadaW2A,
    HadaW2B,
    HadaT1,
    HadaT2,
    LokrW1,
    LokrW1A,
    LokrW1B,
    LokrW2,
    LokrW2A,
    LokrW2B,
    LokrT2,
    /// Added to the weight as it is.
    Difference,
    /// Added to the bias as it is.
    BiasDifference,
    /// Takes the place of the weight.
    Replacement,
    /// Takes the place of the bias.
    BiasReplacement,
    A1,
    A2,
    B1,
    B2,
    /// `LyCORIS`' and kohya's OFT and BOFT: `[blocks, n, n]`, or `[stages, blocks, n, n]`.
    OftBlocks,
    /// One factor an output.
    Rescale,
    /// PEFT's OFT: what is above the diagonals, `[blocks, n (n − 1) / 2]`.
    OftVectors,
    /// PEFT's BOFT: `[stages, blocks, n, n]`, and one factor an output.
    BoftBlocks,
    BoftScale,
    /// PEFT's IA³: `[out, 1]` or `[1, in]`.
    Ia3,
}

impl Role {
    /// What messages call it.
    pub(super) fn name(self) -> &'static str {
        match self {
            Role::Down => "down projection (`lora_A`, `lora_down`)",
            Role::Up => "up projection (`lora_B`, `lora_up`)",
            Role::Mid => "`lora_mid`",
            Role::UpBias => "`lora_B.bias`",
            Role::Alpha => "`alpha`",
            Role::DoraScale => "`dora_scale`",
            Role::Magnitude => "`lora_magnitude_vector`",
            Role::EmbeddingA => "`lora_embedding_A`",
            Role::EmbeddingB => "`lora_embedding_B`",
            Role::HadaW1A => "`hada_w1_a`",
            Role::HadaW1B => "`hada_w1_b`",
            Role::HadaW2A => "`hada_w2_a`",
            Role::HadaW2B => "`hada_w2_b`",
            Role::HadaT1 => "`hada_t1`",
            Role::HadaT2 => "`hada_t2`",
            Role::LokrW1 => "`lokr_w1`",
            Role::LokrW1A => "`lokr_w1_a`",
            Role::LokrW1B => "`lokr_w1_b`",
            Role::LokrW2 => "`lokr_w2`",
            Role::LokrW2A => "`lokr_w2_a`",
            Role::LokrW2B => "`lokr_w2_b`",
            Role::LokrT2 => "`lokr_t2`",
            Role::Difference => "`diff`",
            Role::BiasDifference => "`diff_b`",
            Role::Replacement => "weight",
            Role::BiasReplacement => "bias",
            Role::A1 => "`a1`",
            Role::A2 => "`a2`",
            Role::B1 => "`b1`",
            Role::B2 => "`b2`",
            Role::OftBlocks => "`oft_blocks`",
            Role::Rescale => "`rescale`",
            Role::OftVectors => "`oft_R`",
            Role::BoftBlocks => "`boft_R`",
            Role::BoftScale => "`boft_s`",
            Role::Ia3 => "`ia3_l`",
        }
    }
}

/// Suffixes and what they say. A suffix that starts with `_` belongs to the module's last segment (`to_q_lora.down`).
const SUFFIXES: &[(&str, Role)] = &[
    (".lora_down.weight", Role::Down),
    (".lora_up.weight", Role::Up),
    (".lora_mid.weight", Role::Mid),
    (".lora_up.bias", Role::UpBias),
    (".lora.down.weight", Role::Down),
    (".lora.up.weight", Role::Up),
    ("_lora.down.weight", Role::Down),
    ("_lora.up.weight", Role::Up),
    (".lora_layer.down.weight", Role::Down),
    (".lora_layer.up.weight", Role::Up),
    (".lora_linear_layer.down.weight", Role::Down),
    (".lora_linear_layer.up.weight", Role::Up),
    ("_lora.alpha", Role::Alpha),
    (".lora.alpha", Role::Alpha),
    (".alpha", Role::Alpha),
    (".dora_scale", Role::DoraScale),
    (".hada_w1_a", Role::HadaW1A),
    (".hada_w1_b", Role::HadaW1B),
    (".hada_w2_a", Role::HadaW2A),
    (".hada_w2_b", Role::HadaW2B),
    (".hada_t1", Role::HadaT1),
    (".hada_t2", Role::HadaT2),
    (".lokr_w1", Role::LokrW1),
    (".lokr_w1_a", Role::LokrW1A),
    (".lokr_w1_b", Role::LokrW1B),
    (".lokr_w2", Role::LokrW2),
    (".lokr_w2_a", Role::LokrW2A),
    (".lokr_w2_b", Role::LokrW2B),
    (".lokr_t2", Role::LokrT2),
    // ComfyUI's names of parameters that are no weight (`model_lora_keys_unet`): before those that they end with.
    (".bias.diff", Role::BiasDifference),
    (".bias.set_weight", Role::BiasReplacement),
    (".diff", Role::Difference),
    (".diff_b", Role::BiasDifference),
    (".w_norm", Role::Difference),
    (".b_norm", Role::BiasDifference),
    (".set_weight", Role::Replacement),
    (".base_layer.weight", Role::Replacement),
    (".base_layer.bias", Role::BiasReplacement),
    (".a1.weight", Role::A1),
    (".a2.weight", Role::A2),
    (".b1.weight", Role::B1),
    (".b2.weight", Role::B2),
    (".oft_blocks", Role::OftBlocks),
    (".rescale", Role::Rescale),
];

/// PEFT's parameters, which may carry the adapter's name: `lora_A.weight`, `lora_A.default.weight`, `lora_A.default`.
const PEFT: &[(&str, Role)] = &[
    ("lora_A", Role::Down),
    ("lora_B", Role::Up),
    ("lora_embedding_A", Role::EmbeddingA),
    ("lora_embedding_B", Role::EmbeddingB),
    ("lora_magnitude_vector", Role::Magnitude),
    ("oft_R", Role::OftVectors),
    ("boft_R", Role::BoftBlocks),
    ("boft_s", Role::BoftScale),
    ("ia3_l", Role::Ia3),
];

/// Kinds of adapter that are recognised and refused.
const REFUSED: &[(&str, &str)] = &[
    (".oft_diag", "OFT of another form"),
    (".oft_R", "OFT of PEFT before 0.14"),
    (".oft_s", "OFT of PEFT before 0.14"),
    (".oft_embedding_R.weight", "OFT of an embedding"),
    (".on_input", "IA3 of LyCORIS"),
    (".bm.weight", "GLoRA with a Tucker core"),
    (".reshape_weight", "reshaped weight"),
    (".lora_A.bias", "bias on the down projection"),
    (".lora_down.bias", "bias on the down projection"),
    (".lambda_layer", "T-LoRA"),
    (".vera_lambda_b", "VeRA"),
    (".lora_E", "AdaLoRA"),
    (".ranknum", "AdaLoRA"),
];

/// Tensors that no reader applies to a model's weights: `OneTrainer`'s textual-inversion embeddings.
const IGNORED: &[&str] = &["bundle_emb."];

/// PEFT's table of BOFT's permutations, which follow from the shapes of its blocks.
const IMPLIED: &[&str] = &[".boft_P"];

/// A key taken apart.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Key {
    /// A tensor of a known role.
    Part {
        /// Path of the module, decorations of the format's own taken off (`.processor`, XLabs' names).
        module: String,
        /// What it is there.
        role: Role,
    },
    /// A kind of adapter that cannot be fused here.
    Refused(&'static str),
    /// A plain parameter: fused as a replacement if the configuration says that it was trained.
    Plain {
        /// Path of the module.
        module: String,
        /// Whether it is the weight or the bias: [`Role::Replacement`] or
        /// [`Role::BiasReplacement`].
        role: Role,
    },
    /// What no reader applies.
    Ignored,
    /// What the other tensors say as well.
    Implied,
    Unknown,
}

pub(super) fn parse(key: &str) -> Key {
    if IGNORED.iter().any(|p| key.starts_with(p)) {
        return Key::Ignored;
    }
    if IMPLIED.iter().any(|s| key.ends_with(s)) {
        return Key::Implied;
    }
    // Before what is known: several end with a known part, and mean another thing.
    if let Some((_, kind)) = REFUSED.iter().find(|(s, _)| key.ends_with(s)) {
        return Key::Refused(kind);
    }
    if let Some((module, role)) = peft(key) {
        return part(module, role);
    }
    // Before the suffixes, some of which these keys end with as well.
    if let Some((module, role)) = xlabs(key) {
        return Key::Part { module, role };
    }
    if let Some((suffix, role)) = SUFFIXES.iter().find(|(s, _)| key.ends_with(s)) {
        return part(&key[..key.len() - suffix.len()], *role);
    }
    // Black Forest Labs' FLUX norms, which their control LoRAs replace.
    if let Some(module) = key
        .strip_suffix(".scale")
        .filter(|m| m.ends_with("query_norm") || m.ends_with("key_norm"))
    {
        return part(module, Role::Replacement);
    }
    for (suffix, role) in [
        (".weight", Role::Replacement),
        (".bias", Role::BiasReplacement),
    ] {
        if let Some(module) = key.strip_suffix(suffix) {
            let module = match module.split_once(".modules_to_save.") {
                Some((m, _)) => m,
                None => module,
            };
            return Key::Plain {
                module: module.to_owned(),
                role,
            };
        }
    }
    Key::Unknown
}

fn part(module: &str, role: Role) -> Key {
    // A suffix alone names no module.
    if module.is_empty() {
        return Key::Unknown;
    }
    Key::Part {
        // diffusers before 0.22 put LoRA layers into attention processors.
        module: module.replace(".processor.", "."),
        role,
    }
}

/// Parameters of PEFT that are no modules, so that no `.weight` stands behind the adapter's name.
fn bare(role: Role) -> bool {
    use Role::{BoftBlocks, BoftScale, EmbeddingA, EmbeddingB, Ia3};
    matches!(role, EmbeddingA | EmbeddingB | BoftBlocks | BoftScale | Ia3)
}

fn peft(key: &str) -> Option<(&str, Role)> {
    for (name, role) in PEFT {
        // Every place: a module of the model may have such a name itself.
        for (at, _) in key.match_indices(name) {
            let (before, after) = (&key[..at], &key[at + name.len()..]);
            let Some(module) = before.strip_suffix('.') else {
                continue;
            };
            let rest: Vec<&str> = after.split('.').skip(1).collect();
            let role = match (after.starts_with('.'), rest.as_slice()) {
                (false, _) if after.is_empty() && *role != Role::OftVectors => *role,
                (true, ["weight"] | [_, "weight"]) => *role,
                (true, ["bias"] | [_, "bias"]) if *role == Role::Up => Role::UpBias,
                (true, [_]) if bare(*role) => *role,
                _ => continue,
            };
            return Some((module, role));
        }
    }
    None
}

/// `double_blocks.N.processor.qkv_lora1.down.weight` (XLabs' FLUX trainer), with the module in Black Forest Labs' names.
/// Image stream is 1, text stream is 2.
fn xlabs(key: &str) -> Option<(String, Role)> {
    let (block, rest) = key.split_once(".processor.")?;
    let (name, role) = match rest.strip_suffix(".down.weight") {
        Some(name) => (name, Role::Down),
        None => (rest.strip_suffix(".up.weight")?, Role::Up),
    };
    let single = block.contains("single_blocks.");
    let inner = match name {
        "qkv_lora1" => "img_attn.qkv",
        "qkv_lora2" => "txt_attn.qkv",
        "proj_lora1" => "img_attn.proj",
        "proj_lora2" => "txt_attn.proj",
        "qkv_lora" if single => "qkv",
        "proj_lora" if single => "linear2",
        _ => return None,
    };
    Some((format!("{block}.{inner}"), role))
}

/// Who writes keys like these.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Format {
    /// PEFT's own, as `save_pretrained` writes them: `base_model.model.….lora_A.weight`.
    Peft,
    /// diffusers since 0.22: `unet.….lora_A.weight`, `unet.….lora.down.weight`.
    Diffusers,
    /// diffusers before 0.22: `unet.….processor.to_q_lora.down.weight`.
    DiffusersOld,
    /// kohya's sd-scripts and LyCORIS: `lora_unet_…`, `lora_te_…`.
    Kohya,
    /// ComfyUI and ai-toolkit: `diffusion_model.…`.
    Comfyui,
    /// XLabs' FLUX trainer: `double_blocks.N.processor.qkv_lora1.down.weight`.
    Xlabs,
    Bare,
}

impl Format {
    /// Stable name, for manifests and reports.
    pub fn name(self) -> &'static str {
        match self {
            Format::Peft => "peft",
            Format::Diffusers => "diffusers",
            Format::DiffusersOld => "diffusers-old",
            Format::Kohya => "kohya",
            Format::Comfyui => "comfyui",
            Format::Xlabs => "xlabs",
            Format::Bare => "bare",
        }
    }

    pub(super) fn of(key: &str) -> Format {
        let starts = |prefixes: &[&str]| prefixes.iter().any(|p| key.starts_with(p));
        // Before the next test, which holds for these keys as well.
        if xlabs(key).is_some() {
            Format::Xlabs
        } else if key.contains(".processor.") || key.contains("_lora.") {
            Format::DiffusersOld
        } else if starts(&["base_model.model."]) {
            Format::Peft
        } else if FLAT.iter().any(|(p, _)| key.starts_with(p)) {
            Format::Kohya
        } else if starts(&["diffusion_model.", "model.diffusion_model."]) {
            Format::Comfyui
        } else if starts(&["unet.", "transformer.", "text_encoder", "vae."]) {
            Format::Diffusers
        } else {
            Format::Bare
        }
    }
}

/// The part of a pipeline that a module belongs to.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Component {
    Denoiser,
    /// First, second, third or fourth text encoder.
    TextEncoder(u8),
    Vae,
    /// The keys do not say.
    Unnamed,
}

impl Component {
    /// Those that a file can say it is for.
    pub const NAMED: [Component; 6] = [
        Component::Denoiser,
        Component::TextEncoder(1),
        Component::TextEncoder(2),
        Component::TextEncoder(3),
        Component::TextEncoder(4),
        Component::Vae,
    ];

    /// The component of this name.
    pub fn from_name(name: &str) -> Option<Component> {
        let all = Component::NAMED.into_iter().chain([Component::Unnamed]);
        all.into_iter().find(|c| c.name() == name)
    }

    /// Stable name, for `--lora` arguments and reports.
    pub fn name(self) -> &'static str {
        match self {
            Component::Denoiser => "denoiser",
            Component::TextEncoder(0 | 1) => "text-encoder",
            Component::TextEncoder(2) => "text-encoder-2",
            Component::TextEncoder(3) => "text-encoder-3",
            Component::TextEncoder(_) => "text-encoder-4",
            Component::Vae => "vae",
            Component::Unnamed => "unnamed",
        }
    }
}

/// Prefixes of names whose dots became underscores.
const FLAT: &[(&str, Component)] = &[
    // Wan-Fun's trainer. Before the next, which is the beginning of it: the first prefix that fits
    // is taken off.
    ("lora_unet__", Component::Denoiser),
    ("lora_unet_", Component::Denoiser),
    ("lora_transformer_", Component::Denoiser),
    ("lora_te_", Component::TextEncoder(1)),
    ("lora_te1_", Component::TextEncoder(1)),
    ("lora_te2_", Component::TextEncoder(2)),
    ("lora_te3_", Component::TextEncoder(3)),
    // Stable Cascade.
    ("lora_prior_unet_", Component::Denoiser),
    ("lora_prior_te_", Component::TextEncoder(1)),
    ("lora_vae_", Component::Vae),
    ("lycoris_", Component::Unnamed),
];

const DOTTED: &[(&str, Component)] = &[
    ("unet.", Component::Denoiser),
    ("transformer.", Component::Denoiser),
    ("conditional_transformer.", Component::Denoiser),
    ("diffusion_model.", Component::Denoiser),
    ("model.diffusion_model.", Component::Denoiser),
    ("double_blocks.", Component::Denoiser),
    ("single_blocks.", Component::Denoiser),
    ("text_encoder.", Component::TextEncoder(1)),
    ("text_encoder_2.", Component::TextEncoder(2)),
    ("text_encoder_3.", Component::TextEncoder(3)),
    ("text_encoder_4.", Component::TextEncoder(4)),
    ("vae.", Component::Vae),
    ("first_stage_model.", Component::Vae),
];

/// What a module path says once its decorations are off.
#[derive(Debug)]
pub(super) struct Path {
    /// Part of the pipeline.
    pub component: Component,
    /// Forms of the path, the least stripped first.
    pub forms: Vec<String>,
    /// Whether dots became underscores.
    pub flat: bool,
}

pub(super) fn path(module: &str) -> Path {
    for (prefix, component) in FLAT {
        if let Some(rest) = module.strip_prefix(prefix) {
            let mut forms = vec![rest.to_owned()];
            // transformers' text models had an inner module of this name until version 5.
            forms.extend(rest.strip_prefix("text_model_").map(ToOwned::to_owned));
            return Path {
                component: *component,
                forms,
                flat: true,
            };
        }
    }
    let mut forms = names::forms(module);
    // ComfyUI's names of text encoders, which no rule of [`names`] takes off: they say which encoder it is.
    let encoder = module.strip_prefix("text_encoders.").map(|rest| {
        let (name, inner) = rest.split_once('.').unwrap_or((rest, ""));
        // Without a name where one pipeline has several (`model_lora_keys_clip`).
        let inner = if name == "transformer" {
            inner
        } else {
            inner.strip_prefix("transformer.").unwrap_or(inner)
        };
        forms.extend(names::forms(inner));
        // Hunyuan-DiT's BERT, exported with its own name and without.
        forms.extend(inner.strip_prefix("bert.").map(ToOwned::to_owned));
        Component::TextEncoder(names::text_encoder(name))
    });
    let named = || {
        let prefix = |f: &String| DOTTED.iter().find(|(p, _)| f.starts_with(p));
        forms.iter().find_map(prefix).map(|(_, c)| *c)
    };
    let component = encoder.or_else(named).unwrap_or(Component::Unnamed);
    Path {
        component,
        forms,
        flat: false,
    }
}

#[cfg(test)]
mod tests;
