//! GRU, LSTM and RNN in every form, against the equations of ONNX written out for one number at a time.

use super::*;

const TIME: usize = 4;
const BATCH: usize = 3;
const INPUT: usize = 2;
const HIDDEN: usize = 3;

/// A form of an operator.
#[derive(Debug, Clone, Copy)]
struct Form {
    op: &'static str,
    direction: &'static str,
    batch_first: bool,
    lengths: bool,
    bias: bool,
    initial: bool,
    peepholes: bool,
    linear_before_reset: bool,
}

impl Form {
    fn gates(self) -> usize {
        match self.op {
            "GRU" => 3,
            "LSTM" => 4,
            _ => 1,
        }
    }

    fn reversed(self) -> &'static [bool] {
        match self.direction {
            "reverse" => &[true],
            "bidirectional" => &[false, true],
            _ => &[false],
        }
    }
}

/// Numbers between -1 and 1 that do not repeat soon.
fn numbers(count: usize, seed: usize) -> Vec<f32> {
    (0..count)
        .map(|i| (((i * 37 + seed * 101 + 11) % 83) as f32 / 41.0) - 1.0)
        .collect()
}

struct Data {
    /// `[time, batch, input]`.
    x: Vec<f32>,
    w: Vec<f32>,
    r: Vec<f32>,
    b: Vec<f32>,
    lengths: [usize; BATCH],
    /// `[direction, batch, hidden]`.
    h: Vec<f32>,
    c: Vec<f32>,
    p: Vec<f32>,
}

impl Data {
    fn new(form: Form) -> Data {
        let (d, g) = (form.reversed().len(), form.gates());
        let or_zero = |given: bool, count: usize, seed: usize| {
            if given {
                numbers(count, seed)
            } else {
                vec![0.0; count]
            }
        };
        Data {
            x: numbers(TIME * BATCH * INPUT, 1),
            w: numbers(d * g * HIDDEN * INPUT, 2),
            r: numbers(d * g * HIDDEN * HIDDEN, 3),
            b: or_zero(form.bias, d * 2 * g * HIDDEN, 4),
            lengths: if form.lengths {
                [4, 2, 1]
            } else {
                [TIME; BATCH]
            },
            h: or_zero(form.initial, d * BATCH * HIDDEN, 5),
            c: or_zero(form.initial, d * BATCH * HIDDEN, 6),
            p: or_zero(form.peepholes, d * 3 * HIDDEN, 7),
        }
    }

    /// All hidden states `[time, direction, batch, hidden]`, and the last hidden and cell states.
    fn expected(&self, form: Form) -> [Vec<f32>; 3] {
        let directions = form.reversed();
        let d = directions.len();
        let mut all = vec![0.0; TIME * d * BATCH * HIDDEN];
        let (mut last_h, mut last_c) = (self.h.clone(), self.c.clone());
        for (k, &reversed) in directions.iter().enumerate() {
            for n in 0..BATCH {
                let at = (k * BATCH + n) * HIDDEN;
                let length = self.lengths[n];
                for step in 0..length {
                    let t = if reversed { length - 1 - step } else { step };
                    let h = last_h[at..at + HIDDEN].to_vec();
                    let c = last_c[at..at + HIDDEN].to_vec();
                    let (h, c) = self.step(form, k, t * BATCH + n, &h, &c);
                    last_h[at..at + HIDDEN].copy_from_slice(&h);
                    last_c[at..at + HIDDEN].copy_from_slice(&c);
                    let to = ((t * d + k) * BATCH + n) * HIDDEN;
                    all[to..to + HIDDEN].copy_from_slice(&h);
                }
            }
        }
        [all, last_h, last_c]
    }

