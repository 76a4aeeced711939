//! PEFT's adapter configuration: `adapter_config.json` beside the file, or the `lora_adapter_metadata` that diffusers puts
//! into the file (`diffusers/loaders/lora_base.py`, `LORA_ADAPTER_METADATA_KEY`).

use super::error::Error;
use super::multiply::Turning;
use regex::Regex;
use serde_json::{Map, Value};
use std::collections::BTreeMap;
use std::path::Path;

/// Key of a safetensors file's metadata that holds the configurations of all its components.
pub(super) const METADATA: &str = "lora_adapter_metadata";

/// What of a configuration decides the result of a merge.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Config {
    pub rank: f64,
    pub alpha: f64,
    pub rslora: bool,
    pub dora: bool,
    pub fan_in_fan_out: bool,
    /// Whether biases of the model were trained and saved (`bias` other than `none`).
    pub bias: bool,
    pub saved: Vec<String>,
    /// How the vectors of an OFT become rotations.
    pub turning: Option<Turning>,
    ranks: Patterns,
    alphas: Patterns,
}

/// Pattern of module names to value, in the file's order; the first that matches counts.
#[derive(Debug, Clone)]
struct Patterns(Vec<(Regex, f64)>);

impl PartialEq for Patterns {
    fn eq(&self, other: &Self) -> bool {
        let flat = |p: &Self| -> Vec<(String, f64)> {
            p.0.iter().map(|(r, v)| (r.as_str().into(), *v)).collect()
        };
        flat(self) == flat(other)
    }
}

impl Patterns {
    /// Matches module names as `peft.utils.other.get_pattern_key` does:
    /// `re.match(rf"(.*\.)?({key})$", name)`. `None` where a value is no number or a key no regular
    /// expression.
    fn read(value: Option<&Value>) -> Option<Patterns> {
        let empty = Map::new();
        let map = match value {
            None | Some(Value::Null) => &empty,
            Some(v) => v.as_object()?,
        };
        let mut patterns = Vec::new();
        for (key, value) in map {
            let regex = Regex::new(&format!(r"^(?:.*\.)?(?:{key})$")).ok()?;
            patterns.push((regex, value.as_f64()?));
        }
        Some(Patterns(patterns))
    }

    fn get(&self, module: &str) -> Option<f64> {
        let found = self.0.iter().find(|(r, _)| r.is_match(module));
        found.map(|(_, v)| *v)
    }
}

/// No `adapter_config.json` is longer, in bytes; those with a rank for every module of a large model have a few hundred KiB.
const LONGEST: u64 = 64 << 20;

impl Config {
    pub(super) fn open(path: &Path) -> Result<Config, Error> {
        let bytes = crate::fsx::read_bounded(path, LONGEST).map_err(|e| Error::Source(e.into()))?;
        let value: Value =
            serde_json::from_slice(&bytes).map_err(|source| Error::ConfigSyntax {
                path: path.to_owned(),
                source,
            })?;
        let empty = Map::new();
        Config::read(value.as_object().unwrap_or(&empty)).map_err(|field| Error::ConfigValue {
            path: path.to_owned(),
            field,
        })
    }

    /// Reads the metadata of a file: one object with keys `unet.r`, `transformer.lora_alpha`, …; by prefix.
    pub(super) fn from_metadata(
        text: &str,
        path: &Path,
    ) -> Result<BTreeMap<String, Config>, Error> {
        let value: Map<String, Value> =
            serde_json::from_str(text).map_err(|source| Error::ConfigSyntax {
                path: path.to_owned(),
                source,
            })?;
        let mut split: BTreeMap<String, Map<String, Value>> = BTreeMap::new();
        for (key, v) in value {
            // Only the component stands before the first dot; pattern keys are inside the values.
            let (prefix, field) = key.split_once('.').unwrap_or(("", &key));
            (split.entry(prefix.to_owned()).or_default()).insert(field.to_owned(), v);
        }
        let mut configs = BTreeMap::new();
        for (prefix, map) in split {
            let config = Config::read(&map).map_err(|field| Error::ConfigValue {
                path: path.to_owned(),
                field: format!("{prefix}.{field}"),
            })?;
            configs.insert(prefix, config);
        }
        Ok(configs)
    }

