//! The operators that the embedded engine is known to compute right, and under which conditions.
//!
//! A row is here because the ONNX project's own single-operator tests pass for it (`tests/trials/onnx_backend.rs`, results in
//! `docs/cpu-operators.md`), or pass after a rewriting of `rewrite.rs`. `since` is the oldest opset in which ONNX defined the
//! operator as the tests (which are of newer opsets) have it, apart from types that were added later; older forms that the
//! engine reads right (attributes that became inputs) count as the same. What is not in the table is refused.
//! The statements hold for the exact version of the engine that `Cargo.toml` pins.

use super::conditions;
use super::facts::{self, Facts, ShapeRule};
use super::recurrent;
use super::types::{ANY, B, BYTES, F, I32, INT, NUM, REAL, Types};
use crate::tensor::Dtype;
use onnx_protobuf::NodeProto;

/// The newest opset whose operator definitions the table knows.
pub const NEWEST_OPSET: i64 = 27;

/// Element type of an output.
#[derive(Debug, Clone, Copy)]
pub enum Out {
    /// That of an input.
    Like(usize),
    Is(Dtype),
    /// What an attribute names, or this without it.
    Named(&'static str, Dtype),
    /// What an attribute names, or that of an input without it.
    NamedOrLike(&'static str, usize),
    /// That of the tensor in attribute `value`, f32 without it.
    Value,
    /// That of an input, or this where it is left out.
    LikeOr(usize, Dtype),
}

/// What an attribute may be.
#[derive(Debug, Clone, Copy)]
pub enum Allowed {
    Any,
    Int(i64),
    /// One of these strings.
    OneOf(&'static [&'static str]),
    /// A list of ones.
    Ones,
}

/// A further condition; its text says why the node is refused.
pub type Check = fn(&NodeProto, &Facts<'_>) -> Result<(), String>;

#[derive(Debug, Clone, Copy)]
pub struct Row {
    /// Its name in ONNX's own domain.
    pub op: &'static str,
    pub since: i64,
    /// Element types by input; the last is for all further ones.
    pub inputs: &'static [Types],
    /// Attributes that may be there.
    pub attributes: &'static [(&'static str, Allowed)],
    /// Outputs; the last is for all further ones where [`Row::variadic_outputs`] allows them.
    pub outputs: &'static [Out],
    /// Shape of the outputs.
    pub shape: ShapeRule,
    pub check: Option<Check>,
    /// Whether an i64 result can leave the range of 32 bits though the inputs are in it.
    pub grows: bool,
}

const fn row(
    op: &'static str,
    since: i64,
    inputs: &'static [Types],
    outputs: &'static [Out],
    shape: ShapeRule,
) -> Row {
    Row {
        op,
        since,
        inputs,
        attributes: &[],
        outputs,
        shape,
        check: None,
        grows: false,
    }
}

impl Row {
    const fn with(mut self, attributes: &'static [(&'static str, Allowed)]) -> Row {
        self.attributes = attributes;
        self
    }

    const fn when(mut self, check: Check) -> Row {
        self.check = Some(check);
        self
    }

    const fn growing(mut self) -> Row {
        self.grows = true;
        self
    }

    /// Whether the operator may have any number of outputs.
    pub fn variadic_outputs(&self) -> bool {
        matches!(self.op, "Split" | "If" | "Loop")
    }
}

/// The row of an operator of ONNX's own domain.
pub fn find(op: &str) -> Option<&'static Row> {
    ROWS.iter().find(|r| r.op == op)
}

/// Why an operator without a row is refused.
pub fn why_refused(op: &str) -> &'static str {
    match op {
        "NonMaxSuppression" => "the embedded engine's result differs from ONNX's definition",
        "ConvInteger"
        | "DynamicQuantizeLinear"
        | "MatMulInteger"
        | "QLinearConv"
        | "QLinearMatMul" => {
            "the embedded engine does not compute quantised products as ONNX defines them"
        }
        "RandomNormal" | "RandomNormalLike" | "RandomUniform" | "RandomUniformLike"
        | "Multinomial" | "Bernoulli" => "its result is random, so it cannot be proven right",
        "OneHot" => "the ONNX backend tests do not pass on the embedded engine",
        "Hardmax" | "Scan" => "the embedded engine does not have it",
        _ if op.starts_with("Sequence")
            || op.starts_with("Optional")
            || op.starts_with("String") =>
        {
            "the embedded engine works on tensors alone"
        }
        _ => "it is not among the operators that the embedded engine is proven to compute right",
    }
}

