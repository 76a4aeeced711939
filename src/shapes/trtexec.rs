//! `--minShapes`, `--optShapes` and `--maxShapes`, as trtexec takes them: `NAME:1x4x64x64`, several with commas.

use super::error::Error;
use super::expr::{Affine, MAX_SIZE};
use super::faults::ArgumentFault;
use super::names::{axis_name, identifier, model_symbol};
use super::spec::{Body, DimDecl, Entry, Leaf, ShapeSpec};
use crate::tensor::{Extent, TensorDecl};
use std::collections::BTreeMap;

/// The values of the three options.
#[derive(Debug, Clone, Copy)]
pub struct Profiles<'a> {
    pub min: &'a [String],
    pub opt: &'a [String],
    pub max: &'a [String],
}

impl Profiles<'_> {
    /// Whether none is given.
    pub fn is_empty(&self) -> bool {
        self.min.is_empty() && self.opt.is_empty() && self.max.is_empty()
    }
}

const OPTIONS: [&str; 3] = ["--minShapes", "--optShapes", "--maxShapes"];

/// Shapes of one input: least, to optimise for, greatest.
type Given = [Option<Vec<u64>>; 3];

impl ShapeSpec {
    /// The spec, by ONNX input, that means these shapes for a model with these inputs. Its dims have the names of the
    /// model's symbols, or `input_axis`.
    ///
    /// # Errors
    /// All that is wrong with them: [`Error::Arguments`].
    pub fn from_profiles(
        profiles: &Profiles<'_>,
        inputs: &[TensorDecl],
    ) -> Result<ShapeSpec, Error> {
        let mut reading = Reading::default();
        let mut given: Vec<(String, Given)> = Vec::new();
        for (which, values) in [profiles.min, profiles.opt, profiles.max]
            .into_iter()
            .enumerate()
        {
            for text in values.iter().flat_map(|v| v.split(',')) {
                match parse(text) {
                    Err(reason) => reading.fault(which, text, reason),
                    Ok((name, shape)) => {
                        let at = given.iter().position(|(n, _)| *n == name);
                        let at = at.unwrap_or_else(|| {
                            given.push((name, Given::default()));
                            given.len() - 1
                        });
                        if given[at].1[which].replace(shape).is_some() {
                            reading.fault(which, text, "the input is given twice");
                        }
                    }
                }
            }
        }
        reading.spec(given, inputs, "--minShapes, --optShapes, --maxShapes")
    }

    /// The spec, by ONNX input, of an engine whose inputs have these least, best and greatest shapes.
    ///
    /// # Errors
    /// Where the model gives one symbol to axes whose ranges differ: [`Error::Arguments`].
    pub fn of_engine(
        ranges: &[(String, [Vec<usize>; 3])],
        inputs: &[TensorDecl],
    ) -> Result<ShapeSpec, Error> {
        let wide = |shape: &Vec<usize>| Some(shape.iter().map(|&n| n as u64).collect());
        let given = ranges.iter();
        let given = given.map(|(name, ends)| (name.clone(), ends.each_ref().map(wide)));
        Reading::default().spec(given.collect(), inputs, "the engine's profile")
    }
}

impl Reading {
    fn spec(
        mut self,
        given: Vec<(String, Given)>,
        inputs: &[TensorDecl],
        origin: &str,
    ) -> Result<ShapeSpec, Error> {
        let reading = &mut self;
        let mut named = Vec::new();
        for (name, shapes) in given {
            let decl = inputs.iter().find(|i| i.name == name);
            if let Some(leaf) = reading.leaf(&name, shapes, decl) {
                named.push((name, leaf));
            }
        }
        if !self.faults.is_empty() {
            return Err(Error::Arguments(self.faults));
        }
        Ok(ShapeSpec {
            origin: origin.into(),
            dims: self.dims,
            profiles: Vec::new(),
            body: Body::Inputs(named),
        })
    }
}