    /// `Err` holds the name of the field that is missing, wrong or asks for what cannot be fused.
    fn read(map: &Map<String, Value>) -> Result<Config, String> {
        let get = |k: &str| map.get(k).filter(|v| !v.is_null());
        let flag = |k: &str| match get(k) {
            None => Ok(false),
            Some(v) => v.as_bool().ok_or_else(|| k.to_owned()),
        };
        let kind = get("peft_type").and_then(Value::as_str).unwrap_or("LORA");
        if !matches!(kind, "LORA" | "LOHA" | "LOKR" | "OFT" | "BOFT" | "IA3") {
            return Err("peft_type".into());
        }
        // These have neither a rank nor an alpha that the result depends on.
        let multiplies = matches!(kind, "OFT" | "BOFT" | "IA3");
        // These change the base weights when they are set up, or make the result depend on the input.
        for field in [
            "use_qalora",
            "layer_replication",
            "use_bdlora",
            "alora_invocation_tokens",
            "arrow_config",
            "kasa_config",
            "trainable_token_indices",
            "target_parameters",
        ] {
            match get(field) {
                // PEFT saves every field, those without effect as false or empty.
                None | Some(Value::Bool(false)) => {}
                Some(Value::Array(a)) if a.is_empty() => {}
                Some(Value::Object(o)) if o.is_empty() => {}
                Some(_) => return Err(field.into()),
            }
        }
        let init = get("init_lora_weights")
            .and_then(Value::as_str)
            .unwrap_or("");
        // Where training began with a rewritten base, the factors alone are no change to the base
        // that the plan has.
        let changes_base = ["pissa", "olora", "corda", "loftq", "lora_ga", "mica"];
        if changes_base.iter().any(|p| init.starts_with(p)) {
            return Err("init_lora_weights".into());
        }
        let number = |k: &str| (get(k).and_then(Value::as_f64)).ok_or_else(|| k.to_owned());
        let rank = if multiplies { 1.0 } else { number("r")? };
        if rank <= 0.0 {
            return Err("r".into());
        }
        let alpha = match kind {
            _ if multiplies => 1.0,
            "LORA" => number("lora_alpha")?,
            _ => number("alpha")?,
        };
        let turning = (kind == "OFT").then(|| turning(map)).transpose()?;
        let saved = match get("modules_to_save") {
            None => Vec::new(),
            Some(v) => (v.as_array().into_iter().flatten())
                .map(|s| s.as_str().map(ToOwned::to_owned))
                .collect::<Option<_>>()
                .ok_or("modules_to_save")?,
        };
        Ok(Config {
            rank,
            alpha,
            rslora: flag("use_rslora")?,
            dora: flag("use_dora")?,
            fan_in_fan_out: flag("fan_in_fan_out")?,
            bias: get("bias")
                .and_then(Value::as_str)
                .is_some_and(|b| b != "none"),
            saved,
            turning,
            ranks: Patterns::read(get("rank_pattern")).ok_or("rank_pattern")?,
            alphas: Patterns::read(get("alpha_pattern")).ok_or("alpha_pattern")?,
        })
    }

    /// Rank and alpha of `module` (its path inside the model).
    pub(super) fn of(&self, module: &str) -> (f64, f64) {
        let rank = self.ranks.get(module).unwrap_or(self.rank);
        (rank, self.alphas.get(module).unwrap_or(self.alpha))
    }

    /// Whether `module`, or one that it is in, was trained as a whole and saved: `peft.utils.other._set_trainable` asks
    /// whether the path ends with one of the names.
    pub(super) fn saves(&self, module: &str) -> bool {
        let ends = module.match_indices('.').map(|(i, _)| i);
        (ends.chain([module.len()])).any(|end| {
            self.saved
                .iter()
                .any(|s| module[..end].ends_with(s.as_str()))
        })
    }
}