use Allowed::{Any, Int, OneOf, Ones};
use Out::{Is, Like, LikeOr, Named, NamedOrLike, Value};
use ShapeRule::{Broadcast, By, Rank, Ranks, Same, SameRank, Unknown};

const SELF: &[Out] = &[Like(0)];
const BOOL: &[Out] = &[Is(Dtype::Bool)];
const INDEX: &[Out] = &[Is(Dtype::I64)];
const REDUCE: &[(&str, Allowed)] = &[
    ("axes", Any),
    ("keepdims", Any),
    ("noop_with_empty_axes", Any),
];
const CONV: &[(&str, Allowed)] = &[
    ("auto_pad", OneOf(&["NOTSET", "VALID", "SAME_UPPER"])),
    ("dilations", Any),
    ("group", Any),
    ("kernel_shape", Any),
    ("pads", Any),
    ("strides", Any),
];
const CONV_TRANSPOSE: &[(&str, Allowed)] = &[
    ("auto_pad", OneOf(&["NOTSET", "VALID"])),
    ("dilations", Any),
    ("group", Any),
    ("kernel_shape", Any),
    ("output_padding", Any),
    ("pads", Any),
    ("strides", Any),
];
const POOL: &[(&str, Allowed)] = &[
    ("auto_pad", OneOf(&["NOTSET", "VALID", "SAME_UPPER"])),
    ("ceil_mode", Any),
    ("count_include_pad", Any),
    ("dilations", Ones),
    ("kernel_shape", Any),
    ("pads", Any),
    ("storage_order", Int(0)),
    ("strides", Any),
];
const RECURRENT: &[(&str, Allowed)] = &[
    ("activations", Any),
    ("direction", OneOf(&["forward", "reverse", "bidirectional"])),
    ("hidden_size", Any),
    ("input_forget", Int(0)),
    ("layout", Any),
    ("linear_before_reset", Any),
];

const fn unary(op: &'static str, since: i64) -> Row {
    row(op, since, &[REAL], SELF, Same)
}

const fn reduction(op: &'static str, since: i64, types: &'static [Types]) -> Row {
    row(op, since, types, SELF, By(facts::reduce)).with(REDUCE)
}

