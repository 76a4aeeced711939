//! Names of Stable Diffusion's UNet as its first authors (and so SDXL LoRAs of kohya's scripts) write them, in diffusers'
//! names. The rules are those of `diffusers/loaders/lora_conversion_utils.py`, `_maybe_map_sgm_blocks_to_diffusers` and
//! `_convert_unet_lora_key`. Both sides are written with `_` for `.`; that the result is a module of the model is checked by
//! the caller, so nothing here is a guess.

/// `name` in diffusers' spelling, for a UNet with `layers` resnets in each down block. `None` when `name` is not of this kind.
pub(super) fn to_diffusers(name: &str, layers: usize) -> Option<String> {
    for (from, to) in [
        ("time_embed_0", "time_embedding_linear_1"),
        ("time_embed_2", "time_embedding_linear_2"),
        ("label_emb_0_0", "add_embedding_linear_1"),
        ("label_emb_0_2", "add_embedding_linear_2"),
        ("input_blocks_0_0", "conv_in"),
        ("out_0", "conv_norm_out"),
        ("out_2", "conv_out"),
    ] {
        if name == from {
            return Some(to.to_owned());
        }
    }
    if let Some(rest) = name.strip_prefix("input_blocks_") {
        let (block, rest) = number(rest)?;
        let (index, rest) = number(rest)?;
        let (block, layer) = (
            (block.checked_sub(1)?) / (layers + 1),
            (block - 1) % (layers + 1),
        );
        let inner = match (index, rest) {
            (0, "op") => return Some(format!("down_blocks_{block}_downsamplers_0_conv")),
            (0, rest) => format!("resnets_{layer}_{}", resnet(rest)?),
            (1, rest) => format!("attentions_{layer}_{rest}"),
            _ => return None,
        };
        return Some(format!("down_blocks_{block}_{inner}"));
    }
    if let Some(rest) = name.strip_prefix("middle_block_") {
        let (index, rest) = number(rest)?;
        return Some(match index {
            0 => format!("mid_block_resnets_0_{}", resnet(rest)?),
            1 => format!("mid_block_attentions_0_{rest}"),
            2 => format!("mid_block_resnets_1_{}", resnet(rest)?),
            _ => return None,
        });
    }
    let rest = name.strip_prefix("output_blocks_")?;
    let (block, rest) = number(rest)?;
    let (index, rest) = number(rest)?;
    let (block, layer) = (block / (layers + 1), block % (layers + 1));
    let inner = match (index, rest) {
        // An upsampler comes after the attention, or takes its place in a block without one.
        (1 | 2, "conv") => "upsamplers_0_conv".to_owned(),
        (0, rest) => format!("resnets_{layer}_{}", resnet(rest)?),
        (1, rest) => format!("attentions_{layer}_{rest}"),
        _ => return None,
    };
    Some(format!("up_blocks_{block}_{inner}"))
}

fn resnet(name: &str) -> Option<&'static str> {
    Some(match name {
        "in_layers_0" => "norm1",
        "in_layers_2" => "conv1",
        "emb_layers_1" => "time_emb_proj",
        "out_layers_0" => "norm2",
        "out_layers_3" => "conv2",
        "skip_connection" => "conv_shortcut",
        _ => return None,
    })
}

/// A number and what follows its underscore.
fn number(text: &str) -> Option<(usize, &str)> {
    let (digits, rest) = text.split_once('_')?;
    Some((digits.parse().ok()?, rest))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_that_are_not_of_this_kind_are_left() {
        for name in [
            "down_blocks_0_resnets_0_conv1",
            "input_blocks_x_0_op",
            "input_blocks_0_1_x",
            "middle_block_3_x",
            "output_blocks_1_5_conv",
            "input_blocks_4_0_unknown",
            "",
        ] {
            assert_eq!(to_diffusers(name, 2), None, "{name}");
        }
    }

    #[test]
    fn every_layer_of_sdxl_is_what_diffusers_makes_of_it() {
        let path = concat!(env!("CARGO_MANIFEST_DIR"), "/fixtures/lora/sdxl_names.json");
        let names: std::collections::BTreeMap<String, String> =
            serde_json::from_slice(&std::fs::read(path).unwrap()).unwrap();
        assert_eq!(names.len(), 320);
        for (name, expected) in names {
            assert_eq!(to_diffusers(&name, 2).unwrap(), expected, "{name}");
        }
    }

    /// Stable Diffusion 1: block counts and the upsampler without an attention, from
    /// `diffusers/pipelines/stable_diffusion/convert_from_ckpt.py`.
    #[test]
    fn an_upsampler_without_attention_is_found() {
        let of = |n: &str| to_diffusers(n, 2).unwrap();
        assert_eq!(
            of("output_blocks_2_1_conv"),
            "up_blocks_0_upsamplers_0_conv"
        );
        assert_eq!(
            of("output_blocks_5_2_conv"),
            "up_blocks_1_upsamplers_0_conv"
        );
        assert_eq!(
            of("output_blocks_3_1_proj_in"),
            "up_blocks_1_attentions_0_proj_in"
        );
    }
}
