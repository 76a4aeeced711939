//! `A·x+B`: what an axis of a shape spec may be, as sympy prints it (`4*_H`, `_H + 1`, `2*dx - 1`).
//!
//! `torch.export` allows exactly these for derived dims: integer `A > 0`, integer `B`, one root
//! (`torch/export/dynamic_shapes.py`, `_DerivedDim`).

use std::fmt;
use std::str::FromStr;

/// `scale·root + offset`, with `scale ≥ 1`.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Affine {
    /// Name of the root dim.
    pub root: String,
    pub scale: i64,
    pub offset: i64,
}

/// Why a text is not an `A·x+B`.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ExprError {
    #[error("is empty")]
    Empty,
    /// Something that does not belong.
    #[error("has an unexpected `{found}` at character {at}")]
    Unexpected {
        found: char,
        /// The place of that character, counted from 1.
        at: usize,
    },
    /// It stops in the middle.
    #[error("is cut short")]
    Short,
    /// A number in quotes.
    #[error("names no dim; write a static size without quotes")]
    NoDim,
    #[error("combines two dims, `{0}` and `{1}`; a derived dim has one root")]
    TwoDims(String, String),
    /// A product of dims.
    #[error("is not linear in `{0}`; only an integer times a dim plus an integer can be used")]
    NotLinear(String),
    #[error(
        "has the factor {0}; a derived dim grows with its root, so the factor must be positive"
    )]
    NotIncreasing(i64),
    /// A number that is too large.
    #[error("has a number beyond 64 bits")]
    Overflow,
    /// Longer than any real one.
    #[error("is longer than {MAX_LENGTH} characters")]
    Long,
}

/// Largest size or bound: what fits in the signed 64 bits of ONNX and `TensorRT`.
pub(super) const MAX_SIZE: u64 = i64::MAX as u64;
const MAX_LENGTH: usize = 256;
const MAX_PARENTHESES: usize = 16;

/// Whether `name` can be a dim: a Python identifier, as `torch.export.Dim` demands.
pub(super) fn is_identifier(name: &str) -> bool {
    let mut chars = name.chars();
    chars.next().is_some_and(|c| c == '_' || c.is_alphabetic())
        && chars.all(|c| c == '_' || c.is_alphanumeric())
}

impl Affine {
    pub fn root(name: impl Into<String>) -> Affine {
        Affine {
            root: name.into(),
            scale: 1,
            offset: 0,
        }
    }

    /// Whether it is a root itself.
    pub fn is_root(&self) -> bool {
        self.scale == 1 && self.offset == 0
    }

    /// The size for a root value; `None` when it is negative or beyond 63 bits.
    pub fn eval(&self, x: u64) -> Option<u64> {
        let x = i64::try_from(x).ok()?;
        let size = self.scale.checked_mul(x)?.checked_add(self.offset)?;
        u64::try_from(size).ok()
    }

    /// The root value for a size; `None` when no integer gives it.
    pub fn solve(&self, size: u64) -> Option<i64> {
        let rest = i64::try_from(size).ok()?.checked_sub(self.offset)?;
        (rest % self.scale == 0).then_some(rest / self.scale)
    }

    /// `self` with its root replaced by `inner`.
    pub(super) fn compose(&self, inner: &Affine) -> Option<Affine> {
        Some(Affine {
            root: inner.root.clone(),
            scale: self.scale.checked_mul(inner.scale)?,
            offset: self
                .scale
                .checked_mul(inner.offset)?
                .checked_add(self.offset)?,
        })
    }

    /// The `E` with `self = outer(E)`, where it has integer coefficients.
    pub(super) fn divide(&self, outer: &Affine) -> Option<Affine> {
        let rest = self.offset.checked_sub(outer.offset)?;
        (self.scale % outer.scale == 0 && rest % outer.scale == 0).then(|| Affine {
            root: self.root.clone(),
            scale: self.scale / outer.scale,
            offset: rest / outer.scale,
        })
    }
}

impl fmt::Display for Affine {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.scale != 1 {
            write!(f, "{}*", self.scale)?;
        }
        f.write_str(&self.root)?;
        match self.offset {
            0 => Ok(()),
            b if b > 0 => write!(f, " + {b}"),
            b => write!(f, " - {}", b.unsigned_abs()),
        }
    }
}

impl FromStr for Affine {
    type Err = ExprError;

