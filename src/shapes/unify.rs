//! Which root dims are equal, because the model gives their axes one symbol.
//!
//! ONNX axes with the same `dim_param` have the same size. Where a spec gives them different dims, the dims are tied:
//! `y := p·x + q` where that is exact, or both are pinned to the only value that fits. `torch.export` refuses such a spec
//! for named dims and specialises for hints; here it is told and made consistent, or refused where nothing fits.

use super::expr::Affine;
use super::faults::show_range;
use super::spec::DimDecl;
use std::collections::BTreeMap;

/// Root dims, some of them expressed by others.
pub(super) struct System {
    dims: BTreeMap<String, DimDecl>,
    replaced: BTreeMap<String, Affine>,
}

/// What a tie changed, for a warning; `None` where nothing did.
pub(super) type Tied = Result<Option<String>, String>;

impl System {
    pub fn new(dims: BTreeMap<String, DimDecl>) -> System {
        System {
            dims,
            replaced: BTreeMap::new(),
        }
    }

    pub fn contains(&self, name: &str) -> bool {
        self.dims.contains_key(name)
    }

    pub fn insert(&mut self, name: String, decl: DimDecl) {
        self.dims.insert(name, decl);
    }

    /// The range of a root that stands for itself.
    pub fn range(&self, root: &str) -> DimDecl {
        self.dims[root]
    }

    /// `expr` in terms of roots that stand for themselves; `None` on overflow.
    pub fn reduce(&self, expr: &Affine) -> Option<Affine> {
        let mut expr = expr.clone();
        // Ends: a root is replaced only by an expression of a root that stands for itself.
        while let Some(inner) = self.replaced.get(&expr.root) {
            expr = expr.compose(inner)?;
        }
        Some(expr)
    }

    /// The one size that `expr` can have, if there is only one.
    pub fn only_size(&self, expr: &Affine) -> Option<u64> {
        let expr = self.reduce(expr)?;
        let dim = self.range(&expr.root);
        (dim.max == Some(dim.min))
            .then(|| expr.eval(dim.min))
            .flatten()
    }

    /// Makes `expr` equal to `size`.
    pub fn pin(&mut self, expr: &Affine, size: u64) -> Tied {
        let expr = self.reduce(expr).ok_or("overflow")?;
        let dim = self.range(&expr.root);
        let value = expr.solve(size).and_then(|v| u64::try_from(v).ok());
        match value.filter(|&v| v >= dim.min && dim.max.is_none_or(|max| v <= max)) {
            None => Err(format!(
                "cannot both hold, with `{}` {}",
                expr.root,
                show_range(dim.min, dim.max)
            )),
            // It has that value already, which is not worth a warning.
            Some(_) if dim.max == Some(dim.min) => Ok(None),
            Some(value) => {
                self.dims.insert(
                    expr.root.clone(),
                    DimDecl {
                        min: value,
                        max: Some(value),
                        opt: Some(value),
                    },
                );
                Ok(Some(format!("`{}` can only be {value}", expr.root)))
            }
        }
    }

    /// Leaves only the values that give `expr` a size from `min` to `max`.
    pub fn narrow(
        &mut self,
        expr: &Affine,
        min: Option<u64>,
        max: Option<u64>,
    ) -> Result<(), String> {
        let expr = self.reduce(expr).ok_or("overflow")?;
        let old = self.range(&expr.root);
        // Rounded up for the least and down for the most, so that no value outside of the bounds is
        // let in; `div_euclid` because an offset can make either negative.
        let (p, q) = (i128::from(expr.scale), i128::from(expr.offset));
        let least = min.map_or(0, |min| (i128::from(min) - q + p - 1).div_euclid(p));
        let least = least.max(i128::from(old.min));
        let most = max.map(|max| (i128::from(max) - q).div_euclid(p));
        let most = [most, old.max.map(i128::from)].into_iter().flatten().min();
        if most.is_some_and(|most| most < least) {
            return Err(format!(
                "which leaves no size where `{}` is {}",
                expr.root,
                show_range(old.min, old.max)
            ));
        }
        let (min, max) = (least as u64, most.map(|m| m as u64));
        let opt = old.opt.map(|o| o.clamp(min, max.unwrap_or(u64::MAX)));
        self.dims.insert(expr.root, DimDecl { min, max, opt });
        Ok(())
    }

    /// Makes `a` and `b` equal.
    pub fn equate(&mut self, a: &Affine, b: &Affine) -> Tied {
        let (a, b) = (
            self.reduce(a).ok_or("overflow")?,
            self.reduce(b).ok_or("overflow")?,
        );
        if a == b {
            return Ok(None);
        }
        // A dim of one value is a size: to express it by another dim would hide that nothing is
        // dynamic there.
        if let Some(size) = self.only_size(&a) {
            return self.pin(&b, size);
        }
        if let Some(size) = self.only_size(&b) {
            return self.pin(&a, size);
        }
        if a.root == b.root {
            // a₁x + b₁ = a₂x + b₂ has at most one solution, since the two sides differ.
            let crossing = (b.offset.checked_sub(a.offset))
                .zip(a.scale.checked_sub(b.scale).filter(|&s| s != 0))
                .filter(|(rest, step)| rest % step == 0)
                .and_then(|(rest, step)| a.eval(u64::try_from(rest / step).ok()?));
            return crossing
                .map_or_else(|| Err("are never equal".into()), |size| self.pin(&a, size));
        }
        // The root with the wider steps stays: `4x = 8y` makes `x := 2y`, and `y` as half of `x`
        // would be no integer.
        let (name, by) = if let Some(by) = b.divide(&Affine {
            root: String::new(),
            ..a
        }) {
            (a.root, by)
        } else if let Some(by) = a.divide(&Affine {
            root: String::new(),
            ..b
        }) {
            (b.root, by)
        } else {
            return Err("have steps that do not divide each other; write both with one dim".into());
        };
        self.replace(name, by)
    }

    /// `name := by`, which narrows the range of `by`'s root to what both allow.
    fn replace(&mut self, name: String, by: Affine) -> Tied {
        let (old, kept) = (self.range(&name), self.range(&by.root));
        let (p, q) = (i128::from(by.scale), i128::from(by.offset));
        let least = (i128::from(old.min) - q + p - 1)
            .div_euclid(p)
            .max(i128::from(kept.min));
        let most = old.max.map(|max| (i128::from(max) - q).div_euclid(p));
        let most = [most, kept.max.map(i128::from)].into_iter().flatten().min();
        if most.is_some_and(|most| most < least) {
            return Err(format!(
                "have no size in common, with `{name}` {} and `{}` {}",
                show_range(old.min, old.max),
                by.root,
                show_range(kept.min, kept.max)
            ));
        }
        let (min, max) = (least as u64, most.map(|m| m as u64));
        // The size to optimise for that the root which stays has itself, else what the replaced one
        // asks for.
        let wanted = kept.opt.or_else(|| u64::try_from(by.solve(old.opt?)?).ok());
        let opt = wanted.map(|o| o.clamp(min, max.unwrap_or(u64::MAX)));
        self.dims.insert(by.root.clone(), DimDecl { min, max, opt });
        let told = format!("`{name}` is taken to be `{by}`");
        self.replaced.insert(name, by);
        Ok(Some(told))
    }
}