/// Every operator, by name.
pub const ROWS: &[Row] = &[
    row("Abs", 6, &[NUM], SELF, Same),
    unary("Acos", 7),
    unary("Acosh", 9),
    row("Add", 7, &[NUM], SELF, Broadcast).growing(),
    row("And", 7, &[B], SELF, Broadcast),
    row("ArgMax", 1, &[NUM], INDEX, By(facts::arg_reduce)).with(&[
        ("axis", Any),
        ("keepdims", Any),
        ("select_last_index", Any),
    ]),
    row("ArgMin", 1, &[NUM], INDEX, By(facts::arg_reduce)).with(&[
        ("axis", Any),
        ("keepdims", Any),
        ("select_last_index", Any),
    ]),
    unary("Asin", 7),
    unary("Asinh", 9),
    unary("Atan", 7),
    unary("Atanh", 9),
    row(
        "Attention",
        23,
        &[F, F, F, F.or(B)],
        &[Like(0), Like(0), Like(0)],
        SameRank,
    )
    .with(&[
        ("is_causal", Any),
        ("kv_num_heads", Any),
        ("q_num_heads", Any),
        ("scale", Any),
        ("softcap", Any),
    ]),
    row("AveragePool", 7, &[F], SELF, SameRank)
        .with(POOL)
        .when(conditions::spatial),
    row("BatchNormalization", 9, &[REAL], SELF, Same).with(&[
        ("epsilon", Any),
        ("momentum", Any),
        ("training_mode", Int(0)),
    ]),
    row("Cast", 6, &[ANY], &[Named("to", Dtype::F32)], Same)
        .with(&[
            ("to", Any),
            ("saturate", Int(1)),
            ("round_mode", OneOf(&["up"])),
        ])
        .when(conditions::cast),
    row("CastLike", 15, &[ANY], &[Like(1)], Same)
        .with(&[("saturate", Int(1)), ("round_mode", OneOf(&["up"]))])
        .when(conditions::cast_like),
    unary("Ceil", 6),
    row("Clip", 6, &[NUM], SELF, Same).with(&[("min", Any), ("max", Any)]),
    row("Concat", 4, &[ANY], SELF, By(facts::concat)).with(&[("axis", Any)]),
    row(
        "ConstantOfShape",
        9,
        &[INT],
        &[Value],
        By(facts::constant_of_shape),
    )
    .with(&[("value", Any)]),
    row("Conv", 1, &[F], SELF, By(facts::convolution))
        .with(CONV)
        .when(conditions::spatial),
    row("ConvTranspose", 1, &[F], SELF, By(facts::convolution))
        .with(CONV_TRANSPOSE)
        .when(conditions::spatial),
    unary("Cos", 7),
    unary("Cosh", 9),
    row("CumSum", 11, &[NUM, INT], SELF, Same)
        .with(&[("exclusive", Any), ("reverse", Any)])
        .growing(),
    row("DepthToSpace", 11, &[F], SELF, SameRank).with(&[("blocksize", Any), ("mode", Any)]),
    row("DequantizeLinear", 10, &[BYTES, F, BYTES], &[Like(1)], Same).with(&[
        ("axis", Any),
        ("block_size", Int(0)),
        ("output_dtype", Int(0)),
    ]),
    row("Div", 7, &[NUM], SELF, Broadcast),
    row("Dropout", 7, &[REAL, REAL, B], SELF, Same)
        .with(&[("ratio", Any), ("seed", Any)])
        .when(conditions::dropout),
    row("Einsum", 12, &[REAL], SELF, By(facts::einsum)).with(&[("equation", Any)]),
    unary("Elu", 6).with(&[("alpha", Any)]),
    row("Equal", 7, &[NUM.or(B)], BOOL, Broadcast),
    unary("Erf", 9),
    unary("Exp", 6),
    row("Expand", 8, &[ANY, INT], SELF, By(facts::expand)),
    row("EyeLike", 9, &[NUM], &[NamedOrLike("dtype", 0)], Same).with(&[("dtype", Any), ("k", Any)]),
    row("Flatten", 9, &[ANY], SELF, Rank(2)).with(&[("axis", Any)]),
    unary("Floor", 6),
    row(
        "GRU",
        7,
        &[F, F, F, F, I32, F],
        &[Like(0), Like(0)],
        Ranks(&[4, 3]),
    )
    .with(RECURRENT)
    .when(recurrent::accepts),
    row("Gather", 1, &[ANY, INT], SELF, By(facts::gather)).with(&[("axis", Any)]),
    row("GatherElements", 11, &[ANY, INT], SELF, By(facts::second)).with(&[("axis", Any)]),
    row("GatherND", 11, &[ANY, INT], SELF, By(facts::gather_nd)).with(&[("batch_dims", Any)]),
    unary("Gelu", 20).with(&[("approximate", OneOf(&["none", "tanh"]))]),
    row("Gemm", 7, &[F], SELF, Rank(2)).with(&[
        ("alpha", Any),
        ("beta", Any),
        ("transA", Any),
        ("transB", Any),
    ]),
    row("GlobalAveragePool", 1, &[F], SELF, SameRank),
    row("GlobalMaxPool", 1, &[F], SELF, SameRank),
    row("Greater", 7, &[NUM], BOOL, Broadcast),
    row("GreaterOrEqual", 12, &[NUM], BOOL, Broadcast),
    row("GridSample", 16, &[F], SELF, SameRank)
        .with(&[
            ("align_corners", Any),
            ("mode", OneOf(&["bilinear", "linear"])),
            ("padding_mode", OneOf(&["zeros"])),
        ])
        .when(conditions::grid_sample),
    row("GroupNormalization", 21, &[F], SELF, Same)
        .with(&[
            ("epsilon", Any),
            ("num_groups", Any),
            ("stash_type", Int(1)),
        ])
        .when(conditions::known_rank),
    unary("HardSigmoid", 6).with(&[("alpha", Any), ("beta", Any)]),
    unary("HardSwish", 14),
    row("Identity", 1, &[ANY], SELF, Same),
    row("If", 1, &[B], SELF, Unknown).with(&[("then_branch", Any), ("else_branch", Any)]),
    row("InstanceNormalization", 6, &[F], SELF, Same).with(&[("epsilon", Any)]),
    row("IsInf", 10, &[REAL], BOOL, Same)
        .with(&[("detect_negative", Int(1)), ("detect_positive", Int(1))]),
    row("IsNaN", 9, &[REAL], BOOL, Same),
    row(
        "LSTM",
        7,
        &[F, F, F, F, I32, F, F, F],
        &[Like(0), Like(0), Like(0)],
        Ranks(&[4, 3, 3]),
    )
    .with(RECURRENT)
    .when(recurrent::accepts),
    row(
        "LayerNormalization",
        17,
        &[REAL],
        &[Like(0), Is(Dtype::F32), Is(Dtype::F32)],
        Same,
    )
    .with(&[("axis", Any), ("epsilon", Any), ("stash_type", Int(1))])
    .when(conditions::layer_norm),
    unary("LeakyRelu", 6).with(&[("alpha", Any)]),
    row("Less", 7, &[NUM], BOOL, Broadcast),
    row("LessOrEqual", 12, &[NUM], BOOL, Broadcast),
    unary("Log", 6),
    unary("LogSoftmax", 1).with(&[("axis", Any)]),
    row("LpNormalization", 1, &[F], SELF, Same).with(&[("axis", Any), ("p", Any)]),
    row("MatMul", 1, &[F], SELF, By(facts::matmul)),
    row("Max", 8, &[NUM], SELF, Broadcast),
    row("MaxPool", 1, &[F], SELF, SameRank)
        .with(POOL)
        .when(conditions::spatial),
    row("Mean", 8, &[REAL], SELF, Broadcast),
    row("Min", 8, &[NUM], SELF, Broadcast),
    row("Mod", 10, &[NUM], SELF, Broadcast).with(&[("fmod", Any)]),
    row("Mul", 7, &[NUM], SELF, Broadcast).growing(),
    row("Neg", 6, &[NUM], SELF, Same),
    row("NonZero", 9, &[NUM.or(B)], INDEX, Rank(2)),
    row("Not", 1, &[B], SELF, Same),
    row("Or", 7, &[B], SELF, Broadcast),
    row("PRelu", 9, &[REAL], SELF, Same),
    row("Pad", 2, &[ANY, INT, ANY, INT], SELF, SameRank)
        .with(&[
            ("mode", OneOf(&["constant", "reflect", "edge", "wrap"])),
            ("pads", Any),
            ("value", Any),
        ])
        .when(conditions::pad),
    row("Pow", 7, &[NUM], SELF, Broadcast).growing(),
    row(
        "QuantizeLinear",
        10,
        &[F, F, BYTES],
        &[LikeOr(2, Dtype::U8)],
        Same,
    )
    .with(&[
        ("axis", Any),
        ("block_size", Int(0)),
        ("output_dtype", Int(0)),
        ("precision", Int(0)),
        ("saturate", Int(1)),
    ])
    .when(conditions::quantize),
    row("RMSNormalization", 23, &[F], SELF, Same).with(&[
        ("axis", Any),
        ("epsilon", Any),
        ("stash_type", Int(1)),
    ]),
    row(
        "RNN",
        7,
        &[F, F, F, F, I32, F],
        &[Like(0), Like(0)],
        Ranks(&[4, 3]),
    )
    .with(RECURRENT)
    .when(recurrent::accepts),
    row("Range", 11, &[NUM], SELF, Rank(1)),
    unary("Reciprocal", 6),
    reduction("ReduceL1", 1, &[REAL, INT]),
    reduction("ReduceL2", 1, &[REAL, INT]),
    reduction("ReduceLogSum", 1, &[REAL, INT]),
    reduction("ReduceLogSumExp", 1, &[REAL, INT]),
    reduction("ReduceMax", 1, &[NUM, INT]),
    reduction("ReduceMean", 1, &[REAL, INT]),
    reduction("ReduceMin", 1, &[NUM, INT]),
    reduction("ReduceProd", 1, &[NUM, INT]).growing(),
    reduction("ReduceSum", 1, &[NUM, INT]).growing(),
    reduction("ReduceSumSquare", 1, &[REAL, INT]),
    unary("Relu", 6),
    row("Reshape", 5, &[ANY, INT], SELF, By(facts::reshape)).with(&[("allowzero", Any)]),
    row("Resize", 11, &[F, F, F, INT], SELF, SameRank)
        .with(&[
            ("antialias", Int(0)),
            (
                "coordinate_transformation_mode",
                OneOf(&[
                    "half_pixel",
                    "asymmetric",
                    "align_corners",
                    "pytorch_half_pixel",
                ]),
            ),
            ("cubic_coeff_a", Any),
            ("exclude_outside", Int(0)),
            ("extrapolation_value", Any),
            ("keep_aspect_ratio_policy", OneOf(&["stretch"])),
            // Cubic comes out wrong.
            ("mode", OneOf(&["nearest", "linear"])),
            ("nearest_mode", Any),
        ])
        .when(conditions::resize),
    row("ReverseSequence", 10, &[ANY, INT], SELF, Same)
        .with(&[("batch_axis", Any), ("time_axis", Any)]),
    row("RotaryEmbedding", 23, &[F, F, F, INT], SELF, Same).with(&[
        ("interleaved", Any),
        ("num_heads", Any),
        ("rotary_embedding_dim", Any),
    ]),
    unary("Round", 11),
    row("ScatterElements", 11, &[NUM, INT, NUM], SELF, Same)
        .with(&[("axis", Any), ("reduction", Any)]),
    row("ScatterND", 11, &[NUM, INT, NUM], SELF, Same).with(&[("reduction", Any)]),
    row("Shape", 1, &[ANY], INDEX, By(facts::shape_of)).with(&[("start", Any), ("end", Any)]),
    unary("Sigmoid", 6),
    row("Sign", 9, &[NUM], SELF, Same),
    unary("Sin", 7),
    unary("Sinh", 9),
    row("Size", 1, &[ANY], INDEX, Rank(0)),
    row("Slice", 1, &[ANY, INT], SELF, By(facts::slice)).with(&[
        ("axes", Any),
        ("ends", Any),
        ("starts", Any),
    ]),
    unary("Softmax", 1).with(&[("axis", Any)]),
    unary("Softplus", 1),
    unary("Softsign", 1),
    row("Split", 2, &[ANY, INT], SELF, SameRank).with(&[
        ("axis", Any),
        ("num_outputs", Any),
        ("split", Any),
    ]),
    unary("Sqrt", 6),
    row("Squeeze", 1, &[ANY, INT], SELF, By(facts::squeeze)).with(&[("axes", Any)]),
    row("Sub", 7, &[NUM], SELF, Broadcast).growing(),
    row("Sum", 8, &[REAL], SELF, Broadcast),
    unary("Swish", 24).with(&[("alpha", Any)]),
    unary("Tan", 7),
    unary("Tanh", 6),
    row("Tile", 6, &[ANY, INT], SELF, SameRank),
    row(
        "TopK",
        10,
        &[NUM, INT],
        &[Like(0), Is(Dtype::I64)],
        SameRank,
    )
    .with(&[("axis", Any), ("largest", Any), ("sorted", Any)]),
    row("Transpose", 1, &[ANY], SELF, By(facts::transpose)).with(&[("perm", Any)]),
    row("Trilu", 14, &[NUM.or(B), INT], SELF, Same).with(&[("upper", Any)]),
    row("Unsqueeze", 1, &[ANY, INT], SELF, By(facts::unsqueeze)).with(&[("axes", Any)]),
    row("Where", 9, &[B, ANY], &[Like(1)], Broadcast),
    row("Xor", 7, &[B], SELF, Broadcast),
];

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rows_are_in_order_and_single() {
        let names: Vec<&str> = ROWS.iter().map(|r| r.op).collect();
        assert!(names.windows(2).all(|w| w[0] < w[1]));
    }
}