    fn from_str(text: &str) -> Result<Affine, ExprError> {
        // Before anything is allocated for it.
        if text.len() > MAX_LENGTH {
            return Err(ExprError::Long);
        }
        let chars: Vec<char> = text.chars().collect();
        let mut parser = Parser {
            chars: &chars,
            at: 0,
        };
        parser.space();
        if parser.at == chars.len() {
            return Err(ExprError::Empty);
        }
        let sum = parser.sum(0)?;
        if parser.at < chars.len() {
            return Err(parser.unexpected());
        }
        match sum.root {
            None => Err(ExprError::NoDim),
            // With a positive factor the least size comes from the least value, which everything
            // that works with ranges relies on.
            Some(_) if sum.scale < 1 => Err(ExprError::NotIncreasing(sum.scale)),
            Some(root) => Ok(Affine {
                root,
                scale: sum.scale,
                offset: sum.offset,
            }),
        }
    }
}

/// A partial result: `scale·root + offset`, of any sign, where `root` is there as soon as a dim was named.
struct Linear {
    root: Option<String>,
    scale: i64,
    offset: i64,
}

impl Linear {
    fn negate(self) -> Result<Linear, ExprError> {
        Ok(Linear {
            root: self.root,
            scale: self.scale.checked_neg().ok_or(ExprError::Overflow)?,
            offset: self.offset.checked_neg().ok_or(ExprError::Overflow)?,
        })
    }

    fn add(self, other: Linear) -> Result<Linear, ExprError> {
        let root = match (self.root, other.root) {
            (Some(a), Some(b)) if a != b => return Err(ExprError::TwoDims(a, b)),
            (a, b) => a.or(b),
        };
        Ok(Linear {
            root,
            scale: self
                .scale
                .checked_add(other.scale)
                .ok_or(ExprError::Overflow)?,
            offset: self
                .offset
                .checked_add(other.offset)
                .ok_or(ExprError::Overflow)?,
        })
    }

    fn multiply(self, other: Linear) -> Result<Linear, ExprError> {
        let (root, scale, offset, factor) = match (self.root, other.root) {
            (Some(a), Some(b)) if a == b => return Err(ExprError::NotLinear(a)),
            (Some(a), Some(b)) => return Err(ExprError::TwoDims(a, b)),
            (root @ Some(_), None) => (root, self.scale, self.offset, other.offset),
            (None, root) => (root, other.scale, other.offset, self.offset),
        };
        Ok(Linear {
            root,
            scale: scale.checked_mul(factor).ok_or(ExprError::Overflow)?,
            offset: offset.checked_mul(factor).ok_or(ExprError::Overflow)?,
        })
    }
}

struct Parser<'a> {
    chars: &'a [char],
    at: usize,
}