    fn step(&self, form: Form, k: usize, row: usize, h: &[f32], c: &[f32]) -> (Vec<f32>, Vec<f32>) {
        let g = form.gates();
        let sigmoid = |v: f32| 1.0 / (1.0 + (-v).exp());
        let given = |gate: usize, i: usize| -> f32 {
            let of = (k * g + gate) * HIDDEN + i;
            (0..INPUT)
                .map(|j| self.w[of * INPUT + j] * self.x[row * INPUT + j])
                .sum::<f32>()
                + self.b[k * 2 * g * HIDDEN + gate * HIDDEN + i]
        };
        let recurred = |gate: usize, i: usize, h: &[f32]| -> f32 {
            let of = (k * g + gate) * HIDDEN + i;
            (0..HIDDEN)
                .map(|j| self.r[of * HIDDEN + j] * h[j])
                .sum::<f32>()
                + self.b[k * 2 * g * HIDDEN + (g + gate) * HIDDEN + i]
        };
        let peephole = |which: usize, i: usize| self.p[(k * 3 + which) * HIDDEN + i];
        let each = |f: &dyn Fn(usize) -> f32| (0..HIDDEN).map(f).collect::<Vec<f32>>();
        match form.op {
            "GRU" => {
                let z = each(&|i| sigmoid(given(0, i) + recurred(0, i, h)));
                let r = each(&|i| sigmoid(given(1, i) + recurred(1, i, h)));
                let kept = each(&|i| r[i] * h[i]);
                let new = each(&|i| {
                    let inner = if form.linear_before_reset {
                        r[i] * recurred(2, i, h)
                    } else {
                        recurred(2, i, &kept)
                    };
                    (given(2, i) + inner).tanh()
                });
                (each(&|i| (1.0 - z[i]) * new[i] + z[i] * h[i]), c.to_vec())
            }
            "LSTM" => {
                let gate = |which: usize, i: usize, p: usize, c: f32| {
                    sigmoid(given(which, i) + recurred(which, i, h) + peephole(p, i) * c)
                };
                let cell = each(&|i| {
                    gate(2, i, 2, c[i]) * c[i]
                        + gate(0, i, 0, c[i]) * (given(3, i) + recurred(3, i, h)).tanh()
                });
                let hidden = each(&|i| gate(1, i, 1, cell[i]) * cell[i].tanh());
                (hidden, cell)
            }
            _ => (
                each(&|i| (given(0, i) + recurred(0, i, h)).tanh()),
                c.to_vec(),
            ),
        }
    }
}

/// `[a, b, rest]` to `[b, a, rest]`.
fn swapped(data: &[f32], a: usize, b: usize) -> Vec<f32> {
    let rest = data.len() / (a * b);
    let mut out = Vec::with_capacity(data.len());
    for j in 0..b {
        for i in 0..a {
            out.extend_from_slice(&data[(i * b + j) * rest..][..rest]);
        }
    }
    out
}