/// `NAME:1x4`; the name may have colons, and quotes around it.
fn parse(text: &str) -> Result<(String, Vec<u64>), &'static str> {
    const EXPECTED: &str = "expected NAME:1x4x64x64 (or NAME:scalar)";
    // The last colon: names of TensorFlow models end in `:0`.
    let (name, shape) = text.rsplit_once(':').ok_or(EXPECTED)?;
    let name = name.trim();
    let quoted = name.strip_prefix('\'').and_then(|n| n.strip_suffix('\''));
    let name = quoted.unwrap_or(name);
    let size = |s: &str| s.trim().parse().ok().filter(|&n: &u64| n <= MAX_SIZE);
    let shape: Option<Vec<u64>> = match shape.trim() {
        "" | "scalar" => Some(Vec::new()),
        shape => shape.split('x').map(size).collect(),
    };
    match shape {
        Some(shape) if !name.is_empty() => Ok((name.to_owned(), shape)),
        _ => Err(EXPECTED),
    }
}

#[derive(Default)]
struct Reading {
    faults: Vec<ArgumentFault>,
    dims: BTreeMap<String, DimDecl>,
    /// The dim of each symbol of the model, with the axis that gave it.
    symbols: BTreeMap<String, (String, String)>,
}

impl Reading {
    fn fault(&mut self, which: usize, value: &str, reason: impl Into<String>) {
        self.faults.push(ArgumentFault::Value {
            option: OPTIONS[which],
            value: value.to_owned(),
            reason: reason.into(),
        });
    }

    fn leaf(&mut self, name: &str, shapes: Given, decl: Option<&TensorDecl>) -> Option<Leaf> {
        let [min, opt, max] = match shapes {
            // As trtexec has it: `--optShapes` alone fixes the shape.
            [None, Some(only), None] => [only.clone(), only.clone(), only],
            [Some(min), Some(opt), Some(max)] => [min, opt, max],
            other => {
                let missing = other.iter().position(Option::is_none).unwrap_or(1);
                let reason = "all three options, or --optShapes alone, have to name the input";
                self.fault(missing, name, reason);
                return None;
            }
        };
        if min.len() != opt.len() || opt.len() != max.len() {
            self.fault(1, name, "the three shapes have different ranks");
            return None;
        }
        let mut entries = Vec::new();
        for (axis, ((&min, &opt), &max)) in min.iter().zip(&opt).zip(&max).enumerate() {
            if !(min <= opt && opt <= max) {
                let reason =
                    format!("axis {axis}: {min}, {opt}, {max} is not least, in between, greatest");
                self.fault(1, name, reason);
                return None;
            }
            let extents = decl.and_then(|d| d.dims.as_ref());
            let extent = extents.and_then(|e| e.get(axis));
            entries.push(self.entry(name, axis, [min, opt, max], extent)?);
        }
        Some(Leaf::Full(entries))
    }

    fn entry(
        &mut self,
        name: &str,
        axis: usize,
        sizes: [u64; 3],
        extent: Option<&Extent>,
    ) -> Option<Entry> {
        let place = format!("axis {axis} of `{name}`");
        let [min, opt, max] = sizes;
        let (wanted, symbol) = match extent {
            // What contradicts the model is told when the spec is tied to it.
            None | Some(Extent::Fixed(_)) if min == max => return Some(Entry::Size(min)),
            None | Some(Extent::Fixed(_) | Extent::Unknown) => (axis_name(name, axis), None),
            Some(Extent::Symbol(s)) => {
                let symbol = model_symbol(s);
                (identifier(&symbol.root), Some(symbol))
            }
        };
        // An axis without a symbol of the model is a dim of its own; its place is a name that no
        // symbol has.
        let symbol = symbol.unwrap_or_else(|| Affine::root(place.clone()));
        let values = sizes.map(|n| symbol.solve(n).and_then(|v| u64::try_from(v).ok()));
        let [Some(least), Some(best), Some(most)] = values else {
            let reason = format!(
                "axis {axis} is `{symbol}` in the model, which {min}, {opt} and {max} are not"
            );
            self.fault(1, name, reason);
            return None;
        };
        let decl = DimDecl {
            min: least,
            max: Some(most),
            opt: Some(best),
        };
        let known = self.symbols.get(&symbol.root).cloned();
        let (dim, first) = known.unwrap_or_else(|| {
            let numbered = (2u64..).map(|n| format!("{wanted}_{n}"));
            let mut names = std::iter::once(wanted.clone()).chain(numbered);
            let dim = (names.find(|n| !self.dims.contains_key(n)))
                .expect("one of endlessly many names is free");
            self.dims.insert(dim.clone(), decl);
            let entry = (dim, place);
            self.symbols.insert(symbol.root.clone(), entry.clone());
            entry
        });
        // One dim cannot have two ranges.
        if self.dims[&dim] != decl {
            let reason = format!(
                "axis {axis} and {first} are both `{}` in the model, and have different ranges",
                symbol.root
            );
            self.fault(1, name, reason);
            return None;
        }
        let expr = Affine {
            root: dim,
            ..symbol
        };
        Some(Entry::Dim(expr))
    }
}

