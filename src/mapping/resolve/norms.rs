//! The normalisations that a checkpoint holds.

use super::context::Case;
use crate::mapping::types::{Norm, Row};

/// A normalisation of the checkpoint with its four tensors.
pub(super) struct NormModule {
    pub module: String,
    pub norm: Norm,
    pub channels: usize,
    /// Index of the running mean among the sources.
    pub mean: usize,
}

/// Every `BatchNorm` module of the checkpoint, with or without affine parameters.
pub(super) fn norms(case: &Case<'_>) -> Vec<NormModule> {
    let has = |name: &str, count: usize| {
        (case.sources.binary_search_by(|s| s.name.cmp(name)))
            .is_ok_and(|i| case.sources[i].count() == count)
    };
    (case.sources.iter().enumerate())
        .filter_map(|(mean, source)| {
            let module = source.name.strip_suffix("running_mean")?;
            let channels = source.count();
            let of = |leaf: &str| Some(format!("{module}{leaf}")).filter(|n| has(n, channels));
            let (scale, shift) = (of("weight"), of("bias"));
            if scale.is_some() != shift.is_some() {
                return None;
            }
            Some(NormModule {
                module: module.trim_end_matches('.').to_owned(),
                norm: Norm {
                    scale,
                    shift,
                    mean: source.name.to_owned(),
                    variance: of("running_var")?,
                },
                channels,
                mean,
            })
        })
        .collect()
}

/// The axis of a kernel that holds output channels.
pub(super) fn channel_axis(row: &Row) -> Option<usize> {
    let mut axes = (row.operators.iter()).map(|o| match o.as_str() {
        "Conv" | "Gemm" => Some(0),
        "ConvTranspose" => Some(1),
        _ => None,
    });
    let first = axes.next()??;
    axes.all(|a| a == Some(first)).then_some(first)
}