fn check(form: Form) {
    let data = Data::new(form);
    let (d, g) = (form.reversed().len(), form.gates());
    let states = if form.op == "LSTM" { 2 } else { 1 };
    let mut inputs = vec!["x", "w", "r"];
    let optional = [
        ("b", form.bias),
        ("lengths", form.lengths),
        ("h", form.initial),
        ("c", form.initial && states == 2),
        ("p", form.peepholes),
    ];
    inputs.extend(optional.map(|(name, given)| if given { name } else { "" }));
    if states == 1 {
        inputs.truncate(6);
    }
    let outputs = ["y", "y_h", "y_c"];
    let lengths: Vec<i32> = data.lengths.iter().map(|&l| l as i32).collect();
    let lengths = Tensor {
        dtype: Dtype::I32,
        shape: vec![BATCH],
        data: lengths.iter().flat_map(|v| v.to_le_bytes()).collect(),
    };
    let mut graph = Graph::new(
        14,
        vec![open("x", Dtype::F32)],
        outputs[..=states]
            .iter()
            .map(|n| open(n, Dtype::F32))
            .collect(),
    )
    .constant("w", &floats(&[d, g * HIDDEN, INPUT], &data.w))
    .constant("r", &floats(&[d, g * HIDDEN, HIDDEN], &data.r))
    .constant("b", &floats(&[d, 2 * g * HIDDEN], &data.b))
    .constant("p", &floats(&[d, 3 * HIDDEN], &data.p))
    .constant("lengths", &lengths)
    .node(form.op, &inputs, &outputs[..=states])
    .int("hidden_size", HIDDEN as i64)
    .int("layout", form.batch_first.into());
    if form.op == "GRU" {
        graph = graph.int("linear_before_reset", form.linear_before_reset.into());
    }
    graph.last().attribute.push(AttributeProto {
        name: "direction".into(),
        type_: AttributeType::STRING.into(),
        s: form.direction.into(),
        ..AttributeProto::new()
    });
    let state = |values: &[f32]| {
        if form.batch_first {
            floats(&[BATCH, d, HIDDEN], &swapped(values, d, BATCH))
        } else {
            floats(&[d, BATCH, HIDDEN], values)
        }
    };
    graph = graph
        .constant("h", &state(&data.h))
        .constant("c", &state(&data.c));
    let x = if form.batch_first {
        floats(&[BATCH, TIME, INPUT], &swapped(&data.x, TIME, BATCH))
    } else {
        floats(&[TIME, BATCH, INPUT], &data.x)
    };
    let got = graph
        .run(&[("x", x)])
        .unwrap_or_else(|e| panic!("{form:?}: {e}"));
    let [all, h, c] = data.expected(form);
    let all = if form.batch_first {
        // [time, direction, batch] to [batch, time, direction].
        floats(&[BATCH, TIME, d, HIDDEN], &swapped(&all, TIME * d, BATCH))
    } else {
        floats(&[TIME, d, BATCH, HIDDEN], &all)
    };
    for (got, want) in got.iter().zip([all, state(&h), state(&c)]) {
        assert_eq!(got.shape, want.shape, "{form:?}");
        let (a, b) = (
            crate::tensor::to_f32(Dtype::F32, &got.data).unwrap(),
            crate::tensor::to_f32(Dtype::F32, &want.data).unwrap(),
        );
        for (i, (a, b)) in a.iter().zip(&b).enumerate() {
            assert!((a - b).abs() < 2e-6, "{form:?} at {i}: {a} is not {b}");
        }
    }
}

#[test]
fn every_form_is_as_onnx_has_it() {
    for op in ["GRU", "LSTM", "RNN"] {
        for direction in ["forward", "reverse", "bidirectional"] {
            for bits in 0..64u8 {
                let bit = |i: u8| bits >> i & 1 != 0;
                let form = Form {
                    op,
                    direction,
                    batch_first: bit(0),
                    lengths: bit(1),
                    bias: bit(2),
                    initial: bit(3),
                    peepholes: op == "LSTM" && bit(4),
                    linear_before_reset: op == "GRU" && bit(5),
                };
                let unused = (op != "LSTM" && bit(4)) || (op != "GRU" && bit(5));
                if !unused {
                    check(form);
                }
            }
        }
    }
}

#[test]
fn other_activations_are_computed_or_refused() {
    let with = |activation: &str| {
        let mut graph = Graph::new(14, vec![open("x", Dtype::F32)], vec![open("y", Dtype::F32)])
            .constant("w", &floats(&[1, 1, 1], &[1.0]))
            .constant("r", &floats(&[1, 1, 1], &[1.0]))
            .node("RNN", &["x", "w", "r"], &["y"])
            .int("hidden_size", 1);
        graph.last().attribute.push(AttributeProto {
            name: "activations".into(),
            type_: AttributeType::STRINGS.into(),
            strings: vec![activation.into()],
            ..AttributeProto::new()
        });
        graph
    };
    let x = floats(&[3, 1, 1], &[1.0, -3.0, 2.0]);
    let y = with("Relu").run(&[("x", x)]).unwrap();
    close(&y[0], &floats(&[3, 1, 1, 1], &[1.0, 0.0, 2.0]));
    let refused = with("Softsign").refusals();
    assert!(refused[0].reason.contains("Softsign"), "{refused:?}");
}