#[cfg(test)]
mod tests {
    use super::super::tests::{decl, resolve, table};
    use super::*;
    use crate::shapes::Overrides;

    fn read(min: &[&str], opt: &[&str], max: &[&str]) -> Result<String, String> {
        let [min, opt, max] =
            [min, opt, max].map(|v| v.iter().map(|s| (*s).to_owned()).collect::<Vec<_>>());
        let inputs = [decl("x", "B 4 4*h ?"), decl("t:0", "B"), decl("s", "")];
        let profiles = Profiles {
            min: &min,
            opt: &opt,
            max: &max,
        };
        ShapeSpec::from_profiles(&profiles, &inputs)
            .and_then(|spec| spec.resolve(&inputs, &Overrides::default()))
            .map(|r| table(&r))
            .map_err(|e| e.to_string())
    }

    #[test]
    fn they_are_the_profile_that_the_spec_would_be() {
        let given = read(
            &["x:1x4x8x3,'t:0':1"],
            &["x:2x4x16x3", "t:0:2"],
            &["x:8x4x64x9", "t:0:8", "s:scalar"],
        );
        // `s` has a greatest shape only.
        assert!(given.unwrap_err().contains("`--minShapes s`"));
        let given = read(
            &["x:1x4x8x3,'t:0':1"],
            &["x:2x4x16x3", "t:0:2"],
            &["x:8x4x64x9", "t:0:8"],
        );
        let spec = r#"{"dims": {"B": {"min": 1, "opt": 2, "max": 8}, "h": {"min": 2, "opt": 4, "max": 16},
            "w": {"min": 3, "opt": 3, "max": 9}}, "inputs": {"x": ["B", 4, "4*h", "w"], "t:0": ["B"]}}"#;
        let inputs = [decl("x", "B 4 4*h ?"), decl("t:0", "B"), decl("s", "")];
        assert_eq!(given.unwrap(), table(&resolve(spec, &inputs).unwrap()));
        assert_eq!(
            read(&[], &["x:2x4x16x3,t:0:2"], &[]).unwrap(),
            "x 2 4 16 3\nt:0 2\ns "
        );
    }

    #[test]
    fn what_cannot_be_meant_is_told() {
        for (min, opt, max, says) in [
            (
                "x",
                "x:2x4x16x3",
                "x:8x4x64x9",
                "`--minShapes x`: expected NAME:1x4x64x64",
            ),
            (
                "x:1x4x8x3",
                "x:9x4x16x3",
                "x:8x4x64x9",
                "axis 0: 1, 9, 8 is not least",
            ),
            ("x:1x4x8", "x:2x4x16x3", "x:8x4x64x9", "different ranks"),
            (
                "x:1x4x7x3",
                "x:2x4x16x3",
                "x:8x4x64x9",
                "axis 2 is `4*h` in the model, which 7, 16 and 64 are not",
            ),
            (
                "x:1x5x8x3",
                "x:2x5x16x3",
                "x:8x5x64x9",
                "axis 1 of `x` is 4 in the model, but 5",
            ),
            ("y:1", "y:1", "y:1", "the model has no input `y`"),
        ] {
            let message = read(&[min], &[opt], &[max]).unwrap_err();
            assert!(message.contains(says), "{message}");
        }
        let two = read(
            &["x:1x4x8x3,t:0:1"],
            &["x:2x4x8x3,t:0:1"],
            &["x:3x4x8x3,t:0:1"],
        );
        assert!(
            two.unwrap_err()
                .contains("axis 0 and axis 0 of `x` are both `B` in the model")
        );
    }
}