/// `OFTConfig`. Before 0.14 the vectors were blocks, and before 0.18 the Neumann series was another; those have no version.
fn turning(map: &Map<String, Value>) -> Result<Turning, String> {
    let flag = |k: &str, default: bool| match map.get(k) {
        None | Some(Value::Null) => Ok(default),
        Some(v) => v.as_bool().ok_or_else(|| k.to_owned()),
    };
    if !map.contains_key("oft_block_size") {
        return Err("oft_block_size".into());
    }
    let series = flag("use_cayley_neumann", true)?;
    let version = map
        .get("peft_version")
        .and_then(Value::as_str)
        .unwrap_or("");
    // A build of PEFT from its repository adds `@` and the commit.
    let mut numbers = version.split(['.', '@']).map(str::parse::<u32>);
    let first = (numbers.next(), numbers.next());
    let known = matches!(first, (Some(Ok(major)), Some(Ok(minor))) if (major, minor) >= (0, 18));
    if series && !known {
        return Err("peft_version".into());
    }
    // PEFT's defaults, where a configuration leaves them out.
    let terms = match map.get("num_cayley_neumann_terms") {
        None | Some(Value::Null) => 5,
        Some(v) => v.as_u64().ok_or("num_cayley_neumann_terms")? as usize,
    };
    let limit = match (flag("coft", false)?, map.get("eps")) {
        (false, _) => None,
        (true, None) => Some(6e-5),
        (true, Some(v)) => Some(v.as_f64().ok_or("eps")?),
    };
    Ok(Turning {
        neumann: series.then_some(terms),
        limit,
        shared: flag("block_share", false)?,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(text: &str) -> Result<Config, String> {
        let value: Value = serde_json::from_str(text).unwrap();
        Config::read(value.as_object().unwrap())
    }

    #[test]
    fn patterns_match_as_in_peft() {
        let c = read(r#"{"r":4,"lora_alpha":8,"rank_pattern":{"to_q":2,"blocks\\.\\d+\\.to_k":3},"alpha_pattern":{"a.to_q":1}}"#).unwrap();
        assert_eq!(c.of("blocks.0.to_q"), (2.0, 8.0));
        assert_eq!(c.of("a.to_q"), (2.0, 1.0));
        assert_eq!(c.of("x.blocks.12.to_k"), (3.0, 8.0));
        assert_eq!(c.of("not_to_q"), (4.0, 8.0));
        assert_eq!(c.of("to_q.inner"), (4.0, 8.0));
    }

    #[test]
    fn what_cannot_be_fused_is_named() {
        for (text, field) in [
            (r#"{"peft_type":"VERA","r":4,"lora_alpha":8}"#, "peft_type"),
            (r#"{"peft_type":"OFT","r":4}"#, "oft_block_size"),
            (
                r#"{"peft_type":"OFT","r":4,"oft_block_size":0}"#,
                "peft_version",
            ),
            (r#"{"lora_alpha":8}"#, "r"),
            (r#"{"r":0,"lora_alpha":8}"#, "r"),
            (r#"{"r":4}"#, "lora_alpha"),
            (r#"{"r":4,"lora_alpha":"x"}"#, "lora_alpha"),
            (r#"{"r":4,"lora_alpha":null}"#, "lora_alpha"),
            (
                r#"{"r":4,"lora_alpha":8,"init_lora_weights":"pissa_niter_4"}"#,
                "init_lora_weights",
            ),
            (
                r#"{"r":4,"lora_alpha":8,"layer_replication":[[0,4]]}"#,
                "layer_replication",
            ),
            (
                r#"{"r":4,"lora_alpha":8,"rank_pattern":{"(":1}}"#,
                "rank_pattern",
            ),
            (r#"{"r":4,"lora_alpha":8,"use_rslora":1}"#, "use_rslora"),
        ] {
            assert_eq!(read(text), Err(field.to_string()), "{text}");
        }
    }

    #[test]
    fn saved_modules_match_as_in_peft() {
        let c = read(r#"{"r":4,"lora_alpha":8,"modules_to_save":["norm","head.out"]}"#).unwrap();
        assert!(c.saves("blocks.0.norm") && c.saves("norm.inner") && c.saves("a.head.out"));
        assert!(c.saves("blocks.0.layer_norm"));
        assert!(!c.saves("blocks.0.norm2") && !c.saves("out"));
    }

    #[test]
    fn metadata_is_split_by_component() {
        let c = Config::from_metadata(
            r#"{"unet.r":4,"unet.lora_alpha":2,"text_encoder.r":8,"text_encoder.lora_alpha":16}"#,
            Path::new("x"),
        )
        .unwrap();
        assert_eq!((c["unet"].rank, c["text_encoder"].alpha), (4.0, 16.0));
        assert!(Config::from_metadata("[]", Path::new("x")).is_err());
    }
}
