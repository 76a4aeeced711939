//! `--dim NAME=min:opt:max` and `--opt NAME=value,…`.

use super::error::Error;
use super::expr::MAX_SIZE;
use super::expr::is_identifier;
use super::faults::{ArgumentFault, show_range};
use super::spec::DimDecl;
use std::collections::BTreeMap;

/// Values and ranges from the command line that complete a spec.
#[derive(Debug, Clone, Default)]
pub struct Overrides {
    /// `--dim NAME=min:opt:max`, as written after `NAME=`.
    pub dims: BTreeMap<String, String>,
    /// `--opt NAME=value`, for root dims.
    pub opt: BTreeMap<String, u64>,
}

impl Overrides {
    /// From the values of all `--dim` and `--opt` options. One `--dim` is `NAME=min:opt:max`, `NAME=min:max` or
    /// `NAME=size`, where `opt` and `max` may be left empty; one `--opt` is `NAME=value`, or several with commas.
    ///
    /// # Errors
    /// All that is wrong with them.
    pub fn from_args<S: AsRef<str>>(dims: &[S], opts: &[S]) -> Result<Overrides, Error> {
        let mut faults = Vec::new();
        let mut all = Overrides::default();
        for arg in dims.iter().map(AsRef::as_ref) {
            let mut fault = |reason: String| {
                let value = arg.to_owned();
                faults.push(ArgumentFault::Value {
                    option: "--dim",
                    value,
                    reason,
                });
            };
            match arg.split_once('=').map(|(n, r)| (n.trim(), r.trim())) {
                None => fault("expected NAME=min:opt:max".into()),
                Some((name, _)) if !is_identifier(name) => {
                    fault(format!("`{name}` cannot name a dim"));
                }
                Some((name, range)) => match parse_dim(range) {
                    Err(reason) => fault(reason),
                    Ok(_) => {
                        if all.dims.insert(name.to_owned(), range.to_owned()).is_some() {
                            fault(format!("`{name}` is given twice"));
                        }
                    }
                },
            }
        }
        for arg in opts.iter().flat_map(|a| a.as_ref().split(',')) {
            let mut fault = |reason: String| {
                let value = arg.to_owned();
                faults.push(ArgumentFault::Value {
                    option: "--opt",
                    value,
                    reason,
                });
            };
            match arg
                .split_once('=')
                .map(|(n, v)| (n.trim(), v.trim().parse::<u64>()))
            {
                None => fault("expected NAME=value".into()),
                Some((_, Err(_))) => fault("the value is not a size".into()),
                Some((name, Ok(value))) => {
                    if all.opt.insert(name.to_owned(), value).is_some() {
                        fault(format!("`{name}` is given twice"));
                    }
                }
            }
        }
        if faults.is_empty() {
            Ok(all)
        } else {
            Err(Error::Arguments(faults))
        }
    }
}

/// A range as `--dim` takes it: `min:opt:max`, `min:max` or `size`; an empty `opt` is the default, an empty `max` unbounded.
pub(super) fn parse_dim(text: &str) -> Result<DimDecl, String> {
    let size = |part: &str| -> Result<Option<u64>, String> {
        match part.trim() {
            "" => Ok(None),
            number => match number.parse() {
                Ok(n) if n <= MAX_SIZE => Ok(Some(n)),
                _ => Err(format!("`{number}` is not a size")),
            },
        }
    };
    let parts: Vec<&str> = text.split(':').collect();
    let (min, opt, max) = match parts[..] {
        [one] => {
            let n = Some(size(one)?.ok_or("expected min:opt:max")?);
            (n, n, n)
        }
        [min, max] => (size(min)?, None, size(max)?),
        [min, opt, max] => (size(min)?, size(opt)?, size(max)?),
        _ => return Err("expected min:opt:max".into()),
    };
    let min = min.unwrap_or(0);
    if let Some(max) = max.filter(|&m| m < min) {
        return Err(format!("max {max} is less than min {min}"));
    }
    match opt {
        Some(o) if o < min || max.is_some_and(|m| o > m) => {
            Err(format!("opt {o} is not {}", show_range(min, max)))
        }
        _ => Ok(DimDecl { min, max, opt }),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ranges_have_one_two_or_three_parts() {
        let decl = |min, opt, max| Ok(DimDecl { min, max, opt });
        assert_eq!(parse_dim("2:8:24"), decl(2, Some(8), Some(24)));
        assert_eq!(parse_dim("2:24"), decl(2, None, Some(24)));
        assert_eq!(parse_dim("2::24"), decl(2, None, Some(24)));
        assert_eq!(parse_dim("2:3:"), decl(2, Some(3), None));
        assert_eq!(parse_dim(" 4 "), decl(4, Some(4), Some(4)));
        for (text, reason) in [
            ("", "expected min:opt:max"),
            ("1:2:3:4", "expected min:opt:max"),
            ("a", "`a` is not a size"),
            ("-1:2", "`-1` is not a size"),
            ("9223372036854775808", "`9223372036854775808` is not a size"),
            ("4:2", "max 2 is less than min 4"),
            ("4:2:8", "opt 2 is not from 4 to 8"),
        ] {
            assert_eq!(parse_dim(text), Err(reason.into()), "{text}");
        }
    }

    #[test]
    fn all_wrong_arguments_are_told() {
        let good = Overrides::from_args(&["B=1:2:4", "H=8"], &["B=3,_H=24"]).unwrap();
        assert_eq!(good.dims["H"], "8");
        assert_eq!(good.opt["_H"], 24);
        let bad = Overrides::from_args(
            &["B", "4*H=2", "B=9:1", "C=1", "C=2"],
            &["B", "B=x", "D=1,D=2"],
        )
        .unwrap_err();
        let Error::Arguments(faults) = &bad else {
            panic!()
        };
        assert_eq!(faults.len(), 7, "{bad}");
        assert!(
            bad.to_string()
                .contains("`--dim B=9:1`: max 1 is less than min 9"),
            "{bad}"
        );
    }
}
