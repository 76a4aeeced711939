//! Parts of a pipeline that one file may hold, by the prefixes of their tensors' names.

use super::super::names;

/// Prefix and component; the first that fits counts.
const PREFIXES: &[(&str, &str)] = &[
    ("model_ema.", "ema"),
    ("ema_model.", "ema"),
    ("ema.", "ema"),
    ("model.diffusion_model.", "denoiser"),
    ("diffusion_model.", "denoiser"),
    ("unet.", "denoiser"),
    ("transformer.", "denoiser"),
    ("net.", "denoiser"),
    ("control_model.", "controlnet"),
    ("controlnet.", "controlnet"),
    ("first_stage_model.", "vae"),
    ("vae.", "vae"),
    // Stability AI's generative-models, which SDXL was published in.
    ("conditioner.embedders.0.", "text-encoder"),
    ("conditioner.embedders.1.", "text-encoder-2"),
    ("conditioner.", "conditioner"),
    // Latent Diffusion: Stable Diffusion 1 and 2.
    ("cond_stage_model.", "text-encoder"),
    ("text_encoder_2.", "text-encoder-2"),
    ("text_encoder_3.", "text-encoder-3"),
    ("text_encoder_4.", "text-encoder-4"),
    ("text_encoder.", "text-encoder"),
    ("image_encoder.", "image-encoder"),
    ("clip_vision.", "image-encoder"),
    ("safety_checker.", "safety-checker"),
    // LTX-2's single files.
    ("audio_vae.", "audio-vae"),
    ("vocoder.", "vocoder"),
    ("text_embedding_projection.", "connectors"),
    ("embedding_manager.", "embeddings"),
    ("denoiser.", "schedule"),
    // PyTorch Lightning's checkpoints.
    ("optimizer_states.", "training"),
    ("lr_schedulers.", "training"),
    ("callbacks.", "training"),
    ("loops.", "training"),
];

/// Buffers of the noise schedule, and counters, of Latent Diffusion's checkpoints
/// (`ldm/models/diffusion/ddpm.py`).
const ALONE: &[(&str, &str)] = &[
    ("betas", "schedule"),
    ("alphas_cumprod", "schedule"),
    ("alphas_cumprod_prev", "schedule"),
    ("sqrt_alphas_cumprod", "schedule"),
    ("sqrt_one_minus_alphas_cumprod", "schedule"),
    ("log_one_minus_alphas_cumprod", "schedule"),
    ("sqrt_recip_alphas_cumprod", "schedule"),
    ("sqrt_recipm1_alphas_cumprod", "schedule"),
    ("posterior_variance", "schedule"),
    ("posterior_log_variance_clipped", "schedule"),
    ("posterior_mean_coef1", "schedule"),
    ("posterior_mean_coef2", "schedule"),
    ("lvlb_weights", "schedule"),
    ("logvar", "schedule"),
    ("scale_factor", "schedule"),
    ("global_step", "training"),
    ("epoch", "training"),
    ("step", "training"),
];

/// Tensors that are no weights of any model, whatever else the file holds: tokenizers that `ComfyUI` keeps beside a text encoder
/// (`comfy/sd.py`), and tensors whose presence says how a model is sampled (`comfy/supported_models.py`, `model_detection.py`).
const NO_WEIGHTS: &[(&str, &str)] = &[
    ("spiece_model", TOKENIZER),
    ("tekken_model", TOKENIZER),
    ("tokenizer_json", TOKENIZER),
    ("yue2_tokenizer_json", TOKENIZER),
    ("v_pred", SETTINGS),
    ("ztsnr", SETTINGS),
    ("edm_mean", SETTINGS),
    ("edm_std", SETTINGS),
    ("edm_vpred.sigma_max", SETTINGS),
    ("edm_vpred.sigma_min", SETTINGS),
];

const TOKENIZER: &str = "tokenizer";
const SETTINGS: &str = "settings";

/// What a tensor is that is no weight of any model.
pub(super) fn no_weight(name: &str) -> Option<&'static str> {
    let own = NO_WEIGHTS
        .iter()
        .find(|(n, _)| name == *n || name.strip_suffix(n).is_some_and(|p| p.ends_with('.')));
    // `__x0__`, `__sequential__`, `__index_timestep_zero__`.
    let last = name.rsplit('.').next().unwrap_or(name);
    let marked = last.len() > 4 && last.starts_with("__") && last.ends_with("__");
    own.map(|(_, c)| *c).or(marked.then_some(SETTINGS))
}

/// Copies of the weights that training averaged: never meant where the weights themselves are there
/// too.
pub(super) const EMA: &str = "ema";

/// The component that `name` says it belongs to.
pub(super) fn of(name: &str) -> Option<&'static str> {
    let alone = ALONE.iter().find(|(n, _)| *n == name);
    let prefix = || PREFIXES.iter().find(|(p, _)| name.starts_with(p));
    let encoder = name.strip_prefix("text_encoders.").map(|rest| {
        let called = rest.split('.').next().unwrap_or(rest);
        [
            "text-encoder",
            "text-encoder-2",
            "text-encoder-3",
            "text-encoder-4",
        ][usize::from(names::text_encoder(called)) - 1]
    });
    no_weight(name)
        .or(encoder)
        .or_else(|| alone.or_else(prefix).map(|(_, component)| *component))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_say_what_they_belong_to() {
        for (name, component) in [
            (
                "model.diffusion_model.input_blocks.0.0.weight",
                Some("denoiser"),
            ),
            ("model_ema.diffusion_modelinput_blocks00weight", Some("ema")),
            (
                "conditioner.embedders.1.model.ln_final.weight",
                Some("text-encoder-2"),
            ),
            ("first_stage_model.decoder.conv_in.weight", Some("vae")),
            (
                "text_encoders.t5xxl.transformer.shared.weight",
                Some("text-encoder-3"),
            ),
            (
                "text_encoders.qwen25_7b.transformer.model.norm.weight",
                Some("text-encoder-4"),
            ),
            ("alphas_cumprod", Some("schedule")),
            ("audio_vae.decoder.conv_in.conv.weight", Some("audio-vae")),
            ("spiece_model", Some("tokenizer")),
            ("text_encoders.t5xxl.spiece_model", Some("tokenizer")),
            ("v_pred", Some("settings")),
            ("model.diffusion_model.__x0__", Some("settings")),
            ("__", None),
            ("down_blocks.0.conv.weight", None),
        ] {
            assert_eq!(of(name), component, "{name}");
        }
    }
}