impl Parser<'_> {
    fn peek(&self) -> Option<char> {
        self.chars.get(self.at).copied()
    }

    fn space(&mut self) {
        while self.peek().is_some_and(|c| c == ' ' || c == '\t') {
            self.at += 1;
        }
    }

    fn eat(&mut self, wanted: char) -> bool {
        let found = self.peek() == Some(wanted);
        if found {
            self.at += 1;
            self.space();
        }
        found
    }

    fn unexpected(&self) -> ExprError {
        match self.peek() {
            None => ExprError::Short,
            Some(found) => ExprError::Unexpected {
                found,
                at: self.at + 1,
            },
        }
    }

    fn sum(&mut self, depth: usize) -> Result<Linear, ExprError> {
        let negative = self.eat('-');
        let first = self.product(depth)?;
        let mut sum = if negative { first.negate()? } else { first };
        loop {
            if self.eat('+') {
                sum = sum.add(self.product(depth)?)?;
            } else if self.eat('-') {
                sum = sum.add(self.product(depth)?.negate()?)?;
            } else {
                return Ok(sum);
            }
        }
    }

    fn product(&mut self, depth: usize) -> Result<Linear, ExprError> {
        let mut product = self.factor(depth)?;
        while self.eat('*') {
            product = product.multiply(self.factor(depth)?)?;
        }
        Ok(product)
    }

    fn factor(&mut self, depth: usize) -> Result<Linear, ExprError> {
        match self.peek() {
            // The parser recurses here.
            Some('(') if depth < MAX_PARENTHESES => {
                self.eat('(');
                let inner = self.sum(depth + 1)?;
                if !self.eat(')') {
                    return Err(self.unexpected());
                }
                Ok(inner)
            }
            Some(c) if c.is_ascii_digit() => {
                let text = self.run(|c| c.is_ascii_digit());
                let offset = text.parse().map_err(|_| ExprError::Overflow)?;
                Ok(Linear {
                    root: None,
                    scale: 0,
                    offset,
                })
            }
            Some(c) if c == '_' || c.is_alphabetic() => {
                let name = self.run(|c| c == '_' || c.is_alphanumeric());
                Ok(Linear {
                    root: Some(name),
                    scale: 1,
                    offset: 0,
                })
            }
            _ => Err(self.unexpected()),
        }
    }

    fn run(&mut self, belongs: impl Fn(char) -> bool) -> String {
        let from = self.at;
        while self.peek().is_some_and(&belongs) {
            self.at += 1;
        }
        let text = self.chars[from..self.at].iter().collect();
        self.space();
        text
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn affine(scale: i64, root: &str, offset: i64) -> Affine {
        Affine {
            root: root.into(),
            scale,
            offset,
        }
    }

    #[test]
    fn reads_what_sympy_prints() {
        for (text, expected) in [
            ("_H", affine(1, "_H", 0)),
            ("4*_H", affine(4, "_H", 0)),
            ("_H + 1", affine(1, "_H", 1)),
            ("2*dx - 1", affine(2, "dx", -1)),
            ("-1 + 2*dx", affine(2, "dx", -1)),
            ("1 + x", affine(1, "x", 1)),
            ("x*4", affine(4, "x", 0)),
            (" 4 *\tx+ 0 ", affine(4, "x", 0)),
            ("2*(x + 3)", affine(2, "x", 6)),
            ("x + x - 1", affine(2, "x", -1)),
            ("3 - (1 - x)", affine(1, "x", 2)),
            ("höhe", affine(1, "höhe", 0)),
        ] {
            assert_eq!(text.parse(), Ok(expected), "{text}");
        }
    }

    #[test]
    fn refuses_everything_else() {
        use ExprError::*;
        for (text, expected) in [
            ("", Empty),
            ("  ", Empty),
            ("4", NoDim),
            ("4*3 - 1", NoDim),
            ("4*", Short),
            ("(x", Short),
            ("x)", Unexpected { found: ')', at: 2 }),
            ("4x", Unexpected { found: 'x', at: 2 }),
            ("x y", Unexpected { found: 'y', at: 3 }),
            ("x/2", Unexpected { found: '/', at: 2 }),
            ("x//2", Unexpected { found: '/', at: 2 }),
            ("x**2", Unexpected { found: '*', at: 3 }),
            ("+x", Unexpected { found: '+', at: 1 }),
            ("x + y", TwoDims("x".into(), "y".into())),
            ("x*y", TwoDims("x".into(), "y".into())),
            ("x*x", NotLinear("x".into())),
            ("0*x", NotIncreasing(0)),
            ("x - x", NotIncreasing(0)),
            ("-2*x + 9", NotIncreasing(-2)),
            ("9223372036854775808*x", Overflow),
            ("9223372036854775807*x + x", Overflow),
            ("9223372036854775807*2 + x", Overflow),
        ] {
            assert_eq!(text.parse::<Affine>(), Err(expected), "{text}");
        }
        assert_eq!("x".repeat(300).parse::<Affine>(), Err(Long));
        assert!(
            format!("{}x{}", "(".repeat(100), ")".repeat(100))
                .parse::<Affine>()
                .is_err()
        );
    }

    #[test]
    fn arithmetic_is_checked() {
        let e = affine(i64::MAX, "x", 1);
        assert_eq!(e.eval(1), None);
        assert_eq!(affine(2, "x", -1).eval(0), None);
        assert_eq!(affine(1, "x", 0).eval(u64::MAX), None);
        assert_eq!(affine(4, "x", 0).solve(102), None);
        assert_eq!(affine(1, "x", i64::MIN).solve(u64::MAX), None);
        assert_eq!(affine(1, "x", 5).solve(2), Some(-3));
    }

    proptest! {
        #[test]
        fn parse_undoes_display(scale in 1i64.., offset in (i64::MIN + 1).., root in "[a-zA-Z_][a-zA-Z0-9_]{0,8}") {
            let e = Affine { root, scale, offset };
            prop_assert_eq!(e.to_string().parse(), Ok(e));
        }

        #[test]
        fn solve_undoes_eval(scale in 1i64..1000, offset in -1000i64..1000, x in 0u64..1_000_000) {
            let e = affine(scale, "x", offset);
            if let Some(size) = e.eval(x) {
                prop_assert_eq!(e.solve(size), Some(x as i64));
            }
        }

        #[test]
        fn divide_undoes_compose(a in 1i64..50, b in -50i64..50, c in 1i64..50, d in -50i64..50) {
            let (outer, inner) = (affine(a, "s", b), affine(c, "x", d));
            prop_assert_eq!(outer.compose(&inner).unwrap().divide(&outer), Some(inner));
        }

        #[test]
        fn any_text_is_read_or_refused(text in "[x0-9y_()*+ -]{0,20}") {
            if let Ok(e) = text.parse::<Affine>() {
                prop_assert_eq!(e.to_string().parse(), Ok(e));
            }
        }
    }
}
