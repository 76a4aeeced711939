//! The samples and the documentation's examples, in all forms.

use super::*;

/// The inputs of an SDXL UNet exported with the documentation's shapes.
pub fn sdxl() -> Vec<TensorDecl> {
    vec![
        decl("sample", "BATCH 4 4*_H 4*_W"),
        decl("timestep", "1"),
        decl("encoder_hidden_states", "BATCH 77 768"),
        decl("text_embeds", "BATCH 1280"),
        decl("time_ids", "BATCH 6"),
    ]
}

pub const SDXL: &str = r#"{
  "dims": {
    "BATCH": { "min": 2, "max": 24, "opt": 2 },
    "_H": { "min": 16, "max": 32 },
    "_W": { "min": 16, "max": 32 }
  },
  "args": [{ "0": "BATCH", "2": "4*_H", "3": "4*_W" }, {}],
  "kwargs": {
    "encoder_hidden_states": { "0": "BATCH" },
    "added_cond_kwargs": { "text_embeds": { "0": "BATCH" }, "time_ids": { "0": "BATCH" } },
    "return_dict": null
  }
}"#;

const SDXL_TORCH: &str = r#"{
  "dynamic_shapes": [
    ["BATCH", 4, "4*_H", "4*_W"], [1], ["BATCH", 77, 768],
    { "text_embeds": ["BATCH", 1280], "time_ids": ["BATCH", 6] }, null
  ],
  "dims": {
    "BATCH": { "min": 2, "max": 24, "derived": [] },
    "_H": { "min": 16, "max": 32, "derived": ["4*_H"] },
    "_W": { "min": 16, "max": 32, "derived": ["4*_W"] }
  }
}"#;

#[test]
fn sdxl_lowers_to_its_profile_from_every_form() {
    let readable = resolve(SDXL, &sdxl()).unwrap();
    assert_eq!(
        table(&readable),
        "sample 2:2:24 4 64:96:128 64:96:128\ntimestep 1\nencoder_hidden_states 2:2:24 77 768\n\
         text_embeds 2:2:24 1280\ntime_ids 2:2:24 6"
    );
    assert!(readable.warnings().is_empty());
    // Torch's dump has no place for `opt`, so that one differs.
    let torch = resolve(SDXL_TORCH, &sdxl()).unwrap();
    assert_eq!(torch.dims()["BATCH"].opt, 13);
    assert_eq!(torch.compare(&readable), Relation::Inside);
    assert_eq!(readable.compare(&torch), Relation::Inside);
    let overrides = Overrides::from_args(&[], &["BATCH=2"]).unwrap();
    let torch = spec(SDXL_TORCH).resolve(&sdxl(), &overrides).unwrap();
    assert_eq!(torch, readable);
}
