//! FLUX in Black Forest Labs' names and in diffusers': one table, read in both directions. Some of the first are several of
//! the second stacked by rows (`qkv`), and the last modulation has its halves the other way round.
//!
//! From `diffusers/loaders/lora_conversion_utils.py`: `_convert_kohya_flux_lora_to_diffusers`,
//! `_convert_xlabs_flux_lora_to_diffusers`, `_convert_bfl_flux_control_lora_to_diffusers`.

/// One correspondence; `_` for `.` on the left side.
struct Row {
    bfl: &'static str,
    diffusers: &'static [&'static str],
    /// Rows are [shift, scale] on the left and [scale, shift] on the right.
    swapped: bool,
}

const fn row(bfl: &'static str, diffusers: &'static [&'static str]) -> Row {
    Row {
        bfl,
        diffusers,
        swapped: false,
    }
}

const DOUBLE: &[Row] = &[
    row("img_attn_qkv", &["attn.to_q", "attn.to_k", "attn.to_v"]),
    row(
        "txt_attn_qkv",
        &["attn.add_q_proj", "attn.add_k_proj", "attn.add_v_proj"],
    ),
    row("img_attn_proj", &["attn.to_out.0"]),
    row("txt_attn_proj", &["attn.to_add_out"]),
    row("img_attn_norm_query_norm", &["attn.norm_q"]),
    row("img_attn_norm_key_norm", &["attn.norm_k"]),
    row("txt_attn_norm_query_norm", &["attn.norm_added_q"]),
    row("txt_attn_norm_key_norm", &["attn.norm_added_k"]),
    row("img_mlp_0", &["ff.net.0.proj"]),
    row("img_mlp_2", &["ff.net.2"]),
    row("txt_mlp_0", &["ff_context.net.0.proj"]),
    row("txt_mlp_2", &["ff_context.net.2"]),
    row("img_mod_lin", &["norm1.linear"]),
    row("txt_mod_lin", &["norm1_context.linear"]),
];

const SINGLE: &[Row] = &[
    row(
        "linear1",
        &["attn.to_q", "attn.to_k", "attn.to_v", "proj_mlp"],
    ),
    row("linear2", &["proj_out"]),
    row("modulation_lin", &["norm.linear"]),
    row("norm_query_norm", &["attn.norm_q"]),
    row("norm_key_norm", &["attn.norm_k"]),
    // Only XLabs' LoRAs have it: the attention's part of `linear1`.
    row("qkv", &["attn.to_q", "attn.to_k", "attn.to_v"]),
];

const TOP: &[Row] = &[
    row("img_in", &["x_embedder"]),
    row("txt_in", &["context_embedder"]),
    row(
        "time_in_in_layer",
        &["time_text_embed.timestep_embedder.linear_1"],
    ),
    row(
        "time_in_out_layer",
        &["time_text_embed.timestep_embedder.linear_2"],
    ),
    row(
        "vector_in_in_layer",
        &["time_text_embed.text_embedder.linear_1"],
    ),
    row(
        "vector_in_out_layer",
        &["time_text_embed.text_embedder.linear_2"],
    ),
    row(
        "guidance_in_in_layer",
        &["time_text_embed.guidance_embedder.linear_1"],
    ),
    row(
        "guidance_in_out_layer",
        &["time_text_embed.guidance_embedder.linear_2"],
    ),
    row("final_layer_linear", &["proj_out"]),
    Row {
        bfl: "final_layer_adaLN_modulation_1",
        diffusers: &["norm_out.linear"],
        swapped: true,
    },
];

/// Modules of the other naming that a module is, in the order of its rows.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Split {
    /// Module names with `_` for `.`.
    pub modules: Vec<String>,
    pub swapped: bool,
}

/// The place of a module of diffusers inside one of Black Forest Labs'.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Place {
    /// The whole module, `_` for `.`.
    pub module: String,
    /// Which of its parts, of how many.
    pub part: usize,
    pub of: usize,
    pub swapped: bool,
}

/// What `name` (with `_` for `.`) is in diffusers' names.
pub(super) fn to_diffusers(name: &str) -> Option<Split> {
    let split = |prefix: String, rest: &str, rows: &[Row]| {
        let row = rows.iter().find(|r| r.bfl == rest)?;
        Some(Split {
            modules: (row.diffusers.iter())
                .map(|d| format!("{prefix}{}", d.replace('.', "_")))
                .collect(),
            swapped: row.swapped,
        })
    };
    if let Some((n, rest)) = block(name, "double_blocks_") {
        return split(format!("transformer_blocks_{n}_"), rest, DOUBLE);
    }
    if let Some((n, rest)) = block(name, "single_blocks_") {
        return split(format!("single_transformer_blocks_{n}_"), rest, SINGLE);
    }
    split(String::new(), name, TOP)
}

/// Where diffusers' `name` (with `_` for `.`) is in Black Forest Labs' names.
pub(super) fn to_bfl(name: &str) -> Option<Place> {
    let place = |prefix: String, rest: &str, rows: &[Row]| {
        rows.iter().find_map(|r| {
            let part = (r.diffusers.iter()).position(|d| d.replace('.', "_") == rest)?;
            Some(Place {
                module: format!("{prefix}{}", r.bfl),
                part,
                of: r.diffusers.len(),
                swapped: r.swapped,
            })
        })
    };
    if let Some((n, rest)) = block(name, "single_transformer_blocks_") {
        return place(format!("single_blocks_{n}_"), rest, SINGLE);
    }
    if let Some((n, rest)) = block(name, "transformer_blocks_") {
        return place(format!("double_blocks_{n}_"), rest, DOUBLE);
    }
    place(String::new(), name, TOP)
}

fn block<'a>(name: &'a str, prefix: &str) -> Option<(usize, &'a str)> {
    let (digits, rest) = name.strip_prefix(prefix)?.split_once('_')?;
    Some((digits.parse().ok()?, rest))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_table_reads_the_same_in_both_directions() {
        let name = |prefix: &str, r: &Row| format!("{prefix}{}", r.bfl);
        let all = (DOUBLE.iter().map(|r| name("double_blocks_7_", r)))
            .chain(
                SINGLE
                    .iter()
                    .filter(|r| r.bfl != "qkv")
                    .map(|r| name("single_blocks_7_", r)),
            )
            .chain(TOP.iter().map(|r| name("", r)));
        for bfl in all {
            let split = to_diffusers(&bfl).unwrap();
            for (part, d) in split.modules.iter().enumerate() {
                let place = Place {
                    module: bfl.clone(),
                    part,
                    of: split.modules.len(),
                    swapped: split.swapped,
                };
                assert_eq!(to_bfl(d), Some(place), "{d}");
            }
        }
        assert_eq!(to_diffusers("double_blocks_x_img_mlp_0"), None);
        assert_eq!(to_diffusers("double_blocks_0_img_mlp_1"), None);
    }
}
